"""Noisy copies of a model's input."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

__all__ = ["Noise"]


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
        generator = torch.Generator().manual_seed(self.seed)
        for _ in range(self.num_samples):
            noise = torch.randn(image.shape, generator=generator) * self.std
            yield image + noise.to(image)
