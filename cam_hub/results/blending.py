"""Pixels of pictures as arrays, mixed in fixed point."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from numpy.lib.stride_tricks import sliding_window_view
from PIL import Image

__all__ = ["ONE", "Pixels", "mixed", "picture_of", "pixels_of", "unseen_mark"]

Pixels = npt.NDArray[np.uint8]
"""``(H, W, 4)``: red, green, blue, and a byte that means nothing, as Pillow holds RGB images."""

ONE = 1 << 16
"""The fixed point's 1: 255 times that fits 32 bits with room for rounding."""

_BLOCK = 1 << 14  # so many integers stay within the processor's caches


def pixels_of(image: Image.Image) -> Pixels:
    """The pixels of an RGB image; not to be written to."""
    data = np.frombuffer(image.tobytes("raw", "RGBX"), np.uint8)
    return data.reshape(image.height, image.width, 4)


def picture_of(pixels: Pixels) -> Image.Image:
    """The way back from ``pixels_of``."""
    height, width, _ = pixels.shape
    return Image.frombytes("RGB", (width, height), pixels.tobytes(), "raw", "RGBX")


def mixed(ground: Pixels, colours: Pixels, weight: int) -> Pixels:
    """Two pictures mixed in fixed point, rounded to the nearest level.

    Args:
        ground: Any shape.
        colours: Of the same shape.
        weight: Theirs, from 0 for the ground alone to ``ONE`` for the colours alone.
    """
    if weight == ONE:
        return colours
    if 2 * weight == ONE:  # (ground + colour + 1) // 2 without a carry
        return (ground | colours) - ((ground ^ colours) >> np.uint8(1))
    result = np.empty(ground.size, np.uint8)
    below, above = ground.reshape(-1), colours.reshape(-1)
    total = np.empty(min(_BLOCK, result.size), np.uint32)
    other = np.empty_like(total)
    for start in range(0, result.size, _BLOCK):
        block = slice(start, start + _BLOCK)
        size = len(result[block])
        # Named, the type is the same under all rules of promotion.
        np.multiply(below[block], ONE - weight, out=total[:size], dtype=np.uint32)
        np.multiply(above[block], weight, out=other[:size], dtype=np.uint32)
        total += other
        total += np.uint32(ONE // 2)
        total >>= np.uint32(16)
        result[block] = total[:size]
    return result.reshape(ground.shape)


def unseen_mark(ground: Pixels, first_row: int, period: int) -> Pixels:
    """How a band of the photo looks in full where the model saw nothing: dark, grey, hatched.

    Args:
        ground: The band.
        first_row: The band's place in the photo, so that the hatching runs on between bands.
        period: Pixels from one line to the next, along a row.

    Returns:
        As many, in [0, 193], the channels equal.
    """
    rows, columns = ground.shape[:2]
    # Luma after ITU-R BT.601 as Pillow has it, times 0.6: at most 153.
    red, green, blue = (
        np.multiply(ground[..., channel], share, dtype=np.uint32)
        for channel, share in enumerate((3 * 299, 3 * 587, 3 * 114))
    )
    grey = (red + green + blue) // np.uint32(5000)
    # A place's row and column add up to its diagonal: rows are one line, seen from a place further.
    line = np.arange(first_row, first_row + rows + columns - 1) % period < max(1, period // 5)
    grey += sliding_window_view(np.where(line, np.uint32(40), np.uint32(0)), columns)
    grey *= np.uint32(0x01010101)  # into all four bytes
    return grey.view(np.uint8).reshape(ground.shape)
