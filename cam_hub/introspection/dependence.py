"""Which layers the scores depend on, found by the way back from them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from cam_hub.guard import quiet
from cam_hub.introspection.layouts import Arrangement, to_maps
from cam_hub.introspection.probe import Run
from cam_hub.methods import layercam
from cam_hub.recording import Taps, tap

__all__ = ["Dependence", "Dependences", "dependences"]

Score = Callable[[Any], Tensor]
"""From what a model returns to ``(1, K)`` scores."""


@dataclass(frozen=True)
class Dependence:
    """How scores depend on a layer.

    Attributes:
        channels: The part of its channels that some score depends on, in [0, 1].
        cells: The part of its cells that some score depends on, in [0, 1]. Tokens without a place
            do not count.
        speaks: Whether anything in it speaks for the predicted class (for each of several, if that
            was asked for): whether its LayerCAM map of the clean input is not blank.
        sorted: Whether its channels are classes already: the predicted one's score depends on a
            single channel of several.
    """

    channels: float
    cells: float
    speaks: bool
    sorted: bool


class Dependences(dict[str, Dependence]):
    """Dependences by layer, with the graph that they were found in while it is still there."""

    def __init__(self, taps: Taps, layers: Mapping[str, Arrangement]) -> None:
        super().__init__()
        self._taps = taps
        self._layers = layers

    def feeding(self, name: str) -> set[str]:
        """The layers, of those that scores depend on, on which this layer's output depends."""
        output = self._taps.activations[name]
        others = [other for other in self if other != name]
        if not others:
            return set()
        gradients = self._taps.gradients(_mixture(output), others, keep_graph=True)
        return {other for other, gradient in gradients.items() if bool(gradient.any())}


@contextmanager
def dependences(
    module: nn.Module,
    clean: Tensor,
    run: Run,
    score: Score,
    layers: Mapping[str, Arrangement],
    *,
    highest: int = 1,
) -> Iterator[Dependences]:
    """Finds out by one forward pass and the way back how scores depend on layers.

    A random mixture of all scores is differentiated, in which no dependence can cancel out; then
    the highest scores, one by one.

    Args:
        module: The model.
        clean: One input, batch first.
        run: How to run the model on it.
        score: From what it returns to scores.
        layers: The layers in question, and how each lies on the image.
        highest: How many of the highest scores something in a layer must speak for.

    Yields:
        The layers that some score depends on, in the order in which they finished.
    """
    with quiet(module), tap(module, list(layers)) as taps:
        scores = score(run(module, clean))
        found = Dependences(taps, layers)
        ran = list(taps.activations)
        if scores.requires_grad and ran:
            mixed = taps.gradients(_mixture(scores), ran, keep_graph=True)
            tops = scores.flatten().topk(min(highest, scores.numel())).values
            by_top = [taps.gradients(top, ran, keep_graph=True) for top in tops]
            # A score that depends on nothing (a class of which there is no box) asks for nothing.
            by_top = [top for top in by_top if any(map(torch.any, top.values()))] or by_top[:1]
            for name in ran:
                if bool(mixed[name].any()):
                    parts = (mixed, taps.activations, *by_top)
                    maps = [to_maps(part[name].detach(), layers[name]) for part in parts]
                    found[name] = _judge(maps[0], maps[1], maps[2:])
        yield found


def _judge(mixed: Tensor, activation: Tensor, tops: list[Tensor]) -> Dependence:
    """Of gradients and activation ``(1, channels, rows, cols)``, the highest score's first.

    Single zeros do not count: a ReLU that follows cuts off half of the values, but hardly ever a
    whole channel or a whole cell.
    """
    alive = mixed[0].flatten(1) != 0
    return Dependence(
        float(alive.any(dim=1).float().mean()),
        float(alive.any(dim=0).float().mean()),
        all(bool(layercam(activation, top).any()) for top in tops),
        len(alive) > 1 and int((tops[0][0].flatten(1) != 0).any(dim=1).sum()) == 1,
    )


def _mixture(tensor: Tensor) -> Tensor:
    weights = torch.randn(tensor.shape, generator=torch.Generator().manual_seed(0))
    return (tensor * weights.to(tensor)).sum()
