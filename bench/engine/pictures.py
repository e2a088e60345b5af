"""Photos for measurements: JPEG files with the size and compression of phone photos."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

__all__ = ["write_pictures"]


def write_pictures(
    folder: Path, count: int, size: tuple[int, int] = (1024, 768), seed: int = 0
) -> list[Path]:
    """Writes JPEG files of smooth noise at several scales, which compress like photos.

    Args:
        folder: The folder, which is created.
        count: Number of files.
        size: Width and height.
        seed: The seed of the noise.

    Returns:
        The files.
    """
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(seed)
    paths = [folder / f"{number:04d}.jpg" for number in range(count)]
    for path in paths:
        layers = [
            np.asarray(
                Image.fromarray(rng.integers(0, 256, (side, side, 3), np.uint8)).resize(
                    size, Image.Resampling.BICUBIC
                ),
                np.float32,
            )
            / weight
            for side, weight in ((6, 2.0), (40, 4.0), (240, 8.0))
        ]
        pixels = np.clip(sum(layers), 0, 255).astype(np.uint8)
        Image.fromarray(pixels).save(path, quality=90)
    return paths
