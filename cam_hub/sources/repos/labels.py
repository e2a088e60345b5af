"""The labels of a repo's classes, wherever the repo tells them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

__all__ = ["CARD", "card_labels", "declared_count", "labels_of"]

CARD = "README.md"
"""The card of a repo; the facts stand in front of its text."""

_CARD_CHARS = 2**16
_LABEL_CHARS = 200
_KEYS = ("label_names", "labels", "id2label")
_PLACEHOLDER = re.compile(r"LABEL_\d+\Z")
_FRONT = re.compile(r"\A\ufeff?---[ \t]*\n(.*?)\n---[ \t]*(?:\n|\Z)", re.DOTALL)


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
        texts = _texts(found, count)
        if texts is not None and not all(map(_PLACEHOLDER.match, texts)):
            descriptions = config.get("label_descriptions")
            if isinstance(descriptions, Mapping):
                texts = tuple(_text(descriptions.get(text, text)) for text in texts)
            return texts
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
        # The reader in C would be faster, and crashes the process on lists nested deep enough.
        facts = yaml.safe_load(front[1]) if front else None
    except (OSError, ValueError, RecursionError, yaml.YAMLError):
        return None
    return labels_of(facts, count) if isinstance(facts, dict) else None


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
    except (TypeError, ValueError):
        return None
    return indices if min(indices, default=0) >= 0 else None


def _text(value: object) -> str:
    text = " ".join(str(value).split())
    return text if len(text) <= _LABEL_CHARS else text[: _LABEL_CHARS - 1] + "…"
