"""Pixel-level gradient methods, by captum: the optional extra ``cam-hub[captum]``.

captum gets a copy of the network that shares its weights, so that its hooks never touch the user's
network, nor passes of other threads.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from copy import deepcopy
from typing import Any

import torch
from torch import Tensor, nn

from cam_hub.errors import NoMap
from cam_hub.methods.evidence import BlackBox
from cam_hub.methods.registry import METHODS, Method, Passes

__all__ = [
    "deep_lift",
    "guided_backprop",
    "input_x_gradient",
    "integrated_gradients",
    "lrp",
    "smooth_grad",
]

_STEPS = 50
"""The steps of the integral of integrated gradients: captum's default."""

_INCOMPLETE = 0.02
"""DeepLift's contributions must sum to the change of the score within this share of their sum."""


_REARRANGING = (nn.Identity, nn.Flatten, nn.Unflatten)
"""Linear layers for which captum has no rule by default."""

Attribute = Callable[[Any, Tensor, int], Tensor]
"""From captum's method, the image and the place of a score to attributions like the image."""


def _attributions(box: BlackBox, name: str, images: int, attribute: Attribute) -> Tensor:
    """The attributions of each score, ``(B, C, *sides)``.

    Args:
        box: The network.
        name: The class of captum's.
        images: How many images pass for one score.
        attribute: Calls it.
    """
    from captum import attr  # noqa: PLC0415 - a slow import, of an extra

    network = _network(box, images * box.scores)
    with torch.enable_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that it sets hooks: on a copy
        method = getattr(attr, name)(network)
        found = [attribute(method, box.image.clone(), index) for index in range(box.scores)]
    return torch.cat([each.detach() for each in found])


def _plain(method: Any, image: Tensor, index: int) -> Tensor:
    """An ``Attribute`` that has no arguments of its own."""
    found: Tensor = method.attribute(image.requires_grad_(), target=index)
    return found


def _network(box: BlackBox, expected: int) -> Any:
    if box.network is None:
        raise AssertionError("the runner of methods has set it")
    return box.network(expected)


def _positive(attributions: Tensor) -> Tensor:
    """The map of contributions: their sum over the channels, where it is positive."""
    return torch.relu(attributions.sum(dim=1))


def _magnitude(gradients: Tensor) -> Tensor:
    """The map of gradients: the largest magnitude over the channels."""
    return gradients.abs().amax(dim=1)


def input_x_gradient(box: BlackBox) -> Tensor:
    """Input x gradient (Shrikumar et al. 2016), by captum.

    ``M = ReLU(Σ_c x_c ∂S/∂x_c)``: what each pixel contributes, to first order, over an input of
    zeros (the mean colour of normalised images).

    Args:
        box: The network.

    Returns:
        M, ``(B, rows, cols)``, of a clip ``(B, frames, rows, cols)``, at least 0.
    """
    return _positive(_attributions(box, "InputXGradient", 1, _plain))


def integrated_gradients(box: BlackBox) -> Tensor:
    """Integrated gradients (Sundararajan et al. 2017), by captum, from an input of zeros.

    ``M = ReLU(Σ_c x_c ∫ ∂S(t x)/∂x_c dt)`` by a Gauss-Legendre quadrature of 50 steps. Without the
    ReLU (``sign="both"``), the map sums to the score less that of the input of zeros.

    Args:
        box: The network.

    Returns:
        M, ``(B, rows, cols)``, of a clip ``(B, frames, rows, cols)``, at least 0.
    """

    def attribute(method: Any, image: Tensor, index: int) -> Tensor:
        found: Tensor = method.attribute(
            image, target=index, n_steps=_STEPS, internal_batch_size=box.batch_size
        )
        return found

    return _positive(_attributions(box, "IntegratedGradients", _STEPS, attribute))


def smooth_grad(box: BlackBox) -> Tensor:
    """SmoothGrad (Smilkov et al. 2017): the mean gradient over noisy copies, each by captum.

    ``M = max_c |mean of ∂S/∂x_c over noisy copies|``, with the copies that ``num_samples``, ``std``
    and ``seed`` determine. The paper takes 50.

    Args:
        box: The network.

    Returns:
        M, ``(B, rows, cols)``, of a clip ``(B, frames, rows, cols)``, at least 0.
    """
    if box.noisy is None:
        raise AssertionError("the method needs noisy copies")
    copies = box.noisy

    def attribute(method: Any, image: Tensor, index: int) -> Tensor:
        total = torch.zeros_like(image)
        count = 0
        for copy in copies():
            total += method.attribute(copy.requires_grad_(), target=index, abs=False).detach()
            count += 1
        return total / count

    return _magnitude(_attributions(box, "Saliency", sum(1 for _ in copies()), attribute))


def guided_backprop(box: BlackBox) -> Tensor:
    """Guided backpropagation (Springenberg et al. 2015), by captum.

    ``M = max_c |g_c|`` with g the gradient at the input for which every ReLU module passes only
    positive gradients back.

    Args:
        box: The network.

    Returns:
        M, ``(B, rows, cols)``, of a clip ``(B, frames, rows, cols)``, at least 0.

    Raises:
        NoMap: If the network has no ReLU modules (functional ones cannot be found).
    """
    if not any(isinstance(part, nn.ReLU) for part in _network(box, 1).modules()):
        raise NoMap(
            "guided backpropagation changes how gradients pass ReLU modules, and this network has "
            "none (another activation function, or torch.relu called as a function)"
        )

    return _magnitude(_attributions(box, "GuidedBackprop", 1, _plain))


def deep_lift(box: BlackBox) -> Tensor:
    """DeepLift (Shrikumar et al. 2017), the rescale rule, by captum, from an input of zeros.

    Args:
        box: The network.

    Returns:
        The positive contributions, ``(B, rows, cols)``, of a clip ``(B, frames, rows, cols)``.

    Raises:
        NoMap: If an activation function runs several times as one module, or is not a module.
    """

    def attribute(method: Any, image: Tensor, index: int) -> Tensor:
        zeros = torch.zeros_like(image)
        found: Tensor
        found, delta = method.attribute(image, zeros, target=index, return_convergence_delta=True)
        scale = float(found.detach().abs().sum())
        if not abs(float(delta)) <= _INCOMPLETE * max(scale, 1e-30):
            raise ValueError(
                f"its contributions miss the change of the score by {abs(float(delta)) / scale:.0%}"
            )
        return found

    return _positive(_attributions(box, "DeepLift", 2, attribute))


def lrp(box: BlackBox) -> Tensor:
    """Layer-wise relevance propagation (Bach et al. 2015), by captum with its epsilon rule.

    The relevance of a difference of scores is the difference of their relevances.

    Args:
        box: The network.

    Returns:
        The positive relevance, ``(B, rows, cols)``, of a clip ``(B, frames, rows, cols)``.

    Raises:
        TypeError: If captum has no rule for a layer, or weights belong to none.
    """
    from captum.attr import LRP  # noqa: PLC0415 - a slow import, of an extra
    from captum.attr._utils.lrp_rules import EpsilonRule  # noqa: PLC0415

    network = _network(box, 2 * box.scores)
    network.network = deepcopy(network.network)  # captum changes the weights meanwhile
    # captum multiplies by the output, which is wrong for a negated score: it gets the raw ones.
    shares = network.choose(torch.eye(network.classes))  # (K, B)
    network.transforms.clear()
    found = []
    with torch.enable_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that it sets hooks: on a copy
        for column in shares.T:
            total = torch.zeros_like(box.image)
            for index in column.nonzero().flatten().tolist():
                for part in network.modules():
                    if isinstance(part, _REARRANGING):
                        part.rule = EpsilonRule()
                    elif part._parameters and part._modules:
                        kind = type(part).__name__
                        raise TypeError(
                            f"{kind} has parts, and weights that belong to none of them"
                        )
                relevance = LRP(network).attribute(box.image.clone(), target=index)
                total += float(column[index]) * relevance.detach()
            found.append(total)
    return _positive(torch.cat(found))


_CAPTUM: dict[str, Any] = {"level": "pixel", "requires": "captum"}

METHODS.register(
    Method(
        name="integratedgradients",
        title="Integrated Gradients",
        paper="Sundararajan et al. 2017. Axiomatic Attribution for Deep Networks. ICML.",
        url="https://arxiv.org/abs/1703.01365",
        attribute=integrated_gradients,
        summary="Gradients on the way from a grey input to the image; they sum to the gain.",
        passes=Passes(_STEPS, _STEPS, shared=False),
        **_CAPTUM,
    )
)

METHODS.register(
    Method(
        name="smoothgrad",
        title="SmoothGrad",
        paper="Smilkov et al. 2017. SmoothGrad: removing noise by adding noise. arXiv.",
        url="https://arxiv.org/abs/1706.03825",
        needs_noise=True,
        attribute=smooth_grad,
        unsigned=True,
        summary="The mean gradient over noisy copies: where the score is sensitive to the pixels.",
        passes=Passes(per="noisy copy", shared=False),
        **_CAPTUM,
    )
)

METHODS.register(
    Method(
        name="inputxgradient",
        title="Input x Gradient",
        paper=(
            "Shrikumar et al. 2016. Not Just a Black Box: Learning Important Features Through "
            "Propagating Activation Differences. arXiv."
        ),
        url="https://arxiv.org/abs/1605.01713",
        attribute=input_x_gradient,
        summary="What each pixel adds to the score to first order: one pass, and noisy.",
        passes=Passes(shared=False),
        **_CAPTUM,
    )
)

METHODS.register(
    Method(
        name="guidedbackprop",
        title="Guided Backprop",
        paper=(
            "Springenberg et al. 2015. Striving for Simplicity: The All Convolutional Net. ICLR "
            "Workshop."
        ),
        url="https://arxiv.org/abs/1412.6806",
        attribute=guided_backprop,
        summary=(
            "Gradients that pass each ReLU only where they are positive: sharp edges, which depend "
            "little on the class and on what the model has learnt."
        ),
        passes=Passes(shared=False),
        needs="ReLU modules, each of which runs once",
        **_CAPTUM,
    )
)

METHODS.register(
    Method(
        name="deeplift",
        title="DeepLift",
        paper=(
            "Shrikumar et al. 2017. Learning Important Features Through Propagating Activation "
            "Differences. ICML."
        ),
        url="https://arxiv.org/abs/1704.02685",
        attribute=deep_lift,
        summary="What each pixel's difference from a grey input adds to the score.",
        passes=Passes(4, 1, shared=False),
        needs=(
            "activation functions that captum has a rule for, such as ReLU and Tanh, as modules "
            "that run once"
        ),
        **_CAPTUM,
    )
)

METHODS.register(
    Method(
        name="lrp",
        title="LRP",
        paper=(
            "Bach et al. 2015. On Pixel-Wise Explanations for Non-Linear Classifier Decisions by "
            "Layer-Wise Relevance Propagation. PLOS ONE."
        ),
        url="https://doi.org/10.1371/journal.pone.0130140",
        attribute=lrp,
        summary="The score, divided from layer to layer in proportion to what each input added.",
        passes=Passes(2, 1, shared=False),
        needs="layers that captum has rules for: convolutions, linear, pools, batch norms, ReLU",
        **_CAPTUM,
    )
)
