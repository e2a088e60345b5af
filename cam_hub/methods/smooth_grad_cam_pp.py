"""Smooth Grad-CAM++: Grad-CAM++ with derivatives averaged over noisy copies of the image."""

import torch
from torch import Tensor

from cam_hub.errors import InvalidArgument
from cam_hub.methods.arithmetic import as_float, grid_sum, paired, ratio_or_zero, weighted_map
from cam_hub.methods.evidence import Evidence, Moments
from cam_hub.methods.registry import METHODS, Method

__all__ = ["smoothgradcampp", "smoothgradcampp_weights"]


def smoothgradcampp(activation: Tensor, moments: Moments) -> Tensor:
    """Smooth Grad-CAM++ (Omeiza et al. 2019).

    ``M = ReLU(Σ_k w_k A^k)``, with the weights of :func:`smoothgradcampp_weights` and A of the
    clean image, which is the one to be explained.

    torchcam 0.5 differs here: its hooks overwrite A during the noisy passes, so the last noisy
    copy's activations enter this sum, though the clean ones enter the weights.

    Args:
        activation: A, ``(B, C, *grid)``.
        moments: D1, D2 and D3: means over the noisy copies of the class score's derivative by A,
            of its square and of its cube, each of the same shape.

    Returns:
        M, ``(B, *grid)``, at least 0, un-normalised, at least float32.

    Raises:
        InvalidArgument: The shapes do not fit.
    """
    return weighted_map(smoothgradcampp_weights(activation, moments), as_float(activation))


def smoothgradcampp_weights(activation: Tensor, moments: Moments) -> Tensor:
    """The weights of Smooth Grad-CAM++, one per channel.

    ``α_ij^k = D2_ij^k / (2 D2_ij^k + (Σ_ab ReLU(A_ab^k)) ReLU(D3_ij^k))``, and 0 where D2 is 0;
    ``w_k = Σ_ij α_ij^k ReLU(D1_ij^k)``.

    The denominator is that of Grad-CAM++ (Chattopadhay et al. 2018, equation 19), which the
    method smooths: the activations are summed alone, and multiplied by the third derivative at
    the position. It equals the paper's where activations and gradients are positive, as the paper
    assumes them to be. Elsewhere a sum of both signs would pass through zero, and the weights
    would be noise. So only activations and cubes that pass the ReLU count: α lies between 0 and
    1/2, and changes as little as its arguments do.

    The paper prints D1 in α's numerator. D2 stands there in Grad-CAM++, and in torchcam.

    torchcam 0.5 sums A and D3 at the same position, signs included. It gives the same weights
    where the activations are at least 0 and the gradient is the same at all positions of a
    channel (before global average pooling), for one noisy copy. For several it takes the ReLU of
    the last copy's gradient, where the paper, and this function, take it of the mean D1.

    Args:
        activation: A of the clean image, ``(B, C, *grid)``.
        moments: D1, D2 and D3, each of the same shape. Gradients from about 1e-19 to 1e12 keep
            their squares and cubes within float32.

    Returns:
        ``(B, C, 1, …)``, at least 0, at least float32.

    Raises:
        InvalidArgument: The shapes do not fit.
    """
    activation, first = paired(activation, moments.first, "moments")
    second, third = as_float(moments.second), as_float(moments.third)
    denominator = grid_sum(torch.relu(activation)) * torch.relu(third)
    denominator.add_(second, alpha=2)
    # A sum of terms that are at least 0: it does not cancel, and vanishes only where D2 does.
    alpha = ratio_or_zero(second, denominator, denominator)
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
