"""Image files and other sources, safely, to upright RGB photos."""

from __future__ import annotations

import io
import os
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any
from urllib.parse import urlsplit
from urllib.request import url2pathname

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image, UnidentifiedImageError

from cam_hub._validation import check_whole
from cam_hub.errors import ImageRefused
from cam_hub.images.remote import RemoteFile

__all__ = [
    "BOMBS",
    "FORMATS",
    "MAX_PIXELS",
    "ReducedPhoto",
    "encoded",
    "file_endings",
    "image_file",
    "local_path",
    "message_of",
    "open_image",
    "open_reduced",
    "to_picture",
]


FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "AVIF", "JPEG2000", "PPM", "ICO", "QOI")
"""The formats that are read, if the installed Pillow can."""

# Also read if a Pillow plugin for them is registered.
_PLUGIN_FORMATS = ("HEIF", "JXL")

# Files given by mistake: the beginning, and the format.
_OTHER_FORMATS = (
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


@contextmanager
def image_file(source: object) -> Iterator[tuple[Image.Image, str]]:
    """Opens an image file, of which only the header is read.

    Args:
        source: A path, the bytes of an image file, a binary file object, or a ``RemoteFile``, as
            for ``open_image``.

    Yields:
        The image, and its name for messages.

    Raises:
        ImageRefused: As ``open_image``, but for what only decoding would show.
    """
    with ExitStack() as stack:
        if isinstance(source, (bytes, bytearray, memoryview)):
            file: IO[bytes] = io.BytesIO(source)
            name = "the data"
        elif isinstance(source, (str, os.PathLike)):
            text = os.fsdecode(source)
            name = _shortened(repr(text))
            file = stack.enter_context(_open_path(text, name))
        elif isinstance(source, RemoteFile):
            file = io.BytesIO(source.read())
            name = _shortened(repr(source.shown))
        elif hasattr(source, "read"):
            name = "the file object"
            file, position = _readable_object(source, name)
            stack.callback(file.seek, position)
        else:
            raise ImageRefused(
                f"{type(source).__name__} is not a kind of picture; give a path, the bytes of an "
                "image file, a binary file object, a PIL image or a uint8 array of shape (H, W, 3)"
            )
        try:
            file.seek(0)
            head = file.read(1024)
        except (OSError, ValueError) as error:
            raise ImageRefused(f"{name} cannot be read: {message_of(error)}") from error
        if not head:
            raise ImageRefused(f"{name} is empty (0 bytes)")
        formats = _readable_formats()
        try:
            image = stack.enter_context(Image.open(file, formats=formats))
        except UnidentifiedImageError:
            raise ImageRefused(f"{name} is {_guess(head, formats)}") from None
        except BOMBS as error:
            raise ImageRefused(f"{name} is too large: {message_of(error)}") from error
        except Exception as error:
            raise ImageRefused(f"{name} is damaged in its header: {message_of(error)}") from error
        yield image, name


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
    formats = _readable_formats()
    return frozenset(ending for ending, word in Image.EXTENSION.items() if word in formats)


def _readable_formats() -> list[str]:
    Image.init()
    return list(filter(Image.OPEN.get, (*FORMATS, *_PLUGIN_FORMATS)))


def _open_path(text: str, name: str) -> IO[bytes]:
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
        return path.open("rb")
    except FileNotFoundError:
        raise ImageRefused(f"there is no file {name}") from None
    except ImageRefused:
        raise
    except (OSError, ValueError) as error:  # no permission, a name too long or with a NUL
        raise ImageRefused(f"{name} cannot be opened: {message_of(error)}") from error


def _readable_object(file: Any, name: str) -> tuple[IO[bytes], int]:
    """A file object that can be searched, and the position to leave it at."""
    if isinstance(file, io.TextIOBase):
        raise ImageRefused(f"{name} is in text mode; open it with mode 'rb'")
    try:
        if hasattr(file, "seekable") and file.seekable():
            return file, file.tell()
        return io.BytesIO(file.read()), 0
    except (OSError, ValueError, TypeError) as error:  # closed, write-only, gives text
        raise ImageRefused(f"{name} cannot be read: {message_of(error)}") from error


def _guess(head: bytes, formats: list[str]) -> str:
    """The format of a file that Pillow does not read."""
    for pattern, what in _OTHER_FORMATS:
        if re.match(pattern, head, re.IGNORECASE | re.DOTALL):
            return what
    return f"not an image that can be read, or is damaged at its start; {', '.join(formats)} work"


def message_of(error: BaseException) -> str:
    """The message of an error, or its type if it has none."""
    return _shortened(str(error) or type(error).__name__)


def _shortened(text: str, limit: int = 160) -> str:
    """Cut what came from outside, so that it cannot flood a message."""
    return text if len(text) <= limit else text[: limit - 1] + "…"


MAX_PIXELS = 178_956_970
"""Pictures with more pixels are refused; Pillow's own hard limit is the same."""

_WHITES = (255, 4095, 65535)  # of whole numbers in 16 bits
_BITS_PER_SAMPLE, _MAX_SAMPLE = 258, 281  # tags of TIFF

_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
# The orientations that swap the sides of a file, and whose left or top edge was another one there.
_SIDEWAYS = (5, 6, 7, 8)
_MIRRORED_ACROSS = (2, 3, 6, 7)
_MIRRORED_DOWN = (3, 4, 7, 8)


def open_image(source: object, *, max_pixels: int = MAX_PIXELS) -> Image.Image:
    """Open a picture.

    Args:
        source: A path, which may begin with ``~`` or ``file://``; the bytes of an image file; a
            binary file object, which is read from its beginning and left at its position; a
            ``RemoteFile``; a row ``{"bytes": …, "path": …}`` of the library ``datasets``; a PIL
            image, of which the current frame is taken; or an array of shape ``(H, W)`` or
            ``(H, W, 1 | 3 | 4)``: uint8 in [0, 255], bool, uint16, or floating point in [0, 1] or
            [0, 255].
        max_pixels: Larger pictures are refused before they are decoded. Pillow's own limit
            (``PIL.Image.MAX_IMAGE_PIXELS``) holds as well and is left as it is.

    Returns:
        A new picture in mode "RGB": the first frame, turned by its EXIF orientation,
        transparent parts laid on white. 16 bits often hold fewer (12 from cameras and scanners):
        white is what a TIFF file declares, else the least of 255, 4095 and 65535 that holds all
        pixels; so for 32-bit integers. For grey pixels in floats it is the least of 1, 255 and
        65535. Where none holds all, or some are negative, their own range is stretched to
        [0, 255].

    Raises:
        ImageRefused: The source is none of these, is missing, empty, damaged, too large, has NaN
            or infinite pixels, or is in a format that is not read.
        InvalidArgument: ``max_pixels`` is not a positive whole number.
    """
    check_whole("max_pixels", max_pixels)
    if isinstance(source, Image.Image):
        return to_picture(source, "the PIL image", max_pixels)
    if isinstance(source, np.ndarray):
        return _from_array(source, max_pixels)
    if isinstance(source, Mapping):
        source = _of_row(source)
    with image_file(source) as (image, name):
        return to_picture(image, name, max_pixels)


def _of_row(row: Mapping[str, Any]) -> Any:
    """The bytes or the path of an image in a row of the library ``datasets``."""
    if not row or not set(row) <= {"bytes", "path"}:
        raise ImageRefused(
            f"{type(row).__name__} is not a kind of picture; it takes "
            '{"bytes": …, "path": …}, or the value of its column'
        )
    return row["path"] if row.get("bytes") is None else row["bytes"]


def encoded(source: object) -> Any:
    """The source in plain types, if it is a file that is not decoded yet and can be read again.

    Args:
        source: As for :func:`open_image`, or a list of these.

    Returns:
        Text, bytes, a row ``{"bytes": …, "path": …}`` or a list of these, which any process can
        open; None for everything else: file objects, PIL images, arrays, tensors.
    """
    if isinstance(source, (str, os.PathLike)):
        return os.fsdecode(source)
    if isinstance(source, (bytes, bytearray, memoryview)):
        return bytes(source)
    if isinstance(source, Mapping) and source and set(source) <= {"bytes", "path"}:
        return encoded(_of_row(source))
    if isinstance(source, (list, tuple)):
        items = [encoded(item) for item in source]
        return None if None in items else items
    return None


@dataclass(frozen=True, eq=False)
class ReducedPhoto:
    """A photo that was decoded at 1/1, 1/2, 1/4 or 1/8 of its size.

    Attributes:
        photo: Upright, in mode "RGB".
        size: Width and height of the full photo, upright.
        box: ``(left, top, right, bottom)``: the part of ``photo`` that the full photo covers.
            Where its sides are not multiples of the reduction, a fraction of the pixels at one edge
            lies beyond.
    """

    photo: Image.Image
    size: tuple[int, int]
    box: tuple[float, float, float, float]

    @property
    def is_covered(self) -> bool:
        """Whether the full photo covers all of ``photo``."""
        left, top, right, bottom = self.box
        return right - left == self.photo.width and bottom - top == self.photo.height


def open_reduced(
    source: object, least: Callable[[tuple[int, int]], tuple[int, int]]
) -> ReducedPhoto:
    """Open a photo, a JPEG at a fraction of its size, which takes a fraction of the time.

    Args:
        source: As :func:`encoded` returns it.
        least: From the size of the full, upright photo to the smallest one that will do.

    Raises:
        ImageRefused: As :func:`open_image`.
    """
    with image_file(_of_row(source) if isinstance(source, Mapping) else source) as (image, name):
        _check_size(image.size, name, MAX_PIXELS)
        size, orientation = image.size, 1
        extent: tuple[float, float] = size
        if image.format in ("JPEG", "MPO"):
            with suppress(Exception):  # as in ``to_picture``
                orientation = image.getexif().get(ExifTags.Base.Orientation, 1)
            turned = orientation in _SIDEWAYS
            size = size[::-1] if turned else size
            wanted = least(size)
            drafted = image.draft(None, wanted[::-1] if turned else wanted)
            extent = extent if drafted is None else drafted[1][2:]
            extent = extent[::-1] if turned else extent
        photo = to_picture(image, name)
    left = photo.width - extent[0] if orientation in _MIRRORED_ACROSS else 0
    top = photo.height - extent[1] if orientation in _MIRRORED_DOWN else 0
    return ReducedPhoto(photo, size, (left, top, left + extent[0], top + extent[1]))


def _from_array(array: NDArray[Any], max_pixels: int) -> Image.Image:
    shape = array.shape
    if not array.dtype.isnative:  # TIFF readers give the byte order of the file
        array = array.astype(array.dtype.newbyteorder("="))
    if array.dtype.kind != "f" and array.dtype not in (np.uint8, np.uint16, np.bool_):
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
            f"an array of shape {shape} is not a picture; it takes (H, W), (H, W, 1), (H, W, 3) or "
            f"(H, W, 4){hint}"
        )
    _check_size((shape[1], shape[0]), "the array", max_pixels)
    pixels = array[..., 0] if shape[2:] == (1,) else array
    if pixels.dtype == np.bool_:
        pixels = pixels.astype(np.uint8) * 255
    elif pixels.dtype == np.uint16:
        pixels = _of_16_bits(pixels)
    elif pixels.dtype.kind == "f":
        pixels = _of_floats(pixels)
    return to_picture(Image.fromarray(np.ascontiguousarray(pixels)), "the array", max_pixels)


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
        image.load()
    except MemoryError as error:
        raise _too_large_to_hold(image, name) from error
    except BOMBS as error:
        raise ImageRefused(f"{name} is too large: {message_of(error)}") from error
    except Exception as error:  # decoders raise whatever their parsers stumble over
        kind = f"{image.format} " if image.format else ""
        raise ImageRefused(
            f"{name} is a damaged or cut off {kind}file: {message_of(error)}"
        ) from error
    try:
        result = _to_rgb(image, name)
    except MemoryError as error:
        raise _too_large_to_hold(image, name) from error
    turn = None
    with suppress(Exception):  # the pixels may be intact despite a broken EXIF block
        turn = _UPRIGHT.get(image.getexif().get(ExifTags.Base.Orientation, 1))
    if turn is not None:
        result = result.transpose(turn)
    result.info = {}
    return result


def _to_rgb(image: Image.Image, name: str) -> Image.Image:
    """A new RGB picture of the same pixels, by the rules in :func:`open_image`."""
    if image.mode.startswith("I;16"):
        grey = np.asarray(image).astype(np.uint16)
        return Image.fromarray(_of_16_bits(grey, _declared_white(image))).convert("RGB")
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
        reason = f"its {image.mode} pixels cannot be turned into RGB: {message_of(error)}"
        raise ImageRefused(f"{name} is not usable, {reason}") from error
    opaque = Image.new("RGB", image.size, "white")
    opaque.paste(clear, mask=clear)
    return opaque


def _of_16_bits(values: NDArray[np.uint16], white: int = 0) -> NDArray[np.uint8]:
    """16-bit pixels to 8 bits, by the rule in :func:`open_image`; 0 for an unknown white."""
    highest = int(values.max())
    if white < max(highest, 1):
        white = next(white for white in _WHITES if highest <= white)
    scaled = (values.astype(np.uint32) * 255 + white // 2) // white
    return scaled.astype(np.uint8)


def _declared_white(image: Image.Image) -> int:
    """The largest pixel value by a TIFF file's own metadata; 0 for none."""
    tags = getattr(image, "tag_v2", {})
    with suppress(Exception):  # tags hold whatever a stranger has written
        if _MAX_SAMPLE in tags:
            return int(np.ravel(tags[_MAX_SAMPLE])[0])
        bits = int(np.ravel(tags[_BITS_PER_SAMPLE])[0])
        return 2**bits - 1 if bits < 16 else 0
    return 0


def _of_floats(values: NDArray[Any]) -> NDArray[np.uint8]:
    """Floating-point pixels in [0, 1] or [0, 255] to 8 bits."""
    bad = values.size - int(np.isfinite(values).sum())
    if bad:
        raise ImageRefused(f"{bad} of the array's {values.size} values are NaN or infinite")
    low, high = float(values.min()), float(values.max())
    if low < 0 or high > 255:
        raise ImageRefused(
            f"an array of {values.dtype} holds pixels in [0, 1] or [0, 255], and this one values "
            f"from {low:.3g} to {high:.3g}; scale it to [0, 1], or if it is already normalised, "
            "give it as a float tensor (C, H, W)"
        )
    white = 1 if high <= 1 else 255
    return np.rint(values.astype(np.float64) * (255 / white)).astype(np.uint8)


def _rescaled(values: NDArray[Any], name: str) -> NDArray[np.uint8]:
    """32-bit grey to 8 bits, by the rule in :func:`open_image`."""
    whites = (1, 255, 65535) if values.dtype.kind == "f" else _WHITES
    bad = values.size - int(np.isfinite(values).sum())
    if bad:
        raise ImageRefused(f"{bad} of the {values.size} pixels of {name} are NaN or infinite")
    low, high = float(values.min()), float(values.max())
    white = next((white for white in whites if low >= 0 and high <= white), None)
    if white is not None:
        low, high = 0.0, float(white)
    scaled = (values.astype(np.float64) - low) * (255 / ((high - low) or 1.0))
    return np.rint(scaled).astype(np.uint8)


def _check_size(size: tuple[int, int], name: str, max_pixels: int) -> None:
    pixels = size[0] * size[1]
    if pixels < 1:
        raise ImageRefused(f"{name} holds no pixels ({size[0]} x {size[1]})")
    if pixels > max_pixels:
        raise ImageRefused(
            f"{name} is too large: {size[0]} x {size[1]} is {pixels:,} pixels, and the limit is "
            f"{max_pixels:,}; scale it down first"
        )


def _too_large_to_hold(image: Image.Image, name: str) -> ImageRefused:
    return ImageRefused(f"{name}, {image.width} x {image.height}, does not fit into memory")
