"""How well one map finds the object that it explains, and how it does in the tests of a map."""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import interpolate, max_pool2d

from bench.truth.world import SIDE

__all__ = ["TESTS", "Measures", "mean", "on_image", "truth_of"]

_REACH = 12
"""So many pixels beside the object still hit it."""


@dataclass(frozen=True)
class Measures:
    """Of one map, or the mean of several; NaN for what was not measured.

    Attributes:
        hit: Whether the hottest pixel lies on the explained object, or within 12 pixels of it.
        own: Whether there is more heat on it than on the other class's object (chance 0.5).
        lift: Its share of the heat relative to its share of the image (chance 1).
        drop: The contrast drop of the cover test.
        plain: The drop in the class's score alone.
        road: ROAD, up to a fifth of the image.
        curves: The area under the insertion curve less that under the deletion curve, ten steps.
        other: The rank correlation with the map of the other class.
        focus: How concentrated the map is.
    """

    hit: float = float("nan")
    own: float = float("nan")
    lift: float = float("nan")
    drop: float = float("nan")
    plain: float = float("nan")
    road: float = float("nan")
    curves: float = float("nan")
    other: float = float("nan")
    focus: float = float("nan")


TESTS = {
    "contrast drop": "drop",
    "drop in the class's score": "plain",
    "ROAD": "road",
    "insertion less deletion": "curves",
    "another map for the other class": "other",
    "focus": "focus",
}
"""The tests that need no mask, and the measure of each."""


def on_image(cam: Tensor) -> Tensor:
    """A map at the size of the image, as all tools draw it: ``(SIDE, SIDE)``."""
    resized = interpolate(cam[None, None].float(), (SIDE, SIDE), mode="bilinear")[0, 0]
    return resized.clamp(min=0).nan_to_num()


def truth_of(heat: Tensor, own: Tensor, other: Tensor) -> Measures:
    """Compares a map with the objects.

    Args:
        heat: ``(SIDE, SIDE)``, at least 0. A blank map finds nothing.
        own: Where the explained object is visible, bool.
        other: The same of the other class's object.
    """
    total = float(heat.sum())
    if total <= 0:
        return Measures(0.0, 0.0, 0.0)
    near = max_pool2d(own[None].float(), 2 * _REACH + 1, stride=1, padding=_REACH)[0] > 0
    on_own, on_other = float(heat[own].sum()), float(heat[other].sum())
    return Measures(
        hit=float(near.flatten()[heat.argmax()]),
        own=float(on_own > on_other),
        lift=on_own / total / max(float(own.float().mean()), 1e-9),
    )


def mean(measures: list[Measures]) -> Measures:
    """The mean of each measure over the maps of which it was taken."""
    rows = [asdict(each) for each in measures]
    found = {}
    for field in fields(Measures):
        values = [row[field.name] for row in rows if not np.isnan(row[field.name])]
        found[field.name] = float(torch.tensor(values).double().mean()) if values else float("nan")
    return Measures(**found)
