"""How a map's layer and method are chosen: by cam_hub, by its peers, or by trying all of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

import cam_hub
from bench.truth.measures import Measures, on_image, truth_of
from bench.truth.world import Composed
from cam_hub import METHODS
from cam_hub.attribution.passes import run
from cam_hub.attribution.preparation import make_job, prepare
from cam_hub.attribution.request import ExplainOptions
from cam_hub.faithfulness import blurred, cover, hottest, soft_mask
from cam_hub.layers.layouts import on_input

__all__ = ["RULES", "Network", "Question", "every_candidate", "judged", "questions"]


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


def judged(network: Network, question: Question, heats: Tensor) -> list[Measures]:
    """Compares maps ``(N, SIDE, SIDE)`` with the objects, and puts them to the cover test."""
    image = question.image[None]
    images = torch.cat([image, cover(image, soft_mask(hottest(heats)), blurred(image))])
    with torch.no_grad():
        parts = [network.module(part) for part in torch.split(images, 32)]
    scores = torch.cat(parts)
    plain = scores[:1, question.index] - scores[1:, question.index]
    drop = plain - (scores[:1, question.rival] - scores[1:, question.rival])
    return [
        replace(truth_of(heat, question.own, question.other), drop=fall, plain=alone)
        for heat, fall, alone in zip(heats, drop.tolist(), plain.tolist(), strict=True)
    ]


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
        cam = extractor(question.image[None], target)[0]
    return on_image(torch.from_numpy(cam))


RULES: dict[str, Callable[[Network, Question], Tensor]] = {
    "cam_hub: default": _explained(),
    "cam_hub: auto": _explained(method="auto"),
    "SmoothGradCAM++, by evidence": _explained(target_layers="faithful"),
    "LayerCAM, by evidence": _explained(method="layercam", target_layers="faithful"),
    "SmoothGradCAM++, by depth": _explained(method="smoothgradcampp", target_layers="best"),
    "LayerCAM, by depth": _explained(method="layercam", target_layers="best"),
    "Grad-CAM, by depth": _explained(method="gradcam", target_layers="best"),
    "torchcam: LayerCAM": _torchcam("LayerCAM"),
    "torchcam: SmoothGradCAM++": _torchcam("SmoothGradCAMpp"),
    "pytorch-grad-cam: Grad-CAM, last convolution": _last_convolution,
}
"""What each rule draws; errors of a peer count as a blank map."""


def drawn(network: Network, question: Question) -> Iterator[tuple[str, Tensor]]:
    """The map of each rule; zeros where there is none."""
    for name, rule in RULES.items():
        heat = torch.zeros(question.own.shape)
        with suppress(Exception):  # whatever a peer raises on a network that it does not support
            heat = rule(network, question)
        yield name, heat
