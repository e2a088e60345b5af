"""The same numbers by a shorter way, where torch takes a long one on a CPU.

A convolution whose kernel covers its whole input (the fully connected layers of a VGG, written as
convolutions) is one product of a vector and a matrix. As a convolution of a single image it takes
ten times as long, since the weights are laid out anew each time. And on the way back from a class
token, most of what is multiplied is zero: see ``sparse_gradients``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from cam_hub.hooks import sparse_gradients

__all__ = ["Shortcuts", "Worth", "shortcuts", "worth"]

_LARGE = 2**20
"""Weights of a convolution below which there is nothing to gain."""


class Worth(NamedTuple):
    """Which shortcuts may help a network.

    Attributes:
        convolutions: Those of convolutions that cover their input: there is one that may, and is
            large.
        tokens: Those on the way back through layers of tokens.
    """

    convolutions: bool = False
    tokens: bool = False


def worth(modules: Iterable[nn.Module]) -> Worth:
    """Finds out which shortcuts may help a network.

    None does where code is compiled or scripted, which sees to its own. And torch's own attention
    module is faster without a graph, but not while its functions are looked at: there the layers
    before the target layer would lose more than those behind it gain.

    Args:
        modules: All of its modules.
    """
    convolutions, tokens = False, True
    for child in modules:
        if _is_compiled(child):
            return Worth()
        if isinstance(child, nn.MultiheadAttention):
            tokens = False
        if isinstance(child, nn.Conv2d) and child.groups == 1 and _is_large(child.weight):
            convolutions = True
    return Worth(convolutions, tokens)


def shortcuts(
    helpful: Worth, device: torch.device, *, tokens: bool = False
) -> AbstractContextManager[Any]:
    """The context of a forward pass that takes the shortcuts, where there may be any.

    Every call of torch in it costs a microsecond more, so it is empty where nothing is to gain.

    Args:
        helpful: What ``worth`` has told.
        device: Where the pass runs. Only the CPU has use for shortcuts.
        tokens: Whether the way back will come through layers of tokens of which few matter.
    """
    taken = Worth(helpful.convolutions, helpful.tokens and tokens)
    if not any(taken) or device.type != "cpu" or torch.is_autocast_enabled("cpu"):
        return nullcontext()
    return Shortcuts(convolutions=taken.convolutions, tokens=taken.tokens)


class Shortcuts(TorchFunctionMode):
    """Takes the place of some of torch's functions where a shorter way gives the same.

    Args:
        convolutions: Whether that of convolutions is taken.
        tokens: Whether those of layers of tokens are taken.
    """

    def __init__(self, *, convolutions: bool, tokens: bool) -> None:
        super().__init__()
        self._ways: dict[Any, Callable[..., Tensor | None]] = {}
        if convolutions:
            self._ways[functional.conv2d] = _whole_convolution
        if tokens:
            self._ways[functional.linear] = sparse_gradients.linear
            self._ways[functional.scaled_dot_product_attention] = sparse_gradients.attention

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Iterable[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """What torch calls in place of each of its functions."""
        del types
        way = self._ways.get(func)
        if way is not None and (found := way(*args, **(kwargs or {}))) is not None:
            return found
        return func(*args, **(kwargs or {}))


def _whole_convolution(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: object = 1,
    padding: object = 0,
    dilation: object = 1,
    groups: int = 1,
) -> Tensor | None:
    """A convolution with a single position as a product; None where it is not one."""
    del stride, dilation  # a single position: with a wider dilation it would not fit
    fits = input.ndim == 4 and input.shape[1:] == weight.shape[1:] and groups == 1
    if not fits or not _is_large(weight) or padding not in (0, (0, 0), [0, 0], "valid"):
        return None
    last = weight.is_contiguous(memory_format=torch.channels_last)
    if last and len(input) > 1:
        return None  # of several images, with weights in this order, the convolution is fast
    if last:  # the flat weights must be a view
        weight, input = weight.permute(0, 2, 3, 1), input.permute(0, 2, 3, 1)
    found = functional.linear(input.flatten(1), weight.flatten(1), bias)
    return found[:, :, None, None]


def _is_large(weight: Tensor) -> bool:
    return weight.numel() >= _LARGE and weight.shape[2:].numel() > 1


def _is_compiled(module: nn.Module) -> bool:
    if isinstance(module, torch.jit.ScriptModule):
        return True
    return "_orig_mod" in module._modules or module._compiled_call_impl is not None
