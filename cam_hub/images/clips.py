"""Clips: frames of one size, their preprocessing, and the place of maps in time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from cam_hub._validation import check_sizes, check_whole
from cam_hub.errors import ImageRefused
from cam_hub.images.decoding import MAX_PIXELS, image_file, message_of, open_image, to_picture
from cam_hub.images.geometry import Placement
from cam_hub.images.preprocessing import OpenedImage, Preprocessing, check_tensor

__all__ = [
    "MAX_DECODED",
    "MAX_FRAMES",
    "ClipPreprocessing",
    "evenly",
    "open_clip",
    "over_frames",
]


def evenly(count: int, wanted: int) -> list[int]:
    """Indices spread evenly: the middle one of each of ``wanted`` equal parts of ``count``.

    Where fewer are there than wanted, they are repeated; where as many, each is taken once.

    Args:
        count: How many there are, at least 1.
        wanted: How many to name, at least 1.

    Example:
        >>> evenly(16, 4)
        [2, 6, 10, 14]
        >>> evenly(2, 4)
        [0, 0, 1, 1]
    """
    return [(2 * part + 1) * count // (2 * wanted) for part in range(wanted)]


def over_frames(steps: NDArray[np.float32], frames: int) -> NDArray[np.float32]:
    """One map per frame out of one per step of time, linearly between the steps' middles.

    Args:
        steps: ``(steps, rows, cols)``; step ``i`` covers the frames from ``i * frames / steps`` to
            ``(i + 1) * frames / steps``.
        frames: How many frames there are.

    Returns:
        ``(frames, rows, cols)``, within the range of the steps; before the first middle and after
        the last one as there.
    """
    count = len(steps)
    place = np.clip((np.arange(frames) + 0.5) * count / frames - 0.5, 0, count - 1)
    before = np.minimum(place.astype(int), max(count - 2, 0))
    after = np.minimum(before + 1, count - 1)
    part = (place - before).astype(np.float32)[:, None, None]
    between: NDArray[np.float32] = steps[before] * (1 - part) + steps[after] * part
    return between


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
        ImageRefused: The source is not a clip, is empty, damaged, too long or too large, or its
            frames differ in size.
        InvalidArgument: ``frames`` is not a positive whole number.
    """
    check_whole("frames", frames)
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
    with image_file(source) as (image, name):
        return _frames(image, name, frames, max_pixels)


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
                what = message_of(error)
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
        what = message_of(error)
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


@dataclass(frozen=True)
class ClipPreprocessing:
    """How a clip becomes a model's input.

    Attributes:
        frame: What is done to each frame.
        frames: How many frames the model takes.

    Raises:
        InvalidArgument: ``frames`` is not a positive whole number.
    """

    frame: Preprocessing
    frames: int

    def __post_init__(self) -> None:
        check_sizes("frames", (self.frames,), 1)

    @classmethod
    def from_torchvision(cls, preset: object, frames: int) -> ClipPreprocessing:
        """Describe what a torchvision video preset does, bit for bit.

        Args:
            preset: What ``weights.transforms()`` returns, a ``VideoClassification``.
            frames: The number of frames of the input, which is not in the preset.

        Raises:
            InvalidArgument: The preset is none, or has values that can never work.
        """
        return cls(replace(Preprocessing.from_torchvision(preset), antialias=False), frames)

    @property
    def input_size(self) -> tuple[int, int, int, int]:
        """``(channels, frames, height, width)`` of the input."""
        channels, height, width = self.frame.input_size
        return channels, self.frames, height, width

    def place(self, photo_size: tuple[int, int]) -> Placement:
        """Where frames of ``photo_size`` ``(width, height)`` lie in the input."""
        return self.frame.place(photo_size)

    def as_dict(self) -> dict[str, Any]:
        """The fields of the frames' preprocessing, with the clip's input size, as JSON types."""
        return {**self.frame.as_dict(), "input_size": list(self.input_size)}

    def open(self, clip: object) -> OpenedImage:
        """Open a clip and turn it into the model's input.

        Args:
            clip: As for :func:`open_clip`.

        Raises:
            ImageRefused: It cannot be opened, or does not fit the model.
        """
        frames = tuple(open_clip(clip, self.frames))
        return OpenedImage(frames, None, self.place(frames[0].size), self(frames))

    def __call__(self, clip: Sequence[Image.Image]) -> Tensor:
        """Turn a clip into the model's input.

        Args:
            clip: Pictures of one size, as :func:`cam_hub.images.clips.open_clip` returns them.

        Returns:
            float32 of shape ``(1, channels, frames, height, width)``, normalised.

        Raises:
            ImageRefused: There are none, or they differ in size, or as :class:`Preprocessing`.
        """
        if len({picture.size for picture in clip}) != 1:
            raise ImageRefused("a clip takes at least one frame, and all of one size")
        known: dict[int, Tensor] = {}  # a clip in which nothing moves is one picture, repeated
        for picture in clip:
            if id(picture) not in known:
                known[id(picture)] = self.frame(picture)
        return torch.stack([known[id(picture)] for picture in clip], dim=2)

    def denormalise(self, tensor: Tensor) -> list[Image.Image]:
        """Show a preprocessed clip: its frames, as :meth:`Preprocessing.denormalise` shows each.

        Args:
            tensor: A float tensor ``(C, T, H, W)`` or ``(1, C, T, H, W)``.

        Raises:
            ImageRefused: As :func:`check_tensor`.
        """
        values = check_tensor(tensor, self.frame.input_size[0], clip=True)[0].cpu()
        return [self.frame.denormalise(values[:, step]) for step in range(values.shape[1])]
