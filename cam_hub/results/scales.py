"""From un-normalised maps to heat on one scale, or each on its own."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import Literal

import numpy as np
import torch

from cam_hub.errors import InvalidArgument
from cam_hub.methods import normalise
from cam_hub.results.maps import Map

__all__ = ["FULL_HEAT", "SCALES", "Scale", "check_scale", "ends_of", "heat_of"]

Scale = Literal["shares", "values", "own"]

SCALES: dict[Scale, str] = {
    "shares": "one scale for all: how many times an even spread of the map's total",
    "values": "un-normalised values, one scale per model, method and layer",
    "own": "each map on its own scale: colours of two maps cannot be compared",
}
"""The scales, in words.

Un-normalised maps have units: those of an activation times a gradient, or of something else,
at one layer of one model. So values can be compared between classes, and not between methods,
layers or models. What can be compared everywhere is how a map shares out its own total: divided by
its mean, 1 is what an even spread would give each place, and 3 three times as much. That does not
depend on how fine the grid is.
"""

FULL_HEAT = 4.0
"""Times an even spread at which ``"shares"`` is hottest; all above looks the same.

A constant, so that colours mean the same on all sheets. Maps of coarse grids (7 by 7) reach 2 to
4, and the hottest twentieth of finer ones 3 to 6; their peaks, of 10 to 40, would leave everything
else cold.
"""


def check_scale(scale: object) -> Scale:
    """The scale of this name.

    Raises:
        InvalidArgument: If there is none.
    """
    if not isinstance(scale, str) or scale not in SCALES:
        raise InvalidArgument("scale", scale, f"one of {', '.join(SCALES)}")
    return scale


def heat_of(
    cams: Sequence[Map | None], units: Sequence[Hashable], scale: Scale
) -> list[Map | None]:
    """Brings maps to [0, 1], those with evidence of both signs to [-1, 1].

    Args:
        cams: Un-normalised maps ``(rows, cols)``, none of them blank; None for none.
        units: What each map's values are measured in; equal where they can be compared.
        scale: Name of the scale.

    Returns:
        Float32 ``(rows, cols)`` each, None where there was none. Of a signed map the shares are
        those of its total magnitude, and zero stays zero.
    """
    peaks: dict[Hashable, float] = {}
    for cam, unit in zip(cams, units, strict=True):
        if cam is not None:
            peaks[unit] = max(peaks.get(unit, 0.0), float(np.abs(cam).max()))
    return [
        None if cam is None else _heat(cam, peaks[unit], scale)
        for cam, unit in zip(cams, units, strict=True)
    ]


def ends_of(scale: Scale, *, signed: bool = False) -> tuple[str, str]:
    """What the cold and the hot end of a scale mean, for its colour bar.

    Args:
        scale: Name of the scale.
        signed: Whether maps hold evidence of both signs, so that nothing lies in the middle.
    """
    if signed:
        return {
            "shares": ("against the class", f"for it: {FULL_HEAT:g} times an even spread, or more"),
            "values": ("against the class", "for it: the largest magnitude"),
            "own": ("against the class", "for it: the map's largest magnitude"),
        }[scale]
    return {
        "shares": ("0", f"{FULL_HEAT:g} times an even spread, or more"),
        "values": ("0", "the greatest value"),
        "own": ("least value of the map", "its greatest value"),
    }[scale]


def _heat(cam: Map, peak: float, scale: Scale) -> Map:
    signed = bool((cam < 0).any())
    if scale == "own" and not signed:
        own: Map = normalise(torch.from_numpy(cam.copy())[None])[0].numpy()
        return own
    # In double precision: tiny gradients of deep networks would underflow.
    wide = cam.astype(np.float64)
    tops = {"shares": FULL_HEAT * np.abs(wide).mean(), "values": peak, "own": np.abs(wide).max()}
    heat: Map = np.clip(wide / tops[scale], -1.0, 1.0).astype(np.float32)
    return heat
