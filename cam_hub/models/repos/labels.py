"""The labels of a repo's classes, wherever the repo tells them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from cam_hub._text import clean_line

__all__ = ["CARD", "card_labels", "declared_count", "labels_of"]

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
        config: What a repo, or its card, says of itself.
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

    A card is prose for people; one that is missing, huge or damaged says nothing, and is no error.

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
    """The key of each index, or None if the keys are no indices."""
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
