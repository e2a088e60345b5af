"""Image files, as far as their header: which are read, and what the others are.

Only formats that Pillow decodes by itself are read: its EPS reader, for one, would run Ghostscript
on a stranger's file.
"""

from __future__ import annotations

import io
import os
import re
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import IO, Any, TypeVar
from urllib.parse import urlsplit
from urllib.request import url2pathname

from PIL import Image, UnidentifiedImageError

from cam_hub.errors import ImageRefused

__all__ = ["BOMBS", "FORMATS", "file_endings", "local_path", "read_image_file", "told"]

Found = TypeVar("Found")
Look = Callable[[Image.Image, str], Found]
"""Takes an image whose header was read, and what messages call it."""

FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "AVIF", "JPEG2000", "PPM", "ICO", "QOI")
"""What is read, as far as the installed Pillow can."""

# Read too where a Pillow plugin that knows them is registered.
_PLUGIN_FORMATS = ("HEIF", "JXL")

# What is given by mistake: how the file begins, and what it is.
_STRANGERS = (
    (
        rb"(\xef\xbb\xbf)?\s*(<\?xml|<!--|<!doctype svg|<svg)",
        "XML or an SVG drawing; export it as PNG",
    ),
    (rb"\s*<(!doctype html|html|head)", "a web page, perhaps saved in place of the image"),
    (rb"version https://git-lfs", "a Git LFS pointer; fetch the file itself with 'git lfs pull'"),
    (rb"%PDF", "a PDF document; export the page as PNG"),
    (
        rb"....ftyp(hei[cxms]|hev[cx]|mif1|msf1|avi[fs])",
        "a HEIF or AVIF photo that this Pillow cannot decode; convert it to JPEG or PNG",
    ),
    (rb"....ftyp|\x1aE\xdf\xa3|RIFF....AVI ", "a video; save a frame of it as PNG"),
)

BOMBS = (Image.DecompressionBombError, Image.DecompressionBombWarning)
"""What Pillow raises at pictures that are too large for it."""


def read_image_file(source: object, look: Look[Found]) -> Found:
    """Open an image file for someone who looks at it before it is closed again.

    Args:
        source: A path, the bytes of an image file, or a binary file object, as for
            ``open_image``.
        look: Called with the image, of which only the header was read, and its name for messages.

    Returns:
        What ``look`` returns.

    Raises:
        ImageRefused: As ``open_image``, but for what only decoding would show.
    """
    if isinstance(source, (bytes, bytearray, memoryview)):
        return _opened(io.BytesIO(bytes(source)), "the data", look)
    if isinstance(source, (str, os.PathLike)):
        return _from_path(os.fsdecode(source), look)
    if hasattr(source, "read"):
        return _from_file(source, look)
    raise ImageRefused(
        f"{type(source).__name__} is not a kind of picture; give a path, the bytes of an image "
        "file, a binary file object, a PIL image or a uint8 array of shape (H, W, 3)"
    )


def local_path(text: str) -> Path:
    """The path that a text names: ``~`` is the user's home, a ``file:`` URL its path.

    Raises:
        ImageRefused: If a ``file:`` URL names another machine.
    """
    if re.match(r"file:/", text, re.IGNORECASE):
        parts = urlsplit(text)
        if parts.netloc.lower() not in ("", "localhost"):
            raise ImageRefused(
                f"{_shortened(repr(text))} is a file on another machine, {parts.netloc!r}; give a "
                "file:///… address or a path"
            )
        return Path(url2pathname(parts.path))
    path = Path(text)
    if text.startswith("~") and not path.exists():
        with suppress(RuntimeError):  # of a user who has no home
            return path.expanduser()
    return path


def file_endings() -> frozenset[str]:
    """How the names of files end that are read here, as far as the installed Pillow can."""
    formats = _readable()
    return frozenset(ending for ending, word in Image.EXTENSION.items() if word in formats)


def _readable() -> list[str]:
    Image.init()
    return [word for word in (*FORMATS, *_PLUGIN_FORMATS) if word in Image.OPEN]


def _from_path(text: str, look: Look[Found]) -> Found:
    name = _shortened(repr(text))
    if scheme := re.match(r"\s*((https?|ftp|s3|gs|hf)(?=://)|data(?=:))", text, re.IGNORECASE):
        raise ImageRefused(
            f"{name} is a {scheme[1].lower()}: address, and nothing is fetched here; download it "
            "first and give the file's path or its bytes"
        )
    if not text.strip():
        raise ImageRefused("the path is empty")
    path = local_path(text)
    try:
        if path.is_dir():
            raise ImageRefused(f"{name} is a folder; give an image file in it")
        if path.exists() and not path.is_file():  # opening a pipe would wait for ever
            raise ImageRefused(f"{name} is a device or a pipe; give an image file")
        file = path.open("rb")
    except FileNotFoundError:
        raise ImageRefused(f"there is no file {name}") from None
    except ImageRefused:
        raise
    except (OSError, ValueError) as error:  # no permission, a name too long or with a NUL
        raise ImageRefused(f"{name} cannot be opened: {told(error)}") from error
    with file:
        return _opened(file, name, look)


def _from_file(file: Any, look: Look[Found]) -> Found:
    name = "the file object"
    if isinstance(file, io.TextIOBase):
        raise ImageRefused(f"{name} is in text mode; open it with mode 'rb'")
    try:
        seekable = hasattr(file, "seekable") and file.seekable()
        position = file.tell() if seekable else 0
        stream = file if seekable else io.BytesIO(file.read())
    except (OSError, ValueError, TypeError) as error:  # closed, write-only, gives text
        raise ImageRefused(f"{name} cannot be read: {told(error)}") from error
    try:
        return _opened(stream, name, look)
    finally:
        stream.seek(position)


def _opened(file: IO[bytes], name: str, look: Look[Found]) -> Found:
    """Read an image file's header, from its beginning, and show it."""
    try:
        file.seek(0)
        head = file.read(1024)
    except (OSError, ValueError) as error:
        raise ImageRefused(f"{name} cannot be read: {told(error)}") from error
    if not head:
        raise ImageRefused(f"{name} is empty (0 bytes)")
    formats = _readable()
    try:
        image = Image.open(file, formats=formats)  # reads the header only
    except UnidentifiedImageError:
        raise ImageRefused(f"{name} is {_guess(head, formats)}") from None
    except BOMBS as error:
        raise ImageRefused(f"{name} is too large: {told(error)}") from error
    except Exception as error:
        raise ImageRefused(f"{name} is damaged in its header: {told(error)}") from error
    with image:
        return look(image, name)


def _guess(head: bytes, formats: list[str]) -> str:
    """Say what a file is that Pillow does not know."""
    for pattern, what in _STRANGERS:
        if re.match(pattern, head, re.IGNORECASE | re.DOTALL):
            return what
    return f"no image that can be read, or is damaged at its start; {', '.join(formats)} work"


def told(error: BaseException) -> str:
    """What an error says, or its kind where it says nothing."""
    return _shortened(str(error) or type(error).__name__)


def _shortened(text: str, limit: int = 160) -> str:
    """Cut what came from outside, so that it cannot flood a message."""
    return text if len(text) <= limit else text[: limit - 1] + "…"
