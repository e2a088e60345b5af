"""How well a change of activations follows the bands of the input that were disturbed."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

__all__ = ["BANDS", "NONE", "Match", "match_bands"]

BANDS = 4
"""Bands per axis of the input."""

SPATIAL = 0.85
"""Least correlation with the bands of what counts as spatial (true layers: above 0.95)."""

OUT_OF_SHAPE = 3.0
"""Greatest factor between a grid's aspect and the input's (strides may differ by axis)."""

FEW_CELLS, CLEAR = 3, 0.1
"""So few cells along an axis correlate by chance; they must also move by this much."""


class Match(NamedTuple):
    """How well one reading of a change follows the bands.

    Attributes:
        correlation: Of the places of what moves the cells with the cells' own places; the lesser
            of the two axes, in [-1, 1].
        slope: How far these places move along with the cells, the lesser of the two axes: 1 if a
            cell answers to its own place only, 0 if to all alike.
    """

    correlation: float
    slope: float

    @property
    def spatial(self) -> bool:
        """Whether it follows the bands at all."""
        return self.correlation >= SPATIAL

    @property
    def rank(self) -> tuple[bool, float]:
        """Sorts readings: among those that follow the bands, the clearest wins."""
        return self.spatial, self.slope if self.spatial else self.correlation


NONE = Match(0.0, 0.0)


def match_bands(change: Tensor, aspect: float) -> Match:
    """How well a change follows the bands, under one reading.

    Attention with weights that are still random, and gates, tell every place of a disturbance
    anywhere. What all places are told alike says nothing about where they are, so the change is
    looked at once as it is and once without its mean over the places.

    Args:
        change: ``(2 * BANDS, channels, rows, cols)``, the difference that each disturbed copy
            made: first those with horizontal bands disturbed, then those with vertical ones.
        aspect: Rows by columns of the input.
    """
    _, _, height, width = change.shape
    # A grid of a very different shape is none, however well its few cells happen to correlate (a
    # handful of channels read as rows).
    if not 1 / OUT_OF_SHAPE <= height / width / aspect <= OUT_OF_SHAPE:
        return NONE
    if not bool(torch.isfinite(change).all()):
        return NONE
    alone = change - change.mean(dim=(2, 3), keepdim=True)
    matches = (_both_axes(part.abs().mean(dim=1), aspect) for part in (change, alone))
    return max(matches, key=lambda match: match.rank)


def _both_axes(change: Tensor, aspect: float) -> Match:
    """The lesser of the two axes' matches, of ``(2 * BANDS, rows, cols)``."""
    rows = _one_axis(change[:BANDS].mean(dim=2))
    cols = _one_axis(change[BANDS:].mean(dim=1))
    if rows is not None and cols is not None:
        return Match(min(rows.correlation, cols.correlation), min(rows.slope, cols.slope))
    # A single row or column of cells can only be that of an input that is a strip itself.
    strip = max(aspect, 1 / aspect) >= OUT_OF_SHAPE
    return (rows or cols or NONE) if strip else NONE


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
    change = change.cpu().double()  # in this order: MPS has no double precision
    share = change / change.mean(dim=1, keepdim=True)
    total = share.sum(dim=0)
    if not bool((total > 0).all()):
        return NONE
    centre = (_places(bands).to(share)[:, None] * share).sum(dim=0) / total
    place = _places(cells).to(share)
    centre, place = centre - centre.mean(), place - place.mean()
    slope = float((centre * place).sum() / place.square().sum())
    spread = float(centre.norm() * place.norm())
    correlation = float((centre * place).sum()) / spread if spread > 0 else 0.0
    if cells <= FEW_CELLS and slope < CLEAR:
        return NONE
    return Match(correlation, slope)


def _places(count: int) -> Tensor:
    """Centres of ``count`` equal parts of [0, 1]."""
    return (torch.arange(count, dtype=torch.float64) + 0.5) / count
