"""How a map's layer and method are chosen: by cam_hub, by its peers, or by trying all of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any

import torch
from scipy.stats import spearmanr
from torch import Tensor, nn

import cam_hub
from bench.truth.measures import Measures, mean, on_image, truth_of
from bench.truth.report import Result
from bench.truth.world import Composed
from cam_hub import METHODS
from cam_hub.attribution.passes import run
from cam_hub.attribution.preparation import make_job, prepare
from cam_hub.attribution.request import ExplainOptions
from cam_hub.faithfulness import (
    EvidenceTest,
    Scores,
    Subject,
    blurred,
    cover,
    deletion_insertion,
    focus,
    hottest,
    road,
    soft_mask,
)
from cam_hub.layers.layouts import on_input

__all__ = ["RULES", "Network", "Question", "every_candidate", "judged", "measured", "questions"]

_ROAD_SHARES = (0.1, 0.2)
_STEPS = 10


@dataclass(frozen=True)
class Network:
    """A network under test.

    Attributes:
        module: The network.
        model: The same for cam_hub.
        layers: The ends of its blocks and stages.
    """

    module: nn.Module
    model: cam_hub.LoadedModel
    layers: list[str]


@dataclass(frozen=True)
class Question:
    """One class of one image.

    Attributes:
        image: ``(3, SIDE, SIDE)``.
        index: The class.
        rival: The class of the other object.
        own: Where the object is.
        other: Where the other one is.
    """

    image: Tensor
    index: int
    rival: int
    own: Tensor
    other: Tensor


def questions(network: Network, composed: Composed, count: int) -> list[Question]:
    """Both classes of the first images for which the network ranks them first and second."""
    found: list[Question] = []
    for image, classes, masks in zip(
        composed.images, composed.classes, composed.masks, strict=True
    ):
        with torch.no_grad():
            top = network.module(image[None])[0].topk(2).indices
        if len(found) < 2 * count and set(top.tolist()) == set(classes.tolist()):
            first, second = classes.tolist()
            found.append(Question(image, first, second, masks[0], masks[1]))
            found.append(Question(image, second, first, masks[1], masks[0]))
    return found


def judged(
    network: Network, question: Question, heats: Tensor, *, more: bool = False
) -> list[Measures]:
    """Compares maps with the objects, and puts them to the tests.

    Args:
        network: The network.
        question: The image and the class.
        heats: ``(N, SIDE, SIDE)``.
        more: Whether ROAD and the curves are measured, too, which take 25 passes for each map.
    """

    def rate(images: Tensor) -> Scores:
        with torch.no_grad():
            parts = [network.module(part) for part in torch.split(images, 32)]
        scores = torch.cat(parts)
        return Scores(scores, scores.softmax(dim=1))

    image = question.image[None]
    images = torch.cat([image, cover(image, soft_mask(hottest(heats)), blurred(image))])
    scores = rate(images).scores
    plain = scores[:1, question.index] - scores[1:, question.index]
    drop = plain - (scores[:1, question.rival] - scores[1:, question.rival])
    found = []
    for heat, fall, alone in zip(heats, drop.tolist(), plain.tolist(), strict=True):
        each = replace(truth_of(heat, question.own, question.other), drop=fall, plain=alone)
        if bool(heat.any()):
            each = replace(each, focus=_value(focus(heat)))
        if more and bool(heat.any()):
            subject = Subject(image, heat, rate, question.index, [(question.rival, 1.0)])
            removed = _value(road(subject, _ROAD_SHARES, baselines=False))
            curves = _value(deletion_insertion(subject, _STEPS, baselines=False))
            each = replace(each, road=removed, curves=curves)
        found.append(each)
    return found


def _value(test: EvidenceTest) -> float:
    return float("nan") if test.value is None else test.value


def every_candidate(network: Network, question: Question) -> dict[tuple[str, str], Tensor]:
    """The map of each method at each layer, by both, from one pass."""
    methods = [
        method
        for method in METHODS.values()
        if method.attribute is None and method.combine is None  # all from one pass
    ]
    request = ExplainOptions.checked(target_layers=network.layers, classes=[question.index])
    prepared = prepare(network.model, question.image)
    job = make_job(network.model, prepared, methods, request)
    maps = run(job).maps
    return {
        (method.name, name): on_image(
            torch.from_numpy(
                on_input(maps[method.key, question.index, name], job.layers[name].extent).copy()
            )
        )
        for method in methods
        for name in network.layers
    }


def _explained(**arguments: Any) -> Callable[[Network, Question], Tensor]:
    def explain(network: Network, question: Question) -> Tensor:
        result = cam_hub.explain(
            network.model, question.image, classes=[question.index], **arguments
        )
        return on_image(torch.from_numpy(result.cam().copy()))

    return explain


def _torchcam(kind: str) -> Callable[[Network, Question], Tensor]:
    """Torchcam's own choice of the layer."""

    def explain(network: Network, question: Question) -> Tensor:
        from torchcam import methods  # noqa: PLC0415 - a peer, perhaps not installed

        with getattr(methods, kind)(network.module, input_shape=(3, 224, 224)) as extractor:
            scores = network.module(question.image[None].requires_grad_())
            (cam,) = extractor(question.index, scores)
        return on_image(cam[0].detach())

    return explain


def _last_convolution(network: Network, question: Question) -> Tensor:
    """pytorch-grad-cam has no layer of its own: its Grad-CAM at the last convolution."""
    from pytorch_grad_cam import GradCAM  # noqa: PLC0415 - a peer, perhaps not installed
    from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget  # noqa: PLC0415

    last = [part for part in network.module.modules() if isinstance(part, nn.Conv2d)][-1]
    with GradCAM(network.module, [last]) as extractor:
        target = [ClassifierOutputTarget(question.index)]
        cam = extractor(question.image[None].clone().requires_grad_(), target)[0]
    return on_image(torch.from_numpy(cam))


RULES: dict[str, Callable[[Network, Question], Tensor]] = {
    "cam_hub: default": _explained(),
    "SmoothGradCAM++, by evidence": _explained(method="smoothgradcampp", target_layers="faithful"),
    "LayerCAM, by evidence": _explained(method="layercam", target_layers="faithful"),
    "SmoothGradCAM++, by depth": _explained(method="smoothgradcampp", target_layers="best"),
    "LayerCAM, by depth": _explained(method="layercam", target_layers="best"),
    "Grad-CAM, by depth": _explained(method="gradcam", target_layers="best"),
    "torchcam: LayerCAM": _torchcam("LayerCAM"),
    "torchcam: SmoothGradCAM++": _torchcam("SmoothGradCAMpp"),
    "pytorch-grad-cam: Grad-CAM, last convolution": _last_convolution,
}
"""What each rule draws; errors of a peer count as a blank map."""


def measured(name: str, network: Network, asked: Sequence[Question], tested: int) -> Result:
    """Draws the maps of every rule, and of each method at each layer, and measures them.

    Args:
        name: The name of the network.
        network: The network.
        asked: Images and classes; both classes of an image follow each other.
        tested: How many maps ROAD and the curves are measured of.
    """
    rules: dict[str, list[Measures]] = {}
    candidates: dict[tuple[str, str], list[Measures]] = {}
    every = max(1, len(asked) // max(1, tested))
    earlier: tuple[Question, dict[tuple[str, str], Tensor]] | None = None
    for number, question in enumerate(asked):
        more = tested > 0 and number % every == 0
        found = dict(drawn(network, question))
        for rule, each in zip(
            found, judged(network, question, torch.stack([*found.values()]), more=more), strict=True
        ):
            rules.setdefault(rule, []).append(each)
        maps = every_candidate(network, question)
        marks = judged(network, question, torch.stack([*maps.values()]), more=more)
        pair = earlier is not None and earlier[0].image is question.image
        for key, each in zip(maps, marks, strict=True):
            other = float("nan")
            if earlier is not None and pair:
                other = float(spearmanr(maps[key].flatten(), earlier[1][key].flatten()).statistic)
            candidates.setdefault(key, []).append(replace(each, other=other))
        earlier = question, maps
    single = not any(bool(question.other.any()) for question in asked)
    by_layer: dict[str, dict[str, Measures]] = {}
    for (method, layer), found_at in candidates.items():
        by_layer.setdefault(layer, {})[method] = _mean(found_at, single=single)
    means = {rule: _mean(found, single=single) for rule, found in rules.items()}
    return Result(name, len(asked), means, by_layer)


def _mean(measures: list[Measures], *, single: bool) -> Measures:
    """The mean; ``own`` needs two objects."""
    found = mean(measures)
    return replace(found, own=float("nan")) if single else found


def drawn(network: Network, question: Question) -> Iterator[tuple[str, Tensor]]:
    """The map of each rule; zeros where there is none."""
    for name, rule in RULES.items():
        heat = torch.zeros(question.own.shape)
        with suppress(Exception):  # whatever a peer raises on a network that it does not support
            heat = rule(network, question)
        yield name, heat
