"""A small network to be trained, photos to explain, and a sink that keeps what is logged."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

import cam_hub

__all__ = ["SIDE", "Collected", "Net", "pictures", "wrap"]

SIDE = 24


class Net(nn.Module):
    """A network with everything that a pass can change: statistics, dropout, a count, a memory."""

    def __init__(self, classes: int = 3) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.MaxPool2d(2),
            nn.Conv2d(8, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU(),
        )  # fmt: skip
        self.dropout = nn.Dropout(0.3)
        self.head = nn.Linear(16, classes)
        self.calls = 0
        self.register_buffer("seen", torch.zeros(()))
        self.last = torch.zeros(())

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        self.seen += len(x)
        self.last = x.detach().mean()
        return self.head(self.dropout(self.features(x).mean((2, 3))))


def wrap(module: nn.Module, **given: Any) -> cam_hub.LoadedModel:
    return cam_hub.wrap_model(
        module, input_size=(3, SIDE, SIDE), class_names=["red", "green", "blue"], **given
    )


def pictures(count: int = 2) -> dict[str, Image.Image]:
    """Photos of noise with one bright square each."""
    generator = np.random.default_rng(7)
    found = {}
    for index in range(count):
        pixels = generator.integers(0, 90, (40, 60, 3), dtype=np.uint8)
        pixels[8:24, 10 + 15 * index : 26 + 15 * index, index] = 250
        found[f"square-{index}.png"] = Image.fromarray(pixels)
    return found


class Collected:
    """A sink that keeps everything."""

    def __init__(self) -> None:
        self.images: dict[tuple[str, int], Image.Image] = {}
        self.scalars: dict[tuple[str, int], float] = {}

    def log_image(self, tag: str, image: Image.Image, step: int) -> None:
        assert (tag, step) not in self.images
        self.images[tag, step] = image

    def log_scalar(self, tag: str, value: float, step: int) -> None:
        assert (tag, step) not in self.scalars
        self.scalars[tag, step] = value
