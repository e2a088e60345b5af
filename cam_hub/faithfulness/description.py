"""Descriptions of a map that need no pass through the model."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn.functional import max_pool2d

from cam_hub.errors import InvalidArgument
from cam_hub.faithfulness.covering import centred_gaussian
from cam_hub.faithfulness.evidence import EvidenceTest

__all__ = ["energy", "focus", "pointing_game"]

_TOLERANCE = 15 / 224
"""How far from an object its hottest pixel may lie, relative to the shorter side (Zhang et al.
2018 allow 15 pixels)."""


def focus(heat: Tensor) -> EvidenceTest:
    """One minus the normalised entropy of a map: 1 for a single pixel, 0 for a flat map.

    It describes the map and does not grade it: a faithful map of a large object is not focused.

    Args:
        heat: ``(*sides)``, finite; negative values count as zero.
    """
    weights = heat.double().clamp(min=0).flatten()
    total = float(weights.sum())
    if total == 0 or len(weights) < 2:
        return EvidenceTest("focus", None, sentence="The map has no heat, or a single cell.")
    shares = weights[weights > 0] / total
    entropy = float(-(shares * shares.log()).sum())
    value = 1 - entropy / math.log(len(weights))
    ordered = weights.sort(descending=True).values.cumsum(0)
    half = int((ordered < total / 2).sum()) + 1
    part = half / len(weights)
    return EvidenceTest(
        "focus",
        min(max(value, 0.0), 1.0),
        {"flat map": 0.0},
        sentence=f"Half of the heat lies on {part:.0%} of the image.",
        details={"half_of_heat": part},
    )


def pointing_game(heat: Tensor, inside: Tensor) -> EvidenceTest:
    """Whether the hottest pixel lies on the object, or within 7 % of the side from it.

    Zhang et al. 2018, Top-down Neural Attention by Excitation Backprop (IJCV), section 4.1: a hit
    is within 15 pixels of the object.

    Args:
        heat: ``(rows, cols)``, finite.
        inside: ``(rows, cols)`` bool, where the object is.

    Raises:
        InvalidArgument: If the shapes differ, or the object is nowhere.
    """
    _check(heat, inside)
    reach = round(_TOLERANCE * min(heat.shape))
    near = max_pool2d(inside[None].float(), 2 * reach + 1, stride=1, padding=reach)[0] > 0
    hit = bool(near.flatten()[heat.argmax()])
    chance = float(near.float().mean())
    where = "on" if hit else "off"
    return EvidenceTest(
        "pointing_game",
        float(hit),
        {"chance": chance},
        sentence=f"The hottest point lies {where} the object (by chance: {chance:.0%}).",
    )


def energy(heat: Tensor, inside: Tensor) -> EvidenceTest:
    """The share of a map's heat that lies on the object.

    Wang et al. 2020, Score-CAM (CVPR workshops), section 4.3: the energy-based pointing game.

    Args:
        heat: ``(rows, cols)``, finite; negative values count as zero.
        inside: ``(rows, cols)`` bool, where the object is.

    Raises:
        InvalidArgument: If the shapes differ, or the object is nowhere.
    """
    _check(heat, inside)
    weights = heat.double().clamp(min=0)
    total = float(weights.sum())
    if total == 0:
        return EvidenceTest("energy", None, sentence="The map has no heat.")
    centre = centred_gaussian(heat.shape).double()
    value = float(weights[inside].sum()) / total
    area = float(inside.double().mean())
    return EvidenceTest(
        "energy",
        value,
        {"flat map": area, "centre": float(centre[inside].sum() / centre.sum())},
        sentence=f"{value:.0%} of the heat lies on the object, which covers {area:.0%} of the "
        "image.",
    )


def _check(heat: Tensor, inside: Tensor) -> None:
    if heat.shape != inside.shape or heat.ndim != 2 or inside.dtype != torch.bool:
        expected = f"a boolean mask of the map's shape {tuple(heat.shape)}"
        raise InvalidArgument("inside", (tuple(inside.shape), str(inside.dtype)), expected)
    if not bool(inside.any()):
        raise InvalidArgument("inside", "no pixel", "an object that lies on what the model saw")
