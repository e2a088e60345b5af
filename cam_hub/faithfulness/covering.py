"""Which pixels a map marks, what covers them, and the maps that serve as baselines."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Final

import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d, interpolate, pad

from cam_hub.errors import InvalidArgument

__all__ = [
    "DEFAULT_SHARE",
    "blurred",
    "centred_gaussian",
    "cover",
    "elsewhere",
    "hottest",
    "mean_colour",
    "random_map",
    "soft_mask",
]

DEFAULT_SHARE: Final = 0.15
"""The share of the input that is covered."""

_EDGE = 0.04
"""Width of a cover's soft edge, relative to the shorter side: a hard edge is an object of its own
for many networks."""

_BLUR = 1 / 14
"""Side of the squares over which a cover averages, relative to the shorter side: colours and
brightness stay, shapes and textures vanish."""

_SHIFTS = 64
"""So many shifted copies of a mask are compared for the one with the least overlap."""


def hottest(heat: Tensor, share: float = DEFAULT_SHARE) -> Tensor:
    """The hottest pixels of maps: a given share of them, but none without heat.

    Args:
        heat: ``(N, *sides)``, finite.
        share: Their share of all pixels, in (0, 1].

    Returns:
        ``(N, *sides)`` bool. Where fewer pixels are above zero, only these: what a map leaves at
        zero it does not mark. Of equal pixels at the limit, the first ones in memory are taken.

    Raises:
        InvalidArgument: If ``share`` is not in (0, 1], or the maps have no sides.
    """
    if not 0 < share <= 1:
        raise InvalidArgument("share", share, "a number above 0 and at most 1")
    if heat.ndim < 2:
        raise InvalidArgument("heat", tuple(heat.shape), "the shape (maps, *sides)")
    flat = heat.flatten(1)
    count = max(1, round(share * flat.shape[1]))
    order = flat.argsort(dim=1, descending=True, stable=True)[:, :count]
    mask = torch.zeros_like(flat, dtype=torch.bool).scatter_(1, order, True)
    return (mask & (flat > 0)).view(heat.shape)


def soft_mask(mask: Tensor) -> Tensor:
    """Masks with a soft edge.

    Args:
        mask: ``(N, *sides)`` bool; the last two sides are rows and columns.

    Returns:
        Float32 of the same shape in [0, 1]: the mean over squares of 4 % of the shorter side.
    """
    rows, cols = mask.shape[-2:]
    width = max(1, round(_EDGE * min(rows, cols))) | 1  # odd, so that it has a middle
    planes = mask.reshape(-1, 1, rows, cols).float()
    padded = pad(planes, (width // 2,) * 4, mode="replicate")
    return avg_pool2d(padded, width, stride=1).view(mask.shape)


def blurred(image: Tensor) -> Tensor:
    """An image without shapes and textures: the mean colours of a coarse grid, interpolated.

    Args:
        image: ``(N, C, *sides)``; the last two sides are rows and columns.

    Returns:
        The same shape and type.
    """
    rows, cols = image.shape[-2:]
    side = max(1, round(_BLUR * min(rows, cols)))
    planes = image.reshape(-1, 1, rows, cols)
    coarse = avg_pool2d(planes, side, ceil_mode=True, count_include_pad=False)
    fine = interpolate(coarse, (rows, cols), mode="bilinear", align_corners=False)
    return fine.view(image.shape)


def mean_colour(image: Tensor) -> Tensor:
    """An image of one colour: the mean of each channel.

    Args:
        image: ``(N, C, *sides)``.

    Returns:
        The same shape.
    """
    return (
        image.flatten(2)
        .mean(dim=2)
        .view(*image.shape[:2], *[1] * (image.ndim - 2))
        .expand_as(image)
    )


def cover(image: Tensor, masks: Tensor, filling: Tensor) -> Tensor:
    """Copies of an image, each with other pixels covered.

    Args:
        image: ``(1, C, *sides)``.
        masks: ``(N, *sides)`` in [0, 1]: 1 covers, 0 keeps.
        filling: What appears in place of covered pixels; broadcasts with the image.

    Returns:
        ``(N, C, *sides)``.

    Raises:
        InvalidArgument: If the sides of image and masks differ.
    """
    if masks.shape[1:] != image.shape[2:]:
        expected = f"masks of the image's sides, {tuple(image.shape[2:])}"
        raise InvalidArgument("masks", tuple(masks.shape), expected)
    weight = masks[:, None].to(image)
    return image + weight * (filling - image)


def elsewhere(mask: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """The same shape at other places: copies of a mask, shifted around the edges.

    Shifts are drawn at random; those that overlap least with the mask are taken.

    Args:
        mask: ``(*sides)`` bool; rows and columns are shifted.
        count: How many copies.
        generator: On the CPU.

    Returns:
        ``(count, *sides)`` bool, each with as many pixels as the mask.
    """
    rows, cols = mask.shape[-2:]
    down = torch.randint(rows, (_SHIFTS,), generator=generator).tolist()
    right = torch.randint(cols, (_SHIFTS,), generator=generator).tolist()
    shifts = list(zip(down, right, strict=True))

    def overlap(shift: tuple[int, int]) -> int:
        return int((mask.roll(shift, dims=(-2, -1)) & mask).sum())

    shifts.sort(key=overlap)
    return torch.stack([mask.roll(shift, dims=(-2, -1)) for shift in shifts[:count]])


def centred_gaussian(sides: Sequence[int]) -> Tensor:
    """A map that knows nothing but where photographers put things: a Gaussian in the middle.

    Args:
        sides: The sides of the map; the last two are rows and columns.

    Returns:
        Float32 ``(*sides)`` in (0, 1], with a standard deviation of a quarter of each side.
    """
    rows, cols = (torch.linspace(-2, 2, side) for side in sides[-2:])
    gaussian = torch.exp(-(rows[:, None] ** 2 + cols[None] ** 2) / 2)
    return gaussian.expand(*sides).contiguous()


def random_map(sides: Sequence[int], generator: torch.Generator, grid: int = 7) -> Tensor:
    """A map that knows nothing: random values on a coarse grid, interpolated as maps are.

    Args:
        sides: The sides of the map; the last two are rows and columns.
        generator: On the CPU.
        grid: Rows and columns of the coarse grid.

    Returns:
        Float32 ``(*sides)`` in [0, 1].
    """
    planes = math.prod(sides[:-2])
    coarse = torch.rand((planes, 1, grid, grid), generator=generator)
    fine = interpolate(coarse, tuple(sides[-2:]), mode="bilinear", align_corners=False)
    return fine.reshape(*sides)
