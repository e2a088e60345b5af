"""Checks of the values in a repo's configuration, which anybody may have written."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from typing import Any

from cam_hub.errors import InvalidArgument
from cam_hub.images.geometry import sizes

__all__ = ["flag", "image_size", "names", "numbers", "plain", "whole", "word"]

_DEPTH = 6
_ITEMS = 10_000
_TEXT = 1000
_KEY = 100


def whole(name: str, value: object, least: int, most: int) -> int:
    """Checks a whole number.

    Args:
        name: What to call it in an error.
        value: As JSON gave it; True and 3.0 are no whole numbers.
        least: Smallest that will do.
        most: Largest.

    Raises:
        InvalidArgument: If it is none, or out of range.
    """
    if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
        raise InvalidArgument(name, value, f"a whole number from {least} to {most}")
    return value


def numbers(name: str, value: object, least: float, most: float, count: int | None = None) -> None:
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


def image_size(name: str, value: object, channels: int, side: int) -> None:
    """Checks ``[channels, height, width]``.

    Raises:
        InvalidArgument: If it is not that, or more than ``channels``, or a side over ``side``.
    """
    found = sizes(name, value, 3)
    if found[0] > channels or max(found[1:]) > side:
        expected = f"at most {channels} channels and sides of at most {side} pixels"
        raise InvalidArgument(name, value, expected)


def flag(name: str, value: object) -> None:
    """Checks a yes or no.

    Raises:
        InvalidArgument: If it is anything else.
    """
    if not isinstance(value, bool):
        raise InvalidArgument(name, value, "true or false")


def word(name: str, value: object, known: Collection[str]) -> None:
    """Checks one of several words.

    Raises:
        InvalidArgument: If it is none of them.
    """
    if not isinstance(value, str) or value not in known:
        raise InvalidArgument(name, value, f"one of {', '.join(known)}")


def names(name: str, value: object) -> None:
    """Checks the name of a layer, or a list of such.

    Raises:
        InvalidArgument: If it is anything else.
    """
    items = value if isinstance(value, list) else [value]
    if not all(isinstance(item, str) and len(item) <= _TEXT for item in items):
        raise InvalidArgument(name, value, "the name of a layer, or a list of them")


def plain(name: str, value: Mapping[str, Any], most: int) -> None:
    """Checks arguments for a network's constructor: few, shallow, and no number enormous.

    Args:
        name: What to call them in an error.
        value: The arguments.
        most: Largest absolute value of any number among them.

    Raises:
        InvalidArgument: If one of them is not so.
    """
    for count, (where, item) in enumerate(_leaves(name, value, 0)):
        if count >= _ITEMS:
            raise InvalidArgument(name, len(value), f"at most {_ITEMS} values")
        if isinstance(item, str) and len(item) > _TEXT:
            raise InvalidArgument(where, item, f"at most {_TEXT} characters")
        if isinstance(item, (int, float)) and not abs(item) <= most:
            raise InvalidArgument(where, item, f"numbers from {-most} to {most}")


def _leaves(name: str, value: object, depth: int) -> Iterator[tuple[str, object]]:
    """Every value that holds no others, with the way to it."""
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
