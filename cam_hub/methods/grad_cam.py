"""Grad-CAM, Grad-CAM++ and XGradCAM: one weight per channel."""

from __future__ import annotations

import torch
from torch import Tensor

from cam_hub.methods.arithmetic import grid_sum, paired, ratio_or_zero, weighted_map
from cam_hub.methods.registry import METHODS, Method

__all__ = ["gradcam", "gradcampp", "xgradcam"]


def gradcam(activation: Tensor, gradient: Tensor) -> Tensor:
    """Grad-CAM (Selvaraju et al. 2017, equations 1 and 2).

    ``w_k = mean_ij g_ij^k``, ``M = ReLU(Σ_k w_k A^k)``.

    Args:
        activation: A, ``(B, C, *grid)``.
        gradient: g, derivative of the class score by A, the same shape.

    Returns:
        M, ``(B, *grid)``, at least 0, un-normalised, at least float32.

    Raises:
        InvalidArgument: The shapes do not fit.
    """
    activation, gradient = paired(activation, gradient)
    positions = activation.shape[2:].numel()
    return weighted_map(grid_sum(gradient) / positions, activation)


METHODS.register(
    Method(
        name="gradcam",
        title="Grad-CAM",
        paper=(
            "Selvaraju et al. 2017. Grad-CAM: Visual Explanations from Deep Networks via "
            "Gradient-based Localization. ICCV."
        ),
        url="https://arxiv.org/abs/1610.02391",
        needs_noise=False,
        compute=lambda evidence: gradcam(evidence.activation, evidence.gradient),
        summary="Weighs each channel by its mean gradient: the classic, quick and coarse.",
    )
)


def gradcampp(activation: Tensor, gradient: Tensor) -> Tensor:
    r"""Grad-CAM++ (Chattopadhay et al. 2018, equation 19).

    ``α_ij^k = (g_ij^k)² / (2 (g_ij^k)² + (Σ_ab A_ab^k) (g_ij^k)³)``, and 0 where ``g_ij^k = 0``;
    ``w_k = Σ_ij α_ij^k ReLU(g_ij^k)``, ``M = ReLU(Σ_k w_k A^k)``.

    It is computed as ``α = 1 / (2 + g Σ A)``, the same after dividing by g², in which no power of
    a small or large gradient leaves the range of the type. Where activations of both signs make
    that denominator vanish, α is 0.

    The paper's class score is ``exp(S)`` of the score S before the softmax. Its derivatives are
    ``exp(S) g``, ``exp(S) g²`` and ``exp(S) g³``: the factor cancels in α and stays once in
    every ``w_k``. Being the same for all channels and positions, it only scales the map, and is
    left out.

    torchcam 0.5 differs twice. It divides a masked copy in place, so that the division is lost
    and its weights are ``Σ_ij g² ReLU(g)``; and it sums ``A_ab g_ab³`` over the grid, where the
    equation takes the derivative at (i, j) and sums the activations alone.

    Args:
        activation: A, ``(B, C, *grid)``.
        gradient: g, derivative of the class score (before softmax) by A, the same shape.

    Returns:
        M, ``(B, *grid)``, at least 0, un-normalised, at least float32.

    Raises:
        InvalidArgument: The shapes do not fit.
    """
    activation, gradient = paired(activation, gradient)
    area = grid_sum(activation) * gradient
    # Where g = 0, ReLU(g) makes α irrelevant.
    weights = grid_sum(ratio_or_zero(torch.relu(gradient), 2 + area, 2 + area.abs()))
    return weighted_map(weights, activation)


METHODS.register(
    Method(
        name="gradcampp",
        title="Grad-CAM++",
        paper=(
            "Chattopadhay et al. 2018. Grad-CAM++: Improved Visual Explanations for Deep "
            "Convolutional Networks. WACV."
        ),
        url="https://arxiv.org/abs/1710.11063",
        needs_noise=False,
        compute=lambda evidence: gradcampp(evidence.activation, evidence.gradient),
        summary=(
            "Grad-CAM with a weight for every place: finds a class that is there several times."
        ),
    )
)


def xgradcam(activation: Tensor, gradient: Tensor) -> Tensor:
    """XGrad-CAM (Fu et al. 2020).

    ``w_k = Σ_ij A_ij^k g_ij^k / Σ_ij A_ij^k``, and 0 where that denominator is 0 or, with
    activations of both signs, cancels; ``M = ReLU(Σ_k w_k A^k)``.

    torchcam 0.5 adds 1e-8 to the denominator instead, which is the same but for channels whose
    activations nearly cancel.

    Args:
        activation: A, ``(B, C, *grid)``.
        gradient: g, derivative of the class score by A, the same shape.

    Returns:
        M, ``(B, *grid)``, at least 0, un-normalised, at least float32.

    Raises:
        InvalidArgument: The shapes do not fit.
    """
    activation, gradient = paired(activation, gradient)
    weights = ratio_or_zero(
        grid_sum(activation * gradient), grid_sum(activation), grid_sum(activation.abs())
    )
    return weighted_map(weights, activation)


METHODS.register(
    Method(
        name="xgradcam",
        title="XGrad-CAM",
        paper=(
            "Fu et al. 2020. Axiom-based Grad-CAM: Towards Accurate Visualization and "
            "Explanation of CNNs. BMVC."
        ),
        url="https://arxiv.org/abs/2008.02312",
        needs_noise=False,
        compute=lambda evidence: xgradcam(evidence.activation, evidence.gradient),
        summary=(
            "Grad-CAM with gradients weighed by the activation, so "
            "that the parts add up to the score."
        ),
    )
)
