"""The contenders of cam_hub, and plain inference."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch import Tensor, nn

import cam_hub
from bench.engine.peers import SAMPLES
from bench.engine.subjects import Subject
from bench.engine.timing import Contender
from cam_hub.attribution.passes import RECENT

__all__ = ["METHODS", "PLAIN", "fresh", "maps", "plain", "warm"]

PLAIN = ("plain", "plain, channels-last")
"""Plain inference in both memory formats; the faster one is used for comparison."""

METHODS = ("smoothgradcampp", "layercam")


def plain(subject: Subject, images: int) -> dict[str, Contender]:
    """Plain inference of a number of images in one batch.

    The input is converted to the memory format beforehand, which is not timed.
    """
    return {
        "plain": Contender(*_forward(subject.model.module, images, torch.contiguous_format)),
        "plain, channels-last": Contender(
            *_forward(subject.channels_last, images, torch.channels_last)
        ),
    }


def _forward(
    module: nn.Module, images: int, layout: torch.memory_format
) -> tuple[Callable[[Tensor], object], Callable[[Tensor], object]]:
    batch: list[Tensor] = []

    def before(image: Tensor) -> None:
        batch[:] = [image.repeat(images, 1, 1, 1).contiguous(memory_format=layout)]

    def run(_image: Tensor) -> object:
        with torch.inference_mode():
            return module(batch[0])

    return run, before


def maps(
    subject: Subject,
    layers: Sequence[str] | None = None,
    *,
    methods: Sequence[str] = METHODS,
    classes: int = 1,
) -> Callable[[Tensor], list[cam_hub.Explanation]]:
    """Explanations by several methods, of a new image or of one that was explained before.

    Args:
        subject: The network.
        layers: The target layers; None for the recommended one.
        methods: The methods, computed from one pass.
        classes: Number of classes, the best ones.
    """
    chosen = list(layers) if layers is not None else None

    def run(image: Tensor) -> list[cam_hub.Explanation]:
        found = cam_hub.explain_methods(
            subject.model,
            image,
            methods,
            target_layers=chosen,
            classes=cam_hub.top(classes),
            num_samples=SAMPLES,
            sampling="fixed",  # as the other contenders
        )
        return list(found.values())

    return run


def fresh(run: Callable[[Tensor], object]) -> Contender:
    """Explanations of a new image, which fill the pass cache."""
    return Contender(run, lambda _image: RECENT.clear())


def warm(subject: Subject, what: str) -> Contender:
    """A further result for an image that was explained by both methods for one class.

    It was explained at the recommended layer, and for ``"layer"`` at all stages; for ``"colour"``
    and ``"threshold"``, one overlay of it was drawn.

    Args:
        subject: The network.
        what: ``"class"``, ``"layer"``, ``"method"``, ``"colour"`` or ``"threshold"``.
    """
    first = maps(subject, subject.stages if what == "layer" else None)
    found: list[cam_hub.Explanation] = []
    again = partial(
        cam_hub.explain, subject.model, method=METHODS[0], num_samples=SAMPLES, sampling="fixed"
    )

    def before(image: Tensor) -> None:
        RECENT.clear()
        found[:] = first(image)
        if what in ("colour", "threshold"):
            found[0].overlay()

    def run(image: Tensor) -> object:
        if what == "colour":
            return found[0].overlay(colormap="viridis")
        if what == "threshold":
            return found[0].mask(0.3)
        if what == "class":
            second = found[0].predictions[1].class_index
            return again(image, classes=second)
        if what == "layer":
            return again(image, target_layers=subject.stages[0])
        return again(image, method="gradcam")

    return Contender(run, before)
