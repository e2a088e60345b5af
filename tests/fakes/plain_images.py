"""Images that the tests of drawing create and read."""

from __future__ import annotations

import numpy as np
from PIL import Image


def pixels(image: Image.Image) -> np.ndarray:
    """An image's values ``(H, W, 3)``, in a type that is wide enough to subtract."""
    assert image.mode == "RGB"
    return np.asarray(image).astype(np.int64)


def plain(colour, size=(8, 6)) -> Image.Image:
    """An image of one colour."""
    return Image.new("RGB", size, colour)
