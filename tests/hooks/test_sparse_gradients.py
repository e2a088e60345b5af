"""Backward passes through token layers equal torch's, whichever gradients are zero."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from cam_hub.hooks import sparse_gradients

TOKENS = 24


def _drawn(*shape: int) -> Tensor:
    generator = torch.Generator().manual_seed(sum(shape))
    return torch.randn(*shape, generator=generator, dtype=torch.float64).requires_grad_()


def _gradient(shape: torch.Size, tokens: list[int]) -> Tensor:
    """Zero except for some tokens, which are the second last axis."""
    found = torch.zeros(shape, dtype=torch.float64)
    found[..., tokens, :] = _drawn(*shape).detach()[..., tokens, :]
    return found


WHICH = {
    "one token": [0],
    "the token in the middle": [TOKENS // 2],
    "a few": [3, 4, 20],
    "most": list(range(1, TOKENS)),
    "all": list(range(TOKENS)),
    "none": [],
}


@pytest.fixture(params=WHICH.values(), ids=WHICH.keys())
def tokens(request: pytest.FixtureRequest) -> list[int]:
    found: list[int] = request.param
    return found


@pytest.mark.parametrize("images", [1, 3])
def test_a_linear_layer_hands_back_what_torch_hands_back(images: int, tokens: list[int]) -> None:
    given, bias = _drawn(images, TOKENS, 6), _drawn(5).detach()
    weight = _drawn(5, 6).detach()
    ours = sparse_gradients.linear(given, weight, bias)
    plain = functional.linear(given, weight, bias)
    assert ours is not None
    assert torch.equal(ours, plain)
    gradient = _gradient(plain.shape, tokens)
    (expected,) = torch.autograd.grad(plain, given, gradient)
    (found,) = torch.autograd.grad(ours, given, gradient)
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("scale", [None, 0.3])
@pytest.mark.parametrize("images", [1, 2])
def test_attention_hands_back_what_torch_hands_back(
    images: int, scale: float | None, tokens: list[int]
) -> None:
    inputs = [_drawn(images, 2, TOKENS, 4), _drawn(images, 2, 30, 4), _drawn(images, 2, 30, 4) + 1]
    ours = sparse_gradients.attention(*inputs, scale=scale)
    plain = functional.scaled_dot_product_attention(*inputs, scale=scale)
    assert ours is not None
    torch.testing.assert_close(ours, plain)
    gradient = _gradient(plain.shape, tokens)
    expected = torch.autograd.grad(plain, inputs, gradient)
    for kept in (True, False):  # the backward pass may be repeated
        found = torch.autograd.grad(ours, inputs, gradient, retain_graph=kept)
        for mine, theirs in zip(found, expected, strict=True):
            torch.testing.assert_close(mine, theirs)


def test_attention_agrees_with_differences_of_its_values() -> None:
    inputs = [_drawn(1, 2, 9, 3), _drawn(1, 2, 9, 3), _drawn(1, 2, 9, 3)]
    assert torch.autograd.gradcheck(sparse_gradients.attention, inputs)


def test_tokens_without_a_gradient_are_not_multiplied() -> None:
    given, weight = _drawn(1, TOKENS, 6), _drawn(5, 6).detach()
    output = sparse_gradients.linear(given, weight)
    assert output is not None
    with torch.profiler.profile(record_shapes=True) as profile:
        torch.autograd.grad(output, given, _gradient(output.shape, [7]))
    (product,) = [each for each in profile.events() if each.name == "aten::mm"]
    assert product.input_shapes[0] == [1, 5]


LEFT_TO_TORCH: dict[str, Callable[[], Tensor | None]] = {
    "no tokens": lambda: sparse_gradients.linear(_drawn(4, 6), _drawn(5, 6).detach()),
    "weights that learn": lambda: sparse_gradients.linear(_drawn(1, 4, 6), _drawn(5, 6)),
    "a bias that learns": lambda: sparse_gradients.linear(
        _drawn(1, 4, 6), _drawn(5, 6).detach(), _drawn(5)
    ),
    "no way back": lambda: sparse_gradients.linear(_drawn(1, 4, 6).detach(), _drawn(5, 6).detach()),
    "a mask": lambda: sparse_gradients.attention(
        *[_drawn(1, 2, 4, 4)] * 3, attn_mask=torch.ones(4, 4, dtype=torch.bool)
    ),
    "causal": lambda: sparse_gradients.attention(*[_drawn(1, 2, 4, 4)] * 3, is_causal=True),
    "dropout": lambda: sparse_gradients.attention(*[_drawn(1, 2, 4, 4)] * 3, dropout_p=0.5),
    "no heads": lambda: sparse_gradients.attention(*[_drawn(1, 4, 4)] * 3),
    "keys from elsewhere": lambda: sparse_gradients.attention(
        _drawn(1, 2, 4, 4), _drawn(1, 2, 4, 4).detach(), _drawn(1, 2, 4, 4)
    ),
}


@pytest.mark.parametrize("ask", LEFT_TO_TORCH.values(), ids=LEFT_TO_TORCH.keys())
def test_what_it_is_not_made_for_is_left_to_torch(ask: Callable[[], Tensor | None]) -> None:
    assert ask() is None


def test_nothing_is_recorded_while_autograd_is_off() -> None:
    with torch.no_grad():
        assert sparse_gradients.linear(_drawn(1, 4, 6), _drawn(5, 6).detach()) is None


def test_writing_to_tensors_that_the_backward_pass_needs_is_detected() -> None:
    query, key, value = (_drawn(1, 2, 4, 4) * 1 for _ in range(3))
    output = sparse_gradients.attention(query, key, value)
    assert output is not None
    with torch.no_grad():
        key.zero_()
    with pytest.raises(RuntimeError, match="inplace"):
        output.sum().backward()
