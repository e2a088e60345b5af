"""Whether it is still the same network, and the same input."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import Any

from torch import Tensor, nn

from cam_hub.guard import walk
from cam_hub.recording import foreign_hooks
from cam_hub.sources.base import LoadedModel

__all__ = ["sample", "state"]

_VALUES = 64


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
        self._hooks: list[tuple[Mapping[int, Any], nn.Module]] = [
            (hooks, child)
            for child in children
            for hooks in (child._forward_hooks, child._forward_pre_hooks)
        ]

    @property
    def current(self) -> bool:
        """Whether the network still has the same parts."""
        return self._whole == self._children()

    def state(self) -> Hashable | None:
        found: list[int] = []
        try:
            for tensors in self._tensors:
                for tensor in tensors.values():
                    if tensor is not None:
                        found += (tensor.data_ptr(), tensor._version)
        except RuntimeError:  # made in inference mode, which counts no writes
            return None
        for hooks, child in self._hooks:
            if hooks:
                found += map(id, foreign_hooks(child))
        return tuple(self._whole), tuple(found)

    def _children(self) -> list[int]:
        return [id(child) for parts in self._parts for child in parts.values()]


def sample(tensor: Tensor) -> Hashable:
    """A few values of a tensor, with its shape, type and place: equal tensors have equal ones."""
    flat = tensor.detach().flatten()
    few = flat[:: -(-len(flat) // _VALUES)].tolist()
    return tuple(tensor.shape), tensor.dtype, tensor.device, tuple(few)
