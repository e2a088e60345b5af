"""Channels first or last in memory: whichever a network is faster with, found by measurement.

The numbers are the same to rounding errors. A batch that comes in channels-last goes through
convolutions in that format, whatever the format of their weights; these are laid out anew only in
modules that cam_hub has built itself, and spare such networks a copy of each weight per call.
"""

from __future__ import annotations

import hashlib
import time

import torch
from torch import Tensor, nn

from cam_hub.guard import quiet, walk
from cam_hub.introspection import answers, cache
from cam_hub.memory import is_out_of_memory
from cam_hub.sources.base import LoadedModel

__all__ = ["suited_format"]

_FORMATS = {"contiguous": torch.contiguous_format, "channels_last": torch.channels_last}

_CONVOLUTIONS = 4
"""A network with fewer (a patch embedding before a transformer) has nothing to gain."""

_ROUNDS = 3
_GAIN = 1.02
"""Channels-last is taken where one image needs at most this part of the time: batches gain more."""


def suited_format(model: LoadedModel, image: Tensor) -> torch.memory_format:
    """The memory format in which a model is run on inputs of this size, on this device.

    Found out once by a few passes, and kept: with the model, and on disk where the model's layers
    are kept, too.

    Args:
        model: The model.
        image: ``(1, channels, rows, cols)``, on the model's device; of clips it is contiguous.
    """
    if image.ndim != 4:
        return torch.contiguous_format
    with model.lock:
        known: dict[object, str] = model.facts.setdefault("memory_formats", {})
        place = tuple(image.shape[1:]), image.dtype, image.device
        if place not in known:
            known[place] = _recalled(model, image) or _measured(model, image)
        return _FORMATS[known[place]]


def _measured(model: LoadedModel, image: Tensor) -> str:
    convolutions = [child for child in walk(model.module) if isinstance(child, nn.Conv2d)]
    if len(convolutions) < _CONVOLUTIONS:
        return "contiguous"
    before = _seconds(model, image, "contiguous")
    ours = model.source != "module"
    if ours:
        _lay_out(model.module, torch.channels_last)
    try:
        faster = _seconds(model, image, "channels_last") < _GAIN * before
    except RuntimeError as error:
        if is_out_of_memory(error):
            raise
        faster = False  # some code takes only contiguous tensors (view)
    if ours and not faster:
        _lay_out(model.module, torch.contiguous_format)
    found = "channels_last" if faster else "contiguous"
    if (key := _key(model, image)) is not None:
        cache.write(key, {"memory_format": found})
    return found


def _recalled(model: LoadedModel, image: Tensor) -> str | None:
    key = _key(model, image)
    payload = cache.read(key) if key is not None else None
    found = payload.get("memory_format") if isinstance(payload, dict) else None
    if found not in _FORMATS:
        return None
    if found == "channels_last" and model.source != "module":
        _lay_out(model.module, torch.channels_last)
    return str(found)


def _key(model: LoadedModel, image: Tensor) -> str | None:
    """The model's key on disk, with what times depend on beside it."""
    key = answers.known_key(model, tuple(image.shape[1:]))
    if key is None:
        return None
    where = torch.cuda.get_device_name(image.device) if image.is_cuda else image.device.type
    text = f"{key} memory format {where} {torch.get_num_threads()}"
    return hashlib.sha256(text.encode()).hexdigest()


def _seconds(model: LoadedModel, image: Tensor, name: str) -> float:
    """The time of a pass, the least of a few after one to warm up."""
    batch = image.contiguous(memory_format=_FORMATS[name])
    times = []
    with quiet(model.module), torch.no_grad():
        for _ in range(1 + _ROUNDS):
            start = time.perf_counter()
            model.task.run(model.module, batch)
            if image.is_cuda:
                torch.cuda.synchronize(image.device)
            times.append(time.perf_counter() - start)
    return min(times[1:])


def _lay_out(module: nn.Module, memory_format: torch.memory_format) -> None:
    """Lays out the weights of convolutions anew; a pass under way elsewhere goes on with either."""
    for child in walk(module):
        if isinstance(child, nn.Conv2d):
            weight = child.weight
            weight.data = weight.data.contiguous(memory_format=memory_format)
