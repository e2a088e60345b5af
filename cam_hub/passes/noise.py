"""Noisy copies of a model's input."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

__all__ = ["Noise"]

_KEPT = 4 << 20
"""Bytes that drawn numbers of one seed and shape may take to be kept for the next picture."""


@dataclass(frozen=True)
class Noise:
    """Gaussian noise on the model's input.

    Attributes:
        num_samples: How many noisy copies.
        std: Standard deviation, in units of the normalised input.
        seed: The same seed gives the same copies; the first ones do not depend on how many there
            are.
    """

    num_samples: int
    std: float
    seed: int

    def copies(self, image: Tensor) -> Iterator[Tensor]:
        """Noisy copies of an image or clip, ``(1, …)``, drawn on the CPU on every device."""
        shape = tuple(image.shape)
        draws: Iterator[Tensor] | tuple[Tensor, ...]
        if self.num_samples * image.numel() * 4 <= _KEPT:
            draws = _drawn(shape, self.num_samples, self.seed)
        else:
            draws = _draw(shape, self.num_samples, self.seed)
        for drawn in draws:
            yield image + (drawn * self.std).to(image)


def _draw(shape: tuple[int, ...], count: int, seed: int) -> Iterator[Tensor]:
    """Standard normal numbers."""
    generator = torch.Generator().manual_seed(seed)
    for _ in range(count):
        yield torch.randn(shape, generator=generator)


@functools.lru_cache(maxsize=2)  # picture after picture has the same, by default
def _drawn(shape: tuple[int, ...], count: int, seed: int) -> tuple[Tensor, ...]:
    with torch.inference_mode(False):
        return tuple(_draw(shape, count, seed))
