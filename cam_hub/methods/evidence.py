"""What a pass through a model leaves behind for the methods: activations and gradients."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar, Final

from torch import Tensor

from cam_hub.errors import InvalidArgument
from cam_hub.methods.arithmetic import as_float

__all__ = ["GROUPS", "Evidence", "MomentSum", "Moments"]

GROUPS: Final = 4
"""Noisy samples form so many groups, whose moments are kept apart."""


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

    def negated(self) -> "Moments":
        """The moments of the negated gradients: odd powers change their sign."""
        return Moments(-self.first, self.second, -self.third)

    @classmethod
    def of(cls, gradients: Tensor) -> "Moments":
        """The moments of gradients that are all at hand.

        Args:
            gradients: ``(S, B, C, *grid)``, S noisy samples.

        Returns:
            Their moments, at least float32.

        Raises:
            InvalidArgument: There is no sample, or no grid.
        """
        total = MomentSum()
        total.add(gradients)
        return total.mean()


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

    def __init__(self) -> None:
        self.count = 0
        self._groups: list[tuple[Tensor, Tensor, Tensor]] = []

    def add(self, gradients: Tensor) -> None:
        """Add the gradients of some noisy copies.

        Args:
            gradients: ``(S, B, C, *grid)`` for any S; the rest as in earlier calls.

        Raises:
            InvalidArgument: There is no grid, or the shape differs from that of earlier calls.
        """
        if gradients.ndim < 4:
            expected = "the shape (samples, batch, channels, *grid)"
            raise InvalidArgument("gradients", tuple(gradients.shape), expected)
        if self._groups and gradients.shape[1:] != self._groups[0][0].shape:
            expected = f"samples of the shape added before, {tuple(self._groups[0][0].shape)}"
            raise InvalidArgument("gradients", tuple(gradients.shape), expected)
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
        if not self._groups:
            raise InvalidArgument("gradients", self.count, "at least one noisy sample")
        first, second, third = (sum(each[1:], each[0]) for each in zip(*self._groups, strict=True))
        return Moments(first / self.count, second / self.count, third / self.count)

    def without_each(self) -> Iterator[Moments]:
        """The moments without each of the groups: how far they differ shows what the noise does.

        Every fourth sample, from the first on, is of the first group, and so on. Of fewer than four
        samples, each is a group.

        Yields:
            As ``mean``, without the first group, then without the second …, one at a time, so that
            early layers do not need the memory of all; nothing of fewer than two samples.
        """
        groups = self._groups if len(self._groups) > 1 else []
        total = [sum(sums[1:], sums[0]) for sums in zip(*groups, strict=True)]
        for place, own in enumerate(groups):
            count = self.count - len(range(place, self.count, GROUPS))
            first, second, third = (
                (whole - part).div_(count) for whole, part in zip(total, own, strict=True)
            )
            yield Moments(first, second.clamp_(min=0), third)  # differences may round below 0


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

    def negated(self) -> "Evidence":
        """The evidence of the negated class score: the same activations, opposite gradients."""
        noisy = None if self.noisy is None else self.noisy.negated()
        return Evidence(self.activation, -self.gradient, noisy)
