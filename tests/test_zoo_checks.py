"""The checks of the sweep: what they let pass, and that they catch what they are there for."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

import cam_hub
from bench.zoo.check import check_loaded, check_model, smooth_image
from bench.zoo.depth import find_depth
from bench.zoo.plan import Candidate
from bench.zoo.quadrants import judge_quadrants, lies_on_image
from bench.zoo.row import CHECKS
from bench.zoo.watch import counted, state_of

SMALL = (3, 32, 48)


class Block(nn.Module):
    """Six leaves; a residual block of a network of ours."""

    def __init__(self) -> None:
        super().__init__()
        self.norm1, self.mix, self.act = nn.Identity(), nn.Conv2d(8, 8, 3, padding=1), nn.ReLU()
        self.norm2, self.fc, self.drop = nn.Identity(), nn.Conv2d(8, 8, 1), nn.Dropout()

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.act(self.mix(self.norm1(x)))
        return x + self.drop(self.fc(self.norm2(x)))


class Net(nn.Module):
    """A stem, equal blocks, a final norm, pooling and a head."""

    def __init__(self, blocks: int = 3) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.stem = nn.Conv2d(3, 8, 4, stride=4)
        self.blocks = nn.Sequential(*[Block() for _ in range(blocks)])
        self.norm = nn.BatchNorm2d(8)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.head = nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(self.blocks(self.stem(x)))
        return self.head(self.pool(x).flatten(1))


class Mirrored(nn.Module):
    """Turns what it is given upside down: what lies at the top is answered to at the bottom."""

    def forward(self, x: Tensor) -> Tensor:
        return x.flip(2)


def check(module: nn.Module, size: tuple[int, int, int] = SMALL):
    """The row of a module of our own."""
    candidate = Candidate("ours", type(module).__name__, "ours")
    return check_loaded(candidate, lambda: cam_hub.wrap_model(module, input_size=size))


def depth(module: nn.Module, layer: str):
    return find_depth(module.eval(), torch.zeros(1, *SMALL), layer)


# Whole models


def test_a_sound_network_holds_every_check():
    row = check(Net())
    assert row.status == "passed", row.reasons
    assert row.checks == dict.fromkeys(CHECKS, True)
    assert row.reasons == []
    assert (row.layer, row.layout, row.grid) == ("norm", "NCHW", [8, 12])
    assert row.margin is not None
    assert row.margin > 0.5


@pytest.mark.parametrize(
    "name",
    ["test_resnet", "test_convnext", "test_vit", "test_mambaout", "mixer_s32_224"],
)
def test_real_architectures_hold_every_check(name):
    row = check_model(Candidate("timm", name, ""))
    assert row.status == "passed", row.reasons


def test_an_unknown_model_is_refused_with_the_reason():
    row = check_model(Candidate("timm", "resnet50000", "resnet"))
    assert row.status == "refused"
    assert row.reasons[0].startswith("ModelNotFound: ")
    assert not row.good


def test_a_refusal_is_right_where_there_is_nothing_to_explain():
    row = check_model(
        Candidate("torchvision", "raft_small", "optical_flow.raft", refusal_expected=True)
    )
    assert row.status == "refused"
    assert row.good


def test_an_exception_that_is_not_cam_hubs_is_an_error_that_says_where():
    def load() -> cam_hub.LoadedModel:
        raise ZeroDivisionError("on purpose")

    row = check_loaded(Candidate("ours", "broken", "ours"), load)
    assert row.status == "error"
    assert row.reasons[0].startswith("ZeroDivisionError: on purpose (test_zoo_checks.py:")


def test_a_layer_whose_place_is_mirrored_is_caught(monkeypatch):
    # A reading that is upside down: what cam_hub hands over is not where it is on the image.
    def flipped(model, image, layers):
        return {
            name: maps.flip(1) for name, maps in cam_hub.activations(model, image, layers).items()
        }

    monkeypatch.setattr("bench.zoo.check.activations", flipped)
    row = check(Net())
    assert row.status == "failed"
    assert [name for name, held in row.checks.items() if not held] == ["on_image"]
    assert row.margin is not None
    assert row.margin < -0.5


def test_a_network_that_turns_the_image_upside_down_is_caught():
    net = Net()
    net.blocks.insert(0, Mirrored())
    row = check(net)
    assert row.status in ("failed", "refused")
    assert not row.good


def test_a_layer_that_comes_too_early_is_caught(monkeypatch):
    monkeypatch.setattr("bench.zoo.check.suggest_layers", lambda model, how: ["stem"])
    row = check(Net())
    assert row.status == "failed"
    assert row.reasons == ["deep: 19 of 20 leaf modules before pooling run after stem"]


def test_a_map_that_is_not_finite_or_flat_is_caught(monkeypatch):
    class Result:
        def __init__(self, value: float) -> None:
            self.value = value

        def cam(self):
            return torch.full((3, 3), self.value).numpy()

    monkeypatch.setattr(
        "bench.zoo.check.explain",
        lambda model, image, method: Result(math.nan if method == "layercam" else 1.0),
    )
    row = check(Net())
    assert row.reasons == [
        "smoothgradcampp: the map is flat: 1 everywhere",
        "layercam: the map is not finite",
    ]


def test_a_hook_that_is_left_behind_is_caught(monkeypatch):
    def leaves_a_hook(model, image, method):
        model.module.register_forward_hook(lambda *_: None)
        return cam_hub.explain(model, image, method=method)

    monkeypatch.setattr("bench.zoo.check.explain", leaves_a_hook)
    row = check(Net())
    assert row.checks["nothing_left"] is False
    assert "nothing_left: the model, hooks: 0 became 2" in row.reasons


def test_a_model_that_is_left_in_evaluation_mode_is_caught(monkeypatch):
    def settles(model, image, method):
        model.module.eval()
        return cam_hub.explain(model, image, method=method)

    monkeypatch.setattr("bench.zoo.check.explain", settles)
    module = Net().eval()
    row = check(module)
    assert row.checks["nothing_left"] is False
    assert "training: True became False" in row.reasons[-1]
    assert not any(child.training for child in module.modules()), "the check itself is tidy"


# On the image


def test_margins_compare_each_quadrant_with_its_strongest_rival():
    # Redrawing the top left moves it by 4 and, of the others, the top right most, by 1.
    change = torch.tensor([[4.0, 1.0], [0.5, 0.0]])
    changes = torch.stack([change, change.flip(1), change.flip(0), change.flip(0, 1)])
    found = judge_quadrants(changes)
    assert found.margins == (0.75, 0.75, 0.75, 0.75)
    assert found.misplaced == []


def test_a_rival_that_moves_as_much_is_a_failure():
    changes = torch.eye(4).reshape(4, 2, 2)
    changes[3] = torch.tensor([[0.0, 1.0], [0.0, 1.0]])
    found = judge_quadrants(changes)
    assert found.margins == (1.0, 1.0, 1.0, 0.0)
    assert found.misplaced == ["bottom right"]


@pytest.mark.parametrize("value", [0.0, math.nan])
def test_what_does_not_move_or_is_no_number_is_no_answer(value):
    assert len(judge_quadrants(torch.full((4, 2, 2), value)).misplaced) == 4


def test_the_middle_of_an_odd_grid_belongs_to_no_quadrant():
    changes = torch.zeros(4, 3, 3)
    for change, (row, col) in zip(changes, [(0, 0), (0, 2), (2, 0), (2, 2)], strict=True):
        change[row, col] = 1.0
        change[1, :] = change[:, 1] = 9.0
    assert judge_quadrants(changes).margins == (1.0,) * 4


def test_of_a_single_row_only_left_and_right_are_compared():
    left, right = torch.tensor([[3.0, 1.0]]), torch.tensor([[1.0, 2.0]])
    found = judge_quadrants(torch.stack([left, right, left, right]))
    assert found.margins == pytest.approx((2 / 3, 1 / 2, 2 / 3, 1 / 2))


def test_a_single_cell_lies_nowhere():
    assert len(judge_quadrants(torch.ones(4, 1, 1)).misplaced) == 4


def test_an_identity_lies_on_the_image_and_its_mirror_image_does_not():
    assert lies_on_image(lambda image: image[0], (3, 8, 8)).margins == (1.0,) * 4
    mirrored = lies_on_image(lambda image: Mirrored()(image)[0], (3, 8, 8))
    assert mirrored.margins == (-1.0,) * 4
    assert len(mirrored.misplaced) == 4


def test_what_depends_on_statistics_alone_does_not_lie_on_the_image():
    spread = lies_on_image(lambda image: image[0].std().expand(1, 4, 4), (3, 16, 16))
    assert len(spread.misplaced) == 4


def test_the_clean_image_is_redrawn_only_within_one_quadrant_and_with_the_same_statistics():
    seen: list[Tensor] = []

    def activation(image: Tensor) -> Tensor:
        seen.append(image[0])
        return image[0]

    lies_on_image(activation, (1, 64, 64), draws=2)
    clean, *noisy = seen
    assert len(noisy) == 8
    for number, image in enumerate(noisy):
        rows, cols = divmod(number // 2, 2)
        quadrant = (0, slice(32 * rows, 32 * rows + 32), slice(32 * cols, 32 * cols + 32))
        moved = image != clean
        assert moved[quadrant].all()
        assert moved.sum() == 32 * 32
        assert float(image[quadrant].std()) == pytest.approx(1, abs=0.1)
    assert not torch.equal(noisy[0], noisy[1]), "each draw is another"


def test_time_steps_count_like_channels():
    assert lies_on_image(lambda video: video[0], (3, 2, 8, 8)).margins == (1.0,) * 4


# The deep end


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


def test_a_stage_of_several_blocks_is_no_block():
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


def test_containers_that_only_share_a_class_are_no_blocks():
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


# Watching


def test_passes_are_counted_in_images_also_through_copies():
    from copy import deepcopy

    net = Net().eval()
    with counted(net) as cost:
        net(torch.zeros(9, *SMALL))
        deepcopy(net).double()(torch.zeros(2, *SMALL, dtype=torch.float64))
        x = torch.zeros(1, *SMALL, requires_grad=True)
        torch.autograd.grad(net(x).sum(), x)
        net(x).sum().backward()
    assert (cost.forward, cost.backward) == (13, 2)
    net(torch.zeros(1, *SMALL))
    assert cost.forward == 13, "nothing is counted afterwards"
    assert torch.autograd.grad.__module__ == "torch.autograd"


def test_the_state_names_what_became_different():
    net = Net()
    before = state_of(net)
    assert before.differences(state_of(net)) == []
    net.head.train(False)
    net.stem.weight.requires_grad_(False)
    with torch.no_grad():
        net.head.bias.add_(1)
    net.norm.forward = net.norm.forward
    assert before.differences(state_of(net)) == [
        "norm, forward replaced: False became True",
        "head, training: True became False",
        "stem.weight, requires_grad: True became False",
        "head.bias, times written to: 1 became 2",
    ]


@pytest.mark.parametrize("size", [(3, 20, 30), (1, 7, 7), (3, 4, 16, 16)])
def test_the_image_is_smooth_and_the_same_each_time(size):
    image = smooth_image(size)
    assert image.shape == (1, *size)
    assert torch.equal(image, smooth_image(size))
    assert float(image.mean()) == pytest.approx(0, abs=1e-5)
    assert float(image.std()) == pytest.approx(1, abs=1e-4)
