"""Class names: given, or in the files of a repo."""

from __future__ import annotations

import operator
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import yaml

from cam_hub._text import clean_line
from cam_hub.errors import InvalidArgument

__all__ = ["CARD", "ClassNames", "card_labels", "declared_count", "labels_of", "read_class_names"]


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


CARD = "README.md"
"""The card of a repo; the facts stand in front of its text."""

_CARD_CHARS = 2**16
_LABEL_CHARS = 200
_BRACKETS = 32
_KEYS = ("label_names", "labels", "id2label")
_PLACEHOLDER = re.compile(r"LABEL_\d+\Z")
_FRONT = re.compile(r"\A\ufeff?---[ \t]*\n(.*?)\n---[ \t]*(?:\n|\Z)", re.DOTALL)


class _CardLoader(yaml.SafeLoader):  # type: ignore[misc]
    """yaml's safe loader without what takes more than linear time.

    Merged aliases grow exponentially, and the scanner takes a step for every open bracket at each
    token.
    """

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        """Composes a value, unless it is an alias."""
        if self.check_event(yaml.AliasEvent):
            raise yaml.YAMLError("a card with an alias")
        node: yaml.Node | None = super().compose_node(parent, index)
        return node

    def fetch_flow_collection_start(self, TokenClass: Any) -> None:  # noqa: N803 (yaml's name)
        """Scans a bracket that opens, unless there are many of them."""
        if self.flow_level > _BRACKETS:
            raise yaml.YAMLError("a card of brackets in brackets")
        super().fetch_flow_collection_start(TokenClass)


def labels_of(config: Mapping[str, Any], count: int) -> tuple[str, ...] | None:
    """The labels that a mapping declares, one per class.

    Looked for in this order: ``label_names`` (with ``label_descriptions`` in their place where
    there are some), ``labels``, ``id2label``, ``label2id``; each a list, or a map from index to
    name.

    Args:
        config: The configuration of a repo, or the metadata of its card.
        count: How many classes there are.

    Returns:
        ``count`` labels, or None if there are none, not so many, or only placeholders such as
        ``LABEL_7``.
    """
    for found in _candidates(config):
        try:
            texts = _texts(found, count)
            if texts is not None and not all(map(_PLACEHOLDER.match, texts)):
                descriptions = config.get("label_descriptions")
                if isinstance(descriptions, Mapping):
                    texts = tuple(_text(descriptions.get(text, text)) for text in texts)
                return texts
        except ValueError:
            continue
    return None


def declared_count(config: Mapping[str, Any]) -> int | None:
    """How many classes the labels of a mapping are for, or None where it has none."""
    for found in _candidates(config):
        if isinstance(found, list):
            return len(found)
        if isinstance(found, Mapping) and (indices := _indices(found)) is not None:
            return max(indices, default=-1) + 1
    return None


def card_labels(folder: Path, count: int) -> tuple[str, ...] | None:
    """The labels in the front matter of the card in a folder.

    A card is prose for people; a missing, huge or damaged one has no labels, without an error.

    Args:
        folder: Where the card is.
        count: How many classes there are.
    """
    try:
        with (folder / CARD).open(encoding="utf-8") as file:
            text = file.read(_CARD_CHARS)
        front = _FRONT.match(text)
        # yaml's reader in C is faster, but deeply nested lists crash it.
        facts = yaml.load(front[1], _CardLoader) if front else None  # noqa: S506 (a safe one)
        return labels_of(facts, count) if isinstance(facts, dict) else None
    except (OSError, ValueError, OverflowError, RecursionError, yaml.YAMLError):
        return None


def _candidates(config: Mapping[str, Any]) -> list[object]:
    found: list[object] = [config[key] for key in _KEYS if config.get(key)]
    inverse = config.get("label2id")
    if isinstance(inverse, Mapping) and all(isinstance(value, int) for value in inverse.values()):
        found.append({index: name for name, index in inverse.items()})
    return found


def _texts(found: object, count: int) -> tuple[str, ...] | None:
    """One text per class; a map may leave gaps, which are named by their index."""
    if isinstance(found, list):
        fits = len(found) == count and all(isinstance(item, (str, int, float)) for item in found)
        return tuple(map(_text, found)) if fits else None
    if not isinstance(found, Mapping) or (indices := _indices(found)) is None:
        return None
    if not indices or max(indices) >= count or not 2 * len(indices) > count:
        return None
    return tuple(
        _text(found[indices[index]]) if index in indices else str(index) for index in range(count)
    )


def _indices(found: Mapping[Any, Any]) -> dict[int, Any] | None:
    """The key of each index, or None if the keys are not indices."""
    try:
        indices = {int(key): key for key in found}
    except (TypeError, ValueError, OverflowError):
        return None
    return indices if min(indices, default=0) >= 0 else None


def _text(value: object) -> str:
    """A label as it is shown.

    Raises:
        ValueError: If it is neither text nor a number of some digits.
    """
    if not isinstance(value, (str, int, float)):
        raise ValueError("a label that is not text")
    return clean_line(value, _LABEL_CHARS)
