"""Which layers the scores depend on, found by backward passes from the scores."""

from __future__ import annotations

from collections.abc import Callable, Container, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from cam_hub.hooks.frozen_eval import frozen_eval
from cam_hub.hooks.recording import Taps, observe, same_values
from cam_hub.layers.correspondence import FEW_CELLS, areas, lead
from cam_hub.layers.layouts import Arrangement, batch_axes, to_maps
from cam_hub.layers.model_runner import Run
from cam_hub.methods import layercam

__all__ = ["Dependence", "Dependences", "dependences"]

_T = TypeVar("_T")

_CELLS, _CHANNELS = 256, 32
"""Number of cells or channels that are examined first; mostly they show the result for all."""

Score = Callable[[Any], Tensor]
"""From what a model returns to ``(1, K)`` scores."""


@dataclass(frozen=True)
class Dependence:
    """How scores depend on a layer.

    Attributes:
        channels: The part of its channels that some score depends on, in [0, 1].
        cells: The part of its cells that some score depends on, in [0, 1]. Tokens without a place
            do not count.
        has_positive_evidence: Whether its LayerCAM map of the clean input is not blank for the
            predicted class (for each of the highest scores, if several are requested).
        sorted: Whether its channels are classes already: the predicted one's score depends on a
            single channel of several.
    """

    channels: float
    cells: float
    has_positive_evidence: bool
    sorted: bool


class Dependences(dict[str, Dependence]):
    """Dependences by layer, with the graph that they were found in while it is still there."""

    def __init__(self, taps: Taps, scores: Tensor, layers: Mapping[str, Arrangement]) -> None:
        super().__init__()
        self._taps = taps
        self._scores = scores
        self._layers = layers
        self._feeding: dict[str, set[str]] = {}

    def feeding(self, name: str) -> set[str]:
        """The layers, of those that scores depend on, on which this layer's output depends."""
        if name in self._feeding:
            return self._feeding[name]
        found: set[str] = set()

        def visit(other: str, gradient: Tensor) -> None:
            if other != name and other in self and _any(gradient):
                found.add(other)

        activation = self._taps.activations[name]
        before = self._taps.upstream(activation) & self.keys() - {name}
        if before.isdisjoint(self._taps.upstream(self._scores, stop=name)):
            # All that scores depend on in them passes through this layer: no pass is needed.
            found = before
        elif len(self) > 1:
            self._taps.visit_gradients(_mixture(activation), visit)
        self._feeding[name] = found
        return found

    def quadrant_leads(self, name: str, *, every: bool = False) -> dict[str, float]:
        """Whether the cells of a layer depend on those at the same place of earlier ones.

        Disturbing the image does not show where cells lie that respond to all of it alike. But a
        token with a residual connection depends most on itself; a frequency, a latent or a token
        in another order does not.

        Args:
            name: The layer.
            every: Whether every quadrant is examined, not only two opposite ones: with latents,
                these depend most on their own by chance in one case of sixteen.

        Returns:
            A lead for each layer that it depends on: by how much the quadrants depend more on their
            own quadrant of that layer than on any other, ``(own - other) / max(own, other)`` in
            [-1, 1], the least of them.
        """
        grid = self._layers[name].grid
        # Next to a long axis, one of two or three cells is not examined: kernels cover all of it.
        halved = tuple(side > FEW_CELLS or max(grid) <= FEW_CELLS for side in grid)
        maps = to_maps(self._taps.activations[name], self._layers[name])
        maps = maps.reshape(*maps.shape[:2], -1, *grid)
        leads: dict[str, list[float]] = {}

        def visit(other: str, gradient: Tensor) -> None:
            if other != name and other in self:
                own = _own_lead(gradient, self._layers[other], halved, quadrant)
                leads.setdefault(other, []).append(own)

        quadrants = areas(*grid, halved)
        examined = range(len(quadrants)) if every else (0, -1)
        for quadrant in examined:
            area = quadrants[quadrant]
            self._taps.visit_gradients(_mixture(maps[..., area[0], area[1]]), visit)
        return {other: min(found) for other, found in leads.items() if len(found) == len(examined)}


@contextmanager
def dependences(
    module: nn.Module,
    clean: Tensor,
    run: Run,
    score: Score,
    layers: Mapping[str, Arrangement],
    *,
    highest: int = 1,
    overwritten: Container[str] | None = None,
    chosen: Mapping[str, int] | None = None,
) -> Iterator[Dependences]:
    """Determines how scores depend on layers, by one forward pass and backward passes from it.

    A random mixture of all scores is differentiated, in which no dependence can cancel out; then
    the highest scores, one by one. Gradients are evaluated as they are computed, so that memory
    holds the forward pass of one input and no copies of it.

    Args:
        module: The model.
        clean: One input, batch first.
        run: How to run the model on it.
        score: From what it returns to scores.
        layers: The layers in question, and how each lies on the image.
        highest: Number of the highest scores for which a layer needs positive evidence.
        overwritten: The layers whose output is written to by what follows; None if that is not
            known.
        chosen: Of layers that run several times, which call counts; the last one of the others.

    Yields:
        The layers that some score depends on, in the order in which they finished.
    """
    axes = batch_axes(layers)
    with frozen_eval(module), ExitStack() as stack:
        try:
            taps = Taps(overwritten, chosen=chosen or {}, **axes)
            stack.enter_context(observe(module, taps.record, layers))
            scores = score(run(module, clean))
            intact = taps.intact
        except RuntimeError:  # torch's, for writing to what it must not
            intact = False
            if overwritten is None:
                raise
        if not intact:  # with autograd on, something else is written to than without
            stack.close()
            taps = Taps(chosen=chosen or {}, **axes)
            stack.enter_context(observe(module, taps.record, layers))
            scores = score(run(module, clean))
        yield _judge_all(taps, scores, layers, highest)


def _judge_all(
    taps: Taps, scores: Tensor, layers: Mapping[str, Arrangement], highest: int
) -> Dependences:
    found = Dependences(taps, scores, layers)
    if not scores.requires_grad or not taps.activations:
        return found
    counted: dict[str, tuple[float, float]] = {}

    def count(name: str, gradient: Tensor) -> None:
        # Without the class token, which no map shows.
        parts = once(_count, layers[name], gradient)
        if any(parts):
            counted[name] = parts

    once = _Once()
    taps.visit_gradients(_mixture(scores), count)
    tops = []
    for top in scores.flatten().topk(min(highest, scores.numel())).values:
        by_layer: dict[str, _GradientSummary] = {}

        def visit(
            name: str, gradient: Tensor, by_layer: dict[str, _GradientSummary] = by_layer
        ) -> None:
            activation = taps.activations[name].detach()
            by_layer[name] = once(_summarize, layers[name], gradient, activation)

        taps.visit_gradients(top, visit)
        tops.append(by_layer)
    # A score that depends on nothing (a class without a box) does not count.
    counting = [top for top in tops if any(summary.nonzero for summary in top.values())]
    nothing = _GradientSummary(nonzero=False, has_positive_evidence=False, sorted=False)
    for name in taps.activations:
        if name in counted:
            summaries = [by_layer.get(name, nothing) for by_layer in counting or tops[:1]]
            evidence = all(summary.has_positive_evidence for summary in summaries)
            found[name] = Dependence(*counted[name], evidence, summaries[0].sorted)
    return found


class _Once:
    """Evaluates once what containers and layers without effect share with the layer before them."""

    def __init__(self) -> None:
        self._last: tuple[Any, ...] = ()
        self._found: Any = None

    def __call__(
        self, function: Callable[..., _T], arrangement: Arrangement, *tensors: Tensor
    ) -> _T:
        arguments = (function, arrangement, *tensors)
        if len(arguments) != len(self._last) or not all(map(_same, arguments, self._last)):
            found = function(*(to_maps(tensor, arrangement) for tensor in tensors))
            self._last, self._found = arguments, found
        answer: _T = self._found
        return answer


def _same(one: Any, other: Any) -> bool:
    if isinstance(one, Tensor) and isinstance(other, Tensor):
        return same_values(one, other)
    return bool(one == other)


@dataclass(frozen=True)
class _GradientSummary:
    """The gradient of one score in a layer, summarized; for the meaning see ``Dependence``."""

    nonzero: bool
    has_positive_evidence: bool
    sorted: bool


def _count(gradient: Tensor) -> tuple[float, float]:
    """The parts of the channels and of the cells of a gradient ``(1, channels, rows, cols)``.

    Single zeros do not count: a ReLU that follows cuts off half of the values, but hardly ever a
    whole channel or a whole cell.
    """
    values = gradient[0].flatten(1)
    channels, cells = values.shape
    # A part of the values suffices where it shows that none is left out.
    nonzero_parts = (
        _count_nonzero(_evenly_spaced(values, 1, _CELLS), 0),
        _count_nonzero(_evenly_spaced(values, 0, _CHANNELS), 1),
    )
    if nonzero_parts != (channels, cells):
        nonzero_parts = _count_nonzero(values, 0), _count_nonzero(values, 1)
    return nonzero_parts[0] / channels, nonzero_parts[1] / cells


def _summarize(gradient: Tensor, activation: Tensor) -> _GradientSummary:
    values = gradient[0].flatten(1)
    nonzero_parts = int(_evenly_spaced(values, 1, _CELLS).abs().sum(dim=1).count_nonzero())
    if nonzero_parts <= 1:
        nonzero_parts = int(values.abs().sum(dim=1).count_nonzero())
    pair = activation.flatten(2), gradient.flatten(2)
    return _GradientSummary(
        nonzero=nonzero_parts > 0,
        has_positive_evidence=nonzero_parts > 0
        and (
            bool(layercam(*(_evenly_spaced(each, 2, _CELLS) for each in pair)).any())
            or bool(layercam(*pair).any())
        ),
        sorted=len(values) > 1 and nonzero_parts == 1,
    )


def _any(gradient: Tensor) -> bool:
    # Of the first values one is hardly ever zero; torch's any() reads all, and slowly.
    values = gradient.flatten()
    return bool(values[:_CELLS].count_nonzero()) or bool(values.count_nonzero())


def _count_nonzero(values: Tensor, axis: int) -> int:
    """How many rows (axis 0) or columns (axis 1) of a table hold more than zeros."""
    return int(values.abs().sum(dim=1 - axis).count_nonzero())


def _evenly_spaced(values: Tensor, axis: int, max_count: int) -> Tensor:
    """At most so many of the entries along an axis, evenly spread."""
    index = [slice(None)] * values.ndim
    index[axis] = slice(None, None, -(-values.shape[axis] // max_count))
    return values[tuple(index)]


def _own_lead(
    gradient: Tensor, arrangement: Arrangement, halved: tuple[bool, ...], quadrant: int
) -> float:
    maps = to_maps(gradient.abs(), arrangement).sum(dim=(0, 1))
    grid = maps.reshape(-1, *arrangement.grid).sum(dim=0)
    quadrants = areas(*arrangement.grid, halved)
    own = quadrants[quadrant]
    others = [float(grid[area].mean()) for area in quadrants if area != own]
    size = float(grid[own].mean())
    return lead(size, max(others, default=size))


def _mixture(tensor: Tensor) -> Tensor:
    weights = torch.randn(tensor.shape, generator=torch.Generator().manual_seed(0))
    return (tensor * weights.to(tensor)).sum()
