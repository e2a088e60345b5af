"""A model in double precision, for networks whose answers are lost in single precision.

In deep networks with random weights, activations can grow until a change of the picture is
smaller than their rounding errors. Trained networks hardly ever do that.
"""

from __future__ import annotations

import copy
import logging
import threading
from dataclasses import replace
from itertools import chain

import torch
from torch import Tensor, nn

from cam_hub.errors import InvalidArgument
from cam_hub.models.loaded_model import EXECUTION, LoadedModel

__all__ = ["autocast_type", "double_copy", "double_pair", "in_double"]

_LOG = logging.getLogger("cam_hub")

_FACT = "in_double"

_AUTOCAST = {"bfloat16": torch.bfloat16, "float16": torch.float16}


def autocast_type(word: str | None) -> torch.dtype | None:
    """The type that a word stands for in which autocast computes; None for none.

    Raises:
        InvalidArgument: If it is no such word.
    """
    if word is None:
        return None
    if not isinstance(word, str) or word not in _AUTOCAST:
        raise InvalidArgument("autocast", word, f"None or one of {', '.join(_AUTOCAST)}")
    return _AUTOCAST[word]


def in_double(model: LoadedModel) -> LoadedModel:
    """The same model in double precision, made once and kept with it.

    Args:
        model: The model; it stays as it is.

    Returns:
        A copy with its own weights, twice the size; on the CPU where the device has no double
        precision (MPS). The model itself if it is in double precision already, or if its module
        cannot be copied.
    """
    if model.dtype == torch.float64:
        return model
    with model.lock:
        if _FACT not in model.facts:
            model.facts[_FACT] = twin = _twin(model)
            if twin is not model:
                _LOG.info("%s: computed in double precision as well, which takes a copy", model.id)
        found: LoadedModel = model.facts[_FACT]
    return found


def double_copy(module: nn.Module) -> nn.Module | None:
    """A copy in double precision, on the CPU where the device has none (MPS).

    Args:
        module: The module; it stays as it is.

    Returns:
        None if it cannot be copied.
    """
    try:
        copied = copy.deepcopy(module)
    except (RuntimeError, TypeError, NotImplementedError):
        return None
    tensors = chain(copied.parameters(), copied.buffers())
    if any(tensor.device.type == "mps" for tensor in tensors):
        copied = copied.cpu()
    for child in copied.modules():
        # Tensors that are neither parameters nor buffers do not follow by themselves.
        for name, value in vars(child).items():
            if isinstance(value, Tensor) and value.is_floating_point():
                vars(child)[name] = value.detach().double()
    return copied.double()


def double_pair(module: nn.Module, clean: Tensor) -> tuple[nn.Module, Tensor] | None:
    """A copy of a module and of its input in double precision, both on the same device.

    Args:
        module: The module; it stays as it is.
        clean: Its input.

    Returns:
        None if they are in double precision already, or if the module cannot be copied.
    """
    finer = double_copy(module) if clean.dtype != torch.float64 else None
    if finer is None:
        return None
    place = next(chain(finer.parameters(), finer.buffers()), clean).device
    return finer, clean.to(place).double()


def _twin(model: LoadedModel) -> LoadedModel:
    module = double_copy(model.module)
    if module is None:
        return model
    facts = {EXECUTION: model.execution}
    return replace(model, module=module, facts=facts, lock=threading.RLock())
