"""LayerCAM: every position of every channel weighted by its own positive gradient."""

import torch
from torch import Tensor

from cam_hub.methods.arithmetic import by_maximum, paired, weighted_map
from cam_hub.methods.registry import METHODS, Method

__all__ = ["layercam", "layercam_scale"]


def layercam(activation: Tensor, gradient: Tensor) -> Tensor:
    """LayerCAM (Jiang et al. 2021, equations 6 and 7).

    ``w_ij^k = ReLU(g_ij^k)``, ``M_ij = ReLU(Σ_k w_ij^k A_ij^k)``.

    Args:
        activation: A, ``(B, C, *grid)``.
        gradient: g, derivative of the class score by A, the same shape.

    Returns:
        M, ``(B, *grid)``, at least 0, un-normalised, at least float32.

    Raises:
        InvalidArgument: The shapes do not fit.
    """
    activation, gradient = paired(activation, gradient)
    return weighted_map(torch.relu(gradient), activation)


def layercam_scale(maps: Tensor, gamma: float = 2.0) -> Tensor:
    """``tanh(γ M / max M)`` per sample (Jiang et al. 2021, equation 9).

    It lifts the faint maps of early layers before they are fused with those of later ones.

    torchcam 0.5 leaves the division by the maximum to its caller.

    Args:
        maps: M, ``(B, *grid)``, at least 0.
        gamma: γ; the paper's value is 2.

    Returns:
        ``(B, *grid)`` in [0, tanh γ]; a map of zeros stays zero.

    Raises:
        InvalidArgument: The maps lack a grid.
    """
    return torch.tanh(gamma * by_maximum(maps))


METHODS.register(
    Method(
        name="layercam",
        title="LayerCAM",
        paper=(
            "Jiang et al. 2021. LayerCAM: Exploring Hierarchical Class Activation Maps for "
            "Localization. IEEE Transactions on Image Processing 30."
        ),
        url="https://doi.org/10.1109/TIP.2021.3089943",
        needs_noise=False,
        compute=lambda evidence: layercam(evidence.activation, evidence.gradient),
        scale=layercam_scale,
        summary="Weighs every place by its own gradient: sharp, and of use at early layers, too.",
    )
)
