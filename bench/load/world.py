"""The requests of a load test, and the correct results, computed beforehand."""

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
"""Networks with random weights, in files where torchvision looks for its own."""

_CLASS = "281"
_METHODS = ("layercam", "gradcam", "smoothgradcampp")
_SAMPLES = 2


@dataclass(frozen=True)
class Asked:
    """A request for an explanation, and its correct result.

    Attributes:
        photo: The photo's file.
        values: The arguments of the request, by their names in ``/explain``.
        cam: The map, float32 ``(rows, cols)``, un-normalised.
    """

    photo: Path
    values: Mapping[str, Any]
    cam: NDArray[np.float32]

    def is_answered_by(self, cam: NDArray[np.float32]) -> bool:
        """Whether a map is correct up to rounding, which differs between batches."""
        if cam.shape != self.cam.shape:
            return False
        return bool(np.abs(cam - self.cam).max() <= 1e-4 * np.abs(self.cam).max())


@dataclass(frozen=True)
class World:
    """The data that clients use.

    Attributes:
        models: IDs.
        photos: Files.
        asked: The requests.
    """

    models: tuple[str, ...]
    photos: tuple[Path, ...]
    asked: tuple[Asked, ...]


def build_world(folder: Path, *, models: int, photos: int) -> World:
    """Draws weights, creates photos and computes all results.

    Args:
        folder: The folder for photos and weights; ``TORCH_HOME`` is set to a folder in it.
        models: Number of models, at most 4; the first is the embedded one.
        photos: Number of photos.
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
    """Writes random weights as the file that torchvision would download."""
    torch.manual_seed(0)
    module = torchvision.models.get_model(name, weights=None)
    path = weights_file(torchvision.models.get_model_weights(name).DEFAULT)
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save(module.state_dict(), path)
