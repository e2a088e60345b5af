"""Scores in the place of a task's own: probabilities, and functions of what the network returns."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from cam_hub._text import first_line
from cam_hub.errors import InvalidArgument
from cam_hub.options import name_of
from cam_hub.targets.base import ClassScores, Reference, Target, Task, WholeOutput
from cam_hub.targets.heads import sliced
from cam_hub.targets.region import Region

__all__ = ["Custom", "Probabilities"]

_ARGUMENT = "classes"


class Probabilities(Target):
    """The probabilities of a target's classes in the place of their scores.

    Args:
        base: The target.
    """

    def __init__(self, base: Target) -> None:
        self._base = base

    @property
    def labels(self) -> tuple[str, ...] | None:  # type: ignore[override]
        """The class scores of the target."""
        return self._base.labels

    def scores(self, output: Any) -> Tensor:
        """``(N, K)`` probabilities."""
        self._base.scores(output)
        return self._base.probabilities(output)

    def class_scores(self, output: Any) -> ClassScores:
        """The class scores of the target."""
        return self._base.class_scores(output)

    def check(self, classes: Sequence[int]) -> None:
        """Checks the classes by the target."""
        self._base.check(classes)

    def describe(self) -> dict[str, Any]:
        """The target, with the probability as the score."""
        described = self._base.describe()
        output = described.get("output")
        of = f", of the output {output!r}" if output is not None else ""
        text = "mean probability" if described["task"] == "segmentation" else "probability"
        return {**described, "text": f"{text} of the class{of}", "score": "probability"}


@dataclass(frozen=True)
class Custom(Task):
    """A function of what the network returns, as the only score.

    Attributes:
        base: The network's own task, whose predictions results hold.
        function: From what the network returns for N images (of the chosen output, if one was
            chosen) to one number per image, ``(N,)`` or ``(N, 1)``. A function that gives a single
            number is called for each image, with a batch of one.
        chosen: Whether the caller has chosen an output.
    """

    name: ClassVar[str] = "custom"
    has_classes: ClassVar[bool] = False
    base: Task
    function: Callable[[Any], Any]
    chosen: bool = False

    def run(self, module: nn.Module, batch: Tensor) -> Any:
        """Calls the network as its own task does."""
        found: WholeOutput = replace(self.base, whole=True).run(module, batch)
        if self.chosen and self.base.head is not None:
            return replace(found, raw=self.base.head.read(found.raw))
        return found

    def split(self, output: Any, counts: Sequence[int]) -> list[Any]:
        """Takes both apart."""
        reads = self.base.split(output.read, counts)
        found, start = [], 0
        for read, count in zip(reads, counts, strict=True):
            raw = sliced(output.raw, start, start + count, output.count)
            found.append(WholeOutput(raw, read, count))
            start += count
        return found

    def target(self, *, region: Region | None = None, reference: Reference | None = None) -> Target:
        """The function's value."""
        return _Value(self.base.target(region=region, reference=reference), self.function)


class _Value(Target):
    def __init__(self, base: Target, function: Callable[[Any], Any]) -> None:
        self._base = base
        self._function = function
        self._name = name_of(function)
        self.labels = (self._name,)

    def scores(self, output: Any) -> Tensor:
        """``(N, 1)``.

        Raises:
            InvalidArgument: If the function raises, or does not give one differentiable number per
                image.
        """
        count = output.count
        found = self._called(output.raw)
        if isinstance(found, Tensor) and found.numel() == 1 and count > 1:
            each = [
                self._called(sliced(output.raw, place, place + 1, count)) for place in range(count)
            ]
            if all(isinstance(one, Tensor) and one.numel() == 1 for one in each):
                found = torch.stack([one.reshape(()) for one in each])
        if not isinstance(found, Tensor) or not found.is_floating_point():
            seen = f"{found.dtype} tensor" if isinstance(found, Tensor) else type(found).__name__
            raise self._refused(
                "a function that gives a floating-point tensor, without .item(), .numpy() or "
                f"argmax; it gave: {seen}"
            )
        fits = found.shape in ((count,), (count, 1)) or (count == 1 and found.numel() == 1)
        if not fits:
            raise self._refused(
                "a function that gives one number per image, of shape (N,), such as "
                f"lambda output: output[:, 3]; for {count} images it gave shape "
                f"{tuple(found.shape)}"
            )
        if torch.is_grad_enabled() and not found.requires_grad:
            raise self._refused(
                "a differentiable function: what it gave does not depend on the network's output "
                "by operations that have a gradient (detach, no_grad, argmax, rounding, or a "
                "comparison cut it off)"
            )
        return found.reshape(count, 1)

    def class_scores(self, output: Any) -> ClassScores:
        """One value, beside the predictions of the network's own task."""
        self._base.scores(output.read)
        own = self._base.class_scores(output.read)
        with torch.no_grad():
            value = self.scores(output)[:1].detach().cpu().double().reshape(1)
        standing = ClassScores(value, None, scores=value)
        return replace(standing, predicted=replace(own, labels=self._base.labels))

    def describe(self) -> dict[str, Any]:
        """The function, by its name, in the place of the class."""
        described = self._base.describe()
        text = f"value of the function {self._name!r}"
        return {**described, "text": text, "function": self._name, "probabilities": None}

    def _called(self, raw: Any) -> Any:
        try:
            return self._function(raw)
        except Exception as error:  # whatever a caller's function raises
            raise self._refused(
                "a function of what the network returns that works for any number of images; it "
                f"raised {type(error).__name__}: {first_line(error)}"
            ) from error

    def _refused(self, expected: str) -> InvalidArgument:
        return InvalidArgument(_ARGUMENT, self._name, expected)
