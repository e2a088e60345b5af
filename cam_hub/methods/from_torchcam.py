"""The methods that torchcam has and cam_hub does not: torchcam's own classes, run on our layouts.

torchcam gets a small network in place of the user's: one whose layer ``layer`` returns the target
layer's activations as maps, channels first, and whose output are the explained scores. So every
layout and every target works, and torchcam's hooks never touch the user's network.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from cam_hub.errors import NoMap
from cam_hub.methods.evidence import BlackBox, Evidence
from cam_hub.methods.registry import METHODS, Method, Passes

__all__ = ["cam", "is_cam", "legrad", "refine", "score_cam", "ss_cam"]

_SAMPLES = 35
"""The number of noisy copies of each mask in SS-CAM, and their deviation: torchcam's defaults."""

_STD = 2.0

_STEPS = 10
"""The number of steps of IS-CAM's integral, as in torchcam."""

_LARGEST = 4 << 30
"""SS-CAM and IS-CAM enlarge all channels to the input's size, which may take so many bytes."""

_AFFINE = 1e-3
"""By so much, relative to the largest, gradients may vary that are to be the same at all positions
and for all inputs: TF32 and half precision round as coarsely."""


def _maps_of(box: BlackBox, kind: Any, times: int, **given: Any) -> Tensor:
    """The maps of one of torchcam's methods that mask the image by each channel."""
    activations = _activations(box)
    stand = _stand(box, activations, box.scores * times * activations.shape[1])
    with kind(stand, "layer", batch_size=box.batch_size, **given) as extractor:
        stand(box.image)
        maps = []
        for index in range(box.scores):
            if "std" in given:  # the same noise for each class
                extractor._distrib = _Normal(given["std"], box.seed)
            maps.append(extractor(index, normalized=False)[0])
    return torch.cat(maps)


def _stand(box: BlackBox, activations: Tensor, expected: int) -> Any:
    if box.stand is None:
        raise AssertionError("the runner of methods has set it")
    return box.stand(box, activations, expected)


def _activations(box: BlackBox) -> Tensor:
    if box.activations is None:
        raise AssertionError("methods of level 'layer' are given a layer")
    return box.activations(box.image)


class _Normal:
    """Noise with a seed of its own, in place of torchcam's from torch's global generator."""

    def __init__(self, std: float, seed: int) -> None:
        self._std = std
        self._generator = torch.Generator().manual_seed(seed)

    def sample(self, size: Sequence[int]) -> Tensor:
        """Independent values with the standard deviation, on the CPU."""
        return torch.normal(0.0, self._std, tuple(size), generator=self._generator)


def _check_size(box: BlackBox, title: str, copies: int) -> None:
    """Refuses to enlarge more channels than memory is likely to hold.

    Raises:
        NoMap: With the reason.
    """
    channels = box.channels
    size = copies * channels * box.image[0, 0].numel() * 4
    if size > _LARGEST:
        raise NoMap(
            f"{title} would hold {channels} channels at the input's size {copies} times, which "
            f"takes {size / (1 << 30):.0f} GiB; Score-CAM needs less, and so does a smaller input"
        )


def score_cam(box: BlackBox) -> Tensor:
    """Score-CAM (Wang et al. 2020), by torchcam.

    ``M = ReLU(Σ_k w_k A_k)`` with w the softmax over the channels of how much the score changes if
    the image is multiplied by A_k, scaled to [0, 1] and enlarged.

    Args:
        box: The network.

    Returns:
        M, ``(B, *grid)``, at least 0.
    """
    from torchcam.methods import ScoreCAM  # noqa: PLC0415 - a slow import, rarely needed

    return _maps_of(box, ScoreCAM, 1)


def ss_cam(box: BlackBox) -> Tensor:
    """SS-CAM (Wang et al. 2020): Score-CAM with the mean over noisy masks; by torchcam.

    The noise has a standard deviation of 2 on masks in [0, 1], and each mask has 35 copies, as in
    torchcam. It is drawn from the seed.

    Args:
        box: The network.

    Returns:
        M, ``(B, *grid)``, at least 0.

    Raises:
        NoMap: If the channels would not fit into memory at the input's size.
    """
    from torchcam.methods import SSCAM  # noqa: PLC0415

    _check_size(box, "SS-CAM", 3)
    return _maps_of(box, SSCAM, _SAMPLES, num_samples=_SAMPLES, std=_STD)


def is_cam(box: BlackBox) -> Tensor:
    """IS-CAM (Naidu et al. 2020): Score-CAM with an integral over the masks' strength; by torchcam.

    In torchcam 0.5 the strength of step i of 10 is the sum of 1/10 to i/10: from 0.1 to 5.5.

    Args:
        box: The network.

    Returns:
        M, ``(B, *grid)``, at least 0.

    Raises:
        NoMap: If the channels would not fit into memory at the input's size.
    """
    from torchcam.methods import ISCAM  # noqa: PLC0415

    _check_size(box, "IS-CAM", 1)
    return _maps_of(box, ISCAM, _STEPS, num_samples=_STEPS)


def cam(box: BlackBox) -> Tensor:
    """CAM (Zhou et al. 2016), by torchcam: maps weighted as the classifier weights their means.

    ``M = ReLU(Σ_k w_k A_k)``. The weights exist where the score is affine in the layer's spatial
    mean: a global average pool and a linear classifier follow, in whatever form. Whether that is so
    is found out by experiment: the gradient of the score must be the same at all positions, and for
    another input.

    torchcam, like the paper, has no ReLU. With ``sign="both"`` the map is without it.

    Args:
        box: The network.

    Returns:
        M, ``(B, *grid)``, at least 0.

    Raises:
        NoMap: If the score is not affine in the layer's spatial mean.
    """
    from torchcam.methods import CAM  # noqa: PLC0415

    if box.gradients is None:
        raise AssertionError("methods of level 'layer' are given a layer")
    generator = torch.Generator().manual_seed(box.seed)
    noise = torch.randn(box.image.shape, generator=generator).to(box.image)
    gradients = []
    for part, each in ((0.1, box.image), (0.6, noise)):
        box.report(part)
        gradients.append(box.gradients(each))
    flat = torch.cat(gradients).flatten(3)  # (2, B, K, positions)
    weight = flat.mean(dim=(0, 3))
    spread = (flat - weight[None, :, :, None]).abs().amax(dim=(0, 2, 3))
    largest = weight.abs().amax(dim=1)
    if bool((spread > _AFFINE * largest).any()):
        share = float((spread / largest.clamp(min=1e-30)).max())
        raise NoMap(
            "CAM needs a global average pool and a linear classifier right after the layer, and "
            f"here the gradient of the score varies by {share:.0%} of its largest value between "
            "positions or inputs; take the last layer before the pool, or Grad-CAM"
        )
    stand = _stand(box, _activations(box), 1)
    classifier = nn.Linear(weight.shape[1], box.scores, bias=False)
    classifier.weight = nn.Parameter(weight * flat.shape[-1], requires_grad=False)
    stand.fc = classifier
    with CAM(stand, "layer", "fc") as extractor:
        stand(box.image)
        maps = [extractor(index, normalized=False)[0] for index in range(box.scores)]
    return torch.relu(torch.cat(maps))


def legrad(box: BlackBox) -> Tensor:
    """LeGrad (Bousselham et al. 2024), by torchcam, for torchvision's vision transformers.

    The layer must be, or lie in, a block whose attention torchcam can read. The score is that of
    the block's own tokens: their mean through the last norm and the classifier.

    Args:
        box: The network.

    Returns:
        M, ``(B, rows, cols)``, at least 0.

    Raises:
        NoMap: If torchcam cannot read the block.
    """
    from torchcam.methods import LeGrad  # noqa: PLC0415

    if box.network is None:
        raise AssertionError("the runner of methods has set it")
    scoring = box.network(1)
    network = scoring.network
    norm = getattr(getattr(network, "encoder", None), "ln", None)
    heads = getattr(network, "heads", None)
    if norm is None or heads is None:
        raise NoMap("LeGrad reads torchvision's vision transformers alone", layer=box.layer)

    def project(tokens: Tensor) -> Any:
        return scoring.choose(heads(norm(tokens.mean(dim=1))))

    block = box.layer
    while block and not hasattr(network.get_submodule(block), "self_attention"):
        block = block.rpartition(".")[0]
    try:
        extractor = LeGrad(
            network,
            block or box.layer,
            score_projection=project,
            prefix_tokens=box.prefix_tokens,
            grid_shape=box.grid,
        )
    except (TypeError, ValueError) as error:
        raise NoMap(f"LeGrad cannot read its attention: {error}", layer=box.layer) from error
    with torch.enable_grad(), extractor:
        network(box.image)
        maps = []
        for index in range(box.scores):
            box.report(index / box.scores)
            maps.append(extractor(index, normalized=False, retain_graph=True)[0])
    return torch.cat(maps)


def refine(maps: Sequence[Tensor]) -> Tensor:
    """The fusion of RefineCAM, by torchcam: the product of the maps, each scaled to [0, 1].

    A flat map, of which torchcam would make zeros everywhere, is left out.

    Args:
        maps: One per layer, ``(B, *grid)``; negative values count as those of the negated score.

    Returns:
        ``(B, *grid)`` of the finest grid, in [0, 1]; of signed maps in [-1, 1].
    """
    from torchcam.methods import RefineCAM  # noqa: PLC0415

    finest = tuple(max(sizes) for sizes in zip(*(cam.shape[1:] for cam in maps), strict=True))

    def product(positive: Sequence[Tensor]) -> Tensor:
        varied = [cam for cam in positive if cam.min() < cam.max()] or positive
        fused: Tensor = RefineCAM.fuse_cams(list(varied), finest, normalized=True)
        return fused

    positive = product([cam.clamp(min=0) for cam in maps])
    if all(bool((cam >= 0).all()) for cam in maps):
        return positive
    return positive - product([cam.neg().clamp(min=0) for cam in maps])


def _gradcampp_of(evidence: Evidence) -> Tensor:
    return METHODS["gradcampp"].compute(evidence)


METHODS.register(
    Method(
        name="cam",
        title="CAM",
        paper="Zhou et al. 2016. Learning Deep Features for Discriminative Localization. CVPR.",
        url="https://arxiv.org/abs/1512.04150",
        attribute=cam,
        summary=(
            "The classifier's own weights, at the layer right before the global pool; the same as "
            "Grad-CAM there, and refused elsewhere."
        ),
        passes=Passes(4, 2),
    )
)

METHODS.register(
    Method(
        name="scorecam",
        title="Score-CAM",
        paper=(
            "Wang et al. 2020. Score-CAM: Score-Weighted Visual Explanations for Convolutional "
            "Neural Networks. CVPR Workshops."
        ),
        url="https://arxiv.org/abs/1910.01279",
        attribute=score_cam,
        summary=(
            "Each channel weighted by how much the score changes if the image is masked with it: "
            "no gradient, but as many passes as channels."
        ),
        passes=Passes(2, 0, per="channel, layer and class"),
    )
)

METHODS.register(
    Method(
        name="sscam",
        title="SS-CAM",
        paper=(
            "Wang et al. 2020. SS-CAM: Smoothed Score-CAM for Sharper Visual Feature Localization. "
            "arXiv."
        ),
        url="https://arxiv.org/abs/2006.14255",
        attribute=ss_cam,
        seeded=True,
        summary="Score-CAM averaged over noisy masks: 35 times its cost.",
        passes=Passes(2, 0, per="channel, layer and class", times=_SAMPLES),
    )
)

METHODS.register(
    Method(
        name="iscam",
        title="IS-CAM",
        paper=(
            "Naidu et al. 2020. IS-CAM: Integrated Score-CAM for axiomatic-based explanations. "
            "arXiv."
        ),
        url="https://arxiv.org/abs/2010.03023",
        attribute=is_cam,
        summary="Score-CAM integrated over the strength of the masks: ten times its cost.",
        passes=Passes(2, 0, per="channel, layer and class", times=_STEPS),
    )
)

METHODS.register(
    Method(
        name="legrad",
        title="LeGrad",
        paper=(
            "Bousselham et al. 2024. LeGrad: An Explainability Method for Vision Transformers via "
            "Feature Formation Sensitivity. arXiv."
        ),
        url="https://arxiv.org/abs/2404.03214",
        attribute=legrad,
        summary=(
            "How sensitive the score of a transformer block's own tokens is to its attention: for "
            "torchvision's vision transformers."
        ),
        passes=Passes(2, 1),
    )
)

METHODS.register(
    Method(
        name="refinecam",
        title="RefineCAM",
        paper="Domeniconi et al. 2026. How to Evaluate and Refine your CAM. arXiv.",
        url="https://arxiv.org/abs/2605.14641",
        compute=_gradcampp_of,
        combine=refine,
        summary=(
            "The product of Grad-CAM++ maps of several layers: as fine as the earliest, and as "
            "selective as the deepest."
        ),
    )
)
