"""What callers give, checked before anything is spent on it."""

from __future__ import annotations

import math

from torch import nn

from cam_hub import store
from cam_hub.errors import InvalidArgument
from cam_hub.methods import Method
from cam_hub.passes import Noise
from cam_hub.sources.base import LoadedModel

__all__ = ["MAX_SAMPLES", "check_count", "model_of", "noise_of"]

MAX_SAMPLES = 1000


def model_of(model_or_id: LoadedModel | str) -> LoadedModel:
    """The model that is meant; one that is named by its ID stays in memory for the next call.

    Raises:
        InvalidArgument: If it is a bare module.
        ModelNotFound, ModelRefused, HubUnavailable: As ``load_model``.
    """
    if isinstance(model_or_id, LoadedModel):
        return model_or_id
    if isinstance(model_or_id, nn.Module):
        raise InvalidArgument("model", type(model_or_id).__name__, "wrap_model(module) or an ID")
    return store.get(model_or_id)


def noise_of(method: Method, num_samples: int, std: float, seed: int) -> Noise | None:
    """The noise that a method needs; None if it needs none.

    The numbers are checked whatever the method, so that a wrong one never passes unseen.

    Raises:
        InvalidArgument: If a number makes no sense.
    """
    if isinstance(num_samples, bool) or not isinstance(num_samples, int):
        raise InvalidArgument("num_samples", num_samples, "a whole number")
    if not 1 <= num_samples <= MAX_SAMPLES:
        raise InvalidArgument("num_samples", num_samples, f"1 to {MAX_SAMPLES}")
    if (
        isinstance(std, bool)
        or not isinstance(std, (int, float))
        or not math.isfinite(std)
        or std < 0
    ):
        raise InvalidArgument("std", std, "a finite number, at least 0")
    if isinstance(seed, bool) or not isinstance(seed, int) or not 0 <= seed < 2**63:
        raise InvalidArgument("seed", seed, "a whole number from 0 to 2**63 - 1")
    return Noise(num_samples, float(std), seed) if method.needs_noise else None


def check_count(argument: str, value: int) -> None:
    """Makes sure that something can be counted by a number.

    Raises:
        InvalidArgument: If it is no whole number of at least 1.
    """
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise InvalidArgument(argument, value, "a count of at least 1")
