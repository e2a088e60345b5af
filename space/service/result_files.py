"""Uploads and the files of results, within one budget of the disk."""

from __future__ import annotations

import asyncio
import os
import re
import secrets
import shutil
import threading
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Collection, Iterable, Iterator
from contextlib import (
    AbstractAsyncContextManager,
    asynccontextmanager,
    contextmanager,
    suppress,
)
from dataclasses import dataclass, field
from operator import attrgetter
from pathlib import Path
from typing import Any
from urllib.parse import quote

import anyio.to_thread
from gradio.route_utils import GradioMultiPartParser, GradioUploadFile
from gradio.routes import file_upload_statuses
from gradio.utils import get_upload_folder
from starlette.exceptions import HTTPException
from starlette.formparsers import MultiPartException
from starlette.requests import Request
from starlette.responses import JSONResponse

from cam_hub.errors import DiskUnavailable
from space.config.settings import Settings

__all__ = [
    "MAX_FILES",
    "FileBudget",
    "Uploads",
    "Workspace",
    "cleanup",
    "mark_as_used",
    "served",
]


UPLOAD_FOLDER = re.compile(r"[0-9a-f]{64}\Z")
"""How Gradio calls the folder of an uploaded file: by the digest of its content."""

GRACE = 60.0
"""Seconds for which a folder is taken for one that a running request uses."""

_LEAST = 8192
"""The minimum number of bytes that a folder counts for; many tiny files use up a disk, too."""

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
    used within the last minute. The bound holds for each visitor first: one who uploads too much
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
            visitor: The visitor who writes them; empty for none.

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
                known = self._known.items()
                own = [each for path, each in known if self._visitors.get(path) == visitor]
                self._shrink(own, self.visitor_limit - announced - size, kept, time.time())
            room = self.limit - self._reserved - size
            folders = list(self._known.values())
            if self._shrink(folders, room, kept, newest=time.time() - self.grace) > room:
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
        """The number of bytes that the folders count for."""
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
        """Counts the bytes of all folders but these."""
        with self._lock:
            others = self._known.keys() - set(evictable)
            return sum(self._known[path].size for path in others)

    def _look(self, *, again: bool = False) -> None:
        """Reads anew what is on the disk; not all the time, since there may be many folders."""
        begin = time.monotonic()
        if begin < self._look_again and not again:
            return
        known: dict[Path, _Folder] = {}
        visitors: dict[Path, str] = {}
        for place in (self.root, self.results):
            with suppress(OSError):
                for path in place.iterdir():
                    if place is self.root and not UPLOAD_FOLDER.match(path.name):
                        continue
                    if (folder := _measured(path)) is not None:
                        known[path] = folder
                        if path in self._visitors:
                            visitors[path] = self._visitors[path]
        self._known, self._visitors = known, visitors
        now = time.monotonic()
        self._look_again = now + max(1.0, _COST_OF_A_LOOK * (now - begin))

    def _shrink(
        self, folders: Collection[_Folder], limit: int, kept: Collection[str], newest: float
    ) -> int:
        """Deletes the oldest folders until the others are within a limit; returns their bytes."""
        total: int = sum(map(attrgetter("size"), folders))
        for each in sorted(folders, key=attrgetter("used")):
            if total <= limit:
                break
            if each.path.name in kept or each.used >= newest:
                continue
            shutil.rmtree(each.path, ignore_errors=True)
            if not each.path.exists():
                total -= each.size
                self._known.pop(each.path, None)
                self._visitors.pop(each.path, None)
        return total


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


MAX_FILES = 10
"""Files of one upload; a request of the app has two photos at most."""

_AT_ONCE = 256
_AT_ONCE_OF_ONE = 64
"""Uploads that arrive at the same time, of all visitors and of one."""

_MAX_BYTES_OF_NAME = 200

_MAX_ID = 64
"""Characters of the name under which a page follows the progress of its upload."""


class Uploads:
    """Answers ``POST /upload`` as Gradio does: with the paths of the files.

    Args:
        budget: The budget of the disk.
        settings: The limits.
        note: Is called with the paths of files that were accepted.
    """

    def __init__(
        self, budget: FileBudget, settings: Settings, note: Callable[[Iterable[str]], None]
    ) -> None:
        self._budget = budget
        self._settings = settings
        self._note = note
        self._arriving: Counter[str] = Counter()

    async def receive(self, request: Request) -> JSONResponse:
        """Receives the files of a request.

        Raises:
            HTTPException: If it is malformed or too long, or too many arrive already.
            DiskUnavailable: If the disk is full or cannot be written.
        """
        if not request.headers.get("content-type", "").lower().startswith("multipart/form-data"):
            raise HTTPException(400, "An upload is sent as multipart/form-data.")
        if len(request.query_params.get("upload_id", "")) > _MAX_ID:
            raise HTTPException(422, f"upload_id has at most {_MAX_ID} characters.")
        # A length that is not declared may turn out to be the greatest that is allowed.
        size = int(request.headers.get("content-length") or self._settings.upload_bytes)
        visitor = visitor_of(request, behind_proxy=self._settings.space_id is not None)
        if self._arriving.total() >= _AT_ONCE or self._arriving[visitor] >= _AT_ONCE_OF_ONE:
            raise HTTPException(503, "Too many uploads arrive at the moment. Try again.")
        self._arriving[visitor] += 1
        try:
            await anyio.to_thread.run_sync(self._budget.make_room, size, visitor)
            try:
                paths = await self._received(request, visitor)
            finally:
                self._budget.release(size, visitor)
        except OSError as error:
            if (known := DiskUnavailable.of(error)) is None:
                raise
            raise known from error
        finally:
            self._arriving[visitor] -= 1
            if not self._arriving[visitor]:
                del self._arriving[visitor]
        self._note(paths)
        return JSONResponse(paths)

    async def _received(self, request: Request, visitor: str) -> list[str]:
        # Beside the results: from there a file is moved to its place in one step.
        folder = self._budget.results / f"upload-{secrets.token_hex(16)}"
        follower = request.query_params.get("upload_id")
        parser = GradioMultiPartParser(
            request.headers,
            request.stream(),
            max_files=MAX_FILES,
            max_fields=MAX_FILES,
            upload_dir=folder,
            upload_id=follower,
            upload_progress=file_upload_statuses if follower else None,
            max_file_size=self._settings.limits.max_file_bytes,
        )
        if follower:
            file_upload_statuses.track(follower)
        try:
            await anyio.to_thread.run_sync(lambda: folder.mkdir(parents=True))
            form = await parser.parse()
            files = [part for name, part in form.multi_items() if name == "files"]
            if not all(isinstance(file, GradioUploadFile) for file in files):
                raise HTTPException(400, "A part of the upload has no file name.")
            return await anyio.to_thread.run_sync(self._published, files, visitor)
        except MultiPartException as error:
            too_long = "maximum allowed size" in error.message
            raise HTTPException(413 if too_long else 400, error.message) from None
        except (AttributeError, KeyError, TypeError, ValueError):
            raise HTTPException(400, "The upload is malformed.") from None
        finally:
            if follower:
                file_upload_statuses.set_done(follower)
            for file in parser._files_to_close_on_error:
                file.close()
            with anyio.CancelScope(shield=True):
                await anyio.to_thread.run_sync(lambda: shutil.rmtree(folder, ignore_errors=True))

    def _published(self, files: list[Any], visitor: str) -> list[str]:
        """Moves complete files to where Gradio looks for them."""
        root, paths, made = Path(get_upload_folder()), [], []
        try:
            for file in files:
                file.file.close()
                place = root / file.sha.hexdigest()
                if not place.exists():
                    made.append(place)
                place.mkdir(parents=True, exist_ok=True)
                path = place / _safe_name(file.filename or "")
                Path(file.file.name).replace(path)
                self._budget.add(place, visitor)
                paths.append(str(path))
        except OSError:
            for place in made:
                shutil.rmtree(place, ignore_errors=True)
            raise
        return paths


def _safe_name(name: str) -> str:
    """The name of an uploaded file, as far as it is harmless and short; else a random one."""
    name = re.sub(r"[^\w.,\- ]", "", Path(name).name).lstrip(". ").rstrip()
    stem, dot, suffix = name.rpartition(".")
    if len(name.encode()) > _MAX_BYTES_OF_NAME:
        name = f"{stem[:40]}{dot}{suffix[:10]}"
    return name or f"tmp{secrets.token_hex(5)}"


def visitor_of(request: Request, *, behind_proxy: bool) -> str:
    """What stands for the sender of a request: their address.

    Args:
        request: The request.
        behind_proxy: Whether a proxy in front of the app adds the address that it sees; what comes
            before that in the header may be made up.
    """
    forwarded = request.headers.get("x-forwarded-for", "") if behind_proxy else ""
    address = forwarded.rpartition(",")[2].strip()
    return address or (request.client.host if request.client else "")


async def forget_followed() -> None:
    """Drops the names of uploads whose progress was asked for and that never came, for good."""
    while True:
        await asyncio.sleep(60)
        signals, known = file_upload_statuses._signals, file_upload_statuses._statuses
        for name in [name for name in list(signals) if name not in known]:
            signals.pop(name, None)
        for name in [name for name, each in list(known.items()) if each.is_done]:
            known.pop(name, None)


class Workspace:
    """A place for folders, one per request.

    Gradio serves whatever lies in its cache to those who know the path, so each folder has a name
    of 128 random bits.

    Args:
        root: Where the folders are made; inside of Gradio's cache, or Gradio would copy each file.
        keep_seconds: How long a folder is kept after it was last written to.
        limit: Bytes of all folders together, with those of uploads.
        visitor_limit: Bytes of the uploads of one visitor.
    """

    def __init__(
        self,
        root: Path,
        keep_seconds: float,
        limit: int = 2**31,
        visitor_limit: int = 2**29,
    ) -> None:
        self.root = root
        self.keep_seconds = keep_seconds
        self.budget = FileBudget(root.parent, root, limit, visitor_limit)

    @classmethod
    def of(cls, settings: Settings) -> Workspace:
        """The one of an app."""
        return cls(
            Path(get_upload_folder()) / "cam_hub",
            settings.keep_seconds,
            settings.file_bytes,
            settings.visitor_bytes,
        )

    @contextmanager
    def writing(self) -> Iterator[Path]:
        """A new, empty folder for the files of a block; gone if the block fails.

        Old ones are removed on this occasion.

        Raises:
            DiskUnavailable: If the disk is full or cannot be written.
        """
        self.budget.make_room(0)
        path = self.root / secrets.token_hex(16)
        try:
            self.sweep()
            path.mkdir(parents=True)
            yield path
        except BaseException as error:
            shutil.rmtree(path, ignore_errors=True)
            if (known := DiskUnavailable.of(error)) is not None:
                raise known from error
            raise
        self.budget.add(path)

    def sweep(self) -> None:
        """Removes the folders that are too old, those of uploads beside them as well.

        Gradio removes uploads, but not all of them: it does not count those that agents send within
        a request.
        """
        oldest = time.time() - self.keep_seconds
        for root, names in ((self.root, re.compile("")), (self.root.parent, UPLOAD_FOLDER)):
            with suppress(FileNotFoundError):  # another thread may be faster, or there is none yet
                for path in list(root.iterdir()):
                    with suppress(FileNotFoundError):
                        if names.match(path.name) and path.stat().st_mtime < oldest:
                            shutil.rmtree(path, ignore_errors=True)


def cleanup(settings: Settings) -> Callable[[Any], AbstractAsyncContextManager[None]]:
    """The background work of a running app: removes old files, between requests, too."""

    async def work() -> None:
        workspace = Workspace.of(settings)
        while True:
            await anyio.to_thread.run_sync(workspace.sweep)
            await asyncio.sleep(settings.cleaning_seconds)

    @asynccontextmanager
    async def lifespan(app: Any) -> AsyncIterator[None]:
        tasks = [asyncio.create_task(work()), asyncio.create_task(forget_followed())]
        try:
            yield
        finally:
            for task in tasks:
                task.cancel()

    return lifespan


def served(path: Path) -> str:
    """The address of a file in a folder of a workspace, relative to the page's."""
    return f"gradio_api/file={quote(path.as_posix())}"
