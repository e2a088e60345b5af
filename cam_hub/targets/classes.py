"""Classes: their labels and ranking, and their selection by index, label or rank."""

from __future__ import annotations

import math
import operator
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, TypeGuard

import numpy as np
from torch import Tensor

from cam_hub._validation import check_whole
from cam_hub.errors import ClassNotFound, InvalidArgument, nearest_names

__all__ = [
    "ClassChoice",
    "Contrast",
    "ContrastChoice",
    "Expected",
    "LabelledClass",
    "Names",
    "Prediction",
    "ResolvedClasses",
    "Top",
    "as_index",
    "best_of",
    "choose_classes",
    "expected",
    "find_contrast",
    "is_iterable",
    "label_of",
    "names_expected",
    "nearest",
    "parse_top",
    "prediction_text",
    "resolve_classes",
    "top",
    "with_expected",
]

_WEIGHTED = re.compile(r"\s*(\d+(?:\.\d+)?)\s*\*(.+)", re.DOTALL)
_NEAREST = re.compile(r"nearest\s*\(\s*(?:(\d+)\s*(?:,\s*(\d+(?:\.\d+)?)\s*)?)?\)\Z", re.IGNORECASE)
_TOP = re.compile(r"top\s*\(?\s*(\d+)\s*\)?\Z", re.IGNORECASE)


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


@dataclass(frozen=True)
class Contrast:
    """A class that others are contrasted with.

    Attributes:
        class_index: Its index among the model's classes.
        label: Its label, or ``"class <index>"`` where the model has none.
        weight: What its score is multiplied by before it is taken off.
    """

    class_index: int
    label: str
    weight: float = 1.0


Weights = tuple[tuple[int, float], ...]
"""Class indices with the weights of their scores."""


@dataclass(frozen=True)
class Nearest:
    """Stands for the classes whose scores are nearest to that of the explained class.

    Attributes:
        count: Maximum number of classes.
        weight: What they share equally.
    """

    count: int = 3
    weight: float = 0.6

    def __post_init__(self) -> None:
        check_whole("nearest", self.count)
        _weight(self.weight, self.weight)


def nearest(count: int = 3, weight: float = 0.6) -> Nearest:
    """The classes whose scores are nearest, as a value for ``explain(contrast=...)``.

    With it, every method shows the difference to the most similar classes, as Finer-CAM (Zhang et
    al. 2025) does: the explained score is that of the class, less ``weight`` times the mean score
    of the ``count`` classes that are nearest to it, above or below. The defaults are those of
    torchcam 0.5.

    Args:
        count: How many classes; fewer if the model has fewer.
        weight: A finite number above 0.

    Raises:
        InvalidArgument: If one of them makes no sense.

    Example:
        >>> import cam_hub
        >>> cam_hub.nearest(3)
        Nearest(count=3, weight=0.6)
    """
    return Nearest(count, weight)


ContrastChoice = int | str | Nearest | Sequence[Any] | None
"""What classes are contrasted with: a class by index or label; several in a list, which share the
weight 1; ``(class, weight)`` pairs; or ``nearest(count)``."""


@dataclass(frozen=True)
class ResolvedClasses:
    """The classes of one explanation.

    Attributes:
        classes: Class indices, in the order in which they were asked for.
        contrast: Indices of the classes whose scores are taken off each of theirs, with their
            weights; None for none.
    """

    classes: tuple[int, ...]
    contrast: Weights | None = None


@dataclass(frozen=True)
class Top:
    """Stands for the ``count`` most probable classes."""

    count: int

    def __post_init__(self) -> None:
        check_whole("top", self.count)


@dataclass(frozen=True)
class Expected:
    """Stands for the class that an image is labelled with."""


expected = Expected()
"""The label of each image, as a value for ``explain_many(classes=...)``."""


@dataclass(frozen=True)
class LabelledClass:
    """The class that a dataset gives an image.

    Attributes:
        label: A label, or a class index.
        index: Its index among the classes of the dataset, or None.
        count: How many classes the dataset has, or None.
    """

    label: int | str
    index: int | None = None
    count: int | None = None


ClassChoice = (
    int | str | Top | Expected | LabelledClass | Callable[[Any], Any]
    | Iterable[int | str | Top | Expected | LabelledClass] | None
)  # fmt: skip
"""How classes may be named: by index, label, ``top(count)``, ``expected`` (the label of each of
many images), several of these; None predicts. A function of what the network returns gives a score
of its own in their place."""


def top(count: int) -> Top:
    """The ``count`` most probable classes, as a value for ``explain(classes=...)``."""
    return Top(count)


def parse_top(text: str) -> Top | None:
    """Reads ``"top(3)"`` or ``"top3"``; None for any other text."""
    found = _TOP.match(text.strip())
    return Top(int(found[1])) if found else None


def choose_classes(
    choice: ClassChoice,
    ranking: Tensor,
    names: Sequence[str] | None,
    eligible: Tensor | None = None,
) -> list[int]:
    """Finds the indices of the selected classes.

    Args:
        choice: An index; a label, in full or one of its comma-separated names, whatever its
            case; ``top(count)`` or the text ``"top(count)"``; several of these; or None for the
            predicted class. A text of digits that is not a label is an index.
        ranking: ``(K,)``, higher is better.
        names: K labels, or None.
        eligible: ``(K,)`` bool, which classes may be chosen without being named; None for all.

    Returns:
        Indices without repetition, in the order in which they were asked for.

    Raises:
        ClassNotFound: If an index is out of range, or a label is unknown or belongs to several
            classes.
        InvalidArgument: If the choice is of another type, or empty.
    """
    count = ranking.numel()
    if choice is None:
        return best_of(ranking, eligible, 1)
    if isinstance(choice, str) and not _matches(choice, names):
        choice = parse_top(choice) or choice
    if isinstance(choice, Top):
        return best_of(ranking, eligible, choice.count)
    wanted: list[object]
    if not isinstance(choice, str) and as_index(choice) is None and is_iterable(choice):
        wanted = list(choice)
    else:
        wanted = [choice]
    if not wanted:
        raise InvalidArgument(
            "classes", choice, "at least one class, or None for the predicted one"
        )
    found: list[int] = []
    for item in wanted:
        best = item if isinstance(item, Top) else None
        if isinstance(item, str) and not _matches(item, names):
            best = parse_top(item)
        if best is not None:
            found += best_of(ranking, eligible, best.count)
        else:
            found.append(_index(item, count, names))
    return list(dict.fromkeys(found))


def resolve_classes(
    choice: ClassChoice,
    contrast: ContrastChoice,
    ranking: Tensor,
    names: Sequence[str] | None,
    eligible: Tensor | None = None,
) -> ResolvedClasses:
    """Finds the selected classes, and those to contrast them with.

    Args:
        choice: As for ``choose_classes``, and so are the others.
        contrast: As for ``find_contrast``.
        ranking: The scores of the classes.
        names: Their labels, or None.
        eligible: The classes that may be chosen without being named.

    Raises:
        ClassNotFound: As ``choose_classes``.
        InvalidArgument: As ``choose_classes``, and if a class would be contrasted with itself, or
            several with the nearest of one.
    """
    classes = tuple(choose_classes(choice, ranking, names, eligible))
    if contrast is None:
        return ResolvedClasses(classes)
    if (near := _as_nearest(contrast, names)) is not None:
        return ResolvedClasses(classes, _nearest_to(classes, near, ranking, eligible))
    others = find_contrast(contrast, ranking.numel(), names)
    for other, _ in others or ():
        if other in classes:
            raise InvalidArgument(
                "contrast",
                contrast,
                f"another class than the explained one ({label_of(other, names)}): the score of a "
                "class less itself is zero",
            )
    return ResolvedClasses(classes, others)


def find_contrast(
    contrast: ContrastChoice, count: int, names: Sequence[str] | None
) -> Weights | None:
    """The classes that others are contrasted with, and their weights.

    Args:
        contrast: A class; several, which share the weight 1; pairs of a class and its weight; the
            same as a text with semicolons between them, and ``0.5*`` before a class for its
            weight; or None. A class that is named twice has the sum of its weights. Those of
            ``nearest`` depend on the scores: None.
        count: How many classes there are.
        names: Their labels, or None.

    Raises:
        ClassNotFound: If there is no such class.
        InvalidArgument: If it is something else, or a weight is not above 0.
    """
    if contrast is None or _as_nearest(contrast, names) is not None:
        return None
    entries = _entries(contrast, names)
    weights: dict[int, float] = {}
    for item, weight in entries:
        index = _index(item, count, names, "contrast")
        share = 1 / len(entries) if weight is None else weight
        weights[index] = weights.get(index, 0.0) + share
    return tuple(weights.items())


def _as_nearest(contrast: ContrastChoice, names: Sequence[str] | None) -> Nearest | None:
    """``nearest(…)`` as a value or as a text that is not a label; None for anything else."""
    if isinstance(contrast, Nearest):
        return contrast
    if not isinstance(contrast, str) or _matches(contrast, names):
        return None
    found = _NEAREST.match(contrast.strip())
    if found is None:
        return None
    default = Nearest()
    count, weight = found.groups()
    return Nearest(int(count or default.count), float(weight or default.weight))


def _nearest_to(
    classes: tuple[int, ...], near: Nearest, scores: Tensor, eligible: Tensor | None
) -> Weights:
    """The classes with the nearest scores, and their weights.

    Raises:
        InvalidArgument: If there are several explained classes, or no other class.
    """
    if len(classes) > 1:
        reason = f"one explained class, whose nearest classes are meant, and not {len(classes)}"
        raise InvalidArgument("contrast", near, reason)
    distances = (scores - scores[classes[0]]).abs()
    allowed = distances.isfinite() if eligible is None else eligible & distances.isfinite()
    allowed[classes[0]] = False
    others = best_of(-distances, allowed, near.count) if bool(allowed.any()) else []
    if not others:
        raise InvalidArgument("contrast", near, "a model with other classes, and this has none")
    return tuple((other, near.weight / len(others)) for other in others)


def _entries(contrast: Any, names: Sequence[str] | None) -> list[tuple[object, float | None]]:
    """Classes as they were named, with the weights that were given."""
    if isinstance(contrast, str):
        if _matches(contrast, names):
            return [(contrast, None)]
        parts = [part for part in contrast.split(";") if part.strip()]
        return [_weighted_text(part, names) for part in parts] or [(contrast, None)]
    if as_index(contrast) is not None or not is_iterable(contrast):
        return [(contrast, None)]
    found: list[tuple[object, float | None]] = []
    for item in contrast:
        if isinstance(item, (tuple, list)):
            if len(item) != 2:
                raise InvalidArgument("contrast", item, "a pair (class, weight)")
            found.append((item[0], _weight(item[1], item)))
        elif isinstance(item, str):
            found.append(_weighted_text(item, names))
        else:
            found.append((item, None))
    if not found:
        raise InvalidArgument("contrast", contrast, "at least one class, or None")
    return found


def _weighted_text(text: str, names: Sequence[str] | None) -> tuple[str, float | None]:
    """A class, and the weight that is written before it: ``0.5*tabby``."""
    given = _WEIGHTED.match(text)
    if given is None or _matches(text, names):
        return text.strip(), None
    return given[2].strip(), _weight(float(given[1]), text)


def _weight(value: object, given: object) -> float:
    try:
        weight = math.nan if isinstance(value, (bool, str)) else float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError, OverflowError):
        weight = math.nan
    if not (math.isfinite(weight) and weight > 0):
        raise InvalidArgument("contrast", given, "a finite weight above 0 for each class")
    return weight


def with_expected(choice: ClassChoice, label: LabelledClass | None) -> ClassChoice:
    """Puts an image's label in the place of ``expected``.

    Args:
        choice: The classes to explain.
        label: The image's label; None for an image without one.

    Raises:
        InvalidArgument: If ``expected`` is among the classes and the image has no label.
    """
    if not names_expected(choice):
        return choice
    if label is None:
        raise InvalidArgument(
            "classes",
            "expected",
            "images with labels for it: class folders, or pairs (image, label)",
        )
    return [label if isinstance(item, Expected) else item for item in _listed(choice)]


def names_expected(choice: ClassChoice) -> bool:
    """Whether ``expected`` is among the classes."""
    return any(isinstance(item, Expected) for item in _listed(choice))


def _listed(choice: ClassChoice) -> list[Any]:
    """The classes one by one, where a choice lists several."""
    return list(choice) if isinstance(choice, (list, tuple)) else [choice]


def _labelled(item: LabelledClass, count: int, names: Sequence[str] | None) -> int:
    """The class index of the model that a dataset's label means."""
    if isinstance(item.label, str):
        if names and not _matches(item.label, names):
            found = _of_synset(item.label, names)
            if found is not None:
                return found
        if not names and item.index is not None:
            if item.count not in (None, count):
                raise ClassNotFound(
                    item.label,
                    hint=f"The model has {count} classes without labels, and the dataset has "
                    f"{item.count} classes: their order cannot be the same.",
                )
            return _index(item.index, count, names)
    return _index(item.label, count, names)


def _of_synset(label: str, names: Sequence[str]) -> int | None:
    """The index of a WordNet ID such as n02123045, for a model with ImageNet's labels."""
    if not re.fullmatch(r"n\d{8}", label):
        return None
    from timm.data.imagenet_info import ImageNetInfo, infer_imagenet_subset  # noqa: PLC0415

    subset = infer_imagenet_subset({"num_classes": len(names)})
    if subset is None:
        return None
    info = ImageNetInfo(subset)
    if label not in info.label_names():
        return None
    index = info.label_names().index(label)
    words = {part.strip().casefold() for part in info.index_to_description(index).split(",")}
    own = {part.strip().casefold() for part in names[index].split(",")}
    return index if words & own else None


def _index(item: object, count: int, names: Sequence[str] | None, argument: str = "classes") -> int:
    if isinstance(item, LabelledClass):
        return _labelled(item, count, names)
    if isinstance(item, Expected):
        raise InvalidArgument(argument, "expected", "explain_many, whose images have labels")
    if isinstance(item, str):
        matches = _matches(item, names)
        if len(matches) == 1:
            return matches[0]
        if len(matches) > 1:
            raise ClassNotFound(
                item,
                hint=f"Classes {', '.join(map(str, matches))} have this label: give the index.",
            )
        if not item.strip().lstrip("-").isdecimal():
            raise _no_label(item, names)
        item = int(item)
    index = as_index(item)
    if index is None:
        expected = "a class index or label" if argument == "contrast" else "class indices or labels"
        raise InvalidArgument(argument, item, expected)
    if not 0 <= index < count:
        known = "only class 0" if count == 1 else f"classes 0 to {count - 1}"
        raise ClassNotFound(index, hint=f"The model has {known}.")
    return index


def as_index(item: object) -> int | None:
    """A whole number of any library (NumPy and torch scalars too), or None."""
    if isinstance(item, bool):
        return None
    try:
        return operator.index(item)  # type: ignore[arg-type]
    except (TypeError, ValueError, RuntimeError):
        return None


def is_iterable(value: object) -> TypeGuard[Iterable[Any]]:
    """Whether a value has items; arrays and tensors without dimensions do not."""
    return isinstance(value, Iterable) and getattr(value, "ndim", 1) != 0


def _matches(label: str, names: Sequence[str] | None) -> list[int]:
    """Indices of the classes of this label; those that bear it in full win over the others."""
    wanted = label.strip().casefold()
    folded = [name.strip().casefold() for name in names or ()]
    full = [index for index, name in enumerate(folded) if name == wanted]
    if full:
        return full
    return [
        index
        for index, name in enumerate(folded)
        if wanted in (part.strip() for part in name.split(","))
    ]


def _no_label(label: str, names: Sequence[str] | None) -> ClassNotFound:
    if not names:
        return ClassNotFound(label, hint="The model has no labels: give the class index.")
    synonyms = {part.strip(): name for name in names for part in name.split(",")}
    near = dict.fromkeys(synonyms[part] for part in nearest_names(label, synonyms))
    return ClassNotFound(label, list(near))
