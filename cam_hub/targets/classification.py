"""Classification and regression: one score per class, and values."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

import torch
from torch import Tensor

from cam_hub.errors import InvalidArgument
from cam_hub.targets.base import (
    ClassScores,
    Reference,
    Target,
    Task,
    main_output,
    unexpected,
)
from cam_hub.targets.classes import Names
from cam_hub.targets.reading import Kind, Reading, text_of_scores
from cam_hub.targets.region import Region

__all__ = ["Classification", "Regression"]


@dataclass(frozen=True)
class Classification(Task):
    """Class scores before softmax, or before a sigmoid each.

    A network may apply softmax or sigmoid itself. Then its scores are what it applies that to,
    where that is a single call of torch's function; else the logarithm of the probabilities
    (softmax) or their logit (sigmoid). Either way the probabilities are the network's own.

    Attributes:
        multi_label: Whether any number of classes can be true of one picture, so that each score
            is a logit of its own. A single score always is: it is that of class 1, and class 0,
            its opposite, has the negated score.
        names: Labels that are compared with the number of scores; None for none, and where that
            has been done.
        value: Least and greatest value of a single output that cannot be a logit, by its values
            for a few inputs; None for any other.
    """

    name: ClassVar[str] = "classification"
    has_probabilities: ClassVar[bool] = True
    outputs: ClassVar[Kind] = "classes"
    multi_label: bool = False
    names: Names | None = field(default=None, repr=False)
    value: tuple[float, float] | None = field(default=None, kw_only=True)

    @classmethod
    def make(cls, class_names: Sequence[str] | None) -> Classification:
        """The task for a model of these classes."""
        return cls(names=Names(tuple(class_names)) if class_names else None)

    def _interpreted(self, found: Reading) -> Classification:
        return replace(
            self,
            head=found.head,
            inner=found.inner,
            captured=found.captured,
            multi_label=self.multi_label or found.many_labels,
            value=found.value,
        )

    def target(self, *, region: Region | None = None, reference: Reference | None = None) -> Target:
        """The class scores."""
        del region, reference
        return _ClassScores(self, sigmoid=self.multi_label)


@dataclass(eq=False)
class _ClassScores(Target):
    by_row: ClassVar[bool] = True
    task: Classification
    sigmoid: bool
    single: bool = False

    def scores(self, output: Any) -> Tensor:
        """``(N, K)`` logits; ``(N,)`` is one logit per image, ``(N, K, 1, 1)`` is ``(N, K)``.

        One logit z per image gives ``(N, 2)``: -z for class 0 and z for class 1.
        """
        found = main_output(output)
        if found is None or found.ndim < 1 or not found.is_floating_point():
            raise unexpected("classification", output, "class scores (images, classes)")
        found = found[:, None] if found.ndim == 1 else found
        if found.shape[2:].numel() != 1 or found.shape[1] < 1:
            raise unexpected("classification", output, "class scores (images, classes)")
        found = found.flatten(1)
        names = self.task.names
        if names is not None:
            self.labels = names.of(found.shape[1])
        self.single = found.shape[1] == 1
        self.sigmoid = self.sigmoid or self.single
        return torch.cat([-found, found], dim=1) if self.single else found

    def probabilities(self, output: Any) -> Tensor:
        """By softmax, or by a sigmoid each."""
        scores = self.scores(output)
        return scores.sigmoid() if self.sigmoid else scores.softmax(dim=1)

    def class_scores(self, output: Any) -> ClassScores:
        """By score, with probabilities by softmax or sigmoid."""
        # In this order: MPS has no double precision.
        scores = self.scores(output)[0].detach().cpu().double()
        found = scores.sigmoid() if self.sigmoid else scores.softmax(dim=0)
        if self.single and self.task.value is not None:
            return ClassScores(scores, None, scores=scores)
        return ClassScores(scores, found, scores=scores)

    def describe(self) -> dict[str, Any]:
        """Which score it is."""
        task, after = self.task, "sigmoid" if self.sigmoid else "softmax"
        text = f"class score before {after}"
        if task.inner is not None:
            text = text_of_scores(task.inner, captured=task.captured)
        described: dict[str, Any] = {"task": "classification", "probabilities": after}
        if task.inner is not None:
            described["inner"] = task.inner
        if self.single and task.value is not None:
            low, high = task.value
            text = "single output, as if it were a logit"
            described["probabilities"] = None
            described["range"] = [low, high]
        if task.head is not None:
            text += f", of the output {task.head.name!r}"
            described |= task.head.describe()
        return {**described, "text": text}


@dataclass(frozen=True)
class Regression(Task):
    """The value, or one of several, that a network returns.

    ``sign="for"`` shows what raises a value, ``sign="against"`` what lowers it. There are no
    probabilities: predictions hold the values as their scores, in the order of the outputs.

    Attributes:
        names: Labels of the values, or None.
    """

    name: ClassVar[str] = "regression"
    outputs: ClassVar[Kind] = "values"
    names: Names | None = field(default=None, repr=False)

    @classmethod
    def make(cls, class_names: Sequence[str] | None) -> Regression:
        """The task for a model of these values."""
        return cls(Names(tuple(class_names)) if class_names else None)

    def target(self, *, region: Region | None = None, reference: Reference | None = None) -> Target:
        """The values."""
        del region, reference
        return _Values(self)


class _Values(Target):
    by_row: ClassVar[bool] = True

    def __init__(self, task: Regression) -> None:
        self._task = task

    def scores(self, output: Any) -> Tensor:
        """``(N, K)`` values; ``(N,)`` is one per image, further axes are flattened."""
        found = main_output(output)
        if found is None or found.ndim < 1 or not found.is_floating_point() or 0 in found.shape:
            raise unexpected("regression", output, "values (images, values)")
        found = found[:, None] if found.ndim == 1 else found.flatten(1)
        count = found.shape[1]
        names = self._task.names
        if names is not None and len(names.labels) != count:
            raise InvalidArgument(
                "class_names", names.labels, f"one label for each of the model's {count} values"
            )
        if names is not None:
            self.labels = names.labels
        elif count == 1:
            self.labels = ("value",)
        else:
            self.labels = tuple(f"value {index}" for index in range(count))
        return found

    def class_scores(self, output: Any) -> ClassScores:
        """In the order of the outputs: values of different meaning have no other."""
        values = self.scores(output)[0].detach().cpu().double()
        order = -torch.arange(len(values), dtype=torch.float64)
        return ClassScores(order, None, scores=values)

    def describe(self) -> dict[str, Any]:
        """That it is a value."""
        described: dict[str, Any] = {"task": "regression", "probabilities": None, "text": "value"}
        if self._task.head is not None:
            described["text"] += f" of the output {self._task.head.name!r}"
            described |= self._task.head.describe()
        return described
