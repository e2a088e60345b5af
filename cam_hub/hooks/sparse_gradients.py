"""Backward passes through layers of tokens that leave out the tokens whose gradient is zero.

The score of a class token depends on one of hundreds of tokens in all layers after the last
attention. There torch multiplies matrices whose rows are zeros but for one. Here such rows are left
out; where many are not zero, all is done as torch does it.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

__all__ = ["attention", "linear"]

_FEW = 0.25
"""Tokens are left out where at most this part of them has a gradient."""


def linear(input: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor | None:
    """Computes what torch's function does, with its names of arguments.

    Args:
        input: ``(..., tokens, channels)``.
        weight: ``(outputs, channels)``.
        bias: ``(outputs,)``, or None.

    Returns:
        None where no backward pass follows, where it has to reach the weights as well, or where
        tokens are missing.
    """
    if input.ndim < 3 or not _to_be_recorded(input):
        return None
    if weight.requires_grad or (bias is not None and bias.requires_grad):
        return None
    found: Tensor = _Linear.apply(input, weight, bias)
    return found


def attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Tensor | None:
    """Computes what torch's ``scaled_dot_product_attention`` does, with its names of arguments.

    Args:
        query: ``(N, heads, tokens, channels)``.
        key: The same, with as many tokens or more or fewer.
        value: As the key.
        attn_mask: Only None is taken.
        dropout_p: Only 0 is taken.
        is_causal: Only False is taken.
        scale: The factor of the products of queries and keys; None for one by the root of the
            channels.
        enable_gqa: Only False is taken.

    Returns:
        None where no backward pass follows, or where an argument is not taken.
    """
    if attn_mask is not None or dropout_p or is_causal or enable_gqa:
        return None
    if not (query.ndim == key.ndim == value.ndim == 4 and query.shape[:2] == key.shape[:2]):
        return None
    if not all(_to_be_recorded(each) for each in (query, key, value)):
        return None
    factor = scale if scale is not None else query.shape[-1] ** -0.5
    found: Tensor = _Attention.apply(query, key, value, factor)
    return found


class _Linear(torch.autograd.Function):
    """A linear layer of which only the input's gradient is wanted."""

    @staticmethod
    def forward(ctx: Any, given: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(weight)
        return functional.linear(given, weight, bias)

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        (gradient,) = gradients
        (weight,) = ctx.saved_tensors
        rows = gradient.reshape(-1, gradient.shape[-1])
        few = _few(rows)
        if few is None:
            return gradient @ weight, None, None
        found = rows.new_zeros(len(rows), weight.shape[1])
        found[few] = rows[few] @ weight
        return found.view(*gradient.shape[:-1], -1), None, None


class _Attention(torch.autograd.Function):
    """Attention without mask and dropout.

    With P = softmax(s·QKᵀ) and O = PV, for the rows of O that have a gradient G:
    dV = PᵀG, dS = P ∘ (GVᵀ − rowsum(P ∘ GVᵀ)), dQ = s·dS K, dK = s·dSᵀQ.
    """

    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor, scale: float) -> Tensor:
        with torch.enable_grad():  # a graph of its own, should most gradients not be zero
            inner = tuple(each.detach().requires_grad_() for each in (query, key, value))
            asked, keys, values = inner
            outer = functional.scaled_dot_product_attention(asked, keys, values, scale=scale)
        ctx.dense = outer, inner
        ctx.scale = scale
        ctx.save_for_backward(query, key, value)  # so that writing to them is noticed
        return outer.detach()

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        (gradient,) = gradients
        query, key, value = ctx.saved_tensors
        few = _few(gradient.transpose(0, 2).flatten(1))
        if few is None:
            outer, inner = ctx.dense
            return *torch.autograd.grad(outer, inner, gradient, retain_graph=True), None
        some, asked = gradient[:, :, few], query[:, :, few]
        weights = (asked @ key.transpose(-1, -2) * ctx.scale).softmax(dim=-1)
        by_weight = some @ value.transpose(-1, -2)
        by_product = weights * (by_weight - (weights * by_weight).sum(dim=-1, keepdim=True))
        by_product = by_product * ctx.scale
        by_query = torch.zeros_like(query)
        by_query[:, :, few] = by_product @ key
        by_key = by_product.transpose(-1, -2) @ asked
        return by_query, by_key, weights.transpose(-1, -2) @ some, None


def _to_be_recorded(tensor: Tensor) -> bool:
    return tensor.requires_grad and torch.is_grad_enabled()


def _few(rows: Tensor) -> Tensor | None:
    """Indices of the rows that differ from zero, if they are few.

    Args:
        rows: ``(rows, channels)``.
    """
    if bool(rows[len(rows) // 2].any()):
        return None  # the one in the middle shows most dense gradients at once
    found = rows.any(dim=1).nonzero()[:, 0]
    return found if len(found) <= _FEW * len(rows) else None
