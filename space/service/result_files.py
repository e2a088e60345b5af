"""Folders for the files of a request: hard to guess, and gone after a while."""

from __future__ import annotations

import asyncio
import secrets
import shutil
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import (
    AbstractAsyncContextManager,
    asynccontextmanager,
    contextmanager,
    suppress,
)
from pathlib import Path
from typing import Any
from urllib.parse import quote

import anyio.to_thread
from gradio.utils import get_upload_folder

from cam_hub.errors import DiskUnavailable
from space.config.settings import Settings
from space.service.file_budget import UPLOAD_FOLDER, FileBudget
from space.service.uploads import forget_followed

__all__ = ["Workspace", "keeping_clean", "served"]


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

    def folder(self) -> Path:
        """A new, empty folder. Old ones are removed on this occasion."""
        self.sweep()
        path = self.root / secrets.token_hex(16)
        path.mkdir(parents=True)
        return path

    @contextmanager
    def writing(self) -> Iterator[Path]:
        """A new, empty folder for the files of a block; gone if the block fails.

        Raises:
            DiskUnavailable: If the disk is full or cannot be written.
        """
        self.budget.make_room(0)
        path = None
        try:
            path = self.folder()
            yield path
        except BaseException as error:
            if path is not None:
                shutil.rmtree(path, ignore_errors=True)
            if (known := DiskUnavailable.of(error)) is not None:
                raise known from error
            raise
        self.budget.add(path)

    def sweep(self) -> None:
        """Removes the folders that are too old, those of uploads beside them as well.

        Gradio removes uploads by itself, but not all: it does not count those that agents send
        within a request.
        """
        oldest = time.time() - self.keep_seconds
        _remove(self.root, oldest, lambda name: True)
        _remove(self.root.parent, oldest, lambda name: bool(UPLOAD_FOLDER.match(name)))


def keeping_clean(settings: Settings) -> Callable[[Any], AbstractAsyncContextManager[None]]:
    """What an app does while it runs: looks for old files, also when nobody asks for anything."""

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


def _remove(root: Path, oldest: float, ours: Callable[[str], bool]) -> None:
    with suppress(FileNotFoundError):  # another thread may be faster, or there is none yet
        for path in list(root.iterdir()):
            with suppress(FileNotFoundError):
                if ours(path.name) and path.stat().st_mtime < oldest:
                    shutil.rmtree(path, ignore_errors=True)


def served(path: Path) -> str:
    """The address of a file in a folder of a workspace, relative to the page's."""
    return f"gradio_api/file={quote(path.as_posix())}"
