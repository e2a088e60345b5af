"""Maps as numbers: widened to float32, scaled to [0, 1], and checked."""

from __future__ import annotations

import torch
from torch import Tensor

from cam_hub.errors import InvalidArgument, NoMap

__all__ = [
    "FLAT_ROUNDINGS",
    "as_float",
    "by_maximum",
    "check_map",
    "normalise",
]


def as_float(tensor: Tensor) -> Tensor:
    """The tensor outside any graph, in float32 or, if it has more precision, as it is.

    float16 and bfloat16 are widened: squares, cubes and sums over a grid leave their range soon.

    Args:
        tensor: Any shape, any real type.

    Returns:
        The same values. It may share memory with ``tensor``, so it must not be written to.
    """
    return tensor.detach().to(torch.promote_types(tensor.dtype, torch.float32))


# A map whose values differ by no more than this many roundings is flat: stretched to [0, 1], its
# rounding errors would pass for a pattern.
FLAT_ROUNDINGS = 8


def by_maximum(maps: Tensor) -> Tensor:
    """``M / max M``, per sample; 0 keeps its meaning "no evidence for the class".

    Args:
        maps: ``(B, *grid)``, at least 0.

    Returns:
        ``(B, *grid)`` in [0, 1], with the exact maximum 1; a map of zeros stays zero. A sample
        that is not finite gives NaN.

    Raises:
        InvalidArgument: The maps lack a grid.
    """
    maps = as_float(maps)
    peak = maps.amax(dim=_grid_axes(maps), keepdim=True)
    return torch.where(peak == 0, 0.0, maps / peak)


def normalise(maps: Tensor) -> Tensor:
    """``(M - min M) / (max M - min M)``, per sample.

    Args:
        maps: ``(B, *grid)``, any sign.

    Returns:
        ``(B, *grid)`` in [0, 1], with the exact minimum 0 and maximum 1. A flat map, one whose
        values are equal but for rounding, gives zeros. A sample that is not finite gives NaN
        somewhere, which :func:`check_map` refuses.

    Raises:
        InvalidArgument: The maps lack a grid.
    """
    maps = as_float(maps)
    axes = _grid_axes(maps)
    low, high = maps.amin(dim=axes, keepdim=True), maps.amax(dim=axes, keepdim=True)
    return torch.where(_flat(low, high), 0.0, (maps - low) / (high - low))


def check_map(cam: Tensor, layer: str | None = None) -> None:
    """Refuse a map that would be blank or false on the picture.

    Args:
        cam: One sample's un-normalised map, any shape.
        layer: The layer it comes from, for the message.

    Raises:
        NoMap: A value is not finite, all are zero, all are equal, or there is none.
    """
    cam = as_float(cam)
    positions = cam.numel()
    if positions == 0:
        raise NoMap("the map has no positions. Try another layer.", layer)
    if broken := positions - int(cam.isfinite().sum()):
        raise NoMap(
            f"{broken} of {positions} positions are NaN or infinite, as happens when half "
            "precision overflows or the weights are broken. Try float32 or another layer.",
            layer,
        )
    low, high = cam.min(), cam.max()
    if low == high == 0:
        raise NoMap(
            "no position at this layer is evidence for the class: the map is zero everywhere. "
            "Either the score does not depend on these positions, or all of them are evidence "
            "against the class. Try another layer, method or class.",
            layer,
        )
    if _flat(low, high):
        raise NoMap(
            f"all {positions} positions are equal evidence for the class ({float(high):.3g}), so "
            "that the map points nowhere. Try a layer with a finer grid, or another method.",
            layer,
        )


def _flat(low: Tensor, high: Tensor) -> Tensor:
    span = high - low
    largest = torch.maximum(low.abs(), high.abs())
    # An infinite span does not exceed its own rounding, but is far from flat.
    return (span <= FLAT_ROUNDINGS * torch.finfo(span.dtype).eps * largest) & span.isfinite()


def _grid_axes(maps: Tensor) -> tuple[int, ...]:
    if maps.ndim < 2:
        raise InvalidArgument("maps", tuple(maps.shape), "the shape (batch, *grid)")
    return tuple(range(1, maps.ndim))
