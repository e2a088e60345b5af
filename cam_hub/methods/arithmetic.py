"""The arithmetic that methods share: sums over channels, ReLU, scaling of maps."""

from __future__ import annotations

import torch
from torch import Tensor

from cam_hub.errors import InvalidArgument, NoMap

__all__ = [
    "FLAT_ROUNDINGS",
    "as_float",
    "by_maximum",
    "check_map",
    "grid_sum",
    "normalise",
    "paired",
    "ratio_or_zero",
    "weighted_map",
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


def paired(activation: Tensor, gradient: Tensor, name: str = "gradient") -> tuple[Tensor, Tensor]:
    """Check that an activation and what was derived from it belong together; widen both.

    Args:
        activation: ``(B, C, *grid)``.
        gradient: The same shape.
        name: What to call ``gradient`` in an error.

    Returns:
        Both outside any graph, in their common type, at least float32, as by :func:`as_float`.

    Raises:
        InvalidArgument: The activation has no grid, or the shapes differ.
    """
    if activation.ndim < 3:
        expected = "the shape (batch, channels, *grid) with at least one grid axis"
        raise InvalidArgument("activation", tuple(activation.shape), expected)
    if gradient.shape != activation.shape:
        expected = f"the activation's shape {tuple(activation.shape)}"
        raise InvalidArgument(name, tuple(gradient.shape), expected)
    common = torch.promote_types(activation.dtype, gradient.dtype)
    common = torch.promote_types(common, torch.float32)
    return activation.detach().to(common), gradient.detach().to(common)


def grid_sum(values: Tensor) -> Tensor:
    """Sum over all positions of the grid.

    Args:
        values: ``(B, C, *grid)``.

    Returns:
        ``(B, C, 1, …)``: one number per channel, which broadcasts against the grid.
    """
    return values.sum(dim=tuple(range(2, values.ndim)), keepdim=True)


def ratio_or_zero(numerator: Tensor, denominator: Tensor, terms: Tensor) -> Tensor:
    """Divide, and give 0 where the denominator vanishes.

    A denominator that is a sum of terms with both signs may cancel. Within a few roundings of
    those terms nothing is left of it but noise, and the quotient would be an arbitrary, huge
    number or NaN.

    Args:
        numerator: Any shape.
        denominator: A shape that broadcasts with ``numerator``.
        terms: Sum of the absolute values of the denominator's terms, of the denominator's shape.

    Returns:
        The quotient; finite if the arguments are and the quotient fits the type.
    """
    smallest = 4 * torch.finfo(denominator.dtype).eps * terms
    return torch.where(denominator.abs() > smallest, numerator / denominator, 0.0)


def weighted_map(weights: Tensor, activation: Tensor) -> Tensor:
    """``ReLU(Σ_k w_k A_k)``, the sum over channels with which every CAM ends.

    Args:
        weights: One per channel, ``(B, C, 1, …)``, or per channel and position, ``(B, C, *grid)``.
        activation: ``(B, C, *grid)``.

    Returns:
        The map, ``(B, *grid)``, at least 0.
    """
    # Not a matrix product: autocast and TF32 would compute that in less than float32.
    return torch.relu((weights * activation).sum(dim=1))


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
