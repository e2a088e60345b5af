"""How much of the disk uploads and results take: bounded, and the oldest go first."""

from __future__ import annotations

import os
import re
import shutil
import threading
import time
from collections.abc import Callable, Collection, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from cam_hub.errors import DiskUnavailable

__all__ = ["UPLOAD_FOLDER", "FileBudget", "mark_as_used"]

UPLOAD_FOLDER = re.compile(r"[0-9a-f]{64}\Z")
"""How Gradio calls the folder of an uploaded file: by the digest of its content."""

GRACE = 60.0
"""Seconds for which a folder is taken for one that a running request uses."""

_LEAST = 8192
"""Bytes that a folder counts for at least; many tiny files use up a disk, too."""

_COST_OF_A_LOOK = 20.0
"""The disk is looked at again after so many times the last look's duration."""


@dataclass(frozen=True)
class _Folder:
    """A folder that may be deleted as a whole.

    Attributes:
        path: The folder.
        size: Bytes that it counts for.
        used: When it was last written or marked as used, in seconds since 1970.
    """

    path: Path
    size: int
    used: float


@dataclass
class FileBudget:
    """Bounds the folders of uploads and results together.

    Folders of running requests stay: those that ``in_use`` names, and those that were written or
    used within the last minute. The bound holds for each visitor first: whoever uploads too much
    loses uploads of their own.

    Args:
        root: Where Gradio keeps uploads; results are in one of its subfolders.
        results: That subfolder.
        limit: Bytes for all of them together.
        visitor_limit: Bytes of the uploads of one visitor.
        in_use: Returns the names of the folders that queued and running requests refer to.
        grace: Seconds for which a folder stays after its last use.
    """

    root: Path
    results: Path
    limit: int
    visitor_limit: int
    in_use: Callable[[], Collection[str]] = frozenset
    grace: float = GRACE
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _known: dict[Path, _Folder] = field(default_factory=dict)
    _visitors: dict[Path, str] = field(default_factory=dict)
    _reserved: int = 0
    _announced: dict[str, int] = field(default_factory=dict)
    _look_again: float = 0.0

    def make_room(self, size: int, visitor: str = "") -> None:
        """Deletes the oldest folders until so many more bytes fit, and reserves them.

        Args:
            size: Bytes that are about to be written; give them back with ``release``.
            visitor: Who writes them; empty for nobody in particular.

        Raises:
            DiskUnavailable: If that does not suffice.
        """
        with self._lock:
            self._look()
            kept = set(self.in_use())
            if visitor:
                announced = self._announced.get(visitor, 0)
                if announced + size > self.visitor_limit:
                    raise DiskUnavailable(
                        f"a visitor may upload at most {self.visitor_limit:,} bytes at a time, and "
                        "other uploads from this address are still arriving"
                    )
                own = [each for path, each in self._known.items() if self._of(path) == visitor]
                self._shrink(own, self.visitor_limit - announced - size, kept, time.time())
            self._shrink(
                list(self._known.values()),
                self.limit - self._reserved - size,
                kept,
                newest=time.time() - self.grace,
            )
            taken = sum(each.size for each in self._known.values()) + self._reserved
            if taken + size > self.limit:
                raise DiskUnavailable(
                    f"the app keeps at most {self.limit:,} bytes of uploads and results, and "
                    "those in use leave no room. Try again in a minute"
                )
            self._reserved += size
            if visitor:
                self._announced[visitor] = self._announced.get(visitor, 0) + size

    def release(self, size: int, visitor: str = "") -> None:
        """Gives back what ``make_room`` has reserved; arguments as there."""
        with self._lock:
            self._reserved -= size
            if visitor:
                left = self._announced.pop(visitor, 0) - size
                if left > 0:
                    self._announced[visitor] = left

    def add(self, folder: Path, visitor: str = "") -> None:
        """Counts a folder that was just written."""
        found = _measured(folder)
        with self._lock:
            if found is not None:
                self._known[folder] = found
            if visitor:
                self._visitors[folder] = visitor

    def taken(self) -> int:
        """Bytes that the folders count for."""
        with self._lock:
            self._look(again=True)
            return sum(each.size for each in self._known.values())

    def evictable(self) -> list[Path]:
        """Folders that no request uses, for a bound that other files share."""
        with self._lock:
            self._look(again=True)
            kept, newest = set(self.in_use()), time.time() - self.grace
            return [
                path
                for path, each in self._known.items()
                if each.used < newest and path.name not in kept
            ]

    def taken_by_requests(self, evictable: Collection[Path]) -> int:
        """Bytes of all other folders than these."""
        with self._lock:
            others = self._known.keys() - set(evictable)
            return sum(self._known[path].size for path in others)

    def _of(self, path: Path) -> str:
        return self._visitors.get(path, "")

    def _look(self, *, again: bool = False) -> None:
        """Reads anew what is on the disk; not all the time, since there may be many folders."""
        begin = time.monotonic()
        if begin < self._look_again and not again:
            return
        self._known = {each.path: each for each in map(_measured, self._folders()) if each}
        self._visitors = {p: who for p, who in self._visitors.items() if p in self._known}
        now = time.monotonic()
        self._look_again = now + max(1.0, _COST_OF_A_LOOK * (now - begin))

    def _folders(self) -> Iterator[Path]:
        with suppress(OSError):
            yield from (path for path in self.root.iterdir() if UPLOAD_FOLDER.match(path.name))
        with suppress(OSError):
            yield from self.results.iterdir()

    def _shrink(
        self, folders: Collection[_Folder], limit: int, kept: Collection[str], newest: float
    ) -> None:
        total = sum(each.size for each in folders)
        for each in sorted(folders, key=lambda folder: folder.used):
            if total <= limit:
                return
            if each.path.name in kept or each.used >= newest:
                continue
            shutil.rmtree(each.path, ignore_errors=True)
            if not each.path.exists():
                total -= each.size
                self._known.pop(each.path, None)
                self._visitors.pop(each.path, None)


def mark_as_used(folder: Path) -> None:
    """Has a folder count as just used."""
    with suppress(OSError):
        os.utime(folder)


def _measured(folder: Path) -> _Folder | None:
    """A folder with its size; None if it is gone."""
    size, used = 0, 0.0
    try:
        used = folder.lstat().st_mtime
        for path in folder.rglob("*"):
            with suppress(OSError):
                size += path.lstat().st_size
    except OSError:
        return None
    return _Folder(folder, max(size, _LEAST), used)
