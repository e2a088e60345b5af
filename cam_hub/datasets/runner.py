"""The local runner: explains the images of a source that have no row yet, in this process."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import closing, suppress
from dataclasses import dataclass
from typing import Any, Final

from cam_hub._text import first_line
from cam_hub.attribution.explain_many import Outcome, explain_many
from cam_hub.attribution.passes import Progress
from cam_hub.attribution.samples import Sample
from cam_hub.datasets.parts import PartWriter
from cam_hub.datasets.rows import RowMaker, row_bytes
from cam_hub.datasets.sources import DataSource
from cam_hub.errors import CamHubError, InvalidArgument, ModelRefused, OutOfMemory
from cam_hub.models.loaded_model import LoadedModel

__all__ = ["MAX_FAILURES", "LocalRun"]

MAX_FAILURES: Final = 32
"""If the model fails on so many images in a row, the job stops: the model is to blame."""

_FLUSH_SECONDS: Final = 60.0
_FLUSH_BYTES: Final = 64 << 20
"""Rows are written at the latest after so long, or when they take so much memory."""

_REPORT_SECONDS: Final = 0.2
"""Progress is reported at most so often."""

Result = tuple[str, Sample, "Outcome | Exception"]


@dataclass(frozen=True)
class LocalRun:
    """One run of a job.

    Attributes:
        model: The model.
        source: The images.
        maker: Makes the rows.
        writer: Writes them.
        done: The keys that have a row already.
        arguments: Those of ``explain_many``.
        part_size: Maximum number of rows in a file.
        progress: Called with the part that is done and a few words; or None.
    """

    model: LoadedModel
    source: DataSource
    maker: RowMaker
    writer: PartWriter
    done: set[str]
    arguments: Mapping[str, Any]
    part_size: int
    progress: Progress | None

    def run(self) -> None:
        """Explains what has no row yet, and writes the rows.

        An image that the model fails on has no row before the model has worked on another one: a
        model that fails on every image, as after a fault of the device, must not fill the folder
        with errors. Whatever ends the run, the rows of the images before it are written.

        Raises:
            ModelRefused, OutOfMemory: If the model fails on ``MAX_FAILURES`` images in a row. They
                have no rows.
            DiskUnavailable, SaveFailed: If the system refuses to write.
        """
        rows = _Rows(self.writer, self.part_size)
        failed: list[Result] = []
        meter = _Meter(self.progress, self.source.count, len(self.done))
        complete = False
        try:
            with closing(self._results()) as results:
                for key, sample, outcome in results:
                    error = outcome if isinstance(outcome, Exception) else outcome.error
                    if _is_models(error):
                        failed.append((key, sample, outcome))
                        if len(failed) >= MAX_FAILURES:
                            raise _gave_up(self.model, len(failed), error)
                    else:
                        for each in failed if error is None else ():
                            rows.add(self.maker.row(*each))
                        if error is None:
                            failed.clear()
                        rows.add(self.maker.row(key, sample, outcome))
                    meter.count(error is not None)
            complete = True
        finally:
            if complete:
                for each in failed:
                    rows.add(self.maker.row(*each))
                rows.flush()
            else:  # the first error is the one to report
                with suppress(OSError):
                    rows.flush()
        meter.report()

    def _results(self) -> Generator[Result, None, None]:
        """The images that have no row yet, with what has become of them."""
        feed = _Feed(self._new())
        while True:
            stream = explain_many(self.model, feed, **self.arguments)
            try:
                for outcome in stream:
                    yield *feed.sent.popleft(), outcome
            except InvalidArgument:  # worker processes cannot be started
                raise
            except Exception as error:  # one image's trouble ends no job
                if not feed.sent:
                    raise
                unfinished = list(feed.sent)
                feed.sent.clear()
                for key, sample in unfinished:
                    yield key, sample, self._alone(sample) if len(unfinished) > 1 else error
            else:
                break
        if feed.error is not None:
            raise feed.error

    def _new(self) -> Iterator[tuple[str, Sample]]:
        return ((key, sample) for key, sample in self.source.keyed() if key not in self.done)

    def _alone(self, sample: Sample) -> Outcome | Exception:
        """What becomes of an image whose batch ended in an exception that is not ours."""
        workers = min(1, self.arguments.get("workers", 0))  # its decoder may crash
        arguments = {**self.arguments, "workers": workers}
        try:
            return next(explain_many(self.model, [sample], **arguments))
        except Exception as error:  # noqa: BLE001 - becomes a row
            return error


class _Feed:
    """Samples for ``explain_many``, which may be called again to go on with them.

    Attributes:
        sent: Those that were taken, and have no outcome yet.
        error: What the source raised.
    """

    def __init__(self, entries: Iterator[tuple[str, Sample]]) -> None:
        self._entries = entries
        self.sent: deque[tuple[str, Sample]] = deque()
        self.error: Exception | None = None

    def __iter__(self) -> Iterator[Sample]:
        return self

    def __next__(self) -> Sample:
        if self.error is not None:
            raise StopIteration
        try:
            entry = next(self._entries)
        except StopIteration:
            raise
        except Exception as error:  # noqa: BLE001 - raised after the images before it
            self.error = error
            raise StopIteration from None
        self.sent.append(entry)
        return entry[1]


class _Rows:
    """Rows that are not written yet."""

    def __init__(self, writer: PartWriter, most: int) -> None:
        self._writer, self._most = writer, most
        self._rows: list[dict[str, Any]] = []
        self._bytes, self._since = 0, time.monotonic()

    def add(self, row: dict[str, Any]) -> None:
        self._rows.append(row)
        self._bytes += row_bytes(row)
        late = time.monotonic() - self._since > _FLUSH_SECONDS
        if len(self._rows) >= self._most or self._bytes > _FLUSH_BYTES or late:
            self.flush()

    def flush(self) -> None:
        # Taken first: rows that could not be written are not tried again while an error is raised.
        rows, self._rows, self._bytes = self._rows, [], 0
        if rows:
            self._writer.write(rows)
        self._since = time.monotonic()


class _Meter:
    """Progress in words: how many images, how fast, how long yet."""

    def __init__(self, progress: Progress | None, total: int | None, done: int) -> None:
        self._progress, self._total = progress, total
        self._before, self._new, self._errors = done, 0, 0
        self._start = self._last = time.monotonic()

    def count(self, error: bool) -> None:
        self._new += 1
        self._errors += error
        if self._progress is not None and time.monotonic() - self._last >= _REPORT_SECONDS:
            self.report()

    def report(self) -> None:
        if self._progress is None:
            return
        self._last = time.monotonic()
        count, total = self._before + self._new, self._total
        rate = self._new / max(self._last - self._start, 1e-9)
        words = f"{count:,}{f' of {total:,}' if total else ''} images"
        if self._new:
            words += f", {rate:,.3g} images/s"
        if total and rate and count < total:
            words += f", {_duration((total - count) / rate)} left"
        if self._errors:
            words += f", {self._errors:,} errors"
        self._progress(min(count / total, 1.0) if total else 0.0, words)


def _duration(seconds: float) -> str:
    hours, rest = divmod(round(seconds), 3600)
    minutes, seconds = divmod(rest, 60)
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {seconds} s" if minutes else f"{seconds} s"


def _is_models(error: Exception | None) -> bool:
    """Whether an error may be that of the model or its device, rather than of an image."""
    if isinstance(error, CamHubError):
        return isinstance(error, (ModelRefused, OutOfMemory))
    return error is not None


def _gave_up(model: LoadedModel, count: int, error: Exception | None) -> CamHubError:
    last = "" if error is None else getattr(error, "reason", None) or first_line(error)
    reason = (
        f"it failed on {count} images in a row, on the last one with: {last} All rows before these "
        "are kept, and the same call goes on with them"
    )
    kind: Callable[[str, str], CamHubError] = ModelRefused
    if isinstance(error, OutOfMemory):
        kind = OutOfMemory
    found = kind(model.id, reason)
    found.__cause__ = error
    return found
