"""Overlays that move: one per frame of a clip, and a file that plays them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from cam_hub.errors import InvalidArgument
from cam_hub.geometry import Placement
from cam_hub.rendering import overlay
from cam_hub.timeline import over_frames

__all__ = ["SUFFIXES", "overlays", "save_animation"]

SUFFIXES = (".gif", ".webp", ".png")
"""Files that play: GIF (256 colours), WebP (lossy) and APNG (lossless, large)."""


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
        alpha: As for :func:`cam_hub.rendering.overlay`.
        colormap: As there.
        max_side: Larger frames are scaled down until no side is longer.

    Raises:
        InvalidArgument: If ``alpha``, ``colormap`` or ``max_side`` does not work.
    """
    if isinstance(max_side, bool) or not isinstance(max_side, int) or max_side < 16:
        raise InvalidArgument("max_side", max_side, "a whole number of at least 16")
    width, height = placement.photo_size
    shrink = min(1.0, max_side / max(width, height))
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


def save_animation(pictures: Sequence[Image.Image], path: Path, frame_ms: int) -> None:
    """Writes pictures as an endless animation.

    Args:
        pictures: RGB, all of one size; at least one.
        path: Its suffix says the format, one of :data:`SUFFIXES`.
        frame_ms: How long each is shown, in milliseconds, 20 to 10,000.

    Raises:
        InvalidArgument: If the suffix or the time does not work.
    """
    if path.suffix.lower() not in SUFFIXES:
        raise InvalidArgument("path", str(path), f"a name that ends in {', '.join(SUFFIXES)}")
    if isinstance(frame_ms, bool) or not isinstance(frame_ms, int) or not 20 <= frame_ms <= 10_000:
        raise InvalidArgument("frame_ms", frame_ms, "whole milliseconds, 20 to 10000")
    first, *others = pictures
    first.save(path, save_all=True, append_images=others, duration=frame_ms, loop=0)
