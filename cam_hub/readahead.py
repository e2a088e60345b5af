"""Pictures, read and made ready by threads ahead of the network, in their order."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Generator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from cam_hub.errors import CamHubError, InvalidArgument
from cam_hub.image_files import file_endings
from cam_hub.preparation import Prepared, prepare
from cam_hub.sources.base import LoadedModel

__all__ = ["Ready", "Refused", "picture_files", "read_ahead"]


@dataclass(frozen=True)
class Ready:
    """A picture that was read.

    Attributes:
        picture: As it was given.
        prepared: The picture as the model's input.
    """

    picture: object
    prepared: Prepared


@dataclass(frozen=True)
class Refused:
    """A picture that could not be read.

    Attributes:
        picture: As it was given.
        error: Why.
    """

    picture: object
    error: CamHubError


def read_ahead(
    model: LoadedModel, pictures: Iterable[object], *, threads: int, ahead: int
) -> Generator[Ready | Refused, None, None]:
    """Reads pictures before they are asked for.

    Args:
        model: The model that they are made ready for.
        pictures: As for ``explain``, one by one; advanced in the caller's thread only, and never
            by more than ``ahead``.
        threads: How many read at the same time.
        ahead: Most pictures that are read, or being read, and not yet handed over.

    Yields:
        The pictures in their order, also those that were refused. An error that ``pictures``
        raises comes after the pictures before it. Closed early, what is not yet begun is given up,
        and what is being read waited for.
    """
    waiting: deque[Future[Ready | Refused]] = deque()
    trouble: Exception | None = None
    source: Iterator[object] | None = iter(pictures)
    pool = ThreadPoolExecutor(threads, thread_name_prefix="cam-hub-reading")
    try:
        while source is not None or waiting:
            while source is not None and len(waiting) < ahead:
                try:
                    waiting.append(pool.submit(_read, model, next(source)))
                except StopIteration:
                    source = None
                except Exception as error:  # noqa: BLE001 - whatever a caller's generator raises
                    source, trouble = None, error
            if waiting:
                yield waiting.popleft().result()
        if trouble is not None:
            raise trouble
    finally:
        pool.shutdown(cancel_futures=True)


def picture_files(folder: str | os.PathLike[str]) -> list[Path]:
    """The pictures in a folder, by the endings of their names, in the order of their names.

    Args:
        folder: Its own files are listed, not those of folders in it; hidden ones are left out.

    Raises:
        InvalidArgument: If it is no folder, or holds no picture.
    """
    found = Path(folder)
    if not found.is_dir():
        raise InvalidArgument("images", str(folder), "a folder, or several pictures")
    endings = file_endings()
    pictures = sorted(
        path
        for path in found.iterdir()
        if path.suffix.lower() in endings and not path.name.startswith(".") and path.is_file()
    )
    if not pictures:
        raise InvalidArgument("images", str(folder), "a folder with pictures in it")
    return pictures


def _read(model: LoadedModel, picture: object) -> Ready | Refused:
    try:
        return Ready(picture, prepare(model, picture))
    except CamHubError as error:
        return Refused(picture, error)
