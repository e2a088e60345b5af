"""Class names as users have them, read as one label per class."""

from __future__ import annotations

import operator
from collections.abc import Iterable, Mapping
from typing import Any

from cam_hub._text import clean_line
from cam_hub.errors import InvalidArgument

__all__ = ["ClassNames", "read_class_names"]

ClassNames = Iterable[object] | Mapping[Any, Any] | None
"""Labels in the order of the classes; or index to label (``id2label``); or label to index."""

_EXPECTED = (
    "one label per class: a list, a dict from index to label ({0: 'cat', 1: 'dog'}), or one from "
    "label to index"
)
_MAX_SHOWN = 5


def read_class_names(value: ClassNames) -> tuple[str, ...] | None:
    """The labels of the classes, by index.

    A dict is read by index: its keys, or else its values, are all the indices from 0 on, as whole
    numbers or as texts such as ``"7"`` (JSON has no other keys). Where both are, the keys count.
    Several classes may have the same label; they then differ by their index only.

    Args:
        value: Labels, as :data:`ClassNames`; anything that can be iterated over once (an array, a
            pandas Series, a generator), or None.

    Returns:
        At least one label, or None for None.

    Raises:
        InvalidArgument: It is a single text, empty, no collection of labels, or a dict in which
            an index is missing or occurs twice.
    """
    if value is None:
        return None
    if isinstance(value, (str, bytes)):
        expected = f"{_EXPECTED}; for a single class, [{value!r}]"
        raise InvalidArgument("class_names", value, expected)
    if isinstance(value, (set, frozenset)):
        raise InvalidArgument("class_names", value, f"{_EXPECTED}; a set has no order")
    if hasattr(value, "to_dict") and not callable(getattr(value, "index", None)):
        value = value.to_dict()  # a pandas Series, whose index need not be in order
    if isinstance(value, Mapping):
        items: list[Any] = _by_index(value)
    else:
        try:
            items = list(value)
        except TypeError:
            raise InvalidArgument("class_names", value, _EXPECTED) from None
    if not items:
        raise InvalidArgument("class_names", value, f"{_EXPECTED}, and there are none; or None")
    return tuple(_label(item, position) for position, item in enumerate(items))


def _by_index(value: Mapping[Any, Any]) -> list[Any]:
    """The labels of a dict, in the order of their indices."""
    pairs = [(_index(key), label) for key, label in value.items()]
    if any(index is None for index, _ in pairs):
        pairs = [(_index(index), key) for key, index in value.items()]
    if any(index is None for index, _ in pairs):
        raise InvalidArgument("class_names", _some(value), _EXPECTED)
    found: dict[int, Any] = {}
    for index, label in pairs:
        if index is None or index in found:
            raise InvalidArgument("class_names", _some(value), f"one label for class {index}")
        found[index] = label
    missing = [index for index in range(len(found)) if index not in found]
    if missing:
        hint = " (they start at 1; shift them by one)" if missing == [0] else ""
        expected = f"indices from 0 to {len(found) - 1}, and {missing[0]} is missing{hint}"
        raise InvalidArgument("class_names", _some(value), expected)
    return [found[index] for index in range(len(found))]


def _index(value: object) -> int | None:
    """A class index, or None; also as a text or a number of numpy's."""
    if isinstance(value, bool):
        return None
    if isinstance(value, str):
        text = value.strip()
        return int(text) if text.isascii() and text.isdigit() and len(text) < 10 else None
    if isinstance(value, float):
        return int(value) if value.is_integer() and value >= 0 else None
    try:
        index = operator.index(value)  # type: ignore[arg-type]  # refused by the TypeError
    except TypeError:
        return None
    return index if index >= 0 else None


def _label(item: object, position: int) -> str:
    """One label as a text in one line; numbers are written out."""
    if isinstance(item, bytes):
        item = item.decode("utf-8", "replace")
    if hasattr(item, "item") and not isinstance(item, (str, int, float)):
        item = _scalar(item)
    if isinstance(item, float) and item != item:  # noqa: PLR0124  (pandas' missing value)
        item = None
    if not isinstance(item, (str, int, float)):
        expected = f"texts, and the label of class {position} is {item!r}"
        raise InvalidArgument("class_names", item, expected)
    return clean_line(str(item)) or f"class {position}"


def _scalar(item: Any) -> object:
    """The plain value of a numpy scalar; of anything else, itself."""
    try:
        return item.item()
    except (TypeError, ValueError, RuntimeError):
        return item


def _some(value: Mapping[Any, Any]) -> dict[Any, Any]:
    """The first entries, for a message."""
    return dict(list(value.items())[:_MAX_SHOWN])
