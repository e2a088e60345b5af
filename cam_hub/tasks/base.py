"""What a task is: how its networks are called, and what of their answer is differentiated."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from cam_hub.errors import InvalidArgument
from cam_hub.ranking import most_probable
from cam_hub.tasks.outputs import main_output, unexpected
from cam_hub.tasks.region import Region

__all__ = [
    "Reference",
    "Standings",
    "Target",
    "Task",
    "only_single_label",
]

_SHOWN = 5
"""Predictions that an explanation tells."""


@dataclass(frozen=True)
class Reference:
    """What the features of a picture are compared with.

    Attributes:
        output: The network's output for the reference picture; None where that is the explained
            picture itself.
        baseline: The network's output for a picture in which there is nothing to see, or None.
        facts: What the manifest says of the reference picture; JSON types only.
    """

    output: Any = None
    baseline: Any = None
    facts: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Standings:
    """How the classes stand in the clean image.

    Attributes:
        ranking: ``(K,)``, higher is better; orders predictions and ``top(count)``.
        probabilities: ``(K,)`` in [0, 1], or None where the answer is no probability.
        eligible: ``(K,)`` bool: classes that may be chosen without being named. The others stay
            out of ``top(count)``, and out of the predictions too if their probability is 0.
    """

    ranking: Tensor
    probabilities: Tensor | None
    eligible: Tensor

    @classmethod
    def of(cls, scores: Tensor, probabilities: Tensor | None) -> Standings:
        """Standings in which every class may be chosen, by its score."""
        return cls(scores, probabilities, torch.ones(scores.shape, dtype=torch.bool))

    @cached_property
    def said(self) -> Tensor:
        """``(K,)`` bool: the classes of which the model said anything, which predictions tell."""
        if self.probabilities is None or bool(self.eligible.all()):
            return self.eligible
        return self.eligible | (self.probabilities > 0)

    @cached_property
    def probable(self) -> Mapping[int, float]:
        """The most probable classes of which it said anything, the best first; at most five.

        Looked for once, as every explanation of a picture tells them.
        """
        if self.probabilities is None:
            return {}
        return most_probable(self.ranking, self.probabilities, self.said, _SHOWN)


class Target(ABC):
    """What is differentiated in one explanation.

    A target is used for one picture and by one thread. The first output that it is given holds the
    clean image in its first row; what that fixes (a reference, a box) holds for all that follow. As
    long as it was given none, ``copy.copy`` of it is a target of its own.

    Attributes:
        labels: Names of the scores, where the model's own class names do not apply.
    """

    labels: tuple[str, ...] | None = None

    @abstractmethod
    def scores(self, output: Any) -> Tensor:
        """``(N, K)`` scores, differentiable, of what ``Task.run`` returned for N images.

        Raises:
            ModelRefused: If the output is not of the task's kind.
            NoMap: If nothing in the output can be explained.
        """

    @abstractmethod
    def standings(self, output: Any) -> Standings:
        """How the classes stand in the first image of the first output; after ``scores``."""

    def check(self, classes: Sequence[int]) -> None:
        """Makes sure that these classes can be explained; after ``standings``.

        Args:
            classes: Class indices; none if none was named and none is eligible.

        Raises:
            NoMap: If one of them cannot.
        """
        del classes

    @abstractmethod
    def describe(self) -> dict[str, Any]:
        """For the manifest: ``task``, ``text`` (the target in words) and its data; JSON types."""


class Task(ABC):
    """A kind of answer. To add one: a module with a child, and its line in ``registry.TASKS``.

    Attributes:
        name: Its name in the registry.
        dense: Whether the model answers for every place of the picture.
        scattered: Whether its scores come from different parts of the network (pyramid levels).
        saturating: Whether its scores are probabilities, which have no gradient where all but
            nothing is missing to 1.
        takes_region: Whether a part of the photo can be asked about.
        takes_reference: Whether another picture can be compared with.
        has_classes: Whether its scores are those of classes, which can be held against each other.
    """

    name: ClassVar[str]
    dense: ClassVar[bool] = False
    scattered: ClassVar[bool] = False
    saturating: ClassVar[bool] = False
    takes_region: ClassVar[bool] = False
    takes_reference: ClassVar[bool] = False
    has_classes: ClassVar[bool] = True

    @classmethod
    @abstractmethod
    def make(cls, *, class_names: Sequence[str] | None, multi_label: bool) -> Task:
        """The task for a model of these classes.

        Args:
            class_names: One label per class, or None.
            multi_label: Whether any number of classes can be true of one picture.

        Raises:
            InvalidArgument: If ``multi_label`` makes no sense for the task.
        """

    def run(self, module: nn.Module, batch: Tensor) -> Any:
        """Calls the network on preprocessed images, ``(N, channels, rows, cols)``."""
        return module(batch)

    def split(self, output: Any, counts: Sequence[int]) -> list[Any]:
        """Takes the answer for a batch apart.

        Args:
            output: What ``run`` returned.
            counts: How many images, one after the other, belong together; their sum is the batch.

        Returns:
            One answer for each of ``counts``, as ``run`` might have returned it for them alone, as
            far as ``Target`` looks at it.

        Raises:
            ModelRefused: If the output does not hold one answer per image.
        """
        found = main_output(output)
        images = sum(counts)
        if found is None or found.ndim == 0 or len(found) != images:
            raise unexpected(self.name, output, f"one answer for each of {images} images")
        return list(torch.split(found, list(counts)))

    @abstractmethod
    def target(self, *, region: Region | None = None, reference: Reference | None = None) -> Target:
        """The target of one explanation.

        Args:
            region: The part of the photo that is asked about.
            reference: What features are compared with.

        Raises:
            InvalidArgument: If the task cannot use an argument.
        """

    def check_contrast(self, contrast: int | str | None) -> None:
        """Makes sure that there is something that classes can be held against.

        Raises:
            InvalidArgument: If a contrast is given and there are no classes.
        """
        if contrast is not None and not self.has_classes:
            raise InvalidArgument(
                "contrast",
                contrast,
                f"None, since the answer of a {self.name} model is no choice between classes",
            )

    def _refuse(self, *, region: Region | None = None, reference: Reference | None = None) -> None:
        if region is not None:
            raise InvalidArgument(
                "region",
                "a part of the photo",
                f"None, since a {self.name} model answers for the whole picture; regions work "
                "with segmentation and detection models",
            )
        if reference is not None:
            raise InvalidArgument(
                "reference",
                "a picture",
                f"None, since the target of a {self.name} model is a class score; references "
                "work with models without a classifier",
            )


def only_single_label(name: str, multi_label: bool) -> None:
    """Refuses ``multi_label`` for a task that has no use for it.

    Raises:
        InvalidArgument: If it is set.
    """
    if multi_label:
        raise InvalidArgument("multi_label", multi_label, f"False for task={name!r}")
