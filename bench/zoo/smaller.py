"""An expensive model with a smaller input, so that its check takes minutes rather than hours."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from typing import Any

import torch
from torch import nn

from bench.zoo.plan import Candidate
from cam_hub import LoadedModel

__all__ = ["SIDES", "smaller"]

SIDES = (224, 256)
"""The sides to try, in this order: multiples of most patch sizes, strides and windows."""


def smaller(model: LoadedModel, candidate: Candidate) -> LoadedModel:
    """Returns a model with a smaller square input, if its architecture accepts one.

    timm builds the model for that size; models without such a setting are tried unchanged.

    Args:
        model: The loaded model.
        candidate: Its name.

    Returns:
        The model at the first of ``SIDES`` at which a pass succeeds; the unchanged model if there
        is none, if its own input is not larger, or if it does not accept single images.
    """
    if len(model.input_size) != 3:
        return model
    channels, *sides = model.input_size
    own: Any = model.preprocessing  # in either form: of single images
    for side in (side for side in SIDES if side < min(sides)):
        preprocessing = replace(own, input_size=(channels, side, side))
        for module in _built(model, candidate, side):
            with suppress(Exception), torch.no_grad():  # any error: this size does not work
                module(torch.zeros(1, channels, side, side))
                return replace(
                    model,
                    module=module,
                    preprocessing=preprocessing,
                    facts={},
                    lock=threading.RLock(),
                )
    return model


def _built(model: LoadedModel, candidate: Candidate, side: int) -> Iterator[nn.Module]:
    if candidate.source == "timm":
        import timm  # noqa: PLC0415 - seconds, and the parts that need no model are tested often

        with suppress(Exception):  # a setting that the model does not have
            module = timm.create_model(candidate.name, pretrained=False, img_size=side)
            yield module.eval().requires_grad_(False)
    yield model.module
