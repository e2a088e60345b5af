"""CAM methods that weigh activations by gradients, in the order in which they are offered."""

from __future__ import annotations

import torch
from torch import Tensor

from cam_hub.errors import InvalidArgument
from cam_hub.methods.evidence import Evidence, Moments, as_float, by_maximum
from cam_hub.methods.registry import METHODS, Method, Passes

__all__ = [
    "gradcam",
    "gradcampp",
    "gradcampp_cancellation",
    "grid_sum",
    "hirescam",
    "layercam",
    "layercam_scale",
    "paired",
    "ratio_or_zero",
    "smoothgradcampp",
    "smoothgradcampp_weights",
    "weighted_map",
    "xgradcam",
    "xgradcam_cancellation",
]


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
    denominator = torch.relu(third).mul_(grid_sum(torch.relu(activation)))
    denominator.add_(second, alpha=2)
    # A sum of terms that are at least 0: it does not cancel, and vanishes only where D2 does.
    alpha = second / denominator.clamp_(min=torch.finfo(denominator.dtype).tiny)
    return grid_sum(alpha.mul_(torch.relu(first)))


def _compute_smooth(evidence: Evidence) -> Tensor:
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
        compute=_compute_smooth,
        summary=(
            "Grad-CAM++ averaged over noisy copies of the photo: "
            "calmer, at the cost of a pass each."
        ),
        passes=Passes(per="noisy copy"),
    )
)


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
    r"""Grad-CAM++ (Chattopadhay et al. 2018, equation 19), with a denominator that cannot cancel.

    ``α_ij^k = (g_ij^k)² / (2 (g_ij^k)² + (Σ_ab ReLU(A_ab^k)) (g_ij^k)³)``;
    ``w_k = Σ_ij α_ij^k ReLU(g_ij^k)``, ``M = ReLU(Σ_k w_k A^k)``.

    It is computed as ``α = 1 / (2 + g Σ ReLU(A))``, the same after dividing by g², in which no
    power of a small or large gradient leaves the range of the type. Only ``g > 0`` carries weight,
    so that α lies between 0 and 1/2.

    The paper sums the activations without the ReLU. It assumes them to be at least 0, where both
    are the same. With activations of both signs the paper's denominator passes through 0, and a few
    channels with arbitrary weights would dominate the map; :func:`gradcampp_cancellation` measures
    that. Smooth Grad-CAM++ has the same denominator, so that it gives this map for a single copy
    without noise.

    The paper's class score is ``exp(S)`` of the score S before the softmax. Its derivatives are
    ``exp(S) g``, ``exp(S) g²`` and ``exp(S) g³``: the factor cancels in α and stays once in
    every ``w_k``. Being the same for all channels and positions, it only scales the map, and is
    left out.

    torchcam 0.5 differs twice. It divides a masked copy in place, so that the division is lost
    and its weights are ``Σ_ij g² ReLU(g)``; and it sums ``A_ab g_ab³`` over the grid, where the
    equation takes the derivative at (i, j) and sums the activations alone. pytorch-grad-cam adds
    1e-6 to the denominator before the division by g²: ``α = 1 / (2 + g Σ A + 1e-6 / g²)``, which
    changes the weights of all gradients that are not large compared with 1e-3.

    Args:
        activation: A, ``(B, C, *grid)``.
        gradient: g, derivative of the class score (before softmax) by A, the same shape.

    Returns:
        M, ``(B, *grid)``, at least 0, un-normalised, at least float32.

    Raises:
        InvalidArgument: The shapes do not fit.
    """
    activation, gradient = paired(activation, gradient)
    raising = torch.relu(gradient)
    weights = grid_sum(raising / (2 + raising * grid_sum(torch.relu(activation))))
    return weighted_map(weights, activation)


def gradcampp_cancellation(activation: Tensor, gradient: Tensor) -> Tensor:
    """The share of Grad-CAM++'s weights, as printed in the paper, that comes from cancellation.

    The paper's denominator is ``d = 2 + g Σ A``, and the magnitudes of its terms add up to
    ``t = 2 + g Σ |A|``. Relative errors of size ε in A and g change d by up to ``ε t``, and hence
    the quotient by the relative error ``ε t / |d|``: ``t / |d| >= 1`` is its condition number. The
    share is ``1 - Σ_k W_k(t) / Σ_k W_k(|d|)``, with ``W_k(q) = Σ_ij (ReLU(g_ij^k) / q_ij^k) ·
    Σ_ij |A_ij^k|``, what the channel adds to the map at most. The denominators have a condition
    number of ``1 / (1 - share)`` in the weighted mean.

    Args:
        activation: A, ``(B, C, *grid)``.
        gradient: g, the same shape.

    Returns:
        ``(B,)`` in [0, 1]; 0 where no activation is below 0.

    Raises:
        InvalidArgument: The shapes do not fit.
    """
    activation, gradient = paired(activation, gradient)
    raising, size = torch.relu(gradient), grid_sum(activation.abs())
    terms = 2 + raising * size
    printed = 2 + raising * grid_sum(activation)
    return _share(raising * size, terms, printed)


def _share(numerators: Tensor, terms: Tensor, denominators: Tensor) -> Tensor:
    """``1 - Σ n / t / Σ n / |d|`` for each sample, with numerators of at least 0.

    Args:
        numerators: n, ``(B, C, …)``.
        terms: t, sums of the magnitudes of the denominators' terms.
        denominators: d; where less is left of one than rounding, t at the size of that rounding.
    """
    rounding = torch.finfo(terms.dtype).eps * terms
    left = torch.maximum(denominators.abs(), rounding)
    whole = ratio_or_zero(numerators, left, left).flatten(1).sum(dim=1)
    sound = ratio_or_zero(numerators, terms, terms).flatten(1).sum(dim=1)
    share = (1 - ratio_or_zero(sound, whole, whole)).masked_fill(whole == 0, 0.0)
    return share.nan_to_num(1.0).clamp(0, 1)


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
        cancellation=lambda evidence: gradcampp_cancellation(
            evidence.activation, evidence.gradient
        ),
        summary=(
            "Grad-CAM with a weight for every place: finds a class that is there several times."
        ),
    )
)


def xgradcam(activation: Tensor, gradient: Tensor) -> Tensor:
    """XGrad-CAM (Fu et al. 2020), with the two signs of the activations apart.

    With ``A⁺ = ReLU(A)`` and ``A⁻ = ReLU(-A)``: ``w±_k = Σ_ij g_ij^k A±_ij^k / Σ_ij A±_ij^k``, and
    0 for a sum of 0; ``M = ReLU(Σ_k w⁺_k A⁺^k - w⁻_k A⁻^k)``.

    The paper has one weight per channel, ``Σ g A / Σ A``. It assumes activations to be at least 0,
    where both are the same. Of activations of both signs, its denominator passes through 0;
    :func:`xgradcam_cancellation` measures that. Here a channel counts as two, neither of which has
    both signs, so that every weight is a mean of gradients. This also holds on to the axiom from
    which the paper derives the weights (conservation): without its ReLU, the map sums to
    ``Σ_k Σ_ij g A``. A gradient that is the same at all positions of a channel is the weight, as
    in the paper.

    torchcam 0.5 and pytorch-grad-cam divide by ``Σ A + 1e-8`` and ``Σ A + 1e-7`` instead.

    Args:
        activation: A, ``(B, C, *grid)``.
        gradient: g, derivative of the class score by A, the same shape.

    Returns:
        M, ``(B, *grid)``, at least 0, un-normalised, at least float32.

    Raises:
        InvalidArgument: The shapes do not fit.
    """
    activation, gradient = paired(activation, gradient)
    positive = torch.relu(activation)
    negative = positive - activation
    total = torch.zeros((), dtype=activation.dtype, device=activation.device)
    for sign, part in ((1, positive), (-1, negative)):
        size = grid_sum(part)
        total = total + sign * (ratio_or_zero(grid_sum(gradient * part), size, size) * part)
    return torch.relu(total.sum(dim=1))


def xgradcam_cancellation(activation: Tensor, gradient: Tensor) -> Tensor:
    """The share of XGrad-CAM's weights, as printed in the paper, that comes from cancellation.

    As :func:`gradcampp_cancellation`, for the denominator ``d = Σ A``, whose terms add up to
    ``t = Σ |A|``: the share is ``1 - Σ_k |Σ g A| / Σ_k (|Σ g A| t_k / |d_k|)``.

    Args:
        activation: A, ``(B, C, *grid)``.
        gradient: g, the same shape.

    Returns:
        ``(B,)`` in [0, 1]; 0 where no channel has activations of both signs.

    Raises:
        InvalidArgument: The shapes do not fit.
    """
    activation, gradient = paired(activation, gradient)
    size = grid_sum(activation.abs())
    numerators = grid_sum(gradient * activation).abs() * size
    return _share(numerators, size, grid_sum(activation))


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
        cancellation=lambda evidence: xgradcam_cancellation(evidence.activation, evidence.gradient),
        summary=(
            "Grad-CAM with gradients weighed by the activation, so "
            "that the parts add up to the score."
        ),
    )
)


_ROUNDINGS = 64
"""A sum of products below so many roundings of its terms is rounding. Before the norms of five
trained transformers, it was at most 37 roundings."""


def hirescam(activation: Tensor, gradient: Tensor) -> Tensor:
    """HiResCAM (Draelos & Carin 2020), gradient times activation.

    ``M_ij = ReLU(Σ_k g_ij^k A_ij^k)``. It is LayerCAM without the ReLU of the gradient: channels
    that lower the score count against those that raise it. If one linear layer with bias b follows
    the layer, as after pooling, the map without its ReLU sums to the score less b.

    If nothing but a norm over the channels follows the layer, as at the end of the last block of
    many transformers, the score does not change with the scale of a position, so that
    ``Σ_k g A = 0`` at each (Euler's theorem). What is left of such a sum is rounding: sums below 64
    roundings of their terms are 0, and the map is blank rather than noise.

    The paper's equation has no ReLU; ``sign="both"`` gives that map. pytorch-grad-cam applies the
    ReLU, as here, but draws the rounding. torchcam 0.5 does not have the method.

    Args:
        activation: A, ``(B, C, *grid)``.
        gradient: g, derivative of the class score by A, the same shape.

    Returns:
        M, ``(B, *grid)``, at least 0, un-normalised, at least float32.

    Raises:
        InvalidArgument: The shapes do not fit.
    """
    activation, gradient = paired(activation, gradient)
    parts = gradient * activation
    cam, size = parts.sum(dim=1), parts.abs().sum(dim=1)
    rounding = _ROUNDINGS * torch.finfo(cam.dtype).eps * size
    return torch.where(cam > rounding, cam, 0.0)


METHODS.register(
    Method(
        name="hirescam",
        title="HiResCAM",
        paper=(
            "Draelos & Carin 2020. Use HiResCAM instead of Grad-CAM for faithful explanations of "
            "convolutional neural networks. arXiv."
        ),
        url="https://arxiv.org/abs/2011.08891",
        needs_noise=False,
        compute=lambda evidence: hirescam(evidence.activation, evidence.gradient),
        blank=(
            "gradient times activation sums to zero at each position of a layer that only a norm "
            "follows"
        ),
        summary=(
            "Gradient times activation, with both signs: what each place adds to the score. Often "
            "the most faithful at inner layers."
        ),
    )
)
