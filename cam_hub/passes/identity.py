"""Whether it is still the same network, and the same input."""

from __future__ import annotations

from collections.abc import Hashable

from torch import Tensor, nn

from cam_hub.guard import walk
from cam_hub.recording import foreign_hooks

__all__ = ["sample", "state"]

_VALUES = 64


def state(module: nn.Module) -> Hashable | None:
    """What of a network changes when its answers may: parts, weights, buffers, hooks.

    Writing to a weight counts (``load_state_dict``, a step of an optimiser, anything in place),
    and so does putting another in its place. What is not seen: writing through ``weight.data``,
    and changing a plain attribute of a module.

    Returns:
        None where that cannot be told (tensors made in inference mode keep no count of writes).
    """
    found: list[int] = []
    for child in walk(module):
        found.append(id(child))
        for tensors in (child._parameters, child._buffers):
            for tensor in tensors.values():
                if tensor is not None:
                    if tensor.is_inference():
                        return None
                    found += (tensor.data_ptr(), tensor._version)
        found += map(id, foreign_hooks(child))
    return tuple(found)


def sample(tensor: Tensor) -> Hashable:
    """A few values of a tensor, with its shape, type and place: equal tensors have equal ones."""
    flat = tensor.detach().flatten()
    few = flat[:: -(-len(flat) // _VALUES)].tolist()
    return tuple(tensor.shape), tensor.dtype, tensor.device, tuple(few)
