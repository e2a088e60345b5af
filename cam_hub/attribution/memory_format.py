"""Channels first or last in memory: whichever a network is faster with, found by measurement.

The numbers are the same to rounding errors. A batch that comes in channels-last goes through
convolutions in that format, whatever the format of their weights; these are laid out anew only in
modules that cam_hub has built itself, and spare such networks a copy of each weight per call.

Times decide, so that two machines, or two processes without a common cache, may decide differently,
and round differently from then on. Where torch is asked for deterministic algorithms, nothing is
timed, and channels are first.
"""

from __future__ import annotations

import hashlib
import math
import time

import torch
from torch import Tensor, nn

from cam_hub.errors import ModelRefused
from cam_hub.hooks.frozen_eval import frozen_eval, walk
from cam_hub.layers import cache, listing
from cam_hub.models.loaded_model import LoadedModel

__all__ = ["suited_format"]

_FORMATS = {"contiguous": torch.contiguous_format, "channels_last": torch.channels_last}

_CONVOLUTIONS = 4
"""A network with fewer (a patch embedding before a transformer) has nothing to gain."""

_SUSPENDED = "memory_format_suspended"
"""The fact of a model whose weights are contiguous only while algorithms are deterministic."""

_ROUNDS = 3
_GAIN = 1.05
"""Channels-last is taken where one image needs at most this part of the time: batches gain more,
and so does one image once the weights are laid out alike."""


def suited_format(model: LoadedModel, image: Tensor) -> torch.memory_format:
    """The memory format in which a model is run on inputs of this size, on this device.

    Found out once by a few passes, and kept: with the model, and on disk where the model's layers
    are kept, too. Under ``torch.use_deterministic_algorithms(True)`` always contiguous; what was
    found out before holds again afterwards.

    Args:
        model: The model.
        image: ``(1, channels, rows, cols)``, on the model's device; of clips it is contiguous.
    """
    if image.ndim != 4:
        return torch.contiguous_format
    with model.lock:
        known: dict[object, str] = model.facts.setdefault("memory_formats", {})
        laid_out = "channels_last" in known.values() and model.source != "module"
        if torch.are_deterministic_algorithms_enabled():
            if laid_out and not model.facts.get(_SUSPENDED):
                _lay_out(model.module, torch.contiguous_format)
                model.facts[_SUSPENDED] = True
            return torch.contiguous_format
        if laid_out and model.facts.pop(_SUSPENDED, False):
            _lay_out(model.module, torch.channels_last)
        place = tuple(image.shape[1:]), image.dtype, image.device
        if place not in known:
            known[place] = _recalled(model, image) or _measured(model, image)
        return _FORMATS[known[place]]


def _measured(model: LoadedModel, image: Tensor) -> str:
    convolutions = [child for child in walk(model.module) if isinstance(child, nn.Conv2d)]
    if len(convolutions) < _CONVOLUTIONS:
        return "contiguous"
    try:
        seconds = _seconds(model, image)
        faster = seconds["channels_last"] < _GAIN * seconds["contiguous"]
    except (ModelRefused, RuntimeError, MemoryError):
        faster = False  # some code takes only contiguous tensors (view); or memory is short
    if faster and model.source != "module":
        _lay_out(model.module, torch.channels_last)
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
    key = listing.known_key(model, tuple(image.shape[1:]))
    if key is None:
        return None
    where = torch.cuda.get_device_name(image.device) if image.is_cuda else image.device.type
    text = f"{key} memory format 3 {where} {torch.get_num_threads()}"
    return hashlib.sha256(text.encode()).hexdigest()


def _seconds(model: LoadedModel, image: Tensor) -> dict[str, float]:
    """The time of a pass in each format: the least of a few, in turn, after one to warm up.

    Only the input is laid out. Where one thread computes, its own time is taken: the answer is
    kept, so what else the machine is doing just now must not decide it.
    """
    alone = image.device.type == "cpu" and torch.get_num_threads() == 1
    clock = time.thread_time if alone else time.perf_counter
    least = dict.fromkeys(_FORMATS, math.inf)
    with frozen_eval(model.module), torch.no_grad():
        for round_ in range(1 + _ROUNDS):
            for name, memory_format in _FORMATS.items():
                batch = image.contiguous(memory_format=memory_format)
                start = clock()
                model.run(batch)
                if image.is_cuda:
                    torch.cuda.synchronize(image.device)
                if round_:
                    least[name] = min(least[name], clock() - start)
    return least


def _lay_out(module: nn.Module, memory_format: torch.memory_format) -> None:
    """Lays out the weights of convolutions anew; a pass under way elsewhere goes on with either."""
    for child in walk(module):
        if isinstance(child, nn.Conv2d):
            weight = child.weight
            weight.data = weight.data.contiguous(memory_format=memory_format)
