"""Whether each quadrant of the picture changes the same quadrant of a layer most.

The bands of the first experiment show where the cells of a layer look, on average over the cells.
A layer can follow them and still mix the picture: where some cells are stronger than others, they
respond most to any change. So where the halves of a layer hardly differ under the bands
(``Match.halves``), its quadrants are examined one by one.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise, product
from statistics import fmean
from typing import Any

import torch
from torch import Tensor, nn

from cam_hub.hooks.frozen_eval import frozen_eval
from cam_hub.hooks.memory import in_chunks
from cam_hub.hooks.recording import main_tensor
from cam_hub.layers.correspondence import lead
from cam_hub.layers.layouts import LAYOUTS, Arrangement, batch_first, to_maps
from cam_hub.layers.model_runner import run_observed
from cam_hub.layers.probe import Run

__all__ = ["CLEAR_HALVES", "CLEAR_QUADRANTS", "ROUNDS", "areas", "quadrant_leads"]

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
    above, beside = (_halves(side) if cut else (slice(0, side),) for side, cut in sides)
    return list(product(above, beside))


def _halves(length: int) -> tuple[slice, slice]:
    half = max(1, length // 2)
    return slice(0, half), slice(length - half, length)
