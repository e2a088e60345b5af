"""Noisy copies of a model's input."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Iterator
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

    def draws(self, image: Tensor, memory_format: torch.memory_format) -> Iterator[Tensor]:
        """The noise of each copy of an image or clip ``(1, …)``, drawn on the CPU on every device.

        Args:
            image: The image, for its shape, type and device.
            memory_format: How the noise is to lie in memory.
        """
        shape = tuple(image.shape)
        draws: Iterable[Tensor]
        if self.num_samples * image.numel() * 4 <= _KEPT:
            draws = _drawn(shape, self.num_samples, self.std, self.seed, memory_format)
        else:
            draws = _draw(shape, self.num_samples, self.std, self.seed, memory_format)
        for drawn in draws:
            yield drawn.to(image)


def _draw(
    shape: tuple[int, ...], count: int, std: float, seed: int, memory_format: torch.memory_format
) -> Iterator[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    for _ in range(count):
        drawn = torch.randn(shape, generator=generator) * std
        yield drawn.contiguous(memory_format=memory_format)


@functools.lru_cache(maxsize=2)  # picture after picture has the same, by default
def _drawn(
    shape: tuple[int, ...], count: int, std: float, seed: int, memory_format: torch.memory_format
) -> tuple[Tensor, ...]:
    with torch.inference_mode(False):
        return tuple(_draw(shape, count, std, seed, memory_format))
