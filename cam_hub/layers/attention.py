"""Whether attention can be read as matrices over the tokens of the image, by experiment."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from itertools import pairwise
from math import prod

import torch
from torch import Tensor
from torch.nn.functional import adaptive_avg_pool2d

from cam_hub.errors import ModelRefused
from cam_hub.hooks.attention import AttentionLayer, AttentionRecorder
from cam_hub.layers.layouts import FULL, LayerInfo, turn_back

__all__ = ["read_tokens", "token_map", "used_rows"]

_NONE = 1e-6
"""The part of the largest gradient that is taken for none."""

_CELLS_OFF = 1.0
"""A token may look this many cells away from its own most, as overlapping patches make it."""


def read_tokens(
    model_id: str, layers: Sequence[LayerInfo], recorder: AttentionRecorder, image: Tensor
) -> LayerInfo:
    """Finds the layer whose tokens the attention is about.

    The recorded pass is one with the identity in place of every attention matrix. Its tokens
    exchange nothing by attention. If they still do, something else mixes them, which a product of
    attention matrices would leave out.

    Args:
        model_id: The model's ID, for errors.
        layers: The model's layers, from ``list_layers``.
        recorder: A recorder whose matrices are the identity, after a pass with a graph.
        image: The input of that pass, which asks for a gradient.

    Returns:
        A layer with one token per row of the matrices, whose places on the image are known.

    Raises:
        ModelRefused: If attention is not one square matrix over the same tokens in every layer, or
            not all that tokens exchange.
    """
    reason = _unlike(recorder)
    if reason is None:
        found = _layer_of(layers, recorder)
        if isinstance(found, LayerInfo):
            reason = _mixed(recorder.layers, found) or _misplaced(recorder.layers[0], found, image)
            if reason is None:
                return found
        else:
            reason = found
    raise ModelRefused(
        model_id,
        "attention rollout and CheferCAM need one square matrix over the same tokens in every "
        f"attention layer, and {reason}. Other methods work.",
    )


def _unlike(recorder: AttentionRecorder) -> str | None:
    """Why the recorded matrices cannot be multiplied; None if they can be."""
    found = recorder.layers
    if not found:
        wide = [shape for shape in recorder.others if len(shape) == 4]
        seen = f" (only softmax results of shape {_times(wide[0])})" if wide else ""
        return f"no attention matrix was found{seen}"
    sizes = Counter(layer.matrix.shape[-1] for layer in found)
    if len(sizes) > 1:
        listed = ", ".join(str(size) for size in sizes)
        return f"its layers attend over different numbers of tokens ({listed})"
    for layer in found:
        shape = layer.matrix.shape
        if sum(side > 1 for side in shape[:-2]) > 1:
            return f"a layer attends in windows or groups (matrices of shape {_times(shape)})"
    return None


def _layer_of(layers: Sequence[LayerInfo], recorder: AttentionRecorder) -> LayerInfo | str:
    """The layer with these tokens, or why there is none."""
    tokens = recorder.layers[0].matrix.shape[-1]
    fitting = [
        layer
        for layer in layers
        if layer.usable
        and layer.grid is not None
        and layer.frames * prod(layer.grid) + layer.prefix_tokens + layer.suffix_tokens == tokens
    ]
    if not fitting:
        return f"no layer of {tokens} tokens has known places on the image"
    # Sequences first, then the recommended layer; of the others the deepest.
    sequence = [
        layer for layer in fitting if layer.arrangement and not layer.arrangement.explicit
    ] or fitting
    found = next((layer for layer in sequence if layer.recommended), sequence[-1])
    extra = found.prefix_tokens + found.suffix_tokens
    for shape in recorder.others:
        queries, keys = shape[-2:]
        if tokens - extra <= keys <= tokens + 1 and queries not in (keys, tokens):
            return f"there is attention of {queries} by {keys} tokens (class attention or pooling)"
    return found


def _mixed(found: Sequence[AttentionLayer], layer: LayerInfo) -> str | None:
    """Whether anything but attention lets tokens change one another, between attention layers."""
    place = _probed(layer)[0][0]
    for before, after in pairwise(found):
        own = after.scores[..., place, place].sum()
        gradient = _gradients(own, before.matrix)
        if gradient is None or not gradient.any():
            return "attention layers do not follow one another"
        energy = gradient.float().abs().sum(-1).flatten(0, -2).sum(0)
        own_part = energy[place].clone()
        energy[place] = 0
        if energy.sum() > _NONE * own_part:
            return (
                "tokens are mixed by more than attention between these layers (convolution, "
                "pooling, channel attention)"
            )
    return None


def _misplaced(first: AttentionLayer, layer: LayerInfo, image: Tensor) -> str | None:
    """Whether a token of the first attention layer looks elsewhere than at its place."""
    if layer.grid is None:
        raise AssertionError("tokens have places")
    rows, cols = layer.grid
    top, left, bottom, right = layer.extent
    for place, (row, col) in _probed(layer):
        gradient = _gradients(first.scores[..., place, place].sum(), image)
        if gradient is None or not gradient.any():
            return "the first attention layer does not depend on the image"
        energy = gradient.float().square().flatten(0, -3).sum(0)
        cells = max(1, round(rows / (bottom - top))), max(1, round(cols / (right - left)))
        peak = int(adaptive_avg_pool2d(energy[None, None], cells).argmax())
        down = (top + (row + 0.5) / rows * (bottom - top)) * cells[0] - 0.5
        across = (left + (col + 0.5) / cols * (right - left)) * cells[1] - 0.5
        off = max(abs(peak // cells[1] - down), abs(peak % cells[1] - across))
        if off > _CELLS_OFF + 0.5 * (layer.extent != FULL):
            return "its tokens are in another order than the places of the image"
    return None


def _probed(layer: LayerInfo) -> list[tuple[int, tuple[int, int]]]:
    """Two tokens, and their row and column."""
    if layer.grid is None:
        raise AssertionError("tokens have places")
    rows, cols = layer.grid
    tokens = layer.frames * rows * cols + layer.prefix_tokens + layer.suffix_tokens
    numbers = token_map(torch.arange(tokens)[None], layer)[0]
    chosen = (rows // 4, 3 * cols // 4), (3 * rows // 4, cols // 3)
    return [(int(numbers[..., row, col].flatten()[0]), (row, col)) for row, col in chosen]


def token_map(values: Tensor, layer: LayerInfo) -> Tensor:
    """Numbers of tokens as maps.

    Args:
        values: ``(N, tokens)``.
        layer: A layer with these tokens.

    Returns:
        ``(N, rows, cols)``, of several steps of time ``(N, steps, rows, cols)``.
    """
    if layer.grid is None:
        raise AssertionError("tokens have places")
    grid = layer.grid[::-1] if "T" in layer.turn else layer.grid
    placed = values[:, layer.prefix_tokens : values.shape[1] - layer.suffix_tokens]
    maps = turn_back(placed.reshape(len(values), layer.frames, *grid), layer.turn)
    return maps[:, 0] if layer.frames == 1 else maps


def used_rows(gradient: Tensor) -> Tensor:
    """The rows of the last attention matrix on which scores depend, as weights that sum to 1.

    Args:
        gradient: Of scores with respect to the matrix, ``(B, …, tokens, tokens)``.

    Returns:
        ``(B, tokens)``: 1 at a class token that alone is read; equal weights where the mean over
        tokens is. Zeros where a score depends on none.
    """
    energy = gradient.abs().sum(-1).flatten(1, -2).sum(1)
    used = (energy > _NONE * energy.amax(1, keepdim=True)).to(gradient)
    return used / used.sum(1, keepdim=True).clamp(min=1)


def _gradients(score: Tensor, wanted: Tensor) -> Tensor | None:
    if not score.requires_grad:
        return None
    (found,) = torch.autograd.grad(score, wanted, retain_graph=True, allow_unused=True)
    return found


def _times(shape: Sequence[int]) -> str:
    return " x ".join(map(str, shape))
