"""How well a change of activations follows the bands of the input that were disturbed."""

from __future__ import annotations

from itertools import starmap
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import adaptive_avg_pool2d

__all__ = ["BANDS", "NONE", "SELECTIVE", "Match", "coarse", "lead", "match_bands", "sizes"]

BANDS = 4
"""Bands per axis of the input."""

SPATIAL, CLEAR = 0.85, 0.03
"""Least correlation with the bands, and least slope, of what counts as spatial (true layers
mostly have a correlation above 0.95 and a slope above 0.2)."""

SELECTIVE = 0.25
"""Least selectivity of cells from which it can be told where they lie, or that they lie nowhere."""

FEW_CELLS, CLEARER = 3, 0.1
"""So few cells along an axis correlate by chance; they must be selective, too, with this slope."""

FINEST = 32
"""Finer grids are averaged to this many rows and columns: it is enough, and saves memory."""


class Match(NamedTuple):
    """How well one reading of a change follows the bands.

    Attributes:
        correlation: Of the places of what moves the cells with the cells' own places; the lesser
            of the two axes, in [-1, 1].
        slope: How far these places move along with the cells, the lesser of the two axes: 1 if a
            cell answers to its own place only, 0 if to all alike.
        selectivity: How much cells prefer some bands to others (deviation over the bands by mean,
            in [0, sqrt(BANDS - 1)]); near 0 if each answers to all alike, so that nothing can be
            said about where it lies.
        halves: Of what follows the bands, how much more each half of the cells moves than the
            opposite one where its own half of the input is disturbed: ``(own - other) / max(own,
            other)``, the least of all that can be compared, in [-1, 1]. It is low where each
            answers to all, and where some cells are louder than others. Else 0.
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


def sizes(change: Tensor, channel_axis: int) -> Tensor:
    """How much each place changed, in two respects.

    Attention with weights that are still random, and gates, tell every place of a disturbance
    anywhere. What all places are told alike says nothing about where they are, so the change is
    looked at once as it is and once without its mean over the places.

    Args:
        change: The difference that one disturbance made, batch (of one) first.
        channel_axis: Which axis holds the channels; all others but the first are places.

    Returns:
        As ``change``, with a batch of two and a single channel: the mean size over the channels,
        of the change as it is and of the change without what all places share.
    """
    places = [axis for axis in range(1, change.ndim) if axis != channel_axis]
    alone = change - change.mean(dim=places, keepdim=True)
    parts = [part.abs().mean(dim=channel_axis, keepdim=True) for part in (change, alone)]
    return torch.cat(parts)


def coarse(maps: Tensor) -> Tensor:
    """``(…, rows, cols)``, averaged to at most FINEST rows and columns."""
    rows, cols = maps.shape[-2:]
    if max(rows, cols) <= FINEST:
        return maps
    return adaptive_avg_pool2d(maps, (min(rows, FINEST), min(cols, FINEST)))


def match_bands(responses: Tensor, *, strip: bool = False) -> Match:
    """How well a change follows the bands, under one reading.

    Args:
        responses: ``(2 * BANDS, 2, rows, cols)``, the ``sizes`` of each disturbance: first of the
            copies with horizontal bands disturbed, then of those with vertical ones.
        strip: Whether the input is so long and narrow that a single row or column of cells can
            be the grid of it.
    """
    # In this order: MPS has no double precision.
    responses = responses.cpu().double()
    if not bool(torch.isfinite(responses).all()):
        return NONE
    parts = (responses[:, 0], responses[:, 1])
    best = max((_both_axes(part, strip) for part in parts), key=lambda match: match.rank)
    selectivity = max(_selectivity(part) for part in parts)
    if min(responses.shape[2:]) <= FEW_CELLS and selectivity < SELECTIVE:
        return NONE._replace(selectivity=selectivity)
    halves = min(map(_halves, parts)) if best.spatial else 0.0
    return best._replace(selectivity=selectivity, halves=halves)


def _both_axes(change: Tensor, strip: bool) -> Match:
    """The lesser of the two axes' matches, of ``(2 * BANDS, rows, cols)``."""
    rows = _one_axis(change[:BANDS].mean(dim=2))
    cols = _one_axis(change[BANDS:].mean(dim=1))
    if rows is not None and cols is not None:
        return Match(min(rows.correlation, cols.correlation), min(rows.slope, cols.slope))
    return (rows or cols or NONE) if strip else NONE


def _selectivity(change: Tensor) -> float:
    """The greater of the two axes' selectivities, of ``(2 * BANDS, rows, cols)``."""
    return max(_preference(change[:BANDS]), _preference(change[BANDS:]))


def lead(own: float, other: float) -> float:
    """By how much one change is above another, as a part of the greater one: in [-1, 1]."""
    greater = max(own, other)
    return (own - other) / greater if greater > 0 else 0.0


def _halves(change: Tensor) -> float:
    """The least lead of a half over the opposite one, of ``(2 * BANDS, rows, cols)``."""
    axes = (change[:BANDS].mean(dim=2), change[BANDS:].mean(dim=1))
    return min((_least_lead(axis) for axis in axes if axis.shape[1] > 1), default=0.0)


def _least_lead(change: Tensor) -> float:
    """That of ``(BANDS, cells)``; the middle one of an odd number of cells is in neither half."""
    half, middle = change.shape[1] // 2, BANDS // 2
    first = change[:, :half].mean(dim=1).tolist()
    last = change[:, -half:].mean(dim=1).tolist()
    pairs = (
        (sum(first[:middle]), sum(last[:middle])),
        (sum(last[middle:]), sum(first[middle:])),
    )
    return min(starmap(lead, pairs))


def _preference(change: Tensor) -> float:
    band = change.mean(dim=(1, 2), keepdim=True)
    if not bool((band > 0).all()):
        return 0.0
    share = change / band
    cell = share.mean(dim=0)
    deviation = share.std(dim=0, correction=0)
    return float((deviation[cell > 0] / cell[cell > 0]).mean())


def _one_axis(change: Tensor) -> Match | None:
    """How well ``(BANDS, cells)`` follows the bands; None for a single cell, which cannot.

    Deep cells see far beyond their own place, so a band moves all of them a little. But the mean
    place of what moves a cell still runs along with the cell: it is this that must correlate.
    """
    bands, cells = change.shape
    if cells < 2:
        return None
    if not bool((change.sum(dim=1) > 0).all()):
        return NONE
    # Bands may disturb more or less: each counts alike.
    share = change / change.mean(dim=1, keepdim=True)
    total = share.sum(dim=0)
    if not bool((total > 0).all()):
        return NONE
    centre = (_places(bands)[:, None] * share).sum(dim=0) / total
    place = _places(cells)
    centre, place = centre - centre.mean(), place - place.mean()
    slope = float((centre * place).sum() / place.square().sum())
    spread = float(centre.norm() * place.norm())
    correlation = float((centre * place).sum()) / spread if spread > 0 else 0.0
    if cells <= FEW_CELLS and slope < CLEARER:
        return NONE
    return Match(correlation, slope)


def _places(count: int) -> Tensor:
    """Centres of ``count`` equal parts of [0, 1]."""
    return (torch.arange(count, dtype=torch.float64) + 0.5) / count
