"""How well a change of activations follows the bands of the input that were disturbed."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

__all__ = [
    "BANDS",
    "FEW_CELLS",
    "FINEST",
    "NONE",
    "SELECTIVE",
    "Match",
    "lead",
    "match_all",
    "match_bands",
    "sampled",
    "sizes",
]

Array = npt.NDArray[Any]

BANDS = 4
"""Bands per axis of the input."""

SPATIAL, CLEAR = 0.85, 0.03
"""The minimum correlation with the bands, and the minimum slope, of a spatial output (spatial
layers mostly have a correlation above 0.95 and a slope above 0.2)."""

SELECTIVE = 0.25
"""The minimum selectivity of cells whose position, or lack of one, can be determined."""

_MIN_BANDS = 2
"""At least so many bands must change a layer to show where its cells lie."""

_ACROSS = 0.5
"""Cells in a line differ in what they prefer across the line by less than this part of how much
they differ along it."""

FEW_CELLS, CLEARER = 3, 0.1
"""So few cells along an axis correlate by chance; they must be selective, too, with this slope."""

FINEST = 16
"""Number of rows and columns that are examined on finer grids, roughly: enough, and saves time."""


def sampled(side: int) -> slice:
    """The rows or columns of a side that are examined."""
    step = -(-side // FINEST)
    return slice(step // 2, None, step)


class Match(NamedTuple):
    """How well one reading of a change follows the bands.

    Attributes:
        correlation: Correlation of the places of what moves the cells with the cells' own places;
            the lesser of the two axes, in [-1, 1].
        slope: How far these places move along with the cells, the lesser of the two axes: 1 if a
            cell responds to its own place only, 0 if to all alike.
        selectivity: How much cells prefer some bands to others (deviation over the bands by mean,
            in [0, sqrt(BANDS - 1)]); near 0 if each responds to all alike, so that its
            position cannot be determined.
        halves: Of what follows the bands, how much more each half of the cells moves than the
            opposite one where its own half of the input is disturbed: ``(own - other) / max(own,
            other)``, the least of all that can be compared, in [-1, 1]. It is low where each
            responds to all, and where some cells are stronger than others. Else 0.
    """

    correlation: float
    slope: float
    selectivity: float = 0.0
    halves: float = 0.0

    @property
    def spatial(self) -> bool:
        """Whether it follows the bands at all."""
        return self.correlation >= SPATIAL and self.slope >= CLEAR

    @property
    def rank(self) -> tuple[bool, float]:
        """Sorts readings: among those that follow the bands, the clearest wins."""
        return self.spatial, self.slope if self.spatial else self.correlation


NONE = Match(0.0, 0.0)


def sizes(change: Tensor, channel_axis: int) -> tuple[Tensor, Tensor]:
    """How much each place changed, in two respects.

    Attention with weights that are still random, and gates, spread a disturbance over all places.
    A change that all places share does not show where they are, so the change is examined once as
    it is and once without its mean over the places.

    Args:
        change: The differences that disturbances made, batch first; overwritten.
        channel_axis: Which axis holds the channels; all others but the first are places.

    Returns:
        Two per disturbance, ``(N, 2, …)`` with a single channel: the mean size over the channels,
        of the change as it is and of the change without what all places share. And the greatest
        size of a change.
    """
    # Sums of absolute values: torch's norms take several times as long on a CPU.
    places = [axis for axis in range(1, change.ndim) if axis != channel_axis]
    shared = change.mean(dim=places, keepdim=True)
    size = change.abs()
    greatest = size.amax() if size.numel() else size.new_zeros(())
    whole = size.sum(dim=channel_axis, keepdim=True)
    alone = change.sub_(shared).abs_().sum(dim=channel_axis, keepdim=True)
    return torch.stack([whole, alone], dim=1) / change.shape[channel_axis], greatest


def match_bands(responses: Tensor) -> Match:
    """How well a change follows the bands, under one reading.

    Args:
        responses: ``(2 * BANDS, 2, rows, cols)``, the ``sizes`` of each disturbance: first of the
            copies with horizontal bands disturbed, then of those with vertical ones.
    """
    [match] = match_all(responses[None])
    return match


def match_all(responses: Tensor, *, lines: bool = True, borders: bool = False) -> list[Match]:
    """As ``match_bands``, for many changes on grids of one size at once.

    Args:
        responses: ``(N, 2 * BANDS, 2, rows, cols)``.
        lines: Whether a grid of a few rows or columns may lie along its other axis alone.
        borders: Whether rows and columns may be a border of zeros, which respond to nothing.
    """
    # In this order: MPS has no double precision. Arrays, since they are small: an operation on a
    # tensor takes several times as long before it begins.
    array = responses.detach().cpu().double().numpy()
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        return _match_arrays(np.moveaxis(array, 2, 1), lines=lines, borders=borders)


def _match_arrays(parts: Array, *, lines: bool, borders: bool) -> list[Match]:
    """As ``match_all``, of ``(N, 2, 2 * BANDS, rows, cols)``."""
    finite = np.isfinite(parts.reshape(len(parts), -1).sum(axis=1))
    axes = (parts[:, :, :BANDS].mean(axis=4), parts[:, :, BANDS:].mean(axis=3))
    correlation, slope = _both_axes(axes, borders=borders)
    spatial = (correlation >= SPATIAL) & (slope >= CLEAR)
    halves = _halves(axes)
    rows, cols = parts.shape[3:]
    if lines and min(rows, cols) <= FEW_CELLS and rows != cols:
        # The order across may be impossible to measure; then the long axis counts.
        long = axes[0] if rows > cols else axes[1]
        line = _is_line(parts, upright=rows > cols) & ~spatial
        along, steep = _one_axis(long, borders=borders)
        correlation, slope = np.where(line, along, correlation), np.where(line, steep, slope)
        halves = np.where(line, _halves((long,)), halves)
        spatial = (correlation >= SPATIAL) & (slope >= CLEAR)
    # Of the change as it is and without what all places share, whichever follows more clearly.
    rank = np.where(spatial, slope, correlation)
    second = (spatial[:, 1] & ~spatial[:, 0]) | (
        (spatial[:, 1] == spatial[:, 0]) & (rank[:, 1] > rank[:, 0])
    )
    best = (np.arange(len(parts)), second.astype(int))
    selectivity = _selectivity(parts).max(axis=1)
    halves = np.where(spatial[best], halves.min(axis=1), 0.0)
    few = min(rows, cols) <= FEW_CELLS
    found = []
    for is_finite, *numbers in zip(
        finite.tolist(),
        correlation[best].tolist(),
        slope[best].tolist(),
        selectivity.tolist(),
        halves.tolist(),
        strict=True,
    ):
        if not is_finite:
            found.append(NONE)
        elif few and numbers[2] < SELECTIVE:
            found.append(NONE._replace(selectivity=numbers[2]))
        else:
            found.append(Match(*numbers))
    return found


def lead(own: float, other: float) -> float:
    """By how much one change is above another, as a part of the greater one: in [-1, 1]."""
    greater = max(own, other)
    return (own - other) / greater if greater > 0 else 0.0


def _both_axes(axes: tuple[Array, Array], *, borders: bool) -> tuple[Array, Array]:
    """The lesser of the two axes' correlations and slopes, of two times ``(…, BANDS, cells)``."""
    found = [_one_axis(axis, borders=borders) for axis in axes if axis.shape[-1] > 1]
    if len(found) == 2:
        (first, second), (slope, other) = zip(*found, strict=True)
        return np.minimum(first, second), np.minimum(slope, other)
    nothing = np.zeros(axes[0].shape[:-2])
    return nothing, nothing


def _one_axis(change: Array, *, borders: bool) -> tuple[Array, Array]:
    """How well ``(…, BANDS, cells)`` follow the bands: correlations and slopes.

    Deep cells see far beyond their own place, so a band moves all of them a little. But the mean
    place of what moves a cell still runs along with the cell: it is this that must correlate.
    """
    bands, cells = change.shape[-2:]
    # Bands may disturb more or less: each counts alike.
    mean = change.mean(axis=-1, keepdims=True)
    # What the network crops off changes nothing: then the other bands count.
    share = np.where(mean > 0, change / mean, 0.0)
    total = share.sum(axis=-2)
    seen = total > 0
    count = seen.sum(axis=-1, keepdims=True)
    answered = ((mean > 0).sum(axis=(-2, -1)) >= _MIN_BANDS) & (2 * count[..., 0] >= max(3, cells))
    if not borders:
        answered &= seen.all(axis=-1)
    centre = np.where(seen, (_places(bands)[:, None] * share).sum(axis=-2) / total, 0.0)
    place = _places(cells) * seen
    place = (place - place.sum(axis=-1, keepdims=True) / count) * seen
    centre = (centre - centre.sum(axis=-1, keepdims=True) / count) * seen
    along = (centre * place).sum(axis=-1)
    slope = along / np.square(place).sum(axis=-1)
    spread = np.sqrt(np.square(centre).sum(axis=-1) * np.square(place).sum(axis=-1))
    if cells <= FEW_CELLS:
        answered &= slope >= CLEARER
    correlation = np.where(answered & (spread > 0), along / spread, 0.0)
    return correlation, np.where(answered, slope, 0.0)


def _is_line(change: Array, *, upright: bool) -> Array:
    """Whether cells, ``(…, 2, 2 * BANDS, rows, cols)``, differ along one axis but not across it.

    Each cell of a line sees the image's whole width across it, and so responds to disturbances
    across it like every other cell. Cells that do not are an unrolled grid, or in another order.
    """
    across, along = _preference(change[..., BANDS:, :, :]), _preference(change[..., :BANDS, :, :])
    if not upright:
        across, along = along, across
    line: Array = (across < _ACROSS * along).max(axis=-1, keepdims=True)
    return line


def _selectivity(change: Array) -> Array:
    """The greater of the two axes' selectivities, of ``(…, 2 * BANDS, rows, cols)``."""
    found: Array = np.maximum(
        _preference(change[..., :BANDS, :, :]), _preference(change[..., BANDS:, :, :])
    )
    return found


def _preference(change: Array) -> Array:
    band = change.mean(axis=(-2, -1), keepdims=True)
    share = np.where(band > 0, change / band, 0.0)
    cell = share.mean(axis=-3)
    deviation = share.std(axis=-3) / cell
    answering = cell > 0
    mean = np.where(answering, deviation, 0.0).sum(axis=(-2, -1)) / answering.sum(axis=(-2, -1))
    return np.where((band > 0).sum(axis=(-3, -2, -1)) >= _MIN_BANDS, mean, 0.0)


def _halves(axes: tuple[Array, ...]) -> Array:
    """The least lead of a half over the opposite one, of axes of ``(…, BANDS, cells)``."""
    leads = [lead for axis in axes if axis.shape[-1] > 1 for lead in _leads(axis)]
    if not leads:
        return np.zeros(axes[0].shape[:-2])
    found: Array = np.minimum.reduce(leads)
    return found


def _leads(change: Array) -> tuple[Array, Array]:
    """Those of ``(…, BANDS, cells)``; the middle one of an odd number of cells is in no half."""
    half, middle = change.shape[-1] // 2, BANDS // 2
    first, last = change[..., :half].mean(axis=-1), change[..., -half:].mean(axis=-1)
    return (
        _lead(first[..., :middle].sum(axis=-1), last[..., :middle].sum(axis=-1)),
        _lead(last[..., middle:].sum(axis=-1), first[..., middle:].sum(axis=-1)),
    )


def _lead(own: Array, other: Array) -> Array:
    greater = np.maximum(own, other)
    return np.where(greater > 0, (own - other) / greater, 0.0)


def _places(count: int) -> Array:
    """Centres of ``count`` equal parts of [0, 1]."""
    return (np.arange(count) + 0.5) / count
