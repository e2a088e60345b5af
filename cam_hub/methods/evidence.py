"""What methods make maps of, and maps as numbers.

Activations and gradients, how far noise decides about a map; a network as a black box; widening to
float32, scaling to [0, 1] and checks.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Final

import numpy as np
import torch
from torch import Tensor

from cam_hub.errors import InvalidArgument, NoMap

__all__ = [
    "FLAT_ROUNDINGS",
    "GROUPS",
    "Attention",
    "BlackBox",
    "Evidence",
    "MomentSum",
    "Moments",
    "agreement",
    "as_float",
    "by_maximum",
    "check_map",
    "normalise",
]

GROUPS: Final = 4
"""Noisy samples form so many groups, whose moments are kept apart."""


def as_float(tensor: Tensor) -> Tensor:
    """The tensor outside any graph, in float32 or, if it has more precision, as it is.

    float16 and bfloat16 are widened: squares, cubes and sums over a grid leave their range soon.

    Args:
        tensor: Any shape, any real type.

    Returns:
        The same values. It may share memory with ``tensor``, so it must not be written to.
    """
    return tensor.detach().to(torch.promote_types(tensor.dtype, torch.float32))


# A map whose values differ by no more than this many roundings is flat: stretched to [0, 1], its
# rounding errors would pass for a pattern.
FLAT_ROUNDINGS = 8


def by_maximum(maps: Tensor) -> Tensor:
    """``M / max M``, per sample; 0 keeps its meaning "no evidence for the class".

    Args:
        maps: ``(B, *grid)``, at least 0.

    Returns:
        ``(B, *grid)`` in [0, 1], with the exact maximum 1; a map of zeros stays zero. A sample
        that is not finite gives NaN.

    Raises:
        InvalidArgument: The maps lack a grid.
    """
    maps = as_float(maps)
    peak = maps.amax(dim=_grid_axes(maps), keepdim=True)
    return torch.where(peak == 0, 0.0, maps / peak)


def normalise(maps: Tensor) -> Tensor:
    """``(M - min M) / (max M - min M)``, per sample.

    Args:
        maps: ``(B, *grid)``, any sign.

    Returns:
        ``(B, *grid)`` in [0, 1], with the exact minimum 0 and maximum 1. A flat map, one whose
        values are equal but for rounding, gives zeros. A sample that is not finite gives NaN
        somewhere, which :func:`check_map` refuses.

    Raises:
        InvalidArgument: The maps lack a grid.
    """
    maps = as_float(maps)
    axes = _grid_axes(maps)
    low, high = maps.amin(dim=axes, keepdim=True), maps.amax(dim=axes, keepdim=True)
    return torch.where(_flat(low, high), 0.0, (maps - low) / (high - low))


def check_map(cam: Tensor, layer: str | None = None) -> None:
    """Refuse a map that would be blank or false on the picture.

    Args:
        cam: One sample's un-normalised map, any shape.
        layer: The layer it comes from, for the message.

    Raises:
        NoMap: A value is not finite, all are zero, all are equal, or there is none.
    """
    cam = as_float(cam)
    positions = cam.numel()
    if positions == 0:
        raise NoMap("the map has no positions. Try another layer.", layer)
    if broken := positions - int(cam.isfinite().sum()):
        raise NoMap(
            f"{broken} of {positions} positions are NaN or infinite, as happens when half "
            "precision overflows or the weights are broken. Try float32 or another layer.",
            layer,
        )
    low, high = cam.min(), cam.max()
    if low == high == 0:
        raise NoMap(
            "no position at this layer is evidence for the class: the map is zero everywhere. "
            "Either the score does not depend on these positions, or all of them are evidence "
            "against the class. Try another layer, method or class.",
            layer,
        )
    if _flat(low, high):
        raise NoMap(
            f"all {positions} positions are equal evidence for the class ({float(high):.3g}), so "
            "that the map points nowhere. Try a layer with a finer grid, or another method.",
            layer,
        )


def _flat(low: Tensor, high: Tensor) -> Tensor:
    span = high - low
    largest = torch.maximum(low.abs(), high.abs())
    # An infinite span does not exceed its own rounding, but is far from flat.
    return (span <= FLAT_ROUNDINGS * torch.finfo(span.dtype).eps * largest) & span.isfinite()


def _grid_axes(maps: Tensor) -> tuple[int, ...]:
    if maps.ndim < 2:
        raise InvalidArgument("maps", tuple(maps.shape), "the shape (batch, *grid)")
    return tuple(range(1, maps.ndim))


@dataclass(frozen=True, eq=False, slots=True)
class Moments:
    """Means of the first three powers of a gradient over noisy copies of the image.

    Attributes:
        first: Mean of g, ``(B, C, *grid)``.
        second: Mean of g², the same shape.
        third: Mean of g³, the same shape.

    Raises:
        InvalidArgument: The shapes differ.
    """

    first: Tensor
    second: Tensor
    third: Tensor

    def __post_init__(self) -> None:
        for name, moment in (("second", self.second), ("third", self.third)):
            if moment.shape != self.first.shape:
                expected = f"the shape of the first moment, {tuple(self.first.shape)}"
                raise InvalidArgument(name, tuple(moment.shape), expected)

    def negated(self) -> Moments:
        """The moments of the negated gradients: odd powers change their sign."""
        return Moments(-self.first, self.second, -self.third)

    @classmethod
    def of(cls, gradients: Tensor) -> Moments:
        """The moments of gradients that are given all at once.

        Args:
            gradients: ``(S, B, C, *grid)``, S noisy samples.

        Returns:
            Their moments, at least float32.

        Raises:
            InvalidArgument: The gradients lack a sample or a grid.
        """
        total = MomentSum()
        total.add(gradients)
        return total.mean()


@dataclass(eq=False)
class MomentSum:
    """Collects moments chunk by chunk, so that any number of samples costs the same memory.

    Samples are added one at a time, in order, to one of four groups in turn. Hence the result
    depends on the samples alone: how they were split into chunks, which follows from the memory at
    hand, does not change a bit.

    Attributes:
        count: How many samples have been added.
        BYTES: What it takes at most per number of a gradient, in float32.
    """

    BYTES: ClassVar = GROUPS * 3 * 4

    count: int = field(default=0, init=False)
    _groups: list[tuple[Tensor, Tensor, Tensor]] = field(default_factory=list, init=False)
    _sum: tuple[Tensor, Tensor, Tensor] | None = field(default=None, init=False)

    def add(self, gradients: Tensor) -> None:
        """Add the gradients of some noisy copies.

        Args:
            gradients: ``(S, B, C, *grid)`` for any S; the rest as in earlier calls.

        Raises:
            InvalidArgument: The gradients lack a grid, or differ in shape from those of earlier
                calls.
        """
        if gradients.ndim < 4:
            expected = "the shape (samples, batch, channels, *grid)"
            raise InvalidArgument("gradients", tuple(gradients.shape), expected)
        if self._groups and gradients.shape[1:] != self._groups[0][0].shape:
            expected = f"samples of the shape added before, {tuple(self._groups[0][0].shape)}"
            raise InvalidArgument("gradients", tuple(gradients.shape), expected)
        self._sum = None
        for sample in gradients:
            gradient = as_float(sample)
            square = gradient * gradient
            if len(self._groups) < GROUPS:
                self._groups.append((gradient.clone(), square, square * gradient))
            else:
                first, second, third = self._groups[self.count % GROUPS]
                first.add_(gradient)
                second.add_(square)
                third.addcmul_(square, gradient)
            self.count += 1

    def mean(self) -> Moments:
        """The moments of all samples so far; more may be added afterwards.

        Returns:
            New tensors, at least float32.

        Raises:
            InvalidArgument: No sample has been added.
        """
        first, second, third = self._total()
        return Moments(first / self.count, second / self.count, third / self.count)

    def without_each(self) -> Iterator[Moments]:
        """The moments without each of the groups: how far they differ shows what the noise does.

        Every fourth sample, from the first on, is of the first group, and so on. Of fewer than four
        samples, each is a group.

        Yields:
            As ``mean``, without the first group, then without the second …, one at a time, so that
            early layers do not need the memory of all; nothing of fewer than two samples.
        """
        if len(self._groups) < 2:
            return
        first, second, third = self._total()
        for place, own in enumerate(self._groups):
            count = self.count - len(range(place, self.count, GROUPS))
            yield Moments(
                (first - own[0]).div_(count),
                (second - own[1]).div_(count).clamp_(min=0),  # differences may round below 0
                (third - own[2]).div_(count),
            )

    def _total(self) -> tuple[Tensor, Tensor, Tensor]:
        if not self._groups:
            raise InvalidArgument("gradients", self.count, "at least one noisy sample")
        if self._sum is None:  # in place: of early layers, memory for sums costs more than adding
            first, second, third = map(torch.clone, self._groups[0])
            for group in self._groups[1:]:
                first.add_(group[0])
                second.add_(group[1])
                third.add_(group[2])
            self._sum = first, second, third
        return self._sum


@dataclass(frozen=True, eq=False, slots=True)
class Evidence:
    """All that a method may look at, for one layer and one class score per sample.

    Attributes:
        activation: The layer's output for the clean image, ``(B, C, *grid)``.
        gradient: Derivative of the class score (before any softmax) by ``activation``, the same
            shape.
        noisy: Moments of the same derivative at noisy copies of the image, the same shape each;
            None where no noisy copies were run.
    """

    activation: Tensor
    gradient: Tensor
    noisy: Moments | None = None

    def negated(self) -> Evidence:
        """The evidence of the negated class score: the same activations, opposite gradients."""
        noisy = None if self.noisy is None else self.noisy.negated()
        return Evidence(self.activation, -self.gradient, noisy)


@dataclass(frozen=True, eq=False, slots=True)
class Attention:
    """The attention of all layers of a transformer for one image.

    Attributes:
        matrices: Per layer, from the first one on, ``(heads, tokens, tokens)``: a row holds how
            much a token takes of each.
        gradients: The derivative of each score by these, ``(B, heads, tokens, tokens)`` per layer;
            empty where they were not asked for.
        rows: Which tokens after the last layer each score is computed from, as weights that sum to
            1: ``(B, tokens)``.
        place: From numbers of tokens ``(B, tokens)`` to maps over the image ``(B, *grid)``.
    """

    matrices: Sequence[Tensor]
    gradients: Sequence[Tensor]
    rows: Tensor
    place: Callable[[Tensor], Tensor]

    def transformed(self, transform: Callable[[Tensor], Tensor]) -> Attention:
        """The same for other scores.

        Args:
            transform: Makes their columns, ``(N, …)``, from ``(N, B)``, each of them one of these
                or a negated one.
        """
        gradients = [transform(gradient[None])[0] for gradient in self.gradients]
        return replace(self, gradients=gradients, rows=transform(self.rows[None])[0].abs())


@dataclass(frozen=True, eq=False)
class BlackBox:
    """A network as it appears to methods that make passes of their own: functions of tensors.

    Attributes:
        image: The explained input, ``(1, C, *sides)``.
        score: From inputs ``(N, C, *sides)`` to ``(N, B)``: one column for each explained score, a
            class's less its contrast's. Without a graph, in batches that memory suffices for. What
            it raises must pass.
        scores: B.
        activations: From inputs to the activations of the layer, ``(N, K, *grid)``, without a
            graph; None for a pixel-level method.
        gradients: From inputs to the gradients of the scores with respect to these,
            ``(N, B, K, *grid)``; None as well.
        network: Makes a copy of the network, from inputs to scores, that code of other packages may
            put hooks on; with the number of inputs that will pass, for the progress.
        stand: Makes a small network for code of other packages, whose part ``layer`` returns given
            activations, and whose outputs are the scores of a box; with the number as well.
        attention: From whether gradients are wanted to the attention of the explained input.
        layer: The layer's name; empty for a pixel-level method.
        prefix_tokens: Tokens before those of the layer's grid.
        grid: Rows and columns of the layer.
        channels: K.
        noisy: Yields the noisy copies, ``(1, C, *sides)`` each; None unless the method needs some.
        seed: Of what is drawn at random.
        batch_size: Inputs that ``score`` passes at once.
        report: To be called now and then with the part that is done, in [0, 1]. What it raises must
            pass: it stops the work.
    """

    image: Tensor
    score: Callable[[Tensor], Tensor]
    scores: int = 1
    activations: Callable[[Tensor], Tensor] | None = None
    gradients: Callable[[Tensor], Tensor] | None = None
    network: Callable[[int], Any] | None = None
    stand: Callable[[BlackBox, Tensor, int], Any] | None = None
    attention: Callable[[bool], Attention] | None = None
    layer: str = ""
    prefix_tokens: int = 0
    grid: tuple[int, int] = (0, 0)
    channels: int = 0
    noisy: Callable[[], Iterator[Tensor]] | None = None
    seed: int = 0
    batch_size: int = 8
    report: Callable[[float], object] = float

    def batches(self, count: int) -> Iterator[slice]:
        """Slices of ``range(count)`` of at most the batch size; each reports what is done."""
        for start in range(0, count, self.batch_size):
            self.report(start / count)
            yield slice(start, min(count, start + self.batch_size))

    def negated(self) -> BlackBox:
        """The same for the negated scores."""
        return self._transformed(torch.neg, self.scores)

    def with_negated(self) -> BlackBox:
        """The same for the scores, and then the negated ones: from the same passes."""
        return self._transformed(_with_negated, 2 * self.scores)

    def _transformed(self, transform: Callable[[Tensor], Tensor], scores: int) -> BlackBox:
        """The same for other scores, whose columns are linear in these."""
        score, gradients, network = self.score, self.gradients, self.network
        attention = self.attention

        def transformed(expected: int) -> Any:
            if network is None:
                raise AssertionError("not called without a network")
            found = network(expected)
            found.transforms.append(transform)
            return found

        return replace(
            self,
            score=lambda images: transform(score(images)),
            scores=scores,
            gradients=None if gradients is None else lambda x: transform(gradients(x)),
            network=None if network is None else transformed,
            attention=None
            if attention is None
            else lambda wanted: attention(wanted).transformed(transform),
        )


def _with_negated(scores: Tensor) -> Tensor:
    return torch.cat([scores, -scores], dim=1)


def agreement(maps: Tensor) -> float:
    """The correlation that maps of other noise can be expected to have, by the jackknife.

    The noisy copies of an image form G groups, and each map is made without one of them. If a
    group's noise adds the variance a to a map of variance 1, a map of G - 1 groups has the variance
    1 + a / (G - 1), and two of them share G - 2 groups, so that they correlate at
    (1 + a (G - 2) / (G - 1)²) / (1 + a / (G - 1)). That gives a; maps of all groups, out of two
    seeds, then correlate at 1 / (1 + a / G). Of two groups it is the formula of Spearman and Brown.

    Args:
        maps: ``(G, *grid)``, G at least 2: the map without the first group, and so on.

    Returns:
        A number in [0, 1]: 1 where no group changes the map, or all maps are flat; 0 where they
        have no more in common than the groups that they share, or a value is not finite.
    """
    values = as_float(maps).flatten(1).cpu().numpy().astype(np.float64)
    groups = len(values)
    with np.errstate(invalid="ignore"):  # a value that is not finite gives 0
        span = values.max(axis=1) - values.min(axis=1)
        smallest = FLAT_ROUNDINGS * torch.finfo(torch.float32).eps * np.abs(values).max(axis=1)
        blank = (span <= smallest) & np.isfinite(span)
        values -= values.mean(axis=1, keepdims=True)
        norms = np.linalg.norm(values, axis=1)
        norms[blank] = 1.0
        values /= norms[:, None]
        values[blank] = 0.0
        pairs = values @ values.T + np.outer(blank, blank)
    others = groups - 1
    mean = (float(pairs.sum()) - float(pairs.trace())) / (groups * others)
    own = mean / others - (groups - 2) / others**2
    if not own > 0:
        return 0.0
    variance = max(0.0, 1 - mean) / own
    return 1 / (1 + variance / groups)
