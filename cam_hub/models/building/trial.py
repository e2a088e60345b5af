"""A network's construction tried out on paper, before any memory is spent on it.

torch's "meta" device gives tensors a shape and no content. A network is built there in a moment,
however large it would be; what builds without end is stopped.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from cam_hub.errors import ModelRefused

__all__ = ["without_memory"]

_LARGEST_STEP = 2**28
"""Elements of one intermediate result; among all of timm's architectures the largest tensor of any
kind is a parameter of 2**27 elements."""


class _Meter(TorchFunctionMode):
    """Counts what a constructor asks of torch."""

    def __init__(self, id: str, calls: int, poll: Callable[[], None]) -> None:
        super().__init__()
        self.id = id
        self.poll = poll
        self.calls = 0
        self.most = calls

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Iterable[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        if getattr(func, "__name__", "") == "_set_grad_enabled":  # restoring a mode must not fail
            return func(*args, **(kwargs or {}))
        self.calls += 1
        self.poll()
        if self.calls > self.most:
            raise ModelRefused(
                self.id, "it asks for a network of far more layers than its file has weights for."
            )
        result = func(*args, **(kwargs or {}))
        if isinstance(result, Tensor) and result.numel() > _LARGEST_STEP:
            raise ModelRefused(
                self.id,
                f"it asks for a network of which one tensor alone has {result.numel():,} elements.",
            )
        return result


def without_memory(
    id: str,
    construct: Callable[[], nn.Module],
    calls: int,
    poll: Callable[[], None] = lambda: None,
) -> nn.Module:
    """Builds a network on torch's "meta" device.

    Args:
        id: The model's ID, for messages.
        construct: Builds it, with random weights.
        calls: How many calls of torch's functions that may take.
        poll: Called at each of them; what it raises ends the trial.

    Raises:
        ModelRefused: If it takes more, or makes a tensor beyond all reason on the way.
    """
    with torch.device("meta"), _Meter(id, calls, poll):
        return construct()
