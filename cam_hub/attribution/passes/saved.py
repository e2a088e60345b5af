"""What an autograd graph keeps in memory for the way back."""

from __future__ import annotations

from collections.abc import Iterator

from torch import Tensor

__all__ = ["saved"]


def saved(root: Tensor) -> Iterator[Tensor]:
    """The tensors that a graph keeps for the way back."""
    pending, seen = [root.grad_fn], set()
    while pending:
        node = pending.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        pending += [parent for parent, _ in node.next_functions]
        for name in _saved_names(type(node)):
            try:
                found = getattr(node, name)
            except RuntimeError:  # overwritten since, which the way back will tell
                continue
            parts = found if isinstance(found, (tuple, list)) else (found,)
            yield from (part for part in parts if isinstance(part, Tensor))


_names: dict[type, tuple[str, ...]] = {}


def _saved_names(kind: type) -> tuple[str, ...]:
    """Under which attributes nodes of a kind keep tensors."""
    if kind not in _names:
        found = [name for name in dir(kind) if name.startswith("_saved_")]
        if "saved_tensors" in dir(kind):
            found.append("saved_tensors")
        _names[kind] = tuple(found)
    return _names[kind]
