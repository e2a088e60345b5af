"""Classification: one score per class."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor

from cam_hub.tasks.base import Reference, Standings, Target, Task
from cam_hub.tasks.outputs import main_output, unexpected
from cam_hub.tasks.region import Region

__all__ = ["Classification"]


@dataclass(frozen=True)
class Classification(Task):
    """Class scores before softmax, or before a sigmoid each.

    Attributes:
        multi_label: Whether any number of classes can be true of one picture, so that each score
            is a logit of its own. A single score always is.
    """

    name: ClassVar[str] = "classification"
    multi_label: bool = False

    @classmethod
    def make(cls, *, class_names: Sequence[str] | None, multi_label: bool) -> Classification:
        """The task for a model of these classes."""
        del class_names
        return cls(multi_label)

    def target(self, *, region: Region | None = None, reference: Reference | None = None) -> Target:
        """The class scores.

        Raises:
            InvalidArgument: If a region or a reference is given.
        """
        self._refuse(region=region, reference=reference)
        return _ClassScores(self.multi_label)


class _ClassScores(Target):
    def __init__(self, multi_label: bool) -> None:
        self._sigmoid = multi_label

    def scores(self, output: Any) -> Tensor:
        """``(N, K)`` logits; ``(N,)`` is one logit per image, ``(N, K, 1, 1)`` is ``(N, K)``."""
        found = main_output(output)
        if found is None or found.ndim < 1 or not found.is_floating_point():
            raise unexpected("classification", output, "class scores (images, classes)")
        found = found[:, None] if found.ndim == 1 else found
        if any(length != 1 for length in found.shape[2:]) or found.shape[1] < 1:
            raise unexpected("classification", output, "class scores (images, classes)")
        found = found.flatten(1)
        self._sigmoid = self._sigmoid or found.shape[1] == 1
        return found

    def standings(self, output: Any) -> Standings:
        """By score, with probabilities by softmax or sigmoid."""
        # In this order: MPS has no double precision.
        scores = self.scores(output)[0].detach().cpu().double()
        return Standings.of(scores, scores.sigmoid() if self._sigmoid else scores.softmax(dim=0))

    def describe(self) -> dict[str, Any]:
        """Which score it is."""
        before = "sigmoid" if self._sigmoid else "softmax"
        return {
            "task": "classification",
            "text": f"class score before {before}",
            "probabilities": before,
        }
