"""What goes into a pass: the picture as the model's input, and what is asked about it."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from cam_hub.geometry import Placement
from cam_hub.guard import quiet
from cam_hub.images import open_image
from cam_hub.sources.base import LoadedModel
from cam_hub.tasks.base import Reference, Target
from cam_hub.tasks.region import RegionChoice, read_region
from cam_hub.tensors import check_tensor

__all__ = ["Prepared", "aim", "facts_of", "prepare"]

_BASELINE_SEED = 90210  # none that callers are likely to draw a picture with


@dataclass(frozen=True)
class Prepared:
    """A picture that is ready for a model.

    Attributes:
        photo: The picture, upright, RGB.
        placement: Where the model's input lies on it.
        tensor: That input, ``(1, channels, rows, cols)``, on the model's device.
    """

    photo: Image.Image
    placement: Placement
    tensor: Tensor

    @property
    def size(self) -> tuple[int, int, int]:
        """Channels, rows and columns of the input."""
        _, channels, rows, cols = self.tensor.shape
        return channels, rows, cols


def prepare(model: LoadedModel, image: object) -> Prepared:
    """Turns a picture into a model's input.

    Args:
        model: The model.
        image: As for ``explain``.

    Raises:
        ImageRefused: If the image cannot be read, or does not fit the model.
    """
    if isinstance(image, Tensor):
        tensor = check_tensor(image, model.input_size[0])
        height, width = tensor.shape[2:]
        photo = model.preprocessing.denormalise(tensor)
        placement = Placement.identity((width, height))
    else:
        photo = open_image(image)
        tensor = model.preprocessing(photo)
        placement = model.preprocessing.place(photo.size)
    return Prepared(photo, placement, tensor.to(model.device, model.dtype))


def aim(model: LoadedModel, prepared: Prepared, region: RegionChoice, reference: object) -> Target:
    """What is differentiated in the explanation of one picture.

    Args:
        model: The model.
        prepared: The picture.
        region: A part of it, or None.
        reference: Another picture to compare with, as for ``prepare``; or None.

    Returns:
        A fresh target of the model's task. Where that compares features, the network has been
        asked for those of the reference and of a baseline: seeded Gaussian noise of variance 1,
        which has about the contrast of a normalised photo, and nothing to see in it. (A picture of
        one colour would not do: networks without biases may answer it with zeros.)

    Raises:
        InvalidArgument: If the task cannot use what was given.
        ImageRefused: If the reference cannot be read, or does not fit the model.
        ModelRefused: If the model raises.
    """
    task = model.task
    place = None
    if task.takes_region:
        place = read_region(region, prepared.placement)
    elif region is not None:  # the task says why it has no use for any, whatever it is
        place = read_region(None, prepared.placement)
    if not task.takes_reference:
        given = Reference() if reference is not None else None
        return task.target(region=place, reference=given)
    other = prepare(model, reference) if reference is not None else None
    generator = torch.Generator().manual_seed(_BASELINE_SEED)
    nothing = torch.randn(prepared.tensor.shape, generator=generator).to(prepared.tensor)
    with quiet(model.module), torch.no_grad():
        compared = Reference(
            output=model.run(other.tensor) if other is not None else None,
            baseline=model.run(nothing),
            facts=facts_of(other.photo) if other is not None else {},
        )
    return task.target(region=place, reference=compared)


def facts_of(photo: Image.Image) -> dict[str, Any]:
    """What the manifest says of a picture: its size, and the digest of its pixels."""
    return {
        "size": list(photo.size),
        "sha256": hashlib.sha256(photo.tobytes()).hexdigest(),
    }
