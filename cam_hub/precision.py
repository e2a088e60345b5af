"""A model in double precision, for networks whose answers are lost in single precision.

In deep networks with random weights, activations can grow until a change of the picture is
smaller than their rounding errors. Trained networks hardly ever do that.
"""

from __future__ import annotations

import copy
import threading
from dataclasses import replace

import torch

from cam_hub.sources.base import LoadedModel

__all__ = ["in_double"]

_FACT = "in_double"


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
            model.facts[_FACT] = _copied(model)
        found: LoadedModel = model.facts[_FACT]
    return found


def _copied(model: LoadedModel) -> LoadedModel:
    try:
        module = copy.deepcopy(model.module)
    except (RuntimeError, TypeError, NotImplementedError):
        return model
    if model.device.type == "mps":
        module = module.cpu()
    return replace(model, module=module.double(), facts={}, lock=threading.RLock())
