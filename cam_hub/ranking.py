"""How the classes rank by a model's scores, and how probable they are."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from torch import Tensor

__all__ = ["Prediction", "best_of", "label_of", "most_probable", "predictions"]


@dataclass(frozen=True)
class Prediction:
    """A class with the probability that the model gives it.

    Attributes:
        class_index: Its index among the model's classes.
        label: Its label, or ``"class <index>"`` where the model has none.
        probability: In [0, 1].
    """

    class_index: int
    label: str
    probability: float


def predictions(
    ranking: Tensor,
    probabilities: Tensor,
    names: Sequence[str] | None,
    said: Tensor | None = None,
    count: int | None = None,
) -> list[Prediction]:
    """The most probable classes, or all of them.

    Args:
        ranking: ``(K,)``, higher comes first. (Probabilities may round to the same number.)
        probabilities: ``(K,)`` in [0, 1].
        names: K labels, or None.
        said: ``(K,)`` bool, which classes may be among them; None for all.
        count: How many at most; None for all.

    Returns:
        Predictions, the best first; equal ones by index.
    """
    best = most_probable(ranking, probabilities, said, count)
    return [Prediction(index, label_of(index, names), each) for index, each in best.items()]


def most_probable(
    ranking: Tensor, probabilities: Tensor, said: Tensor | None, count: int | None
) -> dict[int, float]:
    """Class indices, the best first, with their probabilities; arguments as for ``predictions``."""
    best = best_of(ranking, said, count)
    found = probabilities.detach().cpu().double().numpy()[best]
    return dict(zip(best, found.tolist(), strict=True))


def label_of(index: int, names: Sequence[str] | None) -> str:
    """The label of a class, or ``"class <index>"`` where there is none."""
    return names[index] if names is not None and index < len(names) else f"class {index}"


def best_of(ranking: Tensor, allowed: Tensor | None, count: int | None) -> list[int]:
    """The indices of the highest values; equal ones by index.

    Args:
        ranking: ``(K,)``.
        allowed: ``(K,)`` bool, which may be among them; None for all.
        count: How many at most; None for all.
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
