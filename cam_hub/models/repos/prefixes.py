"""The names of weights, matched to those of an architecture.

Training programs wrap networks in others (``model.``, ``backbone.``, ``ema.module.``), put tables
into tables, and save several copies of the weights, averaged ones among them. No list of their
names is needed: what the architecture calls its weights is known, and whatever stands before
such a name in a file is a prefix.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Mapping
from typing import Any

from torch import Tensor

__all__ = ["without_prefixes"]

_PARTS = 32
"""Maximum number of parts of a name, between dots, that are tried as a prefix."""

_ENOUGH = 0.5
"""Minimum share of the architecture's names that one prefix must stand before."""

_AVERAGED = re.compile(r"(?:^|[._])(?:ema|swa|averaged?)(?:[._]|$)|_ema|ema_", re.IGNORECASE)


def without_prefixes(
    tensors: Mapping[str, Tensor], wanted: Mapping[str, Tensor] | Mapping[str, Any]
) -> dict[str, Tensor] | None:
    """Finds an architecture's weights among tensors by what their names end in.

    The prefix before most of the architecture's names is that of the network; averaged weights
    come first where several copies are as complete. A weight that the prefix lacks (a head beside
    its backbone) is taken from the only other place that has its name and shape. Takes time
    linear in the length of all names.

    Args:
        tensors: Everything that a file holds, by name.
        wanted: The architecture's own parameters and buffers.

    Returns:
        Tensors by the architecture's names, together with others under the same prefix where the
        match is not complete; None if no prefix stands before enough of the names.
    """
    fits = {name: _prefixes(name, tensor, wanted) for name, tensor in tensors.items()}
    counts = Counter(prefix for prefixes in fits.values() for prefix in prefixes)
    if not counts:
        return None
    most = max(counts.values())
    if most < _ENOUGH * len(wanted):
        return None
    equal = [prefix for prefix, count in counts.items() if count == most]
    chosen = next(filter(_AVERAGED.search, equal), equal[0])
    found = {
        name.removeprefix(chosen): tensor
        for name, tensor in tensors.items()
        if name.startswith(chosen)
    }
    found |= _elsewhere(tensors, fits, wanted.keys() - found.keys())
    if wanted.keys() <= found.keys():
        return {name: found[name] for name in wanted}
    return found


def _prefixes(name: str, tensor: Tensor, wanted: Mapping[str, Any]) -> list[str]:
    """What stands before one of the architecture's names in a tensor's name, if the shape fits."""
    found = []
    start = 0
    for _ in range(_PARTS):
        own = wanted.get(name[start:])
        if own is not None and own.shape == tensor.shape:
            found.append(name[:start])
        start = name.find(".", start) + 1
        if start == 0:
            break
    return found


def _elsewhere(
    tensors: Mapping[str, Tensor], fits: Mapping[str, list[str]], missing: Collection[str]
) -> dict[str, Tensor]:
    """Missing weights that exist under exactly one other prefix."""
    places: dict[str, list[str]] = {}
    for name, prefixes in fits.items():
        for prefix in prefixes:
            if (own := name[len(prefix) :]) in missing:
                places.setdefault(own, []).append(name)
    return {own: tensors[names[0]] for own, names in places.items() if len(names) == 1}
