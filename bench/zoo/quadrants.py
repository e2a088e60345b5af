"""Does a layer lie on the image? Redraws one quadrant of the input and looks which one answers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import product

import torch
from torch import Tensor

__all__ = ["DRAWS", "Quadrants", "judge_quadrants", "lies_on_image"]

DRAWS = 6
"""How often the texture of a quadrant is redrawn at most, each time in another image; the changes
are averaged. From one image to the next, margins deviate by 0.05 to 0.1."""

CLEAR = 0.25
"""Beyond this margin in all quadrants no further draw would say otherwise; beyond an n-th of it
after n draws."""

NAMES = ("top left", "top right", "bottom left", "bottom right")


@dataclass(frozen=True)
class Quadrants:
    """How the quadrants of a layer answered to those of the input.

    Attributes:
        margins: For each quadrant of the input (NAMES), how much more the same quadrant of the
            layer changed than the other that changed most: ``(own - other) / max(own, other)``,
            in [-1, 1]. Where the check holds, that is ``(own - other) / own``.
    """

    margins: tuple[float, ...]

    @property
    def worst(self) -> float:
        """The least of the margins."""
        return min(self.margins)

    @property
    def misplaced(self) -> list[str]:
        """The quadrants of the input to which another quadrant answered as much or more."""
        # A margin that is no number is no answer either, so this asks for what must hold.
        return [name for name, margin in zip(NAMES, self.margins, strict=True) if not margin > 0]


def lies_on_image(
    activation: Callable[[Tensor], Tensor],
    input_size: tuple[int, ...],
    *,
    draws: int = DRAWS,
    clear: float = CLEAR,
    seed: int = 1,
) -> Quadrants:
    """Redraws each quadrant of noise images and compares where a layer changes.

    An image is white noise of variance 1, another one for each draw. Within one quadrant it is
    drawn anew, which changes neither its mean nor its variance: what a network learns from
    statistics alone (squeeze and excitation, global attention) moves as little as can be.

    Args:
        activation: Gives, for an input ``(1, *input_size)``, what the layer puts out, laid out
            as the image is: ``(channels, …, rows, cols)``.
        input_size: Channels, perhaps time steps, rows and columns of the input.
        draws: Independent draws per quadrant, at most.
        clear: Size of the worst margin beyond which no more are made; an n-th of it after n draws.
        seed: Of all noise.
    """
    generator = torch.Generator().manual_seed(seed)
    changes: Tensor | float = 0.0
    for draw in range(1, draws + 1):
        clean = torch.randn((1, *input_size), generator=generator)
        before = activation(clean)
        moved = []
        for rows, cols in product(_halves(clean.shape[-2]), _halves(clean.shape[-1])):
            noisy = clean.clone()
            quadrant = noisy[..., rows, cols]
            quadrant.copy_(torch.randn(quadrant.shape, generator=generator))
            change = (activation(noisy) - before).double().abs().cpu()
            moved.append(change.flatten(end_dim=-3).mean(dim=0))
        changes = changes + torch.stack(moved)
        found = judge_quadrants(changes / draw)
        if abs(found.worst) > clear / draw:
            break
    return found


def judge_quadrants(changes: Tensor) -> Quadrants:
    """Compares the quadrants of a layer's change.

    Args:
        changes: ``(4, rows, cols)``, at least 0: how much each cell changed when each quadrant
            of the input (NAMES) was redrawn. The middle row or column of an odd number belongs
            to no quadrant. A single row has no top and bottom: both quadrants of a side are then
            the same cells, and are not compared with each other.
    """
    rows, cols = _halves(changes.shape[1]), _halves(changes.shape[2])
    areas = list(product(rows, cols))
    margins = []
    for change, area in zip(changes, areas, strict=True):
        own = float(change[area].mean())
        others = [float(change[other].mean()) for other in areas if other != area]
        other = max(others, default=own)  # a single cell: everything is everywhere
        greater = max(own, other)
        margins.append((own - other) / greater if greater > 0 else 0.0)
    return Quadrants(tuple(margins))


def _halves(length: int) -> tuple[slice, slice]:
    """The first and the last half of an axis, without its middle; twice all of a single cell."""
    half = max(1, length // 2)
    return slice(0, half), slice(length - half, length)
