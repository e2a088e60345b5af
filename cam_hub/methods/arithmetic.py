"""The few operations on tensors that all methods are made of.

Shapes throughout: activations and gradients ``(B, C, *grid)``, weights that broadcast against
them, maps ``(B, *grid)``. A grid is usually (rows, cols), but may have any number of axes.
"""

import torch
from torch import Tensor

from cam_hub.errors import InvalidArgument

__all__ = ["as_float", "grid_sum", "paired", "ratio_or_zero", "weighted_map"]


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
        Both after :func:`as_float`.

    Raises:
        InvalidArgument: The activation has no grid, or the shapes differ.
    """
    if activation.ndim < 3:
        expected = "the shape (batch, channels, *grid) with at least one grid axis"
        raise InvalidArgument("activation", tuple(activation.shape), expected)
    if gradient.shape != activation.shape:
        expected = f"the activation's shape {tuple(activation.shape)}"
        raise InvalidArgument(name, tuple(gradient.shape), expected)
    return as_float(activation), as_float(gradient)


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
