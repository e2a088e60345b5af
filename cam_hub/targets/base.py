"""Base classes of tasks: how a network is called, and which scores of its output are explained."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field, fields, is_dataclass, replace
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from cam_hub.errors import InvalidArgument, ModelRefused
from cam_hub.hooks.recording import main_tensor
from cam_hub.options import OutputChoice
from cam_hub.targets.classes import ContrastChoice, Prediction, best_of, label_of
from cam_hub.targets.heads import Head
from cam_hub.targets.reading import (
    MAIN_KEYS,
    WITHOUT_BATCH,
    Inner,
    InputsOfProbabilities,
    Kind,
    Reading,
    read_outputs,
    scores_of,
    with_batch,
)
from cam_hub.targets.region import Region

__all__ = [
    "ClassScores",
    "Reference",
    "Target",
    "Task",
    "WholeOutput",
    "are_detections",
    "main_output",
    "unexpected",
]

_VALUES = 100
"""Maximum number of values of a regression in an explanation."""


@dataclass(frozen=True)
class Reference:
    """The reference with which features of a picture are compared.

    Attributes:
        output: The network's output for the reference picture; None if that is the explained
            picture itself.
        baseline: The network's output for a blank picture, or None.
        facts: The manifest's entry for the reference picture; JSON types only.
    """

    output: Any = None
    baseline: Any = None
    facts: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class ClassScores:
    """The scores of all classes for the image without noise.

    Attributes:
        ranking: ``(K,)``, higher is better; orders predictions and ``top(count)``.
        probabilities: ``(K,)`` in [0, 1], or None if the output has no probabilities.
        eligible: ``(K,)`` bool: classes that may be chosen without being named; None for all. The
            others stay out of ``top(count)``, and out of the predictions too if their probability
            is 0.
        scores: ``(K,)`` raw scores that predictions hold, or None.
        predicted: The scores of the classes, if something else than the classes is explained.
        labels: Names of the classes in ``predicted``, if the model's own do not apply.
    """

    ranking: Tensor
    probabilities: Tensor | None
    eligible: Tensor | None = None
    scores: Tensor | None = None
    predicted: ClassScores | None = None
    labels: tuple[str, ...] | None = None

    def predictions(
        self,
        names: Sequence[str] | None,
        classes: Sequence[int] | None = None,
        *,
        count: int = 5,
    ) -> tuple[Prediction, ...]:
        """The predictions of classes; those without a score are left out.

        Args:
            names: The labels of all classes, or None.
            classes: Class indices; None for the most probable ones, and for values, which have no
                order, for the first hundred.
            count: Maximum number of the most probable ones.
        """
        probabilities, scores = self.probabilities, self.scores
        if probabilities is None and scores is None:
            return ()
        scored = self.eligible
        if scored is not None and probabilities is not None:
            scored = scored | (probabilities > 0)
        if classes is None and probabilities is not None:
            classes = best_of(self.ranking, scored, count)
        elif classes is None:
            classes = range(min(len(self.ranking), _VALUES))
        found = []
        for index in classes:
            if scored is not None and not scored[index]:
                continue
            probability = None if probabilities is None else float(probabilities[index])
            score = None if scores is None else float(scores[index])
            found.append(Prediction(index, label_of(index, names), probability, score))
        return tuple(found)


class Target(ABC):
    """The scores that one explanation differentiates.

    A target is used for one picture and by one thread. The first output holds the image without
    noise in its first row, which fixes the reference or the box for all later outputs. Before that,
    ``copy.copy`` returns an independent target.

    Attributes:
        labels: Names of the scores, where the model's own class names do not apply.
        by_row: Whether the scores of an image depend on its own row of the output's main tensor
            alone: then ``class_scores`` may come first, and one target reads the whole batch.
    """

    labels: tuple[str, ...] | None = None
    by_row: ClassVar[bool] = False

    @abstractmethod
    def scores(self, output: Any) -> Tensor:
        """``(N, K)`` scores, differentiable, for the outputs of ``Task.run`` for N images.

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
        raise InvalidArgument(
            "target", "probability", "'logit', since this task has no probabilities"
        )

    @abstractmethod
    def class_scores(self, output: Any) -> ClassScores:
        """The scores of all classes for the first image of the first output; after ``scores``."""

    def check(self, classes: Sequence[int]) -> None:
        """Checks that these classes can be explained; call ``class_scores`` first.

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
class WholeOutput:
    """Everything that a network returns.

    Attributes:
        raw: The output itself.
        read: The part that the network's own task explains.
        count: The number of images.
    """

    raw: Any
    read: Any
    count: int


@dataclass(frozen=True)
class Task(ABC):
    """A kind of output. A new one is a module with a subclass, and its line in ``targets.TASKS``.

    Attributes:
        name: Its name in the registry.
        dense: Whether there is one output for each position in the picture.
        without_batch: The number of dimensions of an output without a batch dimension.
        scattered: Whether its scores come from different parts of the network (pyramid levels).
        saturating: Whether its scores are probabilities, whose gradient vanishes close to 1.
        takes_region: Whether it has an explanation for a part of the photo.
        takes_reference: Whether it compares with another picture.
        has_classes: Whether its scores are those of classes, which can be contrasted.
        outputs: The kind of output that is searched for the main one; ``"any"`` for no search.
        has_probabilities: Whether a score has a probability that can be explained in its place.
        wanted: The output that the model was wrapped with, as a caller names it; None for the
            main one.
        head: The output of the network that is explained, if it returns several.
        settled: Whether the output was determined by running the network.
        inner: What the network applies to its scores before it returns them (softmax or sigmoid);
            None for nothing.
        captured: Whether the scores before that can be recorded in a pass.
        whole: Whether ``run`` also returns what is not explained, for a caller's own function.
    """

    name: ClassVar[str]
    dense: ClassVar[bool] = False
    without_batch: ClassVar[tuple[int, ...]] = WITHOUT_BATCH["classes"]
    scattered: ClassVar[bool] = False
    saturating: ClassVar[bool] = False
    takes_region: ClassVar[bool] = False
    takes_reference: ClassVar[bool] = False
    has_classes: ClassVar[bool] = True
    outputs: ClassVar[Kind] = "any"
    has_probabilities: ClassVar[bool] = False
    wanted: OutputChoice = field(default=None, kw_only=True)
    head: Head | None = field(default=None, kw_only=True)
    settled: bool = field(default=False, kw_only=True, repr=False)
    inner: Inner | None = field(default=None, kw_only=True)
    captured: bool = field(default=False, kw_only=True)
    whole: bool = field(default=False, kw_only=True, repr=False)

    @classmethod
    def make(cls, class_names: Sequence[str] | None) -> Task:
        """The task for a model of these classes.

        Args:
            class_names: One label per class or value, or None.
        """
        del class_names
        return cls()

    def run(self, module: nn.Module, batch: Tensor) -> Any:
        """Calls the network on preprocessed images, ``(N, channels, rows, cols)``.

        Where the network applies softmax or sigmoid itself, the scores before that are explained;
        if these cannot be had, the logarithms of the probabilities (softmax) or their logits.

        Returns:
            The output that is explained, from which a ``Target`` computes scores; a
            :class:`WholeOutput` if ``whole`` is set.
        """
        with InputsOfProbabilities() if self.captured else nullcontext() as seen:
            raw = module(batch)
        found = raw if self.head is None else self.head.read(raw)
        if len(batch) == 1 and isinstance(found, Tensor) and found.ndim in self.without_batch:
            found = with_batch(found)
        probabilities = main_output(found) if self.inner is not None else None
        if probabilities is not None and self.inner is not None:
            before = None if seen is None else seen.before(probabilities, self.inner)
            found = scores_of(probabilities, self.inner) if before is None else before
        return WholeOutput(raw, found, len(batch)) if self.whole else found

    def read_from(
        self,
        module: nn.Module,
        inputs: Iterator[Tensor],
        *,
        choice: OutputChoice = None,
        labels: int | None = None,
    ) -> Task:
        """The task for this network, determined by running it.

        Args:
            module: The network.
            inputs: A few inputs, from ``reading.probes``.
            choice: The output that the caller has chosen; None for the main one.
            labels: How many class labels there are, or None.

        Raises:
            InvalidArgument: If there is no such output.
            Exception: Any error of the network on the first input.
        """
        if self.outputs == "any" and choice is None:
            return self
        found = read_outputs(module, inputs, choice=choice, labels=labels, kind=self.outputs)
        return self._interpreted(found)

    def _interpreted(self, found: Reading) -> Task:
        """The task with the interpretation of a network's output."""
        return replace(self, head=found.head)

    def split(self, output: Any, counts: Sequence[int]) -> list[Any]:
        """Splits the output for a batch.

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
        """The target of one explanation, whose request ``check_request`` has checked.

        Args:
            region: The part of the photo that is explained.
            reference: The reference of features.

        Raises:
            InvalidArgument: If the task has no use for this kind of region.
        """

    def check_request(
        self,
        *,
        contrast: ContrastChoice = None,
        target: str = "logit",
        region: object = None,
        reference: object = None,
    ) -> None:
        """Checks that the task has such a score.

        Args:
            contrast: The classes that others are contrasted with, or None.
            target: ``"logit"`` or ``"probability"``.
            region: A part of the photo, however it was given, or None.
            reference: A picture to compare with, however it was given, or None.

        Raises:
            InvalidArgument: If the task has no classes to contrast, or no probabilities, or if it
                has no use for a region or a reference.
        """
        if contrast is not None and not self.has_classes:
            raise InvalidArgument(
                "contrast",
                contrast,
                f"None, since a {self.name} model does not choose between classes",
            )
        if target == "probability" and not self.has_probabilities:
            raise InvalidArgument(
                "target",
                target,
                f"'logit', since the score of a {self.name} model has no other probability",
            )
        if region is not None and not self.takes_region:
            raise InvalidArgument(
                "region",
                "a part of the photo",
                f"None, since a {self.name} model answers for the whole picture; regions work "
                "with segmentation and detection models",
            )
        if reference is not None and not self.takes_reference:
            raise InvalidArgument(
                "reference",
                "a picture",
                f"None, since the target of a {self.name} model is a class score; references "
                "work with models without a classifier",
            )


# Errors of tasks are raised where the model ID is not known; callers replace this text by it.
_ANY_MODEL = "the model"


def main_output(output: Any) -> Tensor | None:
    """The main tensor of an output.

    Args:
        output: A tensor; or a mapping or dataclass, of which ``"logits"`` or ``"out"`` is taken,
            else its first tensor; or a tuple or list (distilled and auxiliary heads), of which the
            first counts.

    Returns:
        None for an output without a tensor, and for one answer per image (detections).
    """
    if isinstance(output, Tensor):
        return output
    if are_detections(output):
        return None
    if isinstance(output, Mapping):
        for key in MAIN_KEYS:
            if key in output:
                return main_tensor(output[key])
    if is_dataclass(output) and not isinstance(output, type):
        return main_output({field.name: getattr(output, field.name) for field in fields(output)})
    return main_tensor(output)


def are_detections(output: Any) -> bool:
    """Whether an answer is a list with one mapping per image: boxes, labels and scores."""
    return (
        isinstance(output, (list, tuple))
        and len(output) > 0
        and all(
            isinstance(part, Mapping) and {"boxes", "labels", "scores"} <= set(part)
            for part in output
        )
    )


def unexpected(task: str, output: Any, expected: str) -> ModelRefused:
    """The error for an output that is not of the task's kind, with the task that it looks like."""
    instead = _looks_like(output)
    hint = "" if instead in (None, task) else f"; that looks like {instead}: wrap_model(…, task="
    return ModelRefused(
        _ANY_MODEL,
        f"as a {task} model it should return {expected}, and it returns {_seen(output)}"
        + (f"{hint}{instead!r})" if hint else "")
        + ".",
    )


def _seen(output: Any) -> str:
    if isinstance(output, Tensor):
        kind = "" if output.is_floating_point() else f" and type {output.dtype}"
        return f"a tensor of shape {tuple(output.shape)}{kind}"
    found = main_output(output)
    kind = type(output).__name__
    if found is None:
        return f"no tensor ({kind})"
    return f"a {kind} whose main tensor has shape {tuple(found.shape)}"


def _looks_like(output: Any) -> str | None:
    if are_detections(output):
        return "detection"
    found = main_output(output)
    dimensions = 0 if found is None else found.ndim
    return {2: "classification", 3: "similarity", 4: "segmentation"}.get(dimensions)
