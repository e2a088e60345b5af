"""Whether it is still the same network, and the same input."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from itertools import chain
from operator import attrgetter
from typing import Any

from torch import Tensor, nn

from cam_hub.guard import walk
from cam_hub.recording import foreign_hooks
from cam_hub.sources.base import LoadedModel

__all__ = ["sample", "state"]

_VALUES = 64
_WRITES = attrgetter("_version")


def state(model: LoadedModel) -> Hashable | None:
    """What of a network changes when its answers may: parts, weights, buffers, hooks.

    Writing to a weight counts (``load_state_dict``, a step of an optimiser, anything in place),
    and so does putting another weight or module in its place. What is not seen: writing through
    ``weight.data``, and changing a plain attribute of a module.

    Returns:
        None where that cannot be told (tensors made in inference mode keep no count of writes).
    """
    anatomy: _Anatomy | None = model.facts.get("anatomy")
    if anatomy is None or not anatomy.current:
        anatomy = model.facts["anatomy"] = _Anatomy(model.module)
    return anatomy.state()


class _Anatomy:
    """The dictionaries in which a network keeps its parts, so that they need not be looked for."""

    def __init__(self, module: nn.Module) -> None:
        children = walk(module)
        self._parts = [child._modules for child in children if child._modules]
        self._whole = self._children()
        tensors = [found for child in children for found in (child._parameters, child._buffers)]
        self._tensors: list[Mapping[str, Tensor | None]] = [found for found in tensors if found]
        self._children_of_all = children
        self._hooks: list[Mapping[int, Any]] = [
            hooks
            for child in children
            for hooks in (child._forward_hooks, child._forward_pre_hooks)
        ]

    @property
    def current(self) -> bool:
        """Whether the network still has the same parts."""
        return self._whole == self._children()

    def state(self) -> Hashable | None:
        # Asked before and after every pass, of thousands of tensors and hooks: as little Python
        # as can be.
        all_ = chain.from_iterable(found.values() for found in self._tensors)
        tensors = [tensor for tensor in all_ if tensor is not None]
        try:
            writes = list(map(_WRITES, tensors))
        except RuntimeError:  # made in inference mode, which counts no writes
            return None
        hooks: list[int] = []
        if any(self._hooks):
            for child in self._children_of_all:
                hooks += map(id, foreign_hooks(child))
        places = tuple(map(Tensor.data_ptr, tensors))
        return tuple(self._whole), places, tuple(writes), tuple(hooks)

    def _children(self) -> list[int]:
        return list(map(id, chain.from_iterable(parts.values() for parts in self._parts)))


def sample(tensor: Tensor) -> Hashable:
    """A few values of a tensor, with its shape, type and place: equal tensors have equal ones."""
    flat = tensor.detach().flatten()
    few = flat[:: -(-len(flat) // _VALUES)].tolist()
    return tuple(tensor.shape), tensor.dtype, tensor.device, tuple(few)
