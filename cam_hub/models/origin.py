"""Whether a model is still as it was loaded, so that its ID and revision stand for it."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn

from cam_hub.hooks.recording import foreign_hooks

__all__ = ["Origin"]

_VALUES = 16  # compared in each tensor


class Origin:
    """A model as it was loaded by its ID.

    Args:
        module: The network, freshly loaded.
        fields: The other parts of the loaded model, by name.
    """

    def __init__(self, module: nn.Module, fields: Mapping[str, Any]) -> None:
        self.fields = dict(fields)
        self._state = _state(module)

    def has(self, module: nn.Module) -> bool:
        """Whether the network still is the loaded one: its parts, weights and hooks.

        Device and memory layout may differ. Not seen is a write through ``weight.data`` that leaves
        16 values, spread over the weight, as they are.
        """
        return self._state == _state(module)

    def changed(self, fields: Mapping[str, Any]) -> dict[str, Any]:
        """The fields that are not the loaded ones any more."""
        return {name: value for name, value in fields.items() if value is not self.fields[name]}


def _state(module: nn.Module) -> Hashable:
    parts = tuple((name, type(part)) for name, part in module.named_modules())
    hooked = any(foreign_hooks(part) for part in module.modules())
    writes = tuple(map(_writes, module.parameters()))
    values = tuple(map(_sample, chain(module.parameters(), module.buffers())))
    return parts, hooked, writes, values


def _writes(weight: Tensor) -> int:
    return -1 if weight.is_inference() else weight._version


def _sample(tensor: Tensor) -> Hashable:
    """Shape, type, and a few values spread over a tensor."""
    shape = tuple(tensor.shape)
    count = tensor.numel()
    if not count or tensor.is_meta or tensor.is_quantized or tensor.layout != torch.strided:
        return shape, tensor.dtype
    flat = tensor.detach().flatten()  # in the order of indices, whatever the layout in memory
    return shape, tensor.dtype, str(flat[:: -(-count // _VALUES)].tolist())
