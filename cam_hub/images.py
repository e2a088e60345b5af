"""Open any picture safely: the one way in for files, bytes, PIL images and arrays.

What comes out is always the same: an upright RGB picture of 8 bits per channel in memory, free of
metadata. What cannot become one is refused with its reason.

Only formats that Pillow decodes by itself are read: its EPS reader, for one, would run Ghostscript
on a stranger's file. Colour profiles are dropped unapplied, as in the pipelines that models were
trained with.
"""

from __future__ import annotations

import io
import os
import re
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import IO, Any, TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image, UnidentifiedImageError

from cam_hub.errors import ImageRefused, InvalidArgument

__all__ = ["FORMATS", "MAX_PIXELS", "file_endings", "open_image", "read_image_file", "to_picture"]

Found = TypeVar("Found")
Look = Callable[[Image.Image, str], Found]
"""Takes an image whose header was read, and what messages call it."""

MAX_PIXELS = 178_956_970
"""Pictures with more pixels are refused; Pillow's own hard limit is the same."""

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

_BOMBS = (Image.DecompressionBombError, Image.DecompressionBombWarning)

_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def open_image(source: object, *, max_pixels: int = MAX_PIXELS) -> Image.Image:
    """Open a picture.

    Args:
        source: A path; the bytes of an image file; a binary file object, which is read from its
            beginning and left at its position; a PIL image, of which the current frame is taken;
            or an array of shape ``(H, W)`` or ``(H, W, 1 | 3 | 4)``, uint8 in [0, 255] or bool.
        max_pixels: Larger pictures are refused before they are decoded. Pillow's own limit
            (``PIL.Image.MAX_IMAGE_PIXELS``) holds as well and is left as it is.

    Returns:
        A new picture in mode "RGB": the first frame, turned as its EXIF orientation says,
        transparent parts laid on white. 16-bit grey is divided by 257. Pixels in 32-bit integers
        or floats have no fixed white; their full scale is taken to be the least of 1 (floats
        only), 255 and 65535 that holds them all, and where none does or some are negative, their
        own range is stretched to [0, 255].

    Raises:
        ImageRefused: The source is none of these, is missing, empty, damaged, too large, has NaN
            or infinite pixels, or is in a format that is not read.
        InvalidArgument: ``max_pixels`` is not a positive whole number.
    """
    if isinstance(max_pixels, bool) or not isinstance(max_pixels, int) or max_pixels < 1:
        raise InvalidArgument("max_pixels", max_pixels, "a positive whole number")
    if isinstance(source, Image.Image):
        return to_picture(source, "the PIL image", max_pixels)
    if isinstance(source, np.ndarray):
        return _from_array(source, max_pixels)
    return read_image_file(source, lambda image, name: to_picture(image, name, max_pixels))


def read_image_file(source: object, look: Look[Found]) -> Found:
    """Open an image file for someone who looks at it before it is closed again.

    Args:
        source: A path, the bytes of an image file, or a binary file object, as for
            :func:`open_image`.
        look: Called with the image, of which only the header was read, and its name for messages.

    Returns:
        What ``look`` returns.

    Raises:
        ImageRefused: As :func:`open_image`, but for what only decoding would show.
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


def file_endings() -> frozenset[str]:
    """How the names of files end that are read here, as far as the installed Pillow can."""
    formats = _readable()
    return frozenset(ending for ending, word in Image.EXTENSION.items() if word in formats)


def _readable() -> list[str]:
    Image.init()
    return [word for word in (*FORMATS, *_PLUGIN_FORMATS) if word in Image.OPEN]


def _from_path(text: str, look: Look[Found]) -> Found:
    name = _short(repr(text))
    if scheme := re.match(r"\s*((https?|ftp|file|s3|gs|hf)(?=://)|data(?=:))", text, re.IGNORECASE):
        raise ImageRefused(
            f"{name} is a {scheme[1].lower()}: address, and nothing is fetched here; download it "
            "first and give the file's path or its bytes"
        )
    if not text.strip():
        raise ImageRefused("the path is empty")
    path = Path(text)
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
        raise ImageRefused(f"{name} cannot be opened: {_told(error)}") from error
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
        raise ImageRefused(f"{name} cannot be read: {_told(error)}") from error
    try:
        return _opened(stream, name, look)
    finally:
        stream.seek(position)


def _from_array(array: NDArray[Any], max_pixels: int) -> Image.Image:
    shape = array.shape
    if array.dtype.kind == "f":
        bad = int((~np.isfinite(array)).sum())
        holds = f" (it also holds {bad} NaN or infinite values)" if bad else ""
        raise ImageRefused(
            f"an array of {array.dtype} has no fixed white; scale it to 0-255 and cast it with "
            f".astype('uint8'){holds}"
        )
    if array.dtype not in (np.uint8, np.bool_):
        raise ImageRefused(
            f"an array of {array.dtype} is not read; scale it to 0-255 and cast it with "
            ".astype('uint8')"
        )
    if len(shape) not in (2, 3) or (len(shape) == 3 and shape[2] not in (1, 3, 4)):
        hint = ""
        if len(shape) == 3 and shape[0] in (1, 3, 4):
            hint = "; it looks channels-first: use .transpose(1, 2, 0)"
        elif len(shape) == 4:
            hint = "; give one image at a time"
        raise ImageRefused(
            f"an array of shape {shape} is no picture; it takes (H, W), (H, W, 1), (H, W, 3) or "
            f"(H, W, 4){hint}"
        )
    _check_size((shape[1], shape[0]), "the array", max_pixels)
    pixels = array[..., 0] if shape[2:] == (1,) else array
    if pixels.dtype == np.bool_:
        pixels = pixels.astype(np.uint8) * 255
    return to_picture(Image.fromarray(np.ascontiguousarray(pixels)), "the array", max_pixels)


def _opened(file: IO[bytes], name: str, look: Look[Found]) -> Found:
    """Read an image file's header, from its beginning, and show it."""
    try:
        file.seek(0)
        head = file.read(1024)
    except (OSError, ValueError) as error:
        raise ImageRefused(f"{name} cannot be read: {_told(error)}") from error
    if not head:
        raise ImageRefused(f"{name} is empty (0 bytes)")
    formats = _readable()
    try:
        image = Image.open(file, formats=formats)  # reads the header only
    except UnidentifiedImageError:
        raise ImageRefused(f"{name} is {_guess(head, formats)}") from None
    except _BOMBS as error:
        raise ImageRefused(f"{name} is too large: {_told(error)}") from error
    except Exception as error:
        raise ImageRefused(f"{name} is damaged in its header: {_told(error)}") from error
    with image:
        return look(image, name)


def to_picture(image: Image.Image, name: str, max_pixels: int = MAX_PIXELS) -> Image.Image:
    """Decode what is still undecoded; return a new upright RGB picture without metadata.

    Args:
        image: Any PIL image, at the frame that is wanted.
        name: What messages call it.
        max_pixels: As for :func:`open_image`.

    Raises:
        ImageRefused: It is too large, damaged, or has no RGB equivalent.
    """
    _check_size(image.size, name, max_pixels)
    try:
        _load(image, name)
        result = _to_rgb(image, name)
    except MemoryError as error:
        raise ImageRefused(f"{name}, {_by(image.size)}, does not fit into memory") from error
    turn = None
    with suppress(Exception):  # a broken EXIF block says nothing against the pixels
        turn = _UPRIGHT.get(image.getexif().get(ExifTags.Base.Orientation, 1))
    if turn is not None:
        result = result.transpose(turn)
    result.info = {}
    return result


def _load(image: Image.Image, name: str) -> None:
    try:
        image.load()
    except MemoryError:
        raise
    except _BOMBS as error:
        raise ImageRefused(f"{name} is too large: {_told(error)}") from error
    except Exception as error:  # decoders raise whatever their parsers stumble over
        kind = f"{image.format} " if image.format else ""
        raise ImageRefused(f"{name} is a damaged or cut off {kind}file: {_told(error)}") from error


def _to_rgb(image: Image.Image, name: str) -> Image.Image:
    """A new RGB picture of the same pixels, by the rules in :func:`open_image`."""
    if image.mode.startswith("I;16"):
        grey = np.asarray(image).astype(np.uint32)
        return Image.fromarray(((grey + 128) // 257).astype(np.uint8)).convert("RGB")
    if image.mode in ("I", "F"):
        return Image.fromarray(_rescaled(np.asarray(image), name)).convert("RGB")
    try:
        if not image.has_transparency_data:
            return image.copy() if image.mode == "RGB" else image.convert("RGB")
        if image.mode == "La":  # Pillow leads out of premultiplied grey only to LA
            image = image.convert("LA")
        clear = image if image.mode == "RGBA" else image.convert("RGBA")
    except MemoryError:
        raise
    except Exception as error:
        reason = f"its {image.mode} pixels cannot be turned into RGB: {_told(error)}"
        raise ImageRefused(f"{name} is not usable, {reason}") from error
    opaque = Image.new("RGB", image.size, "white")
    opaque.paste(clear, mask=clear)
    return opaque


def _rescaled(values: NDArray[Any], name: str) -> NDArray[np.uint8]:
    """32-bit grey to 8 bits, by the rule in :func:`open_image`."""
    whites = (1, 255, 65535) if values.dtype.kind == "f" else (255, 65535)
    bad = values.size - int(np.isfinite(values).sum())
    if bad:
        raise ImageRefused(f"{bad} of {name}'s {values.size} pixels are NaN or infinite")
    low, high = float(values.min()), float(values.max())
    white = next((white for white in whites if low >= 0 and high <= white), None)
    if white is not None:
        low, high = 0.0, float(white)
    scaled = (values.astype(np.float64) - low) * (255 / ((high - low) or 1.0))
    return np.rint(scaled).astype(np.uint8)


def _check_size(size: tuple[int, int], name: str, max_pixels: int) -> None:
    pixels = size[0] * size[1]
    if pixels < 1:
        raise ImageRefused(f"{name} holds no pixels ({_by(size)})")
    if pixels > max_pixels:
        raise ImageRefused(
            f"{name} is too large: {_by(size)} is {pixels:,} pixels, and the limit is "
            f"{max_pixels:,}; scale it down first"
        )


def _guess(head: bytes, formats: list[str]) -> str:
    """Say what a file is that Pillow does not know."""
    for pattern, what in _STRANGERS:
        if re.match(pattern, head, re.IGNORECASE | re.DOTALL):
            return what
    return f"no image that can be read, or is damaged at its start; {', '.join(formats)} work"


def _by(size: tuple[int, int]) -> str:
    return f"{size[0]} x {size[1]}"


def _told(error: BaseException) -> str:
    """What an error says, or its kind where it says nothing."""
    return _short(str(error) or type(error).__name__)


def _short(text: str, limit: int = 160) -> str:
    """Cut what came from outside, so that it cannot flood a message."""
    return text if len(text) <= limit else text[: limit - 1] + "…"
