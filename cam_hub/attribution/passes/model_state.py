"""Whether it is still the same network, and the same input."""

from __future__ import annotations

from collections.abc import Hashable
from operator import attrgetter

from torch import Tensor

from cam_hub.hooks.frozen_eval import ModuleTree
from cam_hub.hooks.recording import foreign_hooks
from cam_hub.models.loaded_model import LoadedModel

__all__ = ["anatomy", "sample", "state"]

_VALUES = 64
_WRITES = attrgetter("_version")


def state(model: LoadedModel) -> Hashable | None:
    """What of a network changes when its answers may: parts, weights, buffers, hooks.

    Writing to a weight counts (``load_state_dict``, a step of an optimiser, anything in place),
    and so does putting another weight or module in its place. What is not seen: writing through
    ``weight.data``, and changing a plain attribute of a module.

    Returns:
        None where that is unknown (tensors made in inference mode keep no count of writes).
    """
    parts = anatomy(model)
    tensors = parts.tensors
    try:
        writes = tuple(map(_WRITES, tensors))
    except RuntimeError:  # made in inference mode, which counts no writes
        return None
    places = tuple(map(Tensor.data_ptr, tensors))
    hooks: list[int] = []
    if parts.hooked:
        hooks = [id(hook) for child in parts.modules for hook in foreign_hooks(child)]
    return parts.identities, places, writes, tuple(hooks)


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
