"""Channels first or last in memory, by the network and the device alone.

Convolutions on a CPU are faster with channels last (10 to 30 % for most networks), as long as their
weights are laid out alike: cam_hub does this for modules that it has built itself, and leaves a
user's own module as it is. The values are the same up to rounding errors. Since no timing decides,
two processes or machines of the same kind round alike.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from cam_hub.errors import ModelRefused
from cam_hub.hooks.frozen_eval import frozen_eval, walk
from cam_hub.hooks.memory import is_out_of_memory
from cam_hub.models.loaded_model import LoadedModel

__all__ = ["suited_format"]

_CONVOLUTIONS = 4
"""A network with fewer (a patch embedding before a transformer) has nothing to gain."""


def suited_format(model: LoadedModel, image: Tensor) -> torch.memory_format:
    """The memory format in which a model is run.

    Channels last for images on a CPU, if the model was loaded by its ID, has at least four
    convolutions and accepts such a tensor (one pass is tried, once per model); channels first
    otherwise.

    Args:
        model: The model.
        image: ``(1, channels, rows, cols)``, on the model's device; of clips it is contiguous.
    """
    if image.ndim != 4 or image.device.type != "cpu" or model.source == "module":
        return torch.contiguous_format
    with model.lock:
        if "channels_last" not in model.facts:
            found = [child for child in walk(model.module) if isinstance(child, nn.Conv2d)]
            suits = len(found) >= _CONVOLUTIONS and _accepts(model, image)
            for child in found if suits else []:
                # A pass under way elsewhere goes on with either.
                laid_out = child.weight.data.contiguous(memory_format=torch.channels_last)
                child.weight.data = laid_out
            model.facts["channels_last"] = suits
        return torch.channels_last if model.facts["channels_last"] else torch.contiguous_format


def _accepts(model: LoadedModel, image: Tensor) -> bool:
    """Whether a pass succeeds: some code takes only contiguous tensors (``view``)."""
    try:
        with frozen_eval(model.module), torch.no_grad():
            model.run(image.contiguous(memory_format=torch.channels_last))
    except (ModelRefused, RuntimeError) as error:
        if is_out_of_memory(error):
            raise
        return False
    return True
