"""Marks on tensors: on the way back they tell the gradient that comes by."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

__all__ = ["Ear", "Mark"]


class Ear:
    """Where the gradient of one layer's output is told, while somebody listens."""

    hear: Callable[[Tensor], None] | None = None


class Mark(torch.autograd.Function):
    """Passes a tensor on, and on the way back tells its gradient.

    What goes on is the same memory under a tensor of its own. So what follows may write to it as
    it would without the mark (to a leaf or to a view it could not), writes are counted for both,
    and what follows this layer is told from what else its tensor is used for, as in a layer that
    returns its input. The graph starts at the first mark, since the seed asks for a gradient.
    """

    @staticmethod
    def forward(ctx: Any, seed: Tensor, found: Tensor, ear: Ear) -> Tensor:
        """Args: a scalar that asks for a gradient, the tensor, and who is told."""
        del seed
        ctx.set_materialize_grads(False)
        ctx.ear = ear
        return found.detach()

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        """Tells the gradient and hands it on."""
        (gradient,) = gradients
        if ctx.ear.hear is not None and gradient is not None:
            ctx.ear.hear(gradient)
        return None, gradient, None
