"""The depth of a layer, in networks whose leaves can be counted by hand."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from bench.zoo.depth import find_depth
from tests.fakes.zoo_nets import SMALL, Block, Net


def depth(module: nn.Module, layer: str):
    return find_depth(module.eval(), torch.zeros(1, *SMALL), layer)


def test_leaves_are_counted_up_to_the_last_with_places():
    # stem, 3 * 6 of the blocks, norm; the pool's output is a vector.
    found = depth(Net(), "norm")
    assert (found.leaves, found.after) == (20, 0)


@pytest.mark.parametrize(
    ("layer", "after", "deep"),
    [
        ("norm", 0, True),
        ("blocks", 1, True),
        ("blocks.2", 1, True),
        ("blocks.2.drop", 1, True),
        ("blocks.2.fc", 2, True),
        ("blocks.2.norm1", 6, True),  # the first of the last block
        ("blocks.1", 7, False),
        ("blocks.1.drop", 7, False),
        ("stem", 19, False),
    ],
)
def test_the_last_tenth_and_the_last_block_are_deep(layer, after, deep):
    found = depth(Net(), layer)
    assert found.after == after
    assert found.deep is deep


def test_the_tenth_is_met_exactly():
    assert depth(Net(), "blocks.2.fc").in_last_tenth  # 2 of 20
    assert not depth(Net(), "blocks.2.norm2").in_last_tenth  # 3 of 20


def test_a_stage_of_several_blocks_is_not_a_block():
    stages = nn.Sequential(*[nn.Sequential(Block(), Block()) for _ in range(3)])
    net = nn.Sequential(nn.Conv2d(3, 8, 4), stages)
    assert depth(net, "1.2.1.norm1").deep
    early = depth(net, "1.2.0")
    assert (early.after, early.block_leaves, early.deep) == (6, 6, False)
    mixed = nn.Sequential(Block(), Block())
    mixed.insert(0, nn.Conv2d(8, 8, 1))
    other = nn.Sequential(Block(), Block())
    other.insert(0, nn.Conv2d(8, 8, 1))
    net = nn.Sequential(nn.Conv2d(3, 8, 4), nn.Sequential(other, mixed))
    found = depth(net, "1.1.0")
    assert (found.block_leaves, found.deep) == (0, False), "the first layer of the last stage"


def test_containers_that_only_share_a_class_are_not_blocks():
    features = nn.Sequential(*[nn.Conv2d(8 if i else 3, 8, 3, padding=1) for i in range(12)])
    classifier = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 5))
    found = depth(nn.Sequential(features, classifier), "0.3")
    assert (found.leaves, found.after, found.deep) == (12, 8, False)


def test_a_leaf_that_runs_several_times_stands_where_it_ran_last():
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.act, self.first, self.second = nn.ReLU(), nn.Identity(), nn.Identity()

        def forward(self, x: Tensor) -> Tensor:
            return self.act(self.second(self.act(self.first(x))))

    assert depth(Twice(), "act").after == 0
    assert depth(Twice(), "first").after == 2


def test_a_module_whose_submodules_are_not_called_is_a_leaf():
    attention = nn.MultiheadAttention(8, 2, batch_first=True)

    class Attends(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.attention = nn.Identity(), attention

        def forward(self, x: Tensor) -> Tensor:
            x = self.first(x).flatten(2).transpose(1, 2)[:, :, :1].expand(-1, -1, 8)
            return self.attention(x, x, x)[0]

    found = depth(Attends(), "first")
    assert (found.leaves, found.after) == (2, 1)


def test_a_layer_that_does_not_run_has_no_depth():
    net = Net()
    net.spare = nn.Identity()
    with pytest.raises(LookupError, match="spare"):
        depth(net, "spare")
