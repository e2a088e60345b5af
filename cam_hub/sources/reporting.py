"""Tells a caller how far a download is, seldom enough, and lets the caller end it."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from cam_hub.sources.admission import readable
from cam_hub.sources.base import Progress

__all__ = ["Report", "caller_may_stop"]

_SECONDS = 0.1
"""Between two words to the caller."""


class _Stopped(Exception):
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
        try:
            self._progress(count / total if total else 1.0, words)
        except BaseException as error:
            raise _Stopped(error) from error
