"""Whether it is still the same network, and the same input."""

from __future__ import annotations

from collections.abc import Hashable

from torch import Tensor

from cam_hub.hooks.frozen_eval import ModuleTree
from cam_hub.models.loaded_model import LoadedModel

__all__ = ["anatomy", "sample", "state"]

_VALUES = 64


def state(model: LoadedModel) -> Hashable | None:
    """What of a network changes when its answers may; None where that is unknown."""
    return anatomy(model).state()


def anatomy(model: LoadedModel) -> ModuleTree:
    """The parts of a model as it is now."""
    found: ModuleTree | None = model.facts.get("anatomy")
    if found is None or not found.current:
        found = model.facts["anatomy"] = ModuleTree(model.module)
    return found


def sample(tensor: Tensor) -> Hashable:
    """A few values of a tensor, with its shape, type and place: equal tensors have equal ones."""
    flat = tensor.detach().flatten()
    few = flat[:: -(-len(flat) // _VALUES)].tolist()
    return tuple(tensor.shape), tensor.dtype, tensor.device, tuple(few)
