"""Weights that are not aligned in memory: those that must be copied are."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from cam_hub.models.initialisation import align


def askew(weight: torch.Tensor) -> torch.Tensor:
    """The same numbers, eight bytes after a multiple of 64."""
    memory = torch.empty(weight.nbytes + 128, dtype=torch.uint8)
    start = -memory.data_ptr() % 64 + 8
    moved = memory[start : start + weight.nbytes].view(weight.dtype).view(weight.shape)
    return moved.copy_(weight.detach())


class Tokens(nn.Module):
    """Tokens of patches, mixed one at a time; their mean is classified."""

    def __init__(self) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, 64, 8, 8)
        self.norm = nn.LayerNorm(64)
        self.mixed = nn.Linear(64, 4096)
        self.head = nn.Linear(4096, 2600)
        self.pretrained_cfg = {"input_size": (3, 64, 64)}

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        tokens = self.norm(self.patches(x).flatten(2).transpose(1, 2))
        return self.head(self.mixed(tokens).mean(1))


class Counts(Tokens):
    """A network that cannot run without values."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(x) * float(x.sum() > 0)


class Remembers(Tokens):
    """A network that stores data from every pass."""

    def __init__(self) -> None:
        super().__init__()
        self.last: torch.Tensor | None = None
        self.all: list[torch.Tensor] = []

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.last = super().forward(x)
        self.all.append(self.last)
        return self.last


def crooked(cls: type[nn.Module]) -> nn.Module:
    torch.manual_seed(0)
    module = cls().eval()
    for weight in module.parameters():
        weight.data = askew(weight)
    return module


def moved(module: nn.Module) -> set[str]:
    return {name for name, each in module.named_parameters() if each.data_ptr() % 64 == 0}


def test_weights_of_products_with_one_row_are_moved_and_others_stay():
    module = crooked(Tokens)
    align(module, list(module.parameters()))
    assert moved(module) == {"head.weight", "head.bias"}


def test_outputs_are_those_of_weights_that_lie_straight():
    torch.manual_seed(0)
    straight, module = Tokens().eval(), crooked(Tokens)
    align(module, list(module.parameters()))
    picture = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        assert torch.equal(module(picture), straight(picture))


@pytest.mark.parametrize("case", ["passes no numbers", "not of timm", "unknown size"])
def test_all_are_moved_where_it_cannot_be_found_out(case):
    module = crooked(Counts if case == "passes no numbers" else Tokens)
    if case == "not of timm":
        del module.pretrained_cfg
    if case == "unknown size":
        module.pretrained_cfg = {"input_size": (3, 7, 7)}
    align(module, list(module.parameters()))
    assert moved(module) == {name for name, _ in module.named_parameters()}


def test_few_bytes_are_moved_without_a_trial():
    module = nn.Linear(64, 64)
    module.weight.data = askew(module.weight)
    align(module, [module.weight])
    assert module.weight.data_ptr() % 64 == 0


def test_the_trial_leaves_no_trace_in_the_network():
    module = crooked(Remembers).train()
    align(module, list(module.parameters()))
    assert moved(module) == {"head.weight", "head.bias"}
    assert module.last is None
    assert module.all == []
    assert module.training
