"""The same maps by other libraries, each used as in its own documentation.

torchcam gets every advantage that its interface allows: one forward pass for both methods and all
classes, and the layouts found by cam_hub where it has none of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from importlib import import_module
from importlib.util import find_spec
from typing import Any

from torch import Tensor
from torchcam.methods import LayerCAM, SmoothGradCAMpp

from bench.engine.subjects import Subject
from cam_hub.layers.layouts import to_maps

__all__ = ["SAMPLES", "easy_explain_shaped", "grad_cam_layercam", "has_grad_cam", "torchcam_maps"]

SAMPLES = 4
"""Noisy copies of SmoothGradCAM++; the default of torchcam and of cam_hub."""


def torchcam_maps(
    subject: Subject, layers: Sequence[str], *, smooth: bool = True, classes: int = 1
) -> Callable[[Tensor], object]:
    """LayerCAM of torchcam, and optionally its SmoothGradCAM++, for the best classes.

    Args:
        subject: The network.
        layers: The target layers.
        smooth: Whether SmoothGradCAM++ is also computed.
        classes: Number of classes.
    """
    module, settings = subject.trainable, _reading(subject, layers)

    def run(image: Tensor) -> object:
        with ExitStack() as stack:
            layercam = stack.enter_context(LayerCAM(module, list(layers), **settings))
            if smooth:
                noisy = SmoothGradCAMpp(module, list(layers), num_samples=SAMPLES, **settings)
                stack.enter_context(noisy)
            scores = module(image)
            best = scores[0].topk(classes).indices.tolist()
            maps = [layercam(index, scores, retain_graph=True) for index in best]
            layercam.disable_hooks()
            if smooth:
                maps += [noisy(index) for index in best]
            return maps

    return run


def easy_explain_shaped(subject: Subject) -> Callable[[Tensor], object]:
    """The computation of an easy-explain call: three new extractors, without figures."""
    module, one, several = subject.trainable, [subject.recommended], subject.stages
    plans: list[tuple[Callable[..., Any], list[str]]] = [
        (SmoothGradCAMpp, one),
        (LayerCAM, one),
        (LayerCAM, several),
    ]

    def run(image: Tensor) -> object:
        maps = []
        for method, layers in plans:
            extractor = method(module, layers, **_reading(subject, layers))
            output = module(image)
            maps.append(extractor(output.squeeze(0).argmax().item(), output))
            extractor.remove_hooks()
        return maps

    return run


def has_grad_cam() -> bool:
    """Whether the extra ``bench`` is installed."""
    return find_spec("pytorch_grad_cam") is not None


def grad_cam_layercam(subject: Subject) -> Callable[[Tensor], object]:
    """grad-cam's LayerCAM at the recommended layer."""
    module = subject.trainable
    layer = module.get_submodule(subject.recommended)
    transform = _reading(subject, [subject.recommended]).get("reshape_transform")
    method = import_module("pytorch_grad_cam").LayerCAM

    def run(image: Tensor) -> object:
        with method(model=module, target_layers=[layer], reshape_transform=transform) as cam:
            return cam(input_tensor=image, targets=None)

    return run


def _reading(subject: Subject, layers: Sequence[str]) -> dict[str, Any]:
    """The function that makes activations channels-first, for extractors that accept only one.

    Raises:
        ValueError: If the layers need several functions.
    """
    found = [subject.arrangement(layer) for layer in layers]
    layouts = {each.layout for each in found}
    if layouts == {"NCHW"}:
        return {}
    by_shape = layouts == {"NHWC"}
    if not by_shape and len(set(found)) > 1:
        raise ValueError("these layers have no layout in common")
    return {"reshape_transform": lambda tensor: to_maps(tensor, found[0])}
