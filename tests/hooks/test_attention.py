"""Attention as it is recorded: explicit in place of fused, the same numbers, nothing left."""

from __future__ import annotations

from typing import Any

import pytest
import timm
import torch
import torchvision
from torch import Tensor, nn
from torch.nn import functional

from cam_hub.hooks.attention import AttentionRecorder


def drawn(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(len(shape)))


def _mask() -> Tensor:
    mask = torch.eye(6, dtype=torch.bool) | (drawn(6, 6) > 0)
    mask[2] = False  # a token that may look at none
    return mask


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"scale": 0.3},
        {"is_causal": True},
        {"attn_mask": _mask()},
        {"attn_mask": drawn(6, 6)},
        {"enable_gqa": True},
    ],
    ids=lambda options: "-".join(options) or "plain",
)
def test_explicit_attention_equals_the_fused_one(options: dict[str, Any]) -> None:
    query, key, value = drawn(1, 4, 6, 8), drawn(1, 4, 6, 8) * 2, drawn(1, 4, 6, 8) + 1
    if "enable_gqa" in options:
        key, value = key[:, :2], value[:, :2]
    expected = functional.scaled_dot_product_attention(query, key, value, **options)
    with AttentionRecorder() as recorder:
        found = functional.scaled_dot_product_attention(query, key, value, **options)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
    (layer,) = recorder.layers
    assert layer.matrix.shape == layer.scores.shape == (1, 4, 6, 6)
    sums = layer.matrix.sum(-1)
    empty = options.get("attn_mask") is not None and options["attn_mask"].dtype == torch.bool
    assert torch.allclose(sums, torch.ones(6) if not empty else (torch.arange(6) != 2).float())


@pytest.mark.parametrize(
    "softmax",
    [
        lambda x: x.softmax(-1),
        lambda x: x.softmax(dim=3),
        lambda x: torch.softmax(x, -1),
        lambda x: torch.softmax(input=x, dim=-1),
        lambda x: functional.softmax(x, dim=-1),
        nn.Softmax(dim=-1),
        lambda x: torch.special.softmax(x, -1),
    ],
)
def test_every_softmax_over_the_last_axis_is_recorded(softmax: Any) -> None:
    scores = drawn(1, 2, 5, 5)
    with AttentionRecorder() as recorder:
        found = softmax(scores)
    (layer,) = recorder.layers
    torch.testing.assert_close(layer.matrix.detach(), scores.softmax(-1))
    torch.testing.assert_close(found.detach(), scores.softmax(-1))


def test_other_results_are_no_matrices() -> None:
    with AttentionRecorder() as recorder:
        drawn(1, 2, 5, 5).softmax(2)
        drawn(1, 2, 1, 1).softmax(-1)
        drawn(5, 5).softmax(-1)
        drawn(1, 2, 3, 5).softmax(-1)
    assert not recorder.layers
    assert recorder.others == [(1, 2, 1, 1), (1, 2, 3, 5)]


def _vit(fused: bool) -> nn.Module:
    module = timm.create_model("vit_tiny_patch16_224", depth=2, img_size=32)
    for block in module.blocks:
        block.attn.fused_attn = fused
    return module


NETWORKS = {
    "timm": lambda: (_vit(True), drawn(1, 3, 32, 32), (1, 3, 5, 5)),
    "timm, not fused": lambda: (_vit(False), drawn(1, 3, 32, 32), (1, 3, 5, 5)),
    "torchvision": lambda: (
        torchvision.models.VisionTransformer(32, 16, 2, 2, 32, 64),
        drawn(1, 3, 32, 32),
        (1, 2, 5, 5),
    ),
    "encoder": lambda: (
        nn.TransformerEncoder(nn.TransformerEncoderLayer(16, 2, 32, batch_first=True), 2),
        drawn(1, 5, 16),
        (1, 2, 5, 5),
    ),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_networks_give_the_same_with_their_matrices_recorded(name: str) -> None:
    torch.manual_seed(0)
    module, given, shape = NETWORKS[name]()
    module.eval().requires_grad_(False)
    for weight in module.parameters():
        weight.add_(0.02 * torch.randn(weight.shape))  # torchvision's classifier begins with zeros
    with torch.no_grad():
        expected = module(given)
    with AttentionRecorder() as recorder:
        found = module(given)
    assert not torch._C._len_torch_function_stack()
    torch.testing.assert_close(found.detach(), expected, atol=1e-5, rtol=1e-5)
    assert [layer.matrix.shape for layer in recorder.layers] == [shape, shape]
    matrices = [layer.matrix for layer in recorder.layers]
    gradients = torch.autograd.grad(found.square().sum(), matrices)
    assert all(gradient.any() for gradient in gradients)
    # Nothing is left: the native fast path is taken again, and a later pass has no graph.
    assert not module(given).requires_grad
    assert len(recorder.layers) == 2


def test_the_graph_starts_where_it_is_wanted() -> None:
    module, given, _ = NETWORKS["encoder"]()
    module.eval().requires_grad_(False)
    with AttentionRecorder(1) as recorder:
        module(given)
    assert [layer.matrix.requires_grad for layer in recorder.layers] == [False, True]
    assert recorder.layers[1].matrix.is_leaf


def test_the_identity_in_place_of_attention_lets_tokens_exchange_nothing() -> None:
    module, given, _ = NETWORKS["encoder"]()
    module.eval().requires_grad_(False)
    other = given.clone()
    other[:, 3] += 1
    with AttentionRecorder(identity=True):
        changed = (module(given) - module(other)).abs().sum(-1)[0] > 1e-6
    assert changed.tolist() == [False, False, False, True, False]


def test_what_fails_within_leaves_no_mode_behind() -> None:
    with pytest.raises(ValueError, match="on purpose"), AttentionRecorder():
        raise ValueError("on purpose")
    assert not torch._C._len_torch_function_stack()
