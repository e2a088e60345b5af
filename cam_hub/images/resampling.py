"""Resizing without antialiasing, as video models were trained with; Pillow has no such filter."""

from __future__ import annotations

import numpy as np
import torch
from PIL import Image
from torch.nn.functional import interpolate

__all__ = ["PLAIN_INTERPOLATIONS", "resize_plainly"]

PLAIN_INTERPOLATIONS = ("nearest", "bilinear", "bicubic")

# Pillow's nearest filter is what torch calls "nearest-exact".
_TORCH_NAMES = {"nearest": "nearest-exact"}


def resize_plainly(photo: Image.Image, size: tuple[int, int], interpolation: str) -> Image.Image:
    """Resize a photo by interpolating between the pixels next to each sample, and no others.

    It is bit for bit what torchvision's ``resize(…, antialias=False)`` does to a uint8 tensor: in
    float32, rounded half to even.

    Args:
        photo: Mode "RGB" or "L".
        size: ``(width, height)`` wanted.
        interpolation: One of :data:`PLAIN_INTERPOLATIONS`.

    Returns:
        A photo of the same mode.
    """
    mode = _TORCH_NAMES.get(interpolation, interpolation)
    corners = None if interpolation == "nearest" else False
    # All channels at once and channels first: torch's other kernels round differently.
    planes = np.stack([np.asarray(band) for band in photo.split()])
    values = torch.from_numpy(planes).to(torch.float32)[None]
    resized = interpolate(values, size[::-1], mode=mode, align_corners=corners)[0]
    bands = resized.round_().clamp_(0, 255).to(torch.uint8).numpy()
    return Image.merge(photo.mode, [Image.fromarray(band) for band in bands])
