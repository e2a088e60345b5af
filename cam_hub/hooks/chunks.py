"""How many disturbed copies of an input run at once, so that they fit."""

from __future__ import annotations

import torch

from cam_hub.hooks.memory import free_part

__all__ = ["copies_at_once"]

_BUDGET = 4 << 30
"""Bytes that the activations of the copies that run at once may take at most, roughly."""

_ALIVE = 3
"""Outputs of about the greatest one's size that a network holds at once, as a rule of thumb."""


def copies_at_once(largest: int, device: torch.device, budget: int | None = None) -> int:
    """How many copies can run beside the input that they are compared with, at least one.

    Args:
        largest: Bytes of the largest output for one image.
        device: Where they run.
        budget: Bytes that their activations may take, roughly; None for a part of what the
            device has free.
    """
    room = free_part(device, _BUDGET) if budget is None else budget
    return max(1, room // max(1, largest * _ALIVE) - 1)
