"""Runs a job: explains the images of a source that have no row yet, and writes the rows."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass
from typing import Any, Final

from cam_hub._text import counted
from cam_hub.attribution.explain_many import Outcome, explain_many
from cam_hub.attribution.passes import Progress
from cam_hub.attribution.samples import Sample
from cam_hub.datasets.parts import PartWriter
from cam_hub.datasets.rows import UNEXPECTED, RowMaker, row_bytes
from cam_hub.datasets.sources import DataSource
from cam_hub.errors import CamHubError, InvalidArgument, ModelRefused, OutOfMemory, WorkerDied
from cam_hub.models.loaded_model import LoadedModel

__all__ = ["MAX_FAILURES", "Entry", "Job", "Made", "explained", "run_locally"]

MAX_FAILURES: Final = 32
"""If the model fails on so many images in a row, the job stops: the model is to blame."""

_OF_THE_MODEL: Final = (ModelRefused.code, OutOfMemory.code, WorkerDied.code, UNEXPECTED)
"""Errors that may be those of the model or its device, rather than of an image."""

_FLUSH_SECONDS: Final = 60.0
_FLUSH_BYTES: Final = 64 << 20
"""Rows are written at the latest after so long, or when they take so much memory."""

_REPORT_SECONDS: Final = 0.2
"""Progress is reported at most so often."""

Entry = tuple[str, Sample]
"""An image of a source with the key of its row."""

Made = tuple[dict[str, Any], "Exception | None"]
"""The row of an image; and what was raised for it, if that was in this process."""


@dataclass(frozen=True)
class Job:
    """One run over the images of a source that have no row yet.

    Attributes:
        source: The images.
        maker: Makes the rows; it has the model.
        writer: Writes them.
        done: The keys that have a row already.
        arguments: Those of ``explain_many``.
        part_size: Maximum number of rows in a file.
        progress: Called with the part that is done and a few words; or None.
    """

    source: DataSource
    maker: RowMaker
    writer: PartWriter
    done: set[str]
    arguments: Mapping[str, Any]
    part_size: int
    progress: Progress | None

    def entries(self) -> Iterator[Entry]:
        """The images that have no row yet."""
        return ((key, sample) for key, sample in self.source.keyed() if key not in self.done)

    def write(self, made: Generator[Made, None, None]) -> None:
        """Writes rows as a runner makes them.

        An image that the model fails on has no row before the model has worked on another one: a
        model that fails on every image, as after a fault of the device, must not fill the folder
        with errors. Whatever ends the run, the rows of the images before it are written.

        Args:
            made: The rows, in any order.

        Raises:
            ModelRefused, OutOfMemory: If the model fails on ``MAX_FAILURES`` images in a row. They
                have no rows.
            DiskUnavailable, SaveFailed: If the system refuses to write.
        """
        rows = _Rows(self.writer, self.part_size)
        failed: list[dict[str, Any]] = []
        meter = _Meter(self.progress, self.source.count, len(self.done))
        complete = False
        try:
            with closing(made):
                for row, error in made:
                    if row["error"] in _OF_THE_MODEL:
                        failed.append(row)
                        if len(failed) >= MAX_FAILURES:
                            raise _gave_up(self.maker.model, failed) from error
                    else:
                        if row["error"] is None:
                            for each in failed:
                                rows.add(each)
                            failed.clear()
                        rows.add(row)
                    meter.count(row["error"] is not None)
            complete = True
        finally:
            if complete:
                for each in failed:
                    rows.add(each)
                rows.flush()
            else:  # the first error is the one to report
                with suppress(OSError):
                    rows.flush()
        meter.report()


def run_locally(job: Job) -> None:
    """Runs a job in this process; raises as ``Job.write``."""
    job.write(explained(job.maker, job.entries(), job.arguments))


def explained(
    maker: RowMaker, entries: Iterator[Entry], arguments: Mapping[str, Any]
) -> Generator[Made, None, None]:
    """Explains images; whatever is raised for one of them becomes its row.

    Args:
        maker: Makes the rows; it has the model.
        entries: The images. What they raise is raised after the rows of the images before it.
        arguments: Those of ``explain_many``.
    """
    model = maker.model
    feed = _Feed(entries)
    while True:
        stream = explain_many(model, feed, **arguments)
        try:
            for outcome in stream:
                yield _made(maker, feed.sent.popleft(), outcome)
        except InvalidArgument:  # worker processes cannot be started
            raise
        except Exception as error:  # one image's trouble ends no job
            if not feed.sent:
                raise
            unfinished = list(feed.sent)
            feed.sent.clear()
            for entry in unfinished:
                alone = len(unfinished) == 1
                found = error if alone else _alone(model, entry[1], arguments)
                yield _made(maker, entry, found)
        else:
            break
    if feed.error is not None:
        raise feed.error


def _made(maker: RowMaker, entry: Entry, outcome: Outcome | Exception) -> Made:
    error = outcome if isinstance(outcome, Exception) else outcome.error
    return maker.row(*entry, outcome), error


def _alone(model: LoadedModel, sample: Sample, arguments: Mapping[str, Any]) -> Outcome | Exception:
    """What becomes of an image whose batch ended in an exception that is not ours."""
    workers = min(1, arguments["workers"])  # its decoder may crash
    try:
        return next(explain_many(model, [sample], **{**arguments, "workers": workers}))
    except Exception as error:  # noqa: BLE001 - becomes a row
        return error


class _Feed:
    """Samples for ``explain_many``, which may be called again to go on with them.

    Attributes:
        sent: Those that were taken, and have no outcome yet.
        error: What the source raised.
    """

    def __init__(self, entries: Iterator[Entry]) -> None:
        self._entries = entries
        self.sent: deque[Entry] = deque()
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
        words = f"{count:,} of {counted(total, 'image')}" if total else counted(count, "image")
        if self._new:
            words += f", {rate:,.3g} images/s"
        if total and rate and count < total:
            words += f", {_duration((total - count) / rate)} left"
        if self._errors:
            words += f", {counted(self._errors, 'error')}"
        self._progress(min(count / total, 1.0) if total else 0.0, words)


def _duration(seconds: float) -> str:
    hours, rest = divmod(round(seconds), 3600)
    minutes, seconds = divmod(rest, 60)
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {seconds} s" if minutes else f"{seconds} s"


def _gave_up(model: LoadedModel, failed: Sequence[Mapping[str, Any]]) -> CamHubError:
    last = failed[-1]
    reason = (
        f"it failed on {len(failed)} images in a row, on the last one with: "
        f"{last['message'].rstrip('.')}. All rows before these are kept, and the same call goes on "
        "with them"
    )
    out_of_memory = last["error"] == OutOfMemory.code
    return OutOfMemory(model.id, reason) if out_of_memory else ModelRefused(model.id, reason)
