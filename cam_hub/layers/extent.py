"""Which part of the input the grid of a layer covers, where the network pads or crops on the way.

A grid mostly covers the input: its first row lies at the top, its last one at the bottom. Where the
network cuts off a border, it covers less; where it adds one, more. A correlation of places is the
same in each case. So a cell is modelled as a window of some width, whose centre runs along with the
cell's place, and the windows' offset and scale are fitted to how the cells answer to the bands.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from itertools import product
from typing import NamedTuple

import torch
from torch import Tensor

from cam_hub.layers.correspondence import BANDS, sampled

__all__ = ["WHOLE", "Ends", "Fit", "fit_extent", "follows"]

Ends = tuple[float, float]
"""Where a grid starts and ends along one axis, as parts of the input."""

WHOLE: Ends = (0.0, 1.0)

_WIDTHS = (0.03, 0.06, 0.12, 0.2, 0.3, 0.45, 0.7, 1.0)
"""The widths of windows that are tried, as parts of the input."""

_CENTRES, _LENGTHS = (0.2, 0.8, 49), (0.35, 1.8, 59)
"""The first, the last and the number of the places of a grid's centre and of its lengths."""

_EXTENTS = tuple(
    product(
        *(
            [first + (last - first) * step / (count - 1) for step in range(count)]
            for first, last, count in (_CENTRES, _LENGTHS)
        )
    )
)
"""Centres and lengths of all extents that are tried."""

_POOR, _BETTER = 0.004, 0.3
"""Another extent than the whole input must have at most this part of the whole input's mean squared
error, also if that is shifted by up to half a cell, as strides do; and this must be at least so
much."""

_FAR, _CELLS, _CELLS_OF_FINER = 0.06, 1.0, 1.5
"""An end that is off by less than this part of the input, or than so many cells, is where it should
be: strides alone shift centres by up to half a cell, and the fit is not exact. A coarser grid must
differ by more from what a finer one shows, which is measured more exactly."""

_TIE = 1e-4
"""Errors that differ by less are equal."""

_NARROW = 0.75
"""Cells are narrow enough to show where they lie if the greatest share of a band is at least this,
on average."""


class Fit(NamedTuple):
    """What the bands show along one axis.

    Attributes:
        start: Where the grid starts, as a part of the input.
        stop: Where it ends.
        clear: Whether the cells are narrow enough for a reliable fit.
    """

    start: float
    stop: float
    clear: bool


def fit_extent(
    responses: Tensor, grid: tuple[int, int], finer: Sequence[Ends | None] = (None, None)
) -> tuple[Fit, Fit]:
    """Fits the part of the input that a grid covers.

    Args:
        responses: ``(2 * BANDS, rows, cols)``: how much each cell changes by each disturbance,
            first of the copies with horizontal bands disturbed, then of those with vertical ones.
        grid: Rows and columns of the grid, of which these may be ``sampled`` ones.
        finer: What a finer grid covers that it is a stride coarser than, along each axis: it is
            measured more exactly. None if there is no such grid.

    Returns:
        One fit for the rows and one for the columns.
    """
    responses = responses.cpu().double()
    return (
        _fit_axis(responses[:BANDS].square().mean(dim=2), grid[0], finer[0]),
        _fit_axis(responses[BANDS:].square().mean(dim=1), grid[1], finer[1]),
    )


def follows(side: int, finer: int) -> bool:
    """Whether a grid's side is a finer one's divided by a stride, but for a border of a kernel."""
    return any(abs(finer / stride - side) <= 1 + 1 / stride for stride in range(1, finer + 1))


def _fit_axis(energy: Tensor, side: int, finer: Ends | None) -> Fit:
    """The fit of ``(BANDS, cells)``; noise adds up by squares, so windows add up the energy."""
    cells, expected = energy.shape[1], finer or WHOLE
    total = energy.sum(dim=0)
    seen = total > 1e-6 * total.max()  # a border of zeros shows nothing
    if cells < 4 or int(seen.sum()) < 4:
        return Fit(*expected, clear=False)
    share = (energy / total.clamp_min(1e-30))[:, seen].float()
    if float(share.amax(dim=0).mean()) < _NARROW:
        return Fit(*expected, clear=False)
    looked_at = range(side) if cells == side else range(side)[sampled(side)]
    places = tuple((looked_at[cell] + 0.5) / side for cell in seen.nonzero().flatten().tolist())
    poor = 1.0
    for ends in dict.fromkeys((expected, WHOLE)):
        shifted = _errors(share, _windows(places, _shifted(ends, side)))
        poor = min(poor, float(shifted.min()))
        if poor < _POOR:
            return Fit(*ends, clear=True)
    whole = float(shifted[len(shifted) // 2])
    errors = _errors(share, _windows(places, _EXTENTS))
    minimum = float(errors.min())
    if minimum > _BETTER * poor:
        return Fit(*expected, clear=minimum <= _BETTER * whole)
    # Few cells are fitted by several extents alike.
    near = torch.tensor(_EXTENTS)[errors <= 1.1 * minimum + _TIE]
    centre, length = near.mean(dim=0).tolist()
    start, stop = centre - length / 2, centre + length / 2
    off = max(abs(start - expected[0]), abs(stop - expected[1]))
    if off < max(_FAR, (_CELLS_OF_FINER if finer else _CELLS) * length / side):
        return Fit(*expected, clear=True)
    return Fit(start, stop, clear=True)


def _errors(share: Tensor, windows: Tensor) -> Tensor:
    """The mean squared errors of extents, of the best width each.

    In every cell the bands' shares add up to 1, and so do those of a window, so that the error
    follows from three sums of products.
    """
    cells = share.shape[1]
    size = windows.square().sum(dim=-1)
    both = windows @ share.flatten()
    # Cells may answer to everything a little, too.
    rest = size - cells / BANDS
    even = ((size - both) / rest.clamp_min(1e-9)).clamp(0, 0.5)
    gap = share.square().sum() - 2 * both + size
    return ((gap - even * (2 * (size - both) - even * rest)) / cells).amin(dim=0)


@lru_cache(maxsize=4)
def _windows(places: tuple[float, ...], extents: tuple[tuple[float, float], ...]) -> Tensor:
    """How much of each cell's window lies in each band, by width and extent.

    Args:
        places: The cells' centres on the grid, in [0, 1].
        extents: Centres and lengths.

    Returns:
        ``(widths, extents, BANDS * cells)``.
    """
    tried, place = torch.tensor(extents), torch.tensor(places) - 0.5
    middle = (tried[:, :1] + tried[:, 1:] * place).clamp(0, 1)  # a border reflects what is near it
    edges = torch.arange(BANDS)[None, :, None] / BANDS
    found = []
    for width in _WIDTHS:
        low, high = (middle - width / 2).clamp_min(0), (middle + width / 2).clamp_max(1)
        inside = (high[:, None] - edges).clamp(0, 1 / BANDS)
        inside -= (low[:, None] - edges).clamp(0, 1 / BANDS)
        found.append((inside / (high - low)[:, None]).flatten(1))
    return torch.stack(found)


def _shifted(ends: Ends, side: int) -> tuple[tuple[float, float], ...]:
    """An extent, in the middle of those that lie up to half a cell beside it."""
    centre, length = (ends[0] + ends[1]) / 2, ends[1] - ends[0]
    return tuple((centre + eighth / 8 * length / side, length) for eighth in range(-4, 5))
