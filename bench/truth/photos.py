"""Photos with boxes that were drawn by hand, for the network with real weights that is packaged.

The photos come with the app (``space/examples``) and with Gradio.
"""

from __future__ import annotations

from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Final

import torch
from torch import Tensor

import cam_hub
from bench.truth.rules import Network, Question
from cam_hub.attribution.preparation import prepare
from cam_hub.targets.region import read_region

__all__ = ["BOXES", "NAME", "photo_questions", "photos", "pretrained"]

NAME: Final = "efficientnet_lite0"
"""What the benchmark calls the network."""

_MODEL = "timm/tf_efficientnet_lite0.in1k"

BOXES: Final = {
    "cat.jpg": (20, 0, 370, 300),
    "coffee.jpg": (165, 15, 425, 240),
    "cheetah.jpg": (85, 118, 385, 240),
    "cheetah1.jpg": (22, 28, 250, 256),
    "lion.jpg": (62, 0, 190, 235),
    "tower.jpg": (60, 60, 340, 600),
}
"""The object that the predicted class names: left, top, right, bottom in pixels."""


def photos() -> Iterator[Path]:
    """The photos that are installed."""
    folders = [Path(__file__).parents[2] / "space" / "examples"]
    gradio = find_spec("gradio")
    if gradio is not None and gradio.origin is not None:
        folders.append(Path(gradio.origin).parent / "media_assets" / "images")
    for name in BOXES:
        found = [folder / name for folder in folders if (folder / name).exists()]
        yield from found[:1]


def pretrained() -> Network:
    """The packaged network."""
    model = cam_hub.load_model(_MODEL)
    return Network(model.module, model, cam_hub.suggest_layers(model, "blocks"))


def photo_questions(network: Network) -> list[Question]:
    """The predicted class of each photo, with the mask of its only object."""
    found = []
    for path in photos():
        prepared = prepare(network.model, path)
        image = prepared.tensor[0]
        with torch.no_grad():
            first, second = network.module(image[None])[0].topk(2).indices.tolist()
        region = read_region(BOXES[path.name], prepared.placement)
        inside: Tensor = torch.from_numpy(region.weights(*image.shape[1:]) >= 0.5)
        found.append(Question(image, first, second, inside, torch.zeros_like(inside)))
    return found
