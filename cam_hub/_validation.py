"""Checks of arguments and of values in configuration files, and hints for unknown arguments."""

from __future__ import annotations

import functools
import inspect
import math
import operator
from collections.abc import Callable, Collection, Iterator, Mapping
from numbers import Real
from types import MappingProxyType
from typing import Any, Final, ParamSpec, TypeVar, cast

from cam_hub.errors import InvalidArgument, nearest_names

__all__ = [
    "SYNONYMS",
    "check_constructor",
    "check_finite",
    "check_flag",
    "check_fraction",
    "check_image_size",
    "check_names",
    "check_numbers",
    "check_sizes",
    "check_whole",
    "check_word",
    "with_hints",
]

_DEPTH = 6
_ITEMS = 10_000
_TEXT = 1000
_KEY = 100


def check_whole(argument: str, value: object, minimum: int = 1, maximum: int | None = None) -> int:
    """Checks a whole number.

    Args:
        argument: Its name, for the error.
        value: The value; True and 3.0 are not whole numbers.
        minimum: The smallest that is valid.
        maximum: The largest; None for any.

    Raises:
        InvalidArgument: If it is anything else, or out of range.
    """
    if (
        not isinstance(value, int)
        or isinstance(value, bool)
        or value < minimum
        or (maximum is not None and value > maximum)
    ):
        span = f"of at least {minimum}" if maximum is None else f"from {minimum} to {maximum}"
        raise InvalidArgument(argument, value, f"a whole number {span}")
    return value


def check_fraction(argument: str, value: object, *, zero: bool) -> float:
    """Checks a number in [0, 1], or in (0, 1].

    Args:
        argument: Its name, for the error.
        value: The value.
        zero: Whether 0 is allowed.

    Returns:
        The number as a Python float.

    Raises:
        InvalidArgument: If it is not a number, is NaN, or is out of range.
    """
    if isinstance(value, Real):
        try:
            number = float(value)
        except OverflowError:
            number = math.inf
        if 0.0 < number <= 1.0 or (zero and number == 0.0):
            return number
    raise InvalidArgument(argument, value, f"a number in {'[' if zero else '('}0, 1]")


def check_sizes(argument: str, value: object, count: int) -> tuple[int, ...]:
    """Checks ``count`` positive whole numbers, in pixels or channels; NumPy's integers are valid.

    Returns:
        The sizes as plain ints.

    Raises:
        InvalidArgument: Anything else, under the name ``argument``.
    """
    try:
        items = tuple(cast("tuple[Any, ...]", value))
        checked = tuple(map(operator.index, items))  # refuses 224.5
    except TypeError:
        items, checked = (), ()
    # True would pass for 1.
    if len(checked) != count or min(checked) < 1 or bool in map(type, items):
        raise InvalidArgument(argument, value, f"{count} positive whole numbers")
    return checked


def check_finite(argument: str, value: object, count: int) -> tuple[float, ...]:
    """Checks ``count`` finite numbers.

    Returns:
        The numbers as plain floats.

    Raises:
        InvalidArgument: Anything else, under the name ``argument``.
    """
    try:
        checked = tuple(map(float, cast("tuple[Any, ...]", value)))
    except (TypeError, ValueError, OverflowError):
        checked = ()
    if len(checked) != count or not all(map(math.isfinite, checked)):
        raise InvalidArgument(argument, value, f"{count} finite numbers")
    return checked


def check_numbers(
    name: str, value: object, least: float, most: float, count: int | None = None
) -> None:
    """Checks finite numbers: a list of them, or, where ``count`` is 1, a single one.

    Raises:
        InvalidArgument: If it is anything else, or one of them is out of range.
    """
    items: list[Any] = [value] if count == 1 else value if isinstance(value, list) else []
    # Comparisons with NaN are false, too.
    fits = all(_is_number(item) and least <= item <= most for item in items)
    if not fits or not 0 < len(items) <= _TEXT:
        what = "a number" if count == 1 else "a list of numbers"
        raise InvalidArgument(name, value, f"{what} from {least:g} to {most:g}")


def check_image_size(name: str, value: object, channels: int, side: int) -> None:
    """Checks ``[channels, height, width]``.

    Raises:
        InvalidArgument: If it is not that, or more than ``channels``, or a side over ``side``.
    """
    found = check_sizes(name, value, 3)
    if found[0] > channels or max(found[1:]) > side:
        expected = f"at most {channels} channels and sides of at most {side} pixels"
        raise InvalidArgument(name, value, expected)


def check_flag(name: str, value: object) -> None:
    """Checks True or False.

    Raises:
        InvalidArgument: If it is anything else.
    """
    if not isinstance(value, bool):
        raise InvalidArgument(name, value, "true or false")


def check_word(name: str, value: object, known: Collection[str]) -> None:
    """Checks one of several words.

    Raises:
        InvalidArgument: If it is none of them.
    """
    if not isinstance(value, str) or value not in known:
        raise InvalidArgument(name, value, f"one of {', '.join(known)}")


def check_names(name: str, value: object) -> None:
    """Checks the name of a layer, or a list of names.

    Raises:
        InvalidArgument: If it is anything else.
    """
    items = value if isinstance(value, list) else [value]
    if not all(isinstance(item, str) and len(item) <= _TEXT for item in items):
        raise InvalidArgument(name, value, "the name of a layer, or a list of them")


def check_constructor(name: str, value: Mapping[str, Any], most: int) -> None:
    """Checks arguments for a network's constructor: few, shallow, and no number enormous.

    Args:
        name: Their name, for the error.
        value: The arguments.
        most: The largest absolute value of a number.

    Raises:
        InvalidArgument: If there are too many, or one is too deep, too long or too large.
    """
    for count, (where, item) in enumerate(_leaves(name, value, 0)):
        if count >= _ITEMS:
            raise InvalidArgument(name, len(value), f"at most {_ITEMS} values")
        if isinstance(item, str) and len(item) > _TEXT:
            raise InvalidArgument(where, item, f"at most {_TEXT} characters")
        if isinstance(item, (int, float)) and not abs(item) <= most:
            raise InvalidArgument(where, item, f"numbers from {-most} to {most}")


def _leaves(name: str, value: object, depth: int) -> Iterator[tuple[str, object]]:
    """The values in nested lists and dictionaries, each with its path."""
    if not isinstance(value, (list, dict)):
        yield name, value
        return
    if depth > _DEPTH:
        raise InvalidArgument(name, "…", f"lists in lists at most {_DEPTH} deep")
    items = value.items() if isinstance(value, dict) else ((None, item) for item in value)
    for key, item in items:
        if key is not None and len(key) > _KEY:
            raise InvalidArgument(name, key, f"names of at most {_KEY} characters")
        yield from _leaves(name if key is None else f"{name}.{key}", item, depth + 1)


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


P = ParamSpec("P")
R = TypeVar("R")

SYNONYMS: Final[Mapping[str, tuple[str, ...]]] = MappingProxyType(
    {
        name: tuple(words.split())
        for name, words in {
            "autocast": "amp dtype mixed_precision precision",
            "batch_size": "batch chunk_size internal_batch_size max_batch_size",
            "class_names": "categories classnames id2label label_names labels names",
            "classes": (
                "category class_id class_idx class_index cls label labels target "
                "target_category target_class target_index targets"
            ),
            "crop_pct": "crop crop_ratio",
            "image": "images img input input_tensor inputs path photo picture x",
            "images": "dataset folder image paths photos pictures",
            "input_size": "image_size img_size input_shape resize shape size",
            "method": "algorithm cam extractor methods",
            "methods": "algorithms method",
            "model_id": "id model model_name name path repo_id",
            "model_or_id": "id model model_id model_name module net network",
            "models": "ids model model_ids",
            "module": "model net network",
            "multi_label": "multilabel sigmoid",
            "num_samples": "n_samples nt_samples samples",
            "pretrained": "weights",
            "progress": "callback verbose",
            "seed": "generator random_seed random_state",
            "std": "noise noise_level noise_std sigma stdev stdevs",
            "target_layers": "layer layer_name layers module target_layer target_modules",
            "threads": "num_threads",
            "transform": "preprocess preprocessing processor tfm transforms",
            "workers": "num_proc num_workers processes",
        }.items()
    }
)
"""Arguments, and other names for them: those of other libraries, and likely ones."""

_ELSEWHERE: Final[Mapping[str, str]] = MappingProxyType(
    {
        "device": "the device is that of the model: load_model(…, device=…) or module.to(…)",
        "use_cuda": "the device is that of the model: load_model(…, device='cuda')",
        "cuda": "the device is that of the model: load_model(…, device='cuda')",
        "alpha": "colours belong to pictures: result.overlay(alpha=…)",
        "colormap": "colours belong to pictures: result.overlay(colormap=…)",
        "normalized": "result.cam() is un-normalised, result.heatmap() in [0, 1]",
        "reshape_transform": "the layout of a layer is found by experiment; leave it out",
        "aug_smooth": "noise is averaged over by the method 'smoothgradcampp' (num_samples=)",
        "eigen_smooth": "noise is averaged over by the method 'smoothgradcampp' (num_samples=)",
        "random_weights": "load_model(…, pretrained=False) gives random weights",
        "pretrained": "load_model(…, pretrained=False) gives random weights",
        "token": "load_model(…, token=…) loads private models",
        "revision": "the revision is a part of the ID: 'owner/name@revision'",
        "cache_dir": "the environment variable HF_HOME sets the folder for files of the Hub",
        "trust_remote_code": "code of a repo is never run; leave it out",
        "class_names": "wrap_model(…, class_names=…) names classes",
        "mean": "wrap_model(…, mean=…, std=…) sets the normalisation",
        "transform": "wrap_model(…, transform=…) sets the preprocessing",
        "top_k": "several classes are classes=top(5)",
        "topk": "several classes are classes=top(5)",
    }
)
"""What is done elsewhere, where a function has no argument for it."""


def with_hints(function: Callable[P, R]) -> Callable[P, R]:
    """Adds a hint to Python's TypeError for keyword arguments that a function does not have.

    An argument ``progress`` must be a function, or None.

    Args:
        function: A function with named arguments only; its signature stays as it is.

    Example:
        >>> @with_hints
        ... def explain(image: str, *, target_layers: str = "") -> None: ...
        >>> explain("cat.jpg", target_layer="layer4")
        Traceback (most recent call last):
        ...
        TypeError: explain() got an unexpected keyword argument 'target_layer': target_layers= \
is the argument.
    """
    names = tuple(inspect.signature(function).parameters)

    @functools.wraps(function)
    def checked(*args: P.args, **kwargs: P.kwargs) -> R:
        for name in kwargs:
            if name not in names:
                called = function.__name__
                message = f"{called}() got an unexpected keyword argument {name!r}"
                raise TypeError(f"{message}: {_hint(name, names)}.")
        progress = kwargs.get("progress")
        if progress is not None and not callable(progress):  # else it is called after some work
            raise InvalidArgument(
                "progress", progress, "a function of a number and a text, or None"
            )
        return function(*args, **kwargs)

    return checked


def _hint(name: str, names: tuple[str, ...]) -> str:
    word = name.lower()
    meant = [each for each in names if word in SYNONYMS.get(each, ())]
    if meant:
        return f"{meant[0]}= is the argument"
    if word in _ELSEWHERE:
        return _ELSEWHERE[word]
    near = nearest_names(word, names)
    if near:
        return f"did you mean {near[0]}=?"
    return f"it takes {', '.join(names)}"
