"""Several pictures as one: a montage of captioned tiles, with a colour bar, and an animation.

Text is drawn in DejaVu Sans, which comes with matplotlib: Latin, Greek and Cyrillic letters, ×,
arrows. Scripts that are written from right to left need a layout engine that not every machine has,
and count as missing. A character that is missing is spelt in ASCII if possible, an emoji is left
out, and any other one becomes "?"; for labels of classes see :func:`label_text`. Nothing in a
caption can make drawing fail.
"""

from __future__ import annotations

import hashlib
import io
import math
import os
import secrets
import unicodedata
import zlib
from collections.abc import Callable, Sequence
from functools import cache, lru_cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont
from PIL.PngImagePlugin import PngInfo

from cam_hub._validation import check_whole
from cam_hub.errors import InvalidArgument, SaveFailed
from cam_hub.results.overlay import checked_photo, colorize

__all__ = [
    "MAX_TILE_WIDTH",
    "SUFFIXES",
    "colorbar",
    "label_text",
    "montage",
    "note",
    "save_animation",
    "stack",
    "write_animation",
]

MAX_TILE_WIDTH = 8192
"""Pixels of a tile of a montage."""

_MAX_SIDE = 1 << 16

_PAPER = (255, 255, 255)
_INK = (32, 32, 36)
_VOID = (232, 232, 236)
_ELLIPSIS = "…"
_MAX_ASPECT = 2  # maximum height of a tile in relation to its width: slivers would be very high
_MAX_CODES = 3  # code points that stand for a label
_SHEET_ASPECT = 1.5  # width to height that an automatic number of columns aims at


def montage(
    tiles: Sequence[tuple[str | Sequence[str], Image.Image]],
    columns: int | None = None,
    tile_width: int = 256,
    title: str | None = None,
) -> Image.Image:
    """A sheet of pictures with a caption below each.

    Pictures are scaled to one width, up or down; one more than twice as high as wide is
    scaled to that height instead and centred. A row is as high as its highest picture. The title
    and each line of a caption take one line: white space is folded, and what is too long loses its
    middle, since both ends of a layer's name matter.

    Args:
        tiles: Caption, in one line or several, and RGB image of each tile, in reading order.
        columns: How many tiles side by side; by default as many as make the sheet about one and a
            half times as wide as high.
        tile_width: Pixels, 16 to 8,192.
        title: Written above all tiles, if given.

    Returns:
        RGB image: dark text on white.

    Raises:
        InvalidArgument: The list is empty, an image is not RGB, or a number is too small.
    """
    if not tiles:
        raise InvalidArgument("tiles", tiles, "at least one (caption, image)")
    check_whole("tile_width", tile_width, 16, MAX_TILE_WIDTH)
    pictures = [_scaled(checked_photo(image, "tiles"), tile_width) for _, image in tiles]
    if columns is None:
        columns = _default_columns(len(tiles), max(image.height for image in pictures), tile_width)
    columns = min(check_whole("columns", columns), len(tiles))

    margin = max(4, tile_width // 20)
    font = _font(max(10, tile_width / 17))
    title_font = _font(max(12, tile_width / 12))
    captions = [[text] if isinstance(text, str) else list(text) for text, _ in tiles]
    line_height = round(_line_height(font) * 1.3)
    caption_height = line_height * max(1, *map(len, captions))
    header = round(_line_height(title_font) * 1.4) if title else 0

    rows = [pictures[start : start + columns] for start in range(0, len(pictures), columns)]
    row_heights = [max(image.height for image in row) for row in rows]
    width = columns * (tile_width + margin) + margin
    height = margin + header + sum(h + caption_height + margin for h in row_heights)

    sheet = Image.new("RGB", (width, height), _PAPER)
    pen = ImageDraw.Draw(sheet)
    if title:
        pen.text((margin, margin), _fitted(title, title_font, width - 2 * margin), _INK, title_font)
    top = margin + header
    lines_of = iter(captions)
    for row, row_height in zip(rows, row_heights, strict=True):
        for column, picture in enumerate(row):
            left = margin + column * (tile_width + margin)
            place = (left + (tile_width - picture.width) // 2, top + row_height - picture.height)
            sheet.paste(picture, place)
            for number, line in enumerate(next(lines_of)):
                text = _fitted(line, font, tile_width)
                down = top + row_height + number * line_height + line_height // 10
                pen.text((left, down), text, _INK, font)
        top += row_height + caption_height + margin
    return sheet


def colorbar(
    colormap: str = "jet",
    width: int = 320,
    height: int = 40,
    low_label: str = "0",
    high_label: str = "1",
) -> Image.Image:
    """The colours of a colour map from cold to hot, with a label under each end.

    Args:
        colormap: A name that ``colormap_table`` knows.
        width: Pixels of the whole picture, 16 to 65,536.
        height: Pixels of the whole picture, labels included, 16 to 65,536.
        low_label: Written under the cold end.
        high_label: Written under the hot end. A label longer than half the bar loses its middle.

    Returns:
        RGB image of ``width`` × ``height``: dark text on white.

    Raises:
        InvalidArgument: The colour map is unknown, or a number is too small.
    """
    check_whole("width", width, 16, _MAX_SIDE)
    check_whole("height", height, 16, _MAX_SIDE)
    font = _font(height * 0.4)
    bar_height = height - min(_line_height(font), height // 2)
    bar = Image.new("RGB", (width, height), _PAPER)
    heat = np.broadcast_to(np.linspace(0.0, 1.0, width, dtype=np.float32), (bar_height, width))
    bar.paste(colorize(heat, colormap))
    pen = ImageDraw.Draw(bar)
    room = width // 2 - 4
    pen.text((2, bar_height), _fitted(low_label, font, room), _INK, font)
    pen.text((width - 2, bar_height), _fitted(high_label, font, room), _INK, font, anchor="ra")
    return bar


def note(text: str, size: tuple[int, int]) -> Image.Image:
    """A text in the place of a missing picture.

    Args:
        text: Broken into lines; what does not fit is left out.
        size: ``(width, height)`` in pixels, each at least 16.

    Returns:
        RGB image: dark text on light grey.

    Raises:
        InvalidArgument: A number is too small.
    """
    width, height = size
    check_whole("size", width, 16, _MAX_SIDE)
    check_whole("size", height, 16, _MAX_SIDE)
    font = _font(max(10, width / 19))
    margin, line_height = max(4, width // 20), round(_line_height(font) * 1.3)
    room = max(1, (height - 2 * margin) // line_height)
    image = Image.new("RGB", size, _VOID)
    pen = ImageDraw.Draw(image)
    for number, line in enumerate(_wrapped(text, font, width - 2 * margin, room)):
        pen.text((margin, margin + number * line_height), line, _INK, font)
    return image


def stack(pictures: Sequence[Image.Image]) -> Image.Image:
    """Pictures one below the other on white, flush left, such as a sheet and its colour bar.

    Args:
        pictures: At least one RGB image.

    Raises:
        InvalidArgument: There is none, or one is not RGB.
    """
    if not pictures:
        raise InvalidArgument("pictures", pictures, "at least one image")
    parts = [checked_photo(picture, "pictures") for picture in pictures]
    size = (max(part.width for part in parts), sum(part.height for part in parts))
    whole, top = Image.new("RGB", size, _PAPER), 0
    for part in parts:
        whole.paste(part, (0, top))
        top += part.height
    return whole


def _wrapped(text: str, font: ImageFont.FreeTypeFont, width: float, most: int) -> list[str]:
    """Lines of at most this width; the last one ends in an ellipsis if the text is longer."""
    words = text.split()
    lines: list[str] = []
    while words and len(lines) < most:
        count = 1
        while count < len(words) and font.getlength(" ".join(words[: count + 1])) <= width:
            count += 1
        if len(lines) + 1 == most and count < len(words):
            words[count - 1] += " " + _ELLIPSIS
        lines.append(_fitted(" ".join(words[:count]), font, width))
        words = words[count:]
    return lines


def _scaled(image: Image.Image, width: int) -> Image.Image:
    """The image at this width, or at the greatest height where it would be taller than that."""
    scale = min(width / image.width, _MAX_ASPECT * width / image.height)
    size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
    return image.resize(size, Image.Resampling.BICUBIC, reducing_gap=3.0)


def _default_columns(count: int, tile_height: int, tile_width: int) -> int:
    """The number of columns for the aspect of the sheet, adjusted to fill the last row."""
    columns = round(math.sqrt(count * _SHEET_ASPECT * tile_height / tile_width))
    rows = math.ceil(count / min(max(columns, 1), count))
    return math.ceil(count / rows)


def _fitted(text: str, font: ImageFont.FreeTypeFont, width: float) -> str:
    """Text on one line of at most ``width`` pixels, with its middle left out if necessary."""
    text = _written(text)
    # Nothing that fits has many more characters than pixels; a megabyte of text is not measured.
    room = int(width)
    if len(text) <= room and font.getlength(text) <= width:
        return text
    low, high = 0, min(len(text), room)  # the longest shortening that fits, by bisection
    while low < high:
        kept = (low + high + 1) // 2
        if font.getlength(_shortened(text, kept)) <= width:
            low = kept
        else:
            high = kept - 1
    return _shortened(text, low)


def _written(text: str) -> str:
    """Text on one line in characters that the typeface has."""
    composed = unicodedata.normalize("NFC", text)
    return " ".join("".join(_drawable(char) or "" for char in composed).split())


def _shortened(text: str, kept: int) -> str:
    """The first and last characters of a text, ``kept`` in all, around an ellipsis."""
    tail = kept // 2
    return text[: kept - tail].rstrip() + _ELLIPSIS + text[len(text) - tail :].lstrip()


def label_text(label: str, class_index: int | None, *, codes: bool = True) -> str:
    """A label as it can be drawn.

    If the typeface lacks a character of it, this is the index of the class, followed by the code
    points of the missing characters (at most three), so that labels of two models at one index do
    not look the same: ``"class 285 (U+864E U+6591)"``.

    Args:
        label: The label.
        class_index: Index of its class; None keeps the label.
        codes: Whether code points follow the index.
    """
    composed = unicodedata.normalize("NFC", label)
    lacking = [char for char in composed if _drawable(char, None) is None]
    if class_index is None or not lacking:
        return label
    if not codes:
        return f"class {class_index}"
    listed = " ".join(f"U+{ord(char):04X}" for char in lacking[:_MAX_CODES])
    return f"class {class_index} ({listed}{_ELLIPSIS if lacking[_MAX_CODES:] else ''})"


def _drawable(char: str, missing: str | None = "?") -> str | None:
    """A character as the typeface has it: itself, its ASCII form, a space, or ``missing``.

    Emoji and marks that the typeface lacks are left out, unless ``missing`` is None.
    """
    if char.isspace():
        return " "
    category = unicodedata.category(char)
    if category in {"Mn", "Me", "Cf"}:  # marks on the letter before, invisible joiners
        return None if missing is None else ""
    if category.startswith("C"):  # control codes, lone halves of surrogates
        return missing
    if _is_covered(char):
        return char
    parts = unicodedata.normalize("NFKD", char)
    letters = [part for part in parts if unicodedata.category(part) != "Mn"]
    if letters and all(part.isascii() and part.isprintable() for part in letters):
        return "".join(letters)
    is_emoji = category in {"So", "Sk"}
    return "" if is_emoji and missing is not None else missing


@lru_cache(maxsize=4096)
def _is_covered(char: str) -> bool:
    """Whether the typeface has a character."""
    if char.isascii():
        return char.isprintable()
    if unicodedata.bidirectional(char) in {"R", "AL", "AN"}:
        return False
    font = _font(24)
    # What the typeface lacks is drawn as its box for missing characters.
    drawn, box = (font.getmask(each) for each in (char, "\U0010ffff"))
    return (drawn.size, bytes(drawn)) != (box.size, bytes(box))


@cache
def _typeface() -> Path:
    """The file of DejaVu Sans in matplotlib, which is not imported for it."""
    spec = find_spec("matplotlib")
    if spec is None or spec.origin is None:
        raise ModuleNotFoundError("matplotlib is required", name="matplotlib")
    return Path(spec.origin).parent / "mpl-data" / "fonts" / "ttf" / "DejaVuSans.ttf"


def _font(size: float) -> ImageFont.FreeTypeFont:
    # DejaVu is wide. The basic layout is there on every machine.
    return ImageFont.truetype(_typeface(), 0.9 * size, layout_engine=ImageFont.Layout.BASIC)


def _line_height(font: ImageFont.FreeTypeFont) -> int:
    """Pixels from the top of the tallest letters to the bottom of the lowest."""
    return math.ceil(font.getbbox("Åg")[3])


SUFFIXES = (".gif", ".webp", ".png")
"""Files that play: GIF (256 colours), WebP (lossy) and APNG (lossless, large)."""

_MARK = b"cam_hub sha256:"
_DIGITS = 64


def write_animation(
    draw: Callable[[], Sequence[Image.Image]], path: Path, frame_ms: int = 125
) -> None:
    """Draws and writes an endless animation to a path that is free; otherwise as below."""
    path.write_bytes(_encoded(draw(), path, frame_ms))


def save_animation(pictures: Sequence[Image.Image], path: Path, frame_ms: int) -> Path:
    """Writes pictures as an endless animation, complete or not at all.

    Args:
        pictures: RGB, all of one size; at least one.
        path: Its suffix, one of :data:`SUFFIXES`, gives the format. A file that is there already
            is replaced only if this function wrote it and it is unchanged.
        frame_ms: How long each is shown, in milliseconds, 20 to 10,000.

    Returns:
        The path.

    Raises:
        InvalidArgument: If the suffix or the time does not work, or there is another file.
        SaveFailed: If the system refuses to write it.
    """
    data = _encoded(pictures, path, frame_ms)
    try:
        real = path.resolve()
        if os.path.lexists(real) and not _is_own(real):
            raise InvalidArgument(
                "path", str(path), "a new name: there is a file that cam_hub did not write"
            )
        part = real.with_name(f".cam_hub-{secrets.token_hex(8)}")
        try:
            part.write_bytes(data)
            part.replace(real)
        finally:
            part.unlink(missing_ok=True)
    except OSError as error:
        raise SaveFailed(str(path), error.strerror or str(error)) from error
    return path


def _encoded(pictures: Sequence[Image.Image], path: Path, frame_ms: int) -> bytes:
    """The file's content, with a digest of itself as its comment."""
    suffix = path.suffix.lower()
    if suffix not in SUFFIXES:
        raise InvalidArgument("path", str(path), f"a name that ends in {', '.join(SUFFIXES)}")
    check_whole("frame_ms", frame_ms, 20, 10_000)
    first, *others = pictures
    comment = _MARK + b"0" * _DIGITS
    options: dict[str, Any] = {"comment": comment}
    if suffix == ".webp":
        options = {"xmp": comment}
    elif suffix == ".png":
        options = {"pnginfo": PngInfo()}
        options["pnginfo"].add_text("Software", comment.decode())
    file = io.BytesIO()
    first.save(
        file,
        suffix[1:].upper(),
        save_all=True,
        append_images=others,
        duration=frame_ms,
        loop=0,
        **options,
    )
    return _sealed(file.getvalue())


def _is_own(path: Path) -> bool:
    """Whether a file is an animation as ``save_animation`` wrote it, to the byte."""
    if not path.is_file():
        return False
    data = path.read_bytes()
    return _MARK in data and _sealed(data) == data


def _sealed(data: bytes) -> bytes:
    """An animation whose comment holds the digest of all that is around it."""
    start = data.index(_MARK) + len(_MARK)
    end = start + _DIGITS
    is_png = data.startswith(b"\x89PNG")
    rest = end + 4 if is_png else end  # the comment is followed by its checksum
    digest = hashlib.sha256(data[:start] + data[rest:]).hexdigest().encode()
    checksum = b""
    if is_png:
        chunk = data.rindex(b"tEXt", 0, start)
        checksum = zlib.crc32(data[chunk:start] + digest).to_bytes(4, "big")
    return data[:start] + digest + checksum + data[rest:]
