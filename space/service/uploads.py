"""Uploads: bounded as a whole and per visitor, complete or not at all.

Gradio's own route bounds each file and takes a thousand of them. It leaves partial files behind
when a visitor hangs up or the disk is full.
"""

from __future__ import annotations

import asyncio
import re
import secrets
import shutil
from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

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
from space.service.file_budget import FileBudget

__all__ = ["MAX_FILES", "Uploads", "forget_followed", "visitor_of"]

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
        budget: Of the disk.
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
        await anyio.to_thread.run_sync(lambda: folder.mkdir(parents=True))
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
