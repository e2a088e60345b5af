"""Attention matrices of a forward pass, read where torch computes them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import FunctionType
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from torch.overrides import TorchFunctionMode

__all__ = ["AttentionLayer", "AttentionRecorder"]

_SOFTMAX = {torch.softmax, Tensor.softmax, functional.softmax, torch.special.softmax}


@dataclass(frozen=True, eq=False)
class AttentionLayer:
    """What one attention layer computed.

    Attributes:
        scores: What the softmax was taken of, ``(…, tokens, tokens)``.
        matrix: What the values were multiplied by, the same shape: a row sums to 1.
    """

    scores: Tensor
    matrix: Tensor


class AttentionRecorder(TorchFunctionMode):
    """Records the attention matrices of passes within its context, in this thread.

    An attention matrix is the result of a softmax over the last axis whose last two axes are of one
    length greater than 1. Fused attention is replaced by ``softmax(q kᵀ · scale + mask) v``, and
    the native fast paths of ``nn.MultiheadAttention`` and ``nn.TransformerEncoder``, which torch
    does not take while a mode is active, by their Python code. Nothing of the model is changed.

    Args:
        graph_from: Number of the matrix from which the graph starts, where autograd is on: scores
            can be differentiated with respect to it and later ones.
        identity: Whether every matrix is replaced by the identity, each a leaf of the graph: tokens
            then exchange nothing by attention.

    Attributes:
        layers: The attention layers, in the order in which they ran.
        others: The shapes of the other softmax results of at least three axes, and of attention
            between two sequences of different lengths.
    """

    def __init__(self, graph_from: int = 0, *, identity: bool = False) -> None:
        super().__init__()
        self.layers: list[AttentionLayer] = []
        self.others: list[tuple[int, ...]] = []
        self._graph_from = graph_from
        self._identity = identity

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """Called by torch in place of ``func``; the mode is off meanwhile."""
        del types
        named = dict(kwargs or {})
        if func is functional.scaled_dot_product_attention:
            return self._attend(*args, **named)
        if func is functional.multi_head_attention_forward:
            with self:  # its body, whose parts are recorded
                return _MULTI_HEAD(*args, **named)
        result = func(*args, **named)
        if func in _SOFTMAX and isinstance(result, Tensor):
            scores = args[0] if args else named["input"]
            axis = named.get("dim", args[1] if len(args) > 1 else None)
            if axis in (-1, result.ndim - 1) and result.ndim > 2:
                return self._record(scores, result)
        return result

    def _record(self, scores: Tensor, matrix: Tensor) -> Tensor:
        """Records a matrix; returns what takes its place."""
        rows, cols = matrix.shape[-2:]
        if rows != cols or rows == 1:
            self.others.append(tuple(matrix.shape))
            return matrix
        if self._identity:
            unit = torch.eye(rows, dtype=matrix.dtype, device=matrix.device)
            matrix = unit.expand(matrix.shape).clone()
        if torch.is_grad_enabled() and len(self.layers) >= self._graph_from:
            matrix = matrix if matrix.requires_grad else matrix.detach().requires_grad_()
        self.layers.append(AttentionLayer(scores, matrix))
        return matrix.clone()  # which in-place operations may write to

    def _attend(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        attn_mask: Tensor | None = None,
        dropout_p: float = 0.0,
        is_causal: bool = False,
        scale: float | None = None,
        enable_gqa: bool = False,
    ) -> Tensor:
        """``F.scaled_dot_product_attention``, with its matrix."""
        if enable_gqa:
            key = key.repeat_interleave(query.shape[-3] // key.shape[-3], dim=-3)
            value = value.repeat_interleave(query.shape[-3] // value.shape[-3], dim=-3)
        factor = query.shape[-1] ** -0.5 if scale is None else scale
        scores = (query * factor) @ key.transpose(-2, -1)
        if is_causal:
            attn_mask = torch.ones(scores.shape[-2:], dtype=torch.bool, device=scores.device).tril()
        if attn_mask is not None:
            if attn_mask.dtype == torch.bool:
                scores = scores.masked_fill(~attn_mask, -torch.inf)
            else:
                scores = scores + attn_mask
        matrix = torch.softmax(scores, dim=-1)
        if attn_mask is not None:  # a token that may look at none gets zeros, as in torch
            matrix = matrix.masked_fill(scores.isneginf().all(-1, keepdim=True), 0)
        matrix = self._record(scores, matrix)
        if dropout_p:
            matrix = functional.dropout(matrix, dropout_p)
        return matrix @ value


def _without_dispatch(function: Any) -> Callable[..., Any]:
    """A function of ``torch.nn.functional`` that does not hand itself to active modes.

    Its parts are handed to them as always. The function itself, and its module, are left as they
    are.
    """
    known = {**function.__globals__, "has_torch_function": lambda _: False}
    body = FunctionType(
        function.__code__, known, function.__name__, function.__defaults__, function.__closure__
    )
    body.__kwdefaults__ = function.__kwdefaults__
    return body


_MULTI_HEAD = _without_dispatch(functional.multi_head_attention_forward)
