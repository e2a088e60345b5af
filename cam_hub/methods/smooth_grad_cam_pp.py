"""Smooth Grad-CAM++: Grad-CAM++ with derivatives averaged over noisy copies of the image."""

import torch
from torch import Tensor

from cam_hub.errors import InvalidArgument
from cam_hub.methods.arithmetic import as_float, grid_sum, paired, ratio_or_zero, weighted_map
from cam_hub.methods.evidence import Evidence, Moments
from cam_hub.methods.registry import METHODS, Method

__all__ = ["smoothgradcampp", "smoothgradcampp_weights"]


def smoothgradcampp(activation: Tensor, moments: Moments, eps: float = 1e-8) -> Tensor:
    """Smooth Grad-CAM++ (Omeiza et al. 2019).

    ``M = ReLU(Σ_k w_k A^k)``, with the weights of :func:`smoothgradcampp_weights` and A of the
    clean image, which is the one to be explained.

    torchcam 0.5 differs here: its hooks overwrite A during the noisy passes, so the last noisy
    copy's activations enter this sum, though the clean ones enter the weights.

    Args:
        activation: A, ``(B, C, *grid)``.
        moments: D1, D2 and D3: means over the noisy copies of the class score's derivative by A,
            of its square and of its cube, each of the same shape.
        eps: Added to the weights' denominator.

    Returns:
        M, ``(B, *grid)``, at least 0, un-normalised, at least float32.

    Raises:
        InvalidArgument: The shapes do not fit.
    """
    weights = smoothgradcampp_weights(activation, moments, eps)
    return weighted_map(weights, as_float(activation))


def smoothgradcampp_weights(activation: Tensor, moments: Moments, eps: float = 1e-8) -> Tensor:
    """The weights of Smooth Grad-CAM++, one per channel.

    ``α_ij^k = D2_ij^k / (2 D2_ij^k + Σ_ab A_ab^k D3_ab^k + eps)``, and 0 where the denominator
    vanishes; ``w_k = Σ_ij α_ij^k ReLU(D1_ij^k)``.

    The paper prints D1 in α's numerator. D2 stands there in Grad-CAM++, which the method builds
    on, and torchcam corrects it likewise. As in torchcam, too, the sum takes A and D3 at the
    same position (Grad-CAM++ proper sums A alone), and eps is absolute: gradients below about
    ``sqrt(eps)`` count for less. Where negative gradients outweigh, as they do in many channels
    of inner layers, that sum is negative, and α may have any sign and size.

    torchcam 0.5 gives the same weights for one noisy copy. For several it takes the ReLU of the
    last copy's gradient, where the paper, and this function, take it of the mean D1.

    Args:
        activation: A of the clean image, ``(B, C, *grid)``.
        moments: D1, D2 and D3, each of the same shape. Gradients up to about 1e12 keep their
            cubes within float32.
        eps: Added to the denominator.

    Returns:
        ``(B, C, 1, …)``, any sign, at least float32.

    Raises:
        InvalidArgument: The shapes do not fit.
    """
    activation, first = paired(activation, moments.first, "moments")
    second, third = as_float(moments.second), as_float(moments.third)
    curvature = grid_sum(activation * third)
    twice = 2 * second
    terms = (twice + curvature.abs()).add_(abs(eps))
    alpha = ratio_or_zero(second, twice.add_(curvature).add_(eps), terms)
    return grid_sum(alpha.mul_(torch.relu(first)))


def _compute(evidence: Evidence) -> Tensor:
    if evidence.noisy is None:
        expected = "the moments of the gradients at noisy copies, which Smooth Grad-CAM++ needs"
        raise InvalidArgument("evidence.noisy", None, expected)
    return smoothgradcampp(evidence.activation, evidence.noisy)


METHODS.register(
    Method(
        name="smoothgradcampp",
        title="Smooth Grad-CAM++",
        paper=(
            "Omeiza et al. 2019. Smooth Grad-CAM++: An Enhanced Inference Level Visualization "
            "Technique for Deep Convolutional Neural Network Models. IntelliSys."
        ),
        url="https://arxiv.org/abs/1908.01224",
        needs_noise=True,
        compute=_compute,
        summary=(
            "Grad-CAM++ averaged over noisy copies of the photo: "
            "calmer, at the cost of a pass each."
        ),
    )
)
