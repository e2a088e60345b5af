"""Eigen-CAM, whose map is the first principal component over the positions of a layer."""

from __future__ import annotations

import torch
from torch import Tensor

from cam_hub.methods.evidence import Evidence, as_float
from cam_hub.methods.gradient_cams import paired
from cam_hub.methods.registry import METHODS, Method

__all__ = ["eigencam", "principal_projection"]


def principal_projection(values: Tensor) -> Tensor:
    """The projection of all positions onto the first principal component of their channels.

    With X the values of a sample as a matrix ``(positions, channels)``, not centred, and v its
    first right singular vector: ``X v``.

    The sign of a singular vector is arbitrary. Here the projection sums to at least 0 over the
    positions. Without negative values, v and the whole projection are at least 0 (Perron and
    Frobenius).

    Args:
        values: ``(B, C, *grid)``.

    Returns:
        ``(B, *grid)``, of both signs, at least float32; NaN for a sample that is not finite.
    """
    values = as_float(values)
    # Double precision for sums of products; on the CPU, since not every device has it.
    matrix = values.flatten(2).mT.cpu().double()  # X, (B, P, C)
    finite = matrix.isfinite().all(dim=2).all(dim=1)
    matrix = matrix.nan_to_num(0.0, 0.0, 0.0)
    size = matrix.abs().amax(dim=(1, 2), keepdim=True)
    matrix = matrix / torch.where(size > 0, size, 1.0)  # so that no square leaves the range
    positions, channels = matrix.shape[1:]
    if channels <= positions:
        direction = torch.linalg.eigh(matrix.mT @ matrix).eigenvectors[..., -1:]
        projection = matrix @ direction
    else:  # X Xᵀ is smaller than Xᵀ X, and has the same eigenvalues
        eigen = torch.linalg.eigh(matrix @ matrix.mT)
        singular = eigen.eigenvalues[..., -1:, None].clamp(min=0).sqrt()
        projection = singular * eigen.eigenvectors[..., -1:]
    positive = projection.sum(dim=1, keepdim=True) >= 0
    projection = torch.where(positive, projection, -projection) * size
    projection[~finite] = torch.nan
    return projection.reshape(values[:, 0].shape).to(values)


def eigencam(activation: Tensor) -> Tensor:
    """Eigen-CAM (Muhammad & Yeasin 2020).

    ``M = ReLU(A v)`` with A as a matrix of positions and channels, and v its first right singular
    vector, see :func:`principal_projection`. The gradient is not used: the map is the same for all
    classes.

    The paper has no ReLU. Without negative activations it has no effect. pytorch-grad-cam subtracts
    the mean of each channel first, which the paper does not, and leaves the sign to the
    decomposition. torchcam 0.5 does not have the method.

    Args:
        activation: A, ``(B, C, *grid)``.

    Returns:
        M, ``(B, *grid)``, at least 0, un-normalised, at least float32.
    """
    return torch.relu(principal_projection(activation))


def _compute_eigencam(evidence: Evidence) -> Tensor:
    activation, _ = paired(evidence.activation, evidence.gradient)  # checks the shapes
    return eigencam(activation)


METHODS.register(
    Method(
        name="eigencam",
        title="Eigen-CAM",
        paper=(
            "Muhammad & Yeasin 2020. Eigen-CAM: Class Activation Map using Principal Components. "
            "IJCNN."
        ),
        url="https://arxiv.org/abs/2008.00299",
        needs_noise=False,
        compute=_compute_eigencam,
        summary=(
            "The strongest common pattern of the activations: where something is, but the same map "
            "for every class."
        ),
        class_specific=False,
    )
)
