"""Whether a layer is on the image: redraws a quadrant of the input and compares the changes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import product

import torch
from torch import Tensor

__all__ = ["DRAWS", "Quadrants", "judge_quadrants", "lies_on_image"]

DRAWS = 6
"""The maximum number of times that the texture of a quadrant is redrawn, each time in another
image; the changes are averaged. Margins deviate by 0.05 to 0.1 between images."""

CLEAR = 0.25
"""Beyond this margin in all quadrants, further draws would not change the result; after n draws, an
n-th of it is enough."""

NAMES = ("top left", "top right", "bottom left", "bottom right")


@dataclass(frozen=True)
class Quadrants:
    """The changes of a layer's quadrants in response to those of the input.

    Attributes:
        margins: For each quadrant of the input (NAMES), the change of the same quadrant of the
            layer compared with the largest change of another one: ``(own - other) / max(own,
            other)``, in [-1, 1]. If the check passes, this is ``(own - other) / own``.
    """

    margins: tuple[float, ...]

    @property
    def worst(self) -> float:
        """The smallest margin."""
        return min(self.margins)

    @property
    def misplaced(self) -> list[str]:
        """The quadrants of the input for which another quadrant changed at least as much."""
        # NaN must count as misplaced, so the condition states what must hold.
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

    An image is white noise of variance 1, and differs between draws. One quadrant is redrawn, which
    changes neither its mean nor its variance: changes that networks compute from statistics alone
    (squeeze and excitation, global attention) remain as small as possible.

    Args:
        activation: Maps an input ``(1, *input_size)`` to the output of the layer, with the axes of
            an image: ``(channels, …, rows, cols)``.
        input_size: Channels, possibly time steps, rows and columns of the input.
        draws: Maximum number of independent draws per quadrant.
        clear: Magnitude of the worst margin beyond which no more draws are made; an n-th of it
            after n draws.
        seed: The seed of all noise.
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
        changes: ``(4, rows, cols)``, at least 0: the change of each cell when each quadrant of the
            input (NAMES) was redrawn. The middle row or column of an odd number belongs to no
            quadrant. A single row has no top and bottom: both quadrants of a side are then the same
            cells, and are not compared with each other.
    """
    rows, cols = _halves(changes.shape[1]), _halves(changes.shape[2])
    areas = list(product(rows, cols))
    margins = []
    for change, area in zip(changes, areas, strict=True):
        own = float(change[area].mean())
        others = [float(change[other].mean()) for other in areas if other != area]
        other = max(others, default=own)  # a single cell has no quadrants
        greater = max(own, other)
        margins.append((own - other) / greater if greater > 0 else 0.0)
    return Quadrants(tuple(margins))


def _halves(length: int) -> tuple[slice, slice]:
    """The first and the last half of an axis, without its middle; a single cell counts twice."""
    half = max(1, length // 2)
    return slice(0, half), slice(length - half, length)
