"""The part of a photo that is asked about, and where it lies in the model's input and output."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cam_hub.errors import InvalidArgument
from cam_hub.images.geometry import Placement

__all__ = ["Region", "RegionChoice", "read_region"]

RegionChoice = Sequence[float] | NDArray[np.bool_] | Tensor | None
"""A box ``(left, top, right, bottom)`` in the photo's pixels, right and bottom exclusive; or a
boolean mask ``(H, W)`` of the photo; None for all of it."""

_EXPECTED = (
    "a box (left, top, right, bottom) in the photo's pixels, with left < right and top < bottom, "
    "or a boolean mask of the photo's (height, width)"
)


@dataclass(frozen=True, eq=False)
class Region:
    """A part of a photo.

    Attributes:
        placement: Where the model's input lies on the photo.
        box: ``(left, top, right, bottom)`` in photo pixels; the whole photo where a mask is given.
        mask: ``(H, W)`` bool, or None for all of the box.
        whole: Whether nothing in particular was asked for.
    """

    placement: Placement
    box: tuple[float, float, float, float]
    mask: NDArray[np.bool_] | None = None
    whole: bool = False

    def weights(self, rows: int, cols: int) -> NDArray[np.float64]:
        """The part of each cell of an output that lies in the region.

        Args:
            rows: Rows of a grid over the model's input.
            cols: Columns of the grid.

        Returns:
            ``(rows, cols)`` in [0, 1]: the part of the cell's area that the region covers, exact
            also where a cell's edge cuts through pixels; what lies beyond the photo is outside.
        """
        width, height = self.placement.photo_size
        extent_v, extent_u = self.placement.input_size
        u, v = np.arange(cols + 1) * extent_u / cols, np.arange(rows + 1) * extent_v / rows
        x, y = self.placement.to_photo(u, v)
        left, top, right, bottom = self.box
        if self.mask is None:
            covered = np.outer(
                np.diff(np.clip(y, max(top, 0), min(bottom, height))),
                np.diff(np.clip(x, max(left, 0), min(right, width))),
            )
        else:
            covered = _integrate(_integrate(self.mask.astype(np.float64), y).T, x).T
        cell = (y[1] - y[0]) * (x[1] - x[0])
        found: NDArray[np.float64] = np.clip(covered / cell, 0.0, 1.0)
        return found

    def input_box(self) -> tuple[float, float, float, float]:
        """The box in the model's input, in input pixels."""
        left, top, right, bottom = self.box
        (u0, u1), (v0, v1) = zip(
            self.placement.to_input(left, top), self.placement.to_input(right, bottom), strict=True
        )
        return u0, v0, u1, v1

    def describe(self) -> dict[str, Any] | None:
        """The region as JSON types, which ``read_region`` takes again; None for the whole photo."""
        if self.whole:
            return None
        if self.mask is None:
            return {"box": list(self.box)}
        height, width = self.mask.shape
        return {"mask": {"size": [width, height], "runs": _runs(self.mask)}}


def read_region(choice: Any, placement: Placement) -> Region:
    """Reads what a caller gave as a region.

    Args:
        choice: A ``RegionChoice``, or what ``Region.describe`` gave.
        placement: Where the model's input lies on the photo.

    Raises:
        InvalidArgument: If it is neither a box nor a mask of the photo, or lies where the model
            saw nothing.
    """
    width, height = placement.photo_size
    everything = (0.0, 0.0, float(width), float(height))
    if choice is None:
        return Region(placement, everything, whole=True)
    if isinstance(choice, dict):
        choice = choice["box"] if "box" in choice else _from_runs(choice["mask"])
    if isinstance(choice, Tensor):
        choice = choice.detach().cpu().numpy()
    given = np.asarray(choice)
    if given.dtype == np.bool_ and given.ndim == 2:
        if given.shape != (height, width):
            raise InvalidArgument("region", f"a mask of shape {given.shape}", _EXPECTED)
        region = Region(placement, everything, given.copy())
    else:
        region = Region(placement, _read_box(choice, given))
    # One cell over all of the input: whether the model saw any of it.
    if not region.weights(1, 1).any():
        seen = ", ".join(f"{edge:g}" for edge in placement.seen_box)
        raise InvalidArgument(
            "region",
            "an empty mask" if region.mask is not None and not region.mask.any() else choice,
            f"a part of the photo that the model saw, which is the box ({seen})",
        )
    return region


def _read_box(choice: Any, given: NDArray[Any]) -> tuple[float, float, float, float]:
    if given.shape != (4,) or given.dtype.kind not in "iuf" or not np.isfinite(given).all():
        raise InvalidArgument("region", choice, _EXPECTED)
    left, top, right, bottom = map(float, given)
    if left >= right or top >= bottom:
        raise InvalidArgument("region", choice, _EXPECTED)
    return left, top, right, bottom


def _integrate(values: NDArray[np.float64], edges: NDArray[np.float64]) -> NDArray[np.float64]:
    """Integrals of ``values`` along their first axis between neighbouring edges."""
    length = len(values)
    sums = np.concatenate([np.zeros_like(values[:1]), values.cumsum(axis=0)])
    inside = np.clip(edges, 0, length)
    below = np.minimum(inside.astype(int), length - 1)
    part = (inside - below)[:, None]
    return np.diff(sums[below] * (1 - part) + sums[below + 1] * part, axis=0)


def _runs(mask: NDArray[np.bool_]) -> list[int]:
    """Lengths of the runs of equal pixels, row by row, the first of them False (maybe 0 long)."""
    flat = np.concatenate([[False], mask.ravel(), [not mask.ravel()[-1]]])
    edges = np.flatnonzero(flat[1:] != flat[:-1])
    return [int(length) for length in np.diff(edges, prepend=0)]


def _from_runs(data: Any) -> NDArray[np.bool_]:
    width, height = data["size"]
    runs = data["runs"]
    return np.repeat(np.arange(len(runs)) % 2 == 1, runs).reshape(height, width)


def as_weights(region: Region | None, rows: int, cols: int) -> Tensor:
    """``(rows, cols)`` weights of a region that add up to 1; equal ones where there is none."""
    if region is None:
        return torch.full((rows, cols), 1 / (rows * cols), dtype=torch.float64)
    weights = torch.from_numpy(region.weights(rows, cols))
    return weights / weights.sum()
