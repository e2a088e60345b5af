"""A costly model at a smaller input than its own, so that its check takes minutes and not hours."""

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
"""Sides that are tried, in this order: what most patches, strides and windows divide."""


def smaller(model: LoadedModel, candidate: Candidate) -> LoadedModel:
    """Gives a model with a smaller square input, where its architecture takes one.

    Timm is asked to build it for that size; what has no such setting is tried as it is.

    Args:
        model: As it was loaded.
        candidate: Its name.

    Returns:
        The first of ``SIDES`` at which a pass goes through; the model itself if there is none, if
        its own input is not larger, or if it takes no single images.
    """
    if len(model.input_size) != 3:
        return model
    channels, *sides = model.input_size
    own: Any = model.preprocessing  # of one of two kinds; that of single images
    for side in (side for side in SIDES if side < min(sides)):
        preprocessing = replace(own, input_size=(channels, side, side))
        for module in _built(model, candidate, side):
            with suppress(Exception), torch.no_grad():  # whatever it is: not at this size
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

        with suppress(Exception):  # a setting that it does not know
            module = timm.create_model(candidate.name, pretrained=False, img_size=side)
            yield module.eval().requires_grad_(False)
    yield model.module
