"""Similarity: models whose answer is features, without classes."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.nn import functional

from cam_hub.errors import NoMap
from cam_hub.targets.base import (
    ClassScores,
    Reference,
    Target,
    Task,
    main_output,
    unexpected,
)
from cam_hub.targets.region import Region

__all__ = ["Similarity"]


@dataclass(frozen=True)
class Similarity(Task):
    """How much the features of a picture are those of a reference, by default its own.

    With ``f`` the features, ``r`` those of the reference and ``b`` those of a baseline, a picture
    in which there is nothing to see, the score is the inner product

        s(x) = ⟨f(x), u⟩,   u ∝ r/‖r‖ − b/‖b‖,   ‖u‖ = 1

    It is not the cosine: that of a picture with itself is 1, its maximum, where its gradient is
    zero. The inner product with the fixed direction ``u`` has the gradient ``u`` there. The
    baseline is what makes it work for networks that end in a normalisation: after a LayerNorm
    ‖f(x)‖ is (nearly) the same for all x, so that ⟨f, f/‖f‖⟩ is at its maximum too, and its
    gradient is nothing but rounding errors. Directions are compared, not vectors: so a picture's
    score with itself, ∝ ‖f‖ (1 − cos(f, b)), is never negative, however long the baseline's
    features are.

    Attributes:
        width: Length of the feature vector, if known: distinguishes the axis of features from
            those of positions in an output that is not pooled.
    """

    name: ClassVar[str] = "similarity"
    takes_reference: ClassVar[bool] = True
    has_classes: ClassVar[bool] = False
    width: int | None = None

    def target(self, *, region: Region | None = None, reference: Reference | None = None) -> Target:
        """The similarity to a reference; with nothing to refer to, the features one by one."""
        del region
        return _Features(self.width) if reference is None else _Similar(self.width, reference)


class _Features(Target):
    """Each feature a score of its own: on which layers the features depend at all."""

    def __init__(self, width: int | None) -> None:
        self._width = width

    def scores(self, output: Any) -> Tensor:
        """``(N, D)``."""
        return pooled(output, self._width)

    def class_scores(self, output: Any) -> ClassScores:
        """By value; features are not probabilities."""
        return ClassScores(self.scores(output)[0].detach().cpu().double(), None)

    def describe(self) -> dict[str, Any]:
        """That it is a feature."""
        return {"task": "similarity", "text": "one of the model's features", "probabilities": None}


class _Similar(Target):
    """``(N, 1)``: the similarity to the reference."""

    def __init__(self, width: int | None, reference: Reference) -> None:
        self._width = width
        self._reference = reference
        self._itself = reference.output is None
        self._direction: Tensor | None = None
        self._cosine = 0.0
        self.labels = ("similarity to itself" if self._itself else "similarity to the reference",)

    def scores(self, output: Any) -> Tensor:
        """The inner product with the direction that the first output has fixed."""
        features = pooled(output, self._width)
        if self._direction is None:
            self._direction = self._aim(features[0].detach())
        return (features @ self._direction)[:, None]

    def class_scores(self, output: Any) -> ClassScores:
        """One score, which is not a probability."""
        return ClassScores(self.scores(output)[0].detach().cpu().double(), None)

    def describe(self) -> dict[str, Any]:
        """The target, the reference, and the cosine with it in [-1, 1]."""
        text = "similarity of the features to those of "
        if self._itself:
            text += "the picture itself"
        else:
            text += f"the reference (cosine {self._cosine:.3f})"
        return {
            "task": "similarity",
            "text": text,
            "probabilities": None,
            "reference": None if self._itself else dict(self._reference.facts),
            "cosine": self._cosine,
        }

    def _aim(self, clean: Tensor) -> Tensor:
        """The unit vector ``(D,)`` towards the reference."""
        given = self._reference
        wanted = clean if self._itself else pooled(given.output, self._width)[0].detach()
        direction = _unit(wanted)
        if given.baseline is not None:
            base = pooled(given.baseline, self._width)[0].detach()
            direction = direction - _unit(base)
        length = float(torch.linalg.vector_norm(direction))
        if not math.isfinite(length):
            raise NoMap("the features of the reference are not finite (NaN or infinity)")
        if length == 0:
            raise NoMap(
                "the features of the reference are those of a blank picture, so that the "
                "similarity cannot be explained; give another reference"
            )
        pair = torch.stack([clean, wanted]).cpu().double()
        self._cosine = float(torch.cosine_similarity(pair[0], pair[1], dim=0))
        unit: Tensor = direction / length
        return unit


def _unit(vector: Tensor) -> Tensor:
    """A vector of length 1 in the same direction; zero stays zero."""
    found: Tensor = functional.normalize(vector, dim=0)
    return found


def pooled(output: Any, width: int | None = None) -> Tensor:
    """``(N, D)`` features of an output: those of places are averaged over all places.

    Args:
        output: ``(N, D)``, tokens ``(N, L, D)``, maps ``(N, D, rows, cols)`` or
            ``(N, rows, cols, D)``, or a container of these.
        width: D, if it is known. Without it tokens are read as above and maps channels-first.

    Raises:
        ModelRefused: If it is none of these.
    """
    found = main_output(output)
    if found is None or found.ndim < 2 or not found.is_floating_point():
        raise unexpected("similarity", output, "features (images, features)")
    if found.ndim == 2:
        return found
    by_habit = found.ndim - 1 if found.ndim == 3 else 1
    fitting = [axis for axis in range(1, found.ndim) if found.shape[axis] == width]
    kept = by_habit if by_habit in fitting or not fitting else fitting[-1]
    places = [axis for axis in range(1, found.ndim) if axis != kept]
    return found.mean(dim=places)
