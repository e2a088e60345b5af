"""Folders for the files of a request: hard to guess, and gone after a while."""

from __future__ import annotations

import secrets
import shutil
import time
from contextlib import suppress
from pathlib import Path

__all__ = ["Workspace"]


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

    def folder(self) -> Path:
        """A new, empty folder. Old ones are removed on this occasion."""
        self.sweep()
        path = self.root / secrets.token_hex(16)
        path.mkdir(parents=True)
        return path

    def sweep(self) -> None:
        """Removes the folders that are too old."""
        oldest = time.time() - self.keep_seconds
        with suppress(FileNotFoundError):  # another thread may be faster, or there is none yet
            for path in list(self.root.iterdir()):
                with suppress(FileNotFoundError):
                    if path.stat().st_mtime < oldest:
                        shutil.rmtree(path, ignore_errors=True)
