"""Open any clip safely: several pictures, or one that moves, to upright RGB frames of one size.

Everything that :mod:`cam_hub.images.decoding` promises of a picture holds for each frame.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from PIL import Image

from cam_hub.errors import ImageRefused, InvalidArgument
from cam_hub.images.decoding import MAX_PIXELS, open_image, to_picture
from cam_hub.images.files import read_image_file
from cam_hub.images.timeline import evenly

__all__ = ["MAX_DECODED", "MAX_FRAMES", "open_clip"]

MAX_FRAMES = 10_000
"""Clips of more frames are refused."""

MAX_DECODED = 2**31
"""Pixels of all frames of one file together: to get at a frame, those before it are decoded."""

# Formats whose frames are moments; in others (photos with previews, icons) they are not.
_MOVING = ("GIF", "WEBP", "PNG", "AVIF", "TIFF")


def open_clip(source: object, frames: int, *, max_pixels: int = MAX_PIXELS) -> list[Image.Image]:
    """Open a clip.

    Args:
        source: A list or tuple of pictures, each as ``open_image`` takes it; an
            array of shape ``(T, H, W, 1 | 3 | 4)``, uint8 or bool; or the path, the bytes, the
            binary file object or the PIL image of an animated GIF, WebP, APNG or AVIF, or of a
            TIFF stack. Any other picture is a clip in which nothing moves.
        frames: How many frames are wanted, at least 1. They are taken evenly: the middle one of
            each of as many equal parts of the clip; of shorter clips, frames are repeated. How
            long a frame of an animation is shown does not count.
        max_pixels: Of one frame, and of all frames taken together (repeated ones count once).

    Returns:
        So many pictures in mode "RGB", all of one size; a repeated frame is the same object.

    Raises:
        ImageRefused: The source is no clip, is empty, damaged, too long or too large, or its
            frames differ in size.
        InvalidArgument: ``frames`` is not a positive whole number.
    """
    if isinstance(frames, bool) or not isinstance(frames, int) or frames < 1:
        raise InvalidArgument("frames", frames, "a positive whole number")
    if isinstance(source, np.ndarray) and source.ndim == 4:
        source = list(source)
    if isinstance(source, (list, tuple)):
        return _taken(source, frames, max_pixels)
    if isinstance(source, np.ndarray):
        return [open_image(source, max_pixels=max_pixels)] * frames
    if isinstance(source, Image.Image):
        place = source.tell() if _count(source) > 1 else None
        try:
            return _frames(source, "the PIL image", frames, max_pixels)
        finally:
            if place is not None:
                source.seek(place)
    return read_image_file(source, lambda image, name: _frames(image, name, frames, max_pixels))


def _taken(pictures: Sequence[object], frames: int, max_pixels: int) -> list[Image.Image]:
    """Frames of a list of pictures; only those that are taken are opened."""
    count = len(pictures)
    if not count:
        raise ImageRefused("the clip has no frames")
    _check_count(count, "the clip")
    found: dict[int, Image.Image] = {}
    for index in evenly(count, frames):
        if index not in found:
            try:
                found[index] = open_image(pictures[index], max_pixels=max_pixels)
            except ImageRefused as error:
                raise ImageRefused(f"frame {index} of the clip: {error.reason}") from error
            _check_frames(found, max_pixels)
    return [found[index] for index in evenly(count, frames)]


def _frames(image: Image.Image, name: str, frames: int, max_pixels: int) -> list[Image.Image]:
    """Frames of a PIL image, whose place is left anywhere."""
    count = _count(image)
    if count == 1:
        return [to_picture(image, name, max_pixels)] * frames
    _check_count(count, name)
    pixels = count * image.width * image.height
    if pixels > MAX_DECODED:
        raise ImageRefused(
            f"{name} is too large: {count} frames of {image.width} x {image.height} are {pixels:,} "
            f"pixels, and the limit is {MAX_DECODED:,}"
        )
    found: dict[int, Image.Image] = {}
    for index in evenly(count, frames):
        if index not in found:
            try:
                image.seek(index)
            except Exception as error:  # decoders raise whatever their parsers stumble over
                what = str(error) or type(error).__name__
                raise ImageRefused(f"{name} is damaged at frame {index}: {what}") from error
            found[index] = to_picture(image, f"frame {index} of {name}", max_pixels)
            _check_frames(found, max_pixels)
    return [found[index] for index in evenly(count, frames)]


def _count(image: Image.Image) -> int:
    """How many moments an image shows."""
    if image.format not in _MOVING:
        return 1
    try:
        return int(getattr(image, "n_frames", 1))
    except Exception as error:  # as above
        what = str(error) or type(error).__name__
        raise ImageRefused(f"it is damaged, its frames cannot be counted: {what}") from error


def _check_count(count: int, name: str) -> None:
    if count > MAX_FRAMES:
        raise ImageRefused(f"{name} has {count} frames, and the limit is {MAX_FRAMES:,}")


def _check_frames(found: dict[int, Image.Image], max_pixels: int) -> None:
    """All of one size, and together not too large."""
    first, *_, last = (*found, *found)
    size, other = found[first].size, found[last].size
    if size != other:
        raise ImageRefused(
            f"the frames of a clip have one size, and frame {first} is {size[0]} x {size[1]}, "
            f"frame {last} {other[0]} x {other[1]}"
        )
    pixels = len(found) * size[0] * size[1]
    if pixels > max_pixels:
        raise ImageRefused(
            f"{len(found)} frames of {size[0]} x {size[1]} are {pixels:,} pixels, and the limit "
            f"is {max_pixels:,}; scale them down first"
        )
