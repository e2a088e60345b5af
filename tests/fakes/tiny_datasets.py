"""A tiny network, folders of small images for it, and a job over them for another process."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

import cam_hub

CLASSES = ("red", "green", "blue")


class Colours(nn.Module):
    """Its scores are the amounts of red, green and blue; it can be slow, or fail.

    Args:
        seconds: How long a pass takes at least.
        passes: How many passes work; None for all.
        poison: Images whose first value exceeds this make it fail.
        deadly: Images whose first value exceeds this end its process.
    """

    def __init__(
        self,
        seconds: float = 0,
        passes: int | None = None,
        poison: float = 99,
        deadly: float = 99,
    ) -> None:
        super().__init__()
        self.seconds, self.passes, self.poison, self.deadly = seconds, passes, poison, deadly
        self.counting = False
        self.conv = nn.Conv2d(3, 3, 8, 8, bias=False)
        self.act = nn.ReLU()
        with torch.no_grad():
            self.conv.weight.zero_()
            for channel in range(3):
                self.conv.weight[channel, channel] = 1 / 64

    def forward(self, x: Tensor) -> Tensor:
        if self.counting:
            time.sleep(self.seconds)
            if self.passes is not None:
                self.passes -= 1
                if self.passes < 0:
                    raise RuntimeError("the device is gone")
            if bool((x[:, 0, 0, 0] > self.deadly).any()):
                os._exit(1)
            if bool((x[:, 0, 0, 0] > self.poison).any()):
                raise ZeroDivisionError("a bug in the network")
        return self.act(self.conv(x)).mean((2, 3)) * 10


def colours(**trouble: float) -> cam_hub.LoadedModel:
    """The network, wrapped; its layers are found before it can fail."""
    module = Colours(**trouble)  # type: ignore[arg-type]
    model = cam_hub.wrap_model(
        module, input_size=(3, 32, 32), mean=0.0, std=1.0, class_names=CLASSES, crop_pct=1.0,
        id="colours",
    )  # fmt: skip
    list(cam_hub.explain_many(model, [image(0)], method="layercam"))
    module.counting = True
    return model


def image(number: int, size: tuple[int, int] = (40, 32)) -> Image.Image:
    """An image with a spot of the colour ``number % 3`` at a place of its own."""
    pixels = np.zeros((size[1], size[0], 3), np.uint8)
    left, top = number * 3 % (size[0] - 16), number * 5 % (size[1] - 8)
    pixels[top : top + 8, left + 4 : left + 12, number % 3] = 150 + number % 100
    return Image.fromarray(pixels)


def folder_of(root: Path, count: int) -> Path:
    """A folder of class folders with PNG images; the labels are right."""
    for number in range(count):
        place = root / CLASSES[number % 3]
        place.mkdir(parents=True, exist_ok=True)
        image(number).save(place / f"{number:05d}.png")
    return root


if __name__ == "__main__":  # a job in a process of its own
    cam_hub.explain_dataset(
        colours(seconds=float(sys.argv[3])),
        sys.argv[1],
        sys.argv[2],
        method="layercam",
        part_size=4,
        batch_size=4,
        runner=sys.argv[4] if len(sys.argv) > 4 else "local",
    )
