"""The minimum time of autograd for the gradients of the maps.

Plain torch, written by hand: no graph before the first target layer, a graph of the rest for the
same images, and ``torch.autograd.grad`` of class scores with respect to the target layers. No noise
is drawn, no map is computed, and no image is drawn. Nothing that computes these gradients with
torch can be faster.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor, nn

from bench.engine.subjects import Subject
from bench.engine.timing import Contender
from cam_hub.attribution.preparation import suited_format

__all__ = ["FLOOR", "one_more_class", "whole"]

FLOOR = "floor"
"""The contender's name."""


def whole(
    subject: Subject, images: int, layers: Sequence[str] | None = None, *, classes: int = 1
) -> Contender:
    """A forward pass, and a backward pass for each class.

    Args:
        subject: The network.
        images: Number of equal images in one batch, converted to the memory format beforehand.
        layers: The target layers; None for the recommended one.
        classes: Number of the first image's best classes.
    """
    batch: list[Tensor] = []
    forward = _forward(subject, layers)

    def run(_image: Tensor) -> object:
        scores, outputs = forward(batch[0])
        best = scores[0].topk(classes).indices.tolist()
        return [_back(scores, index, outputs, keep=index != best[-1]) for index in best]

    return Contender(run, _laid_out(subject, images, batch))


def one_more_class(subject: Subject, images: int) -> Contender:
    """The backward pass alone, on a stored graph; the forward pass is not timed.

    Args:
        subject: The network.
        images: Number of images in the pass.
    """
    batch: list[Tensor] = []
    kept: list[tuple[Tensor, list[Tensor]]] = []
    lay_out, forward = _laid_out(subject, images, batch), _forward(subject, None)

    def before(image: Tensor) -> None:
        lay_out(image)
        scores, outputs = forward(batch[0])
        _back(scores, int(scores[0].argmax()), outputs, keep=True)
        kept[:] = [(scores, outputs)]

    def run(_image: Tensor) -> object:
        scores, outputs = kept[0]
        return _back(scores, int(scores[0].topk(2).indices[1]), outputs, keep=True)

    return Contender(run, before)


def _laid_out(subject: Subject, images: int, batch: list[Tensor]) -> Callable[[Tensor], None]:
    def before(image: Tensor) -> None:
        layout = suited_format(subject.model, image)
        batch[:] = [image.repeat(images, 1, 1, 1).contiguous(memory_format=layout)]

    return before


def _forward(
    subject: Subject, layers: Sequence[str] | None
) -> Callable[[Tensor], tuple[Tensor, list[Tensor]]]:
    """A pass that returns the scores and the outputs of the layers, in order of execution."""
    module = subject.model.module
    targets = [module.get_submodule(name) for name in layers or [subject.recommended]]

    def forward(batch: Tensor, *, copying: bool = False) -> tuple[Tensor, list[Tensor]]:
        outputs: list[Tensor] = []

        def hook(_module: nn.Module, _inputs: Any, output: Tensor) -> Tensor | None:
            first = not outputs
            outputs.append(output.detach().requires_grad_() if first else output)
            if not first:
                return None
            return outputs[0].clone() if copying else outputs[0]

        with ExitStack() as stack:
            for target in targets:
                stack.callback(target.register_forward_hook(hook).remove)
            return module(batch), outputs

    def run(batch: Tensor) -> tuple[Tensor, list[Tensor]]:
        with torch.enable_grad():
            return forward(batch, copying=copies[0])

    def try_out(batch: Tensor) -> tuple[Tensor, list[Tensor]]:
        try:
            return run(batch)
        except RuntimeError:  # a leaf must not be written to, as by an in-place layer
            if copies[0]:
                raise
            copies[0] = True
            return run(batch)

    copies = [False]
    return try_out


def _back(scores: Tensor, index: int, outputs: Sequence[Tensor], *, keep: bool) -> object:
    score = scores[:, index].sum()
    return torch.autograd.grad(score, outputs, retain_graph=keep, allow_unused=True)
