"""Progress of loading, reported now and then to a caller, who may end it."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from cam_hub.models.limits import readable
from cam_hub.models.loaded_model import Progress

__all__ = ["Report", "caller_may_stop", "poll_of"]

_SECONDS = 0.1
"""Between two words to the caller."""

_SILENT = 1.0
"""Seconds of reading before the first word: most files are read by then."""


class _Stopped(BaseException):
    """Carries what the caller's function raised past everything that handles errors."""

    def __init__(self, reason: BaseException) -> None:
        super().__init__()
        self.reason = reason


@contextmanager
def caller_may_stop() -> Iterator[None]:
    """Lets out, unchanged, what the function that hears of progress raises inside."""
    try:
        yield
    except _Stopped as stopped:
        reason = stopped.reason
    else:
        return
    raise reason


def poll_of(id: str, progress: Progress | None) -> Callable[[], None]:
    """A function to be called again and again while the files of a model are read.

    It passes on the news, seldom enough, and ends the reading if the caller's function raises.
    Use it inside :func:`caller_may_stop`.

    Args:
        id: The model's ID.
        progress: The caller's function; None if there is none.
    """
    due = time.monotonic() + _SILENT

    def poll() -> None:
        nonlocal due
        if progress is None or (now := time.monotonic()) < due:
            return
        due = now + _SECONDS
        _call(progress, 1.0, f"Reading {id}")

    return poll


def _call(progress: Progress, part: float, words: str) -> None:
    try:
        progress(part, words)
    except BaseException as error:
        raise _Stopped(error) from error


class Report:
    """Adds up the bytes of several files.

    Args:
        id: The model's ID.
        total: Bytes of all files together.
        progress: Hears of it; None for nobody.
    """

    def __init__(self, id: str, total: int, progress: Progress | None) -> None:
        self._id, self._total, self._progress = id, total, progress
        self._before = 0
        self._last = float("-inf")

    def file(self, size: int | None) -> Callable[[int], None]:
        """Begins the next file.

        Args:
            size: Its bytes, if known.

        Returns:
            To be called with the bytes of it that are there.
        """
        before, done = self._before, False
        self._before += size or 0

        def told(count: int) -> None:
            nonlocal done
            now = time.monotonic()
            if now - self._last >= _SECONDS or (count == size and not done):
                self._last, done = now, count == size
                self._tell(before + count)

        return told

    def _tell(self, count: int) -> None:
        if self._progress is None:
            return
        total = max(self._total, count)
        words = f"Fetching {self._id}: {readable(count)} of {readable(total)}"
        _call(self._progress, count / total if total else 1.0, words)
