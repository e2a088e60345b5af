"""How the cells of a layer correspond to places of the input, by disturbing parts of it.

**Bands.** How well a change of activations follows the bands of the input that were disturbed.

**Extent.** A grid mostly covers the input: its first row lies at the top, its last one at the
bottom. Where the network cuts off a border, it covers less; where it adds one, more. A correlation
of places is the same in each case. So a cell is modelled as a window of some width, whose centre
runs along with the cell's place, and the windows' offset and scale are fitted to how the cells
answer to the bands.

**Quadrants.** The bands show where the cells of a layer look, on average over the cells. A layer
can follow them and still mix the picture: where some cells are stronger than others, they respond
strongly to any change. So where the halves of a layer hardly differ under the bands
(``Match.halves``), its quadrants are examined one by one.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from itertools import pairwise, product
from statistics import fmean
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from cam_hub.hooks.frozen_eval import frozen_eval
from cam_hub.hooks.memory import in_chunks
from cam_hub.hooks.recording import main_tensor
from cam_hub.layers.layouts import LAYOUTS, Arrangement, batch_first, to_maps
from cam_hub.layers.model_runner import Run, run_observed

__all__ = [
    "BANDS",
    "CLEAR_HALVES",
    "CLEAR_QUADRANTS",
    "FEW_CELLS",
    "NONE",
    "ROUNDS",
    "SELECTIVE",
    "Ends",
    "Match",
    "areas",
    "fit_extent",
    "follows",
    "lead",
    "match_all",
    "quadrant_leads",
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


def match_all(responses: Tensor, *, lines: bool = True, borders: bool = False) -> list[Match]:
    """How well changes follow the bands, each under one reading, on grids of one size.

    Args:
        responses: ``(N, 2 * BANDS, 2, rows, cols)``, the ``sizes`` of each disturbance: first of
            the copies with horizontal bands disturbed, then of those with vertical ones.
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


CLEAR_HALVES, CLEAR_QUADRANTS = 0.2, 0.25
"""Halves that lead by this much under the bands leave no doubt, nor do quadrants that lead by this
much in one round, or by an n-th of it on average over n rounds."""

ROUNDS = 6
"""How often each quadrant is redrawn at most, each time in another picture. From one picture to the
next the lead of a layer's quadrants deviates by 0.05 to 0.1: a single one decides nothing."""

Area = tuple[slice, slice]
Place = tuple[tuple[int, ...], Arrangement]


def quadrant_leads(
    module: nn.Module,
    clean: Tensor,
    run: Run,
    layers: Mapping[str, Place],
    *,
    at_once: int = 4,
    seed: int = 0,
) -> Iterator[dict[str, float]]:
    """Redraws one quadrant of the picture after the other and compares where layers change.

    The pictures are noise of the same kind as the clean input. Each step redraws one quadrant of
    the picture before it, which changes neither its mean nor its variance; after a round of four
    the picture is an entirely new one. So the result of one round does not depend on the picture
    of another.

    Args:
        module: The model.
        clean: The first picture, ``(1, channels, …, rows, cols)``, drawn from the standard
            normal distribution.
        run: How to run the model on a batch of them.
        layers: The layers, with the shape of each one's last output for one image and how that
            lies on the image.
        at_once: How many pictures run at once, besides the one that the first is compared with.
        seed: Seed of the noise.

    Yields:
        After each of ``ROUNDS`` rounds, which takes five passes or a few more, the least lead of a
        quadrant, over all rounds so far: how much more it changed than the other that changed most
        when its own quadrant of the picture was redrawn, ``(own - other) / max(own, other)`` in
        [-1, 1]. NaN for a layer whose output does not grow with the batch.
    """
    # Another seed than the clean input and the bands were drawn with.
    generator = torch.Generator().manual_seed(seed + 15485863)
    before = clean
    changes: dict[str, list[list[list[float]]]] = {name: [] for name in layers}
    for _ in range(ROUNDS):
        steps: dict[str, list[list[float]]] = {name: [] for name in layers}
        with frozen_eval(module), torch.no_grad():
            for pictures in in_chunks(_redrawn(before, generator), at_once):
                found = _steps(module, torch.cat([before, *pictures]), run, layers)
                for name, more in found.items():
                    steps[name] += more
                before = pictures[-1]
        for name, rounds in changes.items():
            rounds.append(steps[name])
        yield {name: _smallest_lead(changes[name], layers[name][1].grid) for name in layers}


def _redrawn(picture: Tensor, generator: torch.Generator) -> Iterator[Tensor]:
    for rows, cols in areas(*picture.shape[-2:]):
        picture = picture.clone()
        quadrant = picture[..., rows, cols]
        quadrant.copy_(torch.randn(quadrant.shape, generator=generator))
        yield picture


def _steps(
    module: nn.Module, batch: Tensor, run: Run, layers: Mapping[str, Place]
) -> dict[str, list[list[float]]]:
    """How much the quadrants of each layer change from each picture of a batch to the next."""
    found: dict[str, list[list[float]]] = {}

    def visit(name: str, output: Any) -> None:
        tensor, (shape, arrangement) = main_tensor(output), layers[name]
        # A later call in the same pass replaces the result of an earlier one.
        found.pop(name, None)
        if tensor is None or tensor.ndim <= arrangement.batch_axis:
            return
        tensor = batch_first(tensor, arrangement)
        if tuple(tensor.shape) == (len(batch), *shape):
            images = torch.split(tensor, 1)
            found[name] = [_change(*pair, arrangement) for pair in pairwise(images)]

    run_observed(module, batch, run, visit, layers)
    return found


def _change(before: Tensor, after: Tensor, arrangement: Arrangement) -> list[float]:
    """The mean size of the change in each quadrant."""
    size = (after - before).abs().mean(LAYOUTS[arrangement.layout].channel_axis, keepdim=True)
    # In this order: MPS has no double precision.
    maps = to_maps(size, arrangement).cpu().double()
    grid = maps.reshape(arrangement.frames, *arrangement.grid).mean(dim=0)
    return [float(grid[area].mean()) for area in areas(*arrangement.grid)]


def _smallest_lead(rounds: Sequence[Sequence[Sequence[float]]], grid: tuple[int, int]) -> float:
    """``rounds[r][i][j]`` is what redrawing quadrant i of a picture did to the layer's j."""
    quadrants = areas(*grid)
    if any(len(changes) != len(quadrants) for changes in rounds):
        return math.nan
    leads = []
    for own, changes in enumerate(zip(*rounds, strict=True)):
        change = [fmean(sizes) for sizes in zip(*changes, strict=True)]
        others = [
            size for size, area in zip(change, quadrants, strict=True) if area != quadrants[own]
        ]
        other = max(others, default=change[own])  # a single cell: everything is everywhere
        leads.append(lead(change[own], other))
    return min(leads)


def areas(rows: int, cols: int, halved: Sequence[bool] = (True, True)) -> list[Area]:
    """The four quadrants, or two halves where only one axis is halved.

    The middle row or column of an odd number belongs to none. A single row is the upper and the
    lower half at once, and is not compared with itself.
    """
    sides = zip((rows, cols), halved, strict=True)
    above, beside = (_both_halves(side) if cut else (slice(0, side),) for side, cut in sides)
    return list(product(above, beside))


def _both_halves(length: int) -> tuple[slice, slice]:
    half = max(1, length // 2)
    return slice(0, half), slice(length - half, length)
