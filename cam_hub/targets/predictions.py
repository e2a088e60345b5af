"""Predictions: the ranking of classes by their scores, and their labels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from torch import Tensor

from cam_hub.errors import InvalidArgument

__all__ = ["Names", "Prediction", "best_of", "label_of", "prediction_text"]


@dataclass(frozen=True)
class Prediction:
    """A class, or a value of a regression, with its score.

    Attributes:
        class_index: Its index among the model's classes.
        label: Its label, or ``"class <index>"`` where the model has none.
        probability: In [0, 1]; None if the model has no probabilities, as in a regression.
        score: The raw score: the logit, or the value of a regression; None where there is none
            beside the probability.
    """

    class_index: int
    label: str
    probability: float | None = None
    score: float | None = None

    @property
    def value(self) -> float | None:
        """Another name for the score, as regressions call it."""
        return self.score


def label_of(index: int, names: Sequence[str] | None) -> str:
    """The label of a class, or ``"class <index>"`` where there is none."""
    return names[index] if names is not None and index < len(names) else f"class {index}"


def prediction_text(found: Prediction) -> str:
    """A prediction in a few characters: the probability, else the score."""
    if found.probability is not None:
        return f"{found.probability:.2%}"
    return "" if found.score is None else f"{found.score:.4g}"


def best_of(ranking: Tensor, allowed: Tensor | None, count: int | None) -> list[int]:
    """The indices of the highest values; equal ones by index.

    Args:
        ranking: ``(K,)``.
        allowed: ``(K,)`` bool, which may be among them; None for all.
        count: Maximum number; None for all.
    """
    # In NumPy: after a forward pass each kind of torch's calls costs tens of microseconds.
    values = ranking.detach().cpu().double().numpy()
    places = None
    if allowed is not None and not (mask := allowed.cpu().numpy()).all():
        places = np.flatnonzero(mask)
        values = values[places]
    if count == 1 and len(values) and not np.isnan(values[peak := values.argmax()]):
        return [int(peak if places is None else places[peak])]  # the first of equal ones
    below = -values
    if count is not None and count < len(below):
        near = np.flatnonzero(below <= np.partition(below, count - 1)[count - 1])
        if len(near) >= count:
            places, below = near if places is None else places[near], below[near]
    order = np.argsort(below, kind="stable")[:count]
    found: list[int] = (order if places is None else places[order]).tolist()
    return found


@dataclass(frozen=True)
class Names:
    """Labels that a model was wrapped with.

    Attributes:
        labels: One per class. For a model with one logit: that of class 1, or those of class 0
            and class 1.
        declared: Whether the module declares them, rather than its user. Declared labels that do
            not fit belong to the scores that the module had before its head was replaced.
    """

    labels: tuple[str, ...]
    declared: bool = False

    def of(self, count: int) -> tuple[str, ...]:
        """The labels of ``count`` scores.

        Args:
            count: How many scores the network returns for an image; 1 for a single logit.

        Returns:
            One label per class: two for a single logit, that of class 0 and that of class 1.

        Raises:
            InvalidArgument: Their number does not fit. The message states both numbers.
        """
        if count == 1 and len(self.labels) in (1, 2):
            return self.both
        if len(self.labels) == count:
            return self.labels
        if self.declared:
            return tuple(f"class {index}" for index in range(max(count, 2)))
        labels = "1 label" if len(self.labels) == 1 else f"{len(self.labels)} labels"
        if count == 1:
            expected = "one label (of class 1) or two (of class 0 and class 1), as the model has"
            expected += f" 1 output; and these are {labels}"
        else:
            expected = f"{count} labels, one for each output of the model; and these are {labels}"
        raise InvalidArgument("class_names", self.labels, expected)

    @property
    def both(self) -> tuple[str, ...]:
        """The labels of class 0 and class 1 where there may be one logit only."""
        return (f"not {self.labels[0]}", *self.labels) if len(self.labels) == 1 else self.labels
