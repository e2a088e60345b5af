"""Overlays that move: one per frame of a clip, and a file that plays them."""

from __future__ import annotations

import hashlib
import io
import os
import secrets
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from cam_hub._validation import check_whole
from cam_hub.errors import InvalidArgument, SaveFailed
from cam_hub.images.clips import over_frames
from cam_hub.images.geometry import Placement
from cam_hub.results.overlay import overlay

__all__ = ["SUFFIXES", "overlays", "save_animation", "write_animation"]

SUFFIXES = (".gif", ".webp", ".png")
"""Files that play: GIF (256 colours), WebP (lossy) and APNG (lossless, large)."""

_MARK = b"cam_hub sha256:"
_DIGITS = 64


def overlays(
    frames: Sequence[Image.Image],
    heat: NDArray[np.float32],
    placement: Placement,
    *,
    alpha: float,
    colormap: str,
    max_side: int,
) -> list[Image.Image]:
    """Each frame of a clip with its heat over it.

    Args:
        frames: RGB, all of one size.
        heat: ``(steps, rows, cols)`` in [0, 1]; between the middles of two steps linear in time.
        placement: Where the model's input lay on the frames.
        alpha: As for :func:`cam_hub.results.overlay.overlay`.
        colormap: As there.
        max_side: Larger frames are scaled down until no side is longer.

    Raises:
        InvalidArgument: If ``alpha``, ``colormap`` or ``max_side`` does not work.
    """
    check_whole("max_side", max_side, 16)
    width, height = placement.photo_size
    shrink = min(max_side, longest := max(width, height)) / longest
    size = (max(1, round(width * shrink)), max(1, round(height * shrink)))
    place = placement.resized(size)
    seen = place.seen_mask()
    small = {
        id(frame): frame if frame.size == size else frame.resize(size, Image.Resampling.BICUBIC)
        for frame in frames
    }
    return [
        overlay(small[id(frame)], place.warp(cells), alpha=alpha, colormap=colormap, seen=seen)
        for frame, cells in zip(frames, over_frames(heat, len(frames)), strict=True)
    ]


def write_animation(pictures: Sequence[Image.Image], path: Path, frame_ms: int = 125) -> None:
    """Writes an endless animation to a path where nothing is that counts; otherwise as below."""
    path.write_bytes(_encoded(pictures, path, frame_ms))


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
