"""Composed images whose evidence is known: sprites on photos and noise, with the masks of all."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import affine_grid, grid_sample, interpolate

__all__ = ["CLASSES", "SIDE", "Composed", "World"]

CLASSES = 20
"""So many sprites are classes; the others distract."""

SIDE = 224
"""Rows and columns of an image."""

_QUARTERS = ((-0.5, -0.5), (0.5, -0.5), (-0.5, 0.5), (0.5, 0.5))
"""The centres of the four places for objects, in [-1, 1]: objects overlap little."""

_DISTRACTORS = (0.7, 0.3)
"""How often there is a first and a second object that belongs to no class."""


@dataclass(frozen=True)
class Composed:
    """Images and what is on them.

    Attributes:
        images: ``(N, 3, SIDE, SIDE)``, normalised to mean 0.5 and standard deviation 0.5.
        classes: ``(N, 2)``; -1 for a second object that is not there.
        masks: ``(N, 2, SIDE, SIDE)`` bool: the visible part of each object.
    """

    images: Tensor
    classes: Tensor
    masks: Tensor


class World:
    """Composes images; the same seed gives the same ones.

    Args:
        folder: Where ``sprites.npz`` is.
    """

    def __init__(self, folder: Path) -> None:
        with np.load(folder / "sprites.npz") as found:
            sprites, photos = (torch.from_numpy(found[name]) for name in ("sprites", "photos"))
        self._sprites = sprites.permute(0, 3, 1, 2).float() / 255
        self._photos = photos.permute(0, 3, 1, 2).float() / 255

    def compose(self, count: int, seed: int, *, two: bool | None = None) -> Composed:
        """Composes images.

        Args:
            count: How many.
            seed: Of everything that is drawn.
            two: Whether each has two objects of different classes; None for half of them.
        """
        generator = torch.Generator().manual_seed(seed)

        def uniform(*shape: int) -> Tensor:
            return torch.rand(shape, generator=generator)

        def whole(limit: int, *shape: int) -> Tensor:
            return torch.randint(limit, shape, generator=generator)

        ground = self._photos[whole(len(self._photos), count)]
        down, right = whole(ground.shape[-1] - SIDE + 1, 2).tolist()
        ground = ground[:, :, down : down + SIDE, right : right + SIDE]
        ground = torch.where(uniform(count, 1, 1, 1) < 0.5, ground, ground.flip(3))
        noise = interpolate(uniform(count, 3, 7, 7), (SIDE, SIDE), mode="bicubic").clamp(0, 1)
        share = uniform(count, 1, 1, 1)
        images = (ground * share + noise * (1 - share)) * (0.4 + 0.6 * uniform(count, 1, 1, 1))
        first = whole(CLASSES, count)
        second = (first + 1 + whole(CLASSES - 1, count)) % CLASSES
        both = uniform(count) < 0.5 if two is None else torch.full((count,), two)
        order = uniform(count, 4).argsort(1)
        shown = [(first, torch.ones_like(both)), (second, both)]
        others = len(self._sprites) - CLASSES
        shown += [
            (CLASSES + whole(others, count), uniform(count) < often) for often in _DISTRACTORS
        ]
        centres = torch.tensor(_QUARTERS)
        masks: list[Tensor] = []
        for place, (sprite, there) in enumerate(shown):
            half = 0.22 + 0.22 * uniform(count)
            centre = centres[order[:, place]] + (uniform(count, 2) - 0.5) * 0.3
            colours, alpha = self._placed(sprite, centre, half, uniform)
            visible = there[:, None, None, None].float()
            colours, alpha = colours * visible, alpha * visible
            images = images * (1 - alpha) + colours
            masks = [mask * (1 - alpha) for mask in masks] + [alpha]
        classes = torch.stack([first, torch.where(both, second, -1)], 1)
        grain = 0.03 * torch.randn(images.shape, generator=generator)
        images = ((images + grain).clamp(0, 1) - 0.5) / 0.5
        return Composed(images, classes, torch.cat(masks[:2], 1) > 0.5)

    def _placed(
        self, sprite: Tensor, centre: Tensor, half: Tensor, uniform: Callable[..., Tensor]
    ) -> tuple[Tensor, Tensor]:
        """Sprites, turned, mirrored, tinted and put in place: premultiplied colours, and alpha."""
        count = len(sprite)
        angle = (uniform(count) - 0.5) * 1.2
        cosine, sine = angle.cos(), angle.sin()
        mirror = torch.where(uniform(count) < 0.5, -1.0, 1.0)
        rows = torch.stack(
            [
                torch.stack([mirror * cosine / half, mirror * -sine / half], 1),
                torch.stack([sine / half, cosine / half], 1),
            ],
            1,
        )
        shift = -(rows @ centre[:, :, None])
        chosen = self._sprites[sprite]
        tint = 0.7 + 0.6 * uniform(count, 3, 1, 1)
        colours = (chosen[:, :3] * tint).clamp(0, 1) * chosen[:, 3:]
        grid = affine_grid(torch.cat([rows, shift], 2), [count, 4, SIDE, SIDE], align_corners=False)
        placed = grid_sample(torch.cat([colours, chosen[:, 3:]], 1), grid, align_corners=False)
        return placed[:, :3], placed[:, 3:]
