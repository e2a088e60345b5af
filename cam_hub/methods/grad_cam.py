"""Grad-CAM: channels weighted by their mean gradient."""

from torch import Tensor

from cam_hub.methods.arithmetic import grid_sum, paired, weighted_map
from cam_hub.methods.registry import METHODS, Method

__all__ = ["gradcam"]


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
