"""XGrad-CAM: channels weighted by their gradients where they are active."""

from torch import Tensor

from cam_hub.methods.arithmetic import grid_sum, paired, ratio_or_zero, weighted_map
from cam_hub.methods.registry import METHODS, Method

__all__ = ["xgradcam"]


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
