"""Folders for the files of a request: hard to guess, and gone after a while."""

from __future__ import annotations

import asyncio
import re
import secrets
import shutil
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from pathlib import Path
from typing import Any
from urllib.parse import quote

import anyio.to_thread
from gradio.utils import get_upload_folder

from space.settings import Settings

__all__ = ["Workspace", "keeping_clean", "served"]

_CONTENT = re.compile(r"[0-9a-f]{64}\Z")
"""How Gradio calls the folder of an uploaded file: by the digest of its content."""


class Workspace:
    """A place for folders, one per request.

    Gradio serves whatever lies in its cache to those who know the path, so each folder has a name
    of 128 random bits.

    Args:
        root: Where the folders are made; inside of Gradio's cache, or Gradio would copy each file.
        keep_seconds: How long a folder is kept after it was last written to.
    """

    def __init__(self, root: Path, keep_seconds: float) -> None:
        self.root = root
        self.keep_seconds = keep_seconds

    @classmethod
    def of(cls, settings: Settings) -> Workspace:
        """The one of an app."""
        return cls(Path(get_upload_folder()) / "cam_hub", settings.keep_seconds)

    def folder(self) -> Path:
        """A new, empty folder. Old ones are removed on this occasion."""
        self.sweep()
        path = self.root / secrets.token_hex(16)
        path.mkdir(parents=True)
        return path

    def sweep(self) -> None:
        """Removes the folders that are too old, those of uploads beside them as well.

        Gradio removes uploads by itself, but not all: it does not count those that agents send
        within a request.
        """
        oldest = time.time() - self.keep_seconds
        _remove(self.root, oldest, lambda name: True)
        _remove(self.root.parent, oldest, lambda name: bool(_CONTENT.match(name)))


def keeping_clean(settings: Settings) -> Callable[[Any], AbstractAsyncContextManager[None]]:
    """What an app does while it runs: looks for old files, also when nobody asks for anything."""

    async def work() -> None:
        workspace = Workspace.of(settings)
        while True:
            await anyio.to_thread.run_sync(workspace.sweep)
            await asyncio.sleep(settings.cleaning_seconds)

    @asynccontextmanager
    async def lifespan(app: Any) -> AsyncIterator[None]:
        task = asyncio.create_task(work())
        try:
            yield
        finally:
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
