"""What can be asked in a load test, and the right answers, found out beforehand."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torchvision
from numpy.typing import NDArray

import cam_hub
from bench.engine.pictures import write_pictures
from cam_hub.sources.torchvision import weights_file

__all__ = ["Asked", "World", "build_world"]

_DRAWN = ("resnet18", "squeezenet1_1", "mobilenet_v3_small")
"""Networks that get weights drawn at random, as files where torchvision looks for its own."""

_CLASS = "281"
_METHODS = ("layercam", "gradcam", "smoothgradcampp")
_SAMPLES = 2


@dataclass(frozen=True)
class Asked:
    """One thing to explain, and its right answer.

    Attributes:
        photo: The photo's file.
        values: What is asked, by the names of ``/explain``.
        cam: The map, float32 ``(rows, cols)``, un-normalised.
    """

    photo: Path
    values: Mapping[str, Any]
    cam: NDArray[np.float32]

    def is_answered_by(self, cam: NDArray[np.float32]) -> bool:
        """Whether a map is the right one, but for rounding: other batches round differently."""
        if cam.shape != self.cam.shape:
            return False
        return bool(np.abs(cam - self.cam).max() <= 1e-4 * np.abs(self.cam).max())


@dataclass(frozen=True)
class World:
    """What clients know.

    Attributes:
        models: IDs.
        photos: Files.
        asked: What may be asked.
    """

    models: tuple[str, ...]
    photos: tuple[Path, ...]
    asked: tuple[Asked, ...]


def build_world(folder: Path, *, models: int, photos: int) -> World:
    """Draws weights, paints photos and computes all answers.

    Args:
        folder: For photos and weights; ``TORCH_HOME`` is set to be in it.
        models: How many, at most 4; the first is the embedded one.
        photos: How many.
    """
    os.environ["TORCH_HOME"] = str(folder / "torch")
    names = _DRAWN[: max(0, models - 1)]
    for name in names:
        _draw(name)
    ids = (cam_hub.DEFAULT_MODEL, *(f"torchvision/{name}" for name in names))
    files = write_pictures(folder / "photos", photos, (640, 480))
    asked = []
    for id in ids:
        model = cam_hub.load_model(id, device="cpu")
        for photo, method in product(files, _METHODS):
            result = cam_hub.explain(
                model, photo, method=method, classes=_CLASS, num_samples=_SAMPLES
            )
            values: dict[str, Any] = {"model_id": id, "method": method, "classes": [_CLASS]}
            values["num_samples"] = _SAMPLES
            cam = result.cams[result.classes[0], result.layers[0]]
            asked.append(Asked(photo, values, cam))
    return World(ids, tuple(files), tuple(asked))


def _draw(name: str) -> None:
    """Writes weights drawn at random as the file that torchvision would download."""
    torch.manual_seed(0)
    module = torchvision.models.get_model(name, weights=None)
    path = weights_file(torchvision.models.get_model_weights(name).DEFAULT)
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save(module.state_dict(), path)
