"""Regression: values rather than classes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
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
    only_single_label,
    unexpected,
)
from cam_hub.targets.classes import Names
from cam_hub.targets.reading import Kind
from cam_hub.targets.region import Region

__all__ = ["Regression"]


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
    def make(cls, *, class_names: Sequence[str] | None, multi_label: bool) -> Regression:
        """The task for a model of these values.

        Args:
            class_names: One label per value, or None.
            multi_label: Must be False.

        Raises:
            InvalidArgument: If ``multi_label`` is set.
        """
        only_single_label(cls.name, multi_label)
        return cls(Names(tuple(class_names)) if class_names else None)

    def target(self, *, region: Region | None = None, reference: Reference | None = None) -> Target:
        """The values.

        Raises:
            InvalidArgument: If a region or a reference is given.
        """
        if region is not None or reference is not None:
            raise self._refusal(region, reference)
        return _Values(self)


class _Values(Target):
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
