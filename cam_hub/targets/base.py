"""What a task is: how its networks are called, and what of their answer is differentiated."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from cam_hub.errors import InvalidArgument
from cam_hub.options import OutputChoice
from cam_hub.targets.classes import ContrastChoice
from cam_hub.targets.heads import Head, main_output, unexpected, with_batch
from cam_hub.targets.predictions import Prediction, best_of, label_of
from cam_hub.targets.reading import (
    WITHOUT_BATCH,
    Inner,
    InputsOfProbabilities,
    read_outputs,
    scores_of,
)
from cam_hub.targets.region import Region

__all__ = [
    "ClassScores",
    "Reference",
    "Target",
    "Task",
    "only_single_label",
]

_SHOWN = 5
"""Predictions that an explanation holds."""

_VALUES = 100
"""Values of a regression that an explanation holds."""


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
class ClassScores:
    """How the classes stand in the clean image.

    Attributes:
        ranking: ``(K,)``, higher is better; orders predictions and ``top(count)``.
        probabilities: ``(K,)`` in [0, 1], or None where the answer is no probability.
        eligible: ``(K,)`` bool: classes that may be chosen without being named. The others stay
            out of ``top(count)``, and out of the predictions too if their probability is 0.
        scores: ``(K,)`` raw scores that predictions hold, or None.
        predicted: Where something else than the classes was scored: how the classes stand.
        labels: Of ``predicted``: names of the classes, where the model's own do not apply.
    """

    ranking: Tensor
    probabilities: Tensor | None
    eligible: Tensor
    scores: Tensor | None = None
    predicted: ClassScores | None = None
    labels: tuple[str, ...] | None = None

    @classmethod
    def of(
        cls, ranking: Tensor, probabilities: Tensor | None, scores: Tensor | None = None
    ) -> ClassScores:
        """Standings in which every class may be chosen."""
        eligible = torch.ones(ranking.shape, dtype=torch.bool)
        return cls(ranking, probabilities, eligible, scores)

    @cached_property
    def said(self) -> Tensor:
        """``(K,)`` bool: the classes of which the model said anything, which predictions tell."""
        if self.probabilities is None or bool(self.eligible.all()):
            return self.eligible
        return self.eligible | (self.probabilities > 0)

    @cached_property
    def shown(self) -> tuple[int, ...]:
        """The classes of the predictions of an explanation, looked for once."""
        return self.best(_SHOWN)

    def best(self, count: int) -> tuple[int, ...]:
        """The most probable classes; of values, which have no order, the first ones.

        Args:
            count: How many at most; of values always up to a hundred.
        """
        if self.probabilities is None:
            return () if self.scores is None else tuple(range(min(len(self.scores), _VALUES)))
        return tuple(best_of(self.ranking, self.said, count))

    def tells(self, index: int) -> bool:
        """Whether the model said anything about a class."""
        nothing = self.probabilities is None and self.scores is None
        return not nothing and bool(self.said[index])

    def prediction(self, index: int, names: Sequence[str] | None) -> Prediction:
        """What the model says of a class.

        Args:
            index: Of the class.
            names: The labels of all classes, or None.
        """
        probability = None if self.probabilities is None else float(self.probabilities[index])
        score = None if self.scores is None else float(self.scores[index])
        return Prediction(index, label_of(index, names), probability, score)


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

    def probabilities(self, output: Any) -> Tensor:
        """``(N, K)`` probabilities, differentiable, in the place of ``scores``.

        Raises:
            InvalidArgument: If the task has none.
        """
        del output
        raise InvalidArgument("target", "probability", "'logit': there are no probabilities")

    @abstractmethod
    def standings(self, output: Any) -> ClassScores:
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


@dataclass(frozen=True)
class Task(ABC):
    """A kind of answer. To add one: a module with a child, and its line in ``registry.TASKS``.

    Attributes:
        name: Its name in the registry.
        dense: Whether the model answers for every place of the picture.
        without_batch: How many dimensions its answer for one image has if the network removes the
            batch's.
        scattered: Whether its scores come from different parts of the network (pyramid levels).
        saturating: Whether its scores are probabilities, which have no gradient where all but
            nothing is missing to 1.
        takes_region: Whether a part of the photo can be asked about.
        takes_reference: Whether another picture can be compared with.
        has_classes: Whether its scores are those of classes, which can be held against each other.
        has_probabilities: Whether a score has a probability that can be explained in its place.
        wanted: The output that the model was wrapped with, as a caller names it; None for the
            main one.
        head: The output of the network that is explained, if it returns several.
        settled: Whether a look at what the network returns has settled the output.
        inner: What the network applies to its scores before it returns them (softmax or sigmoid);
            None for nothing.
        captured: Whether the scores before that can be had in a pass.
    """

    name: ClassVar[str]
    dense: ClassVar[bool] = False
    without_batch: ClassVar[tuple[int, ...]] = WITHOUT_BATCH["classes"]
    scattered: ClassVar[bool] = False
    saturating: ClassVar[bool] = False
    takes_region: ClassVar[bool] = False
    takes_reference: ClassVar[bool] = False
    has_classes: ClassVar[bool] = True
    has_probabilities: ClassVar[bool] = False
    wanted: OutputChoice = field(default=None, kw_only=True)
    head: Head | None = field(default=None, kw_only=True)
    settled: bool = field(default=False, kw_only=True, repr=False)
    inner: Inner | None = field(default=None, kw_only=True)
    captured: bool = field(default=False, kw_only=True)

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
        """Calls the network on preprocessed images, ``(N, channels, rows, cols)``.

        Returns:
            What a ``Target`` makes scores of: the output that is explained.
        """
        return self.run_whole(module, batch)[1]

    def run_whole(self, module: nn.Module, batch: Tensor) -> tuple[Any, Any]:
        """Everything that the network returns, and of it what ``run`` returns.

        Where the network applies softmax or sigmoid itself, the latter are its scores before that;
        if these cannot be had, the logarithms of the probabilities (softmax) or their logits.
        """
        with InputsOfProbabilities() if self.captured else nullcontext() as seen:
            raw = self.call(module, batch)
        found = raw if self.head is None else self.head.read(raw)
        found = with_batch(found, len(batch), self.without_batch)
        probabilities = main_output(found) if self.inner is not None else None
        if probabilities is None or self.inner is None:
            return raw, found
        before = None if seen is None else seen.before(probabilities, self.inner)
        return raw, scores_of(probabilities, self.inner) if before is None else before

    def call(self, module: nn.Module, batch: Tensor) -> Any:
        """Everything that the network returns."""
        return module(batch)

    def read_from(
        self,
        module: nn.Module,
        inputs: Iterator[Tensor],
        *,
        choice: OutputChoice = None,
        labels: int | None = None,
    ) -> Task:
        """The task for this network, after a look at what it returns.

        Args:
            module: The network.
            inputs: A few inputs, from ``reading.probes``.
            choice: The output that the caller has chosen; None for the main one.
            labels: How many class labels there are, or None.

        Raises:
            InvalidArgument: If there is no such output.
            Exception: Whatever the network raises on the first input.
        """
        del labels
        if choice is None:
            return self
        found = read_outputs(module, inputs, self.call, choice=choice, kind="any")
        return replace(self, head=found.head)

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

    def check_target(self, target: str) -> None:
        """Makes sure that there is such a score.

        Args:
            target: ``"logit"`` or ``"probability"``.

        Raises:
            InvalidArgument: If probabilities are asked for, and there are none.
        """
        if target == "probability" and not self.has_probabilities:
            raise InvalidArgument(
                "target",
                target,
                f"'logit', since the score of a {self.name} model has no other probability",
            )

    def check_contrast(self, contrast: ContrastChoice) -> None:
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
