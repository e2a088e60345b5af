"""Searching the labels of a model, of which there may be twenty thousand."""

from __future__ import annotations

import hashlib
import threading
from collections import OrderedDict
from collections.abc import Sequence
from functools import cached_property

from cam_hub.targets.classes import parse_top

__all__ = ["LabelCache", "Labels"]


class Labels:
    """The labels of one model, made ready to be searched.

    Args:
        names: One label per class.
    """

    def __init__(self, names: Sequence[str]) -> None:
        self.names = tuple(names)

    def __len__(self) -> int:
        return len(self.names)

    def name_of(self, index: int) -> str:
        """What stands for a class in a request: its label, or the index if the label is ambiguous.

        Several classes may share a label (both kinds of crane), and a label may look like an
        index or like ``top(3)``.
        """
        return naming(self.names[index], index, self._counts[_folded(self.names[index])])

    def find(self, query: str, most: int) -> tuple[list[int], int]:
        """Classes whose labels hold all words of a query, or whose index it is.

        Args:
            query: Words, in any order; none for all classes.
            most: How many to return.

        Returns:
            Class indices, and how many there are in all. The class of that index comes first,
            then labels in which every word begins a word, shorter labels first, then the others.
        """
        words = _folded(query).split()
        if not words:
            return list(range(min(most, len(self)))), len(self)
        hits = [i for i, text in enumerate(self._texts) if all(word in text for word in words)]
        exact = [int(query)] if query.strip().isdecimal() and int(query) < len(self) else []
        hits.sort(key=lambda i: (not self._begins(i, words), len(self._texts[i]), i))
        found = list(dict.fromkeys([*exact, *hits]))
        return found[:most], len(found)

    def _begins(self, index: int, words: list[str]) -> bool:
        text = f" {self._texts[index]}"
        return all(f" {word}" in text for word in words)

    @cached_property
    def _texts(self) -> tuple[str, ...]:
        return tuple(map(_folded, self.names))

    @cached_property
    def _counts(self) -> dict[str, int]:
        counts: dict[str, int] = {}
        for text in self._texts:
            counts[text] = counts.get(text, 0) + 1
        return counts


class LabelCache:
    """Labels by model and visitor, so that no visitor sees those of another's private model.

    Args:
        most: How many models' labels are held.
    """

    def __init__(self, most: int = 32) -> None:
        self._most = most
        self._held: OrderedDict[tuple[str, str], Labels | None] = OrderedDict()
        self._lock = threading.Lock()

    def put(self, model_id: str, token: str | None, names: Sequence[str] | None) -> None:
        """Notes the labels of a model as a visitor may know them; None where there are none."""
        key = _key(model_id, token)
        with self._lock:
            held = self._held.get(key)
            if held is None or held.names != tuple(names or ()):
                self._held[key] = Labels(names) if names else None
            self._held.move_to_end(key)
            while len(self._held) > self._most:
                self._held.popitem(last=False)

    def get(self, model_id: str, token: str | None) -> Labels | None:
        """The labels, or None where none are known."""
        with self._lock:
            return self._held.get(_key(model_id, token))


def naming(label: str, index: int, count: int = 1) -> str:
    """A class as a request names it, see ``Labels.name_of``."""
    text = label.strip()
    is_plain = count == 1 and not text.lstrip("-").isdecimal() and parse_top(text) is None
    return text if is_plain and text else str(index)


def _folded(text: str) -> str:
    return " ".join(text.casefold().replace(",", " ").split())


def _key(model_id: str, token: str | None) -> tuple[str, str]:
    # A digest, so that tokens are not kept.
    return model_id, hashlib.sha256(token.encode()).hexdigest() if token else ""
