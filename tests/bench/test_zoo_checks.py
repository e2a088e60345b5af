"""The checks of the sweep: correct models pass, and each kind of fault is detected."""

from __future__ import annotations

import math
from dataclasses import asdict, replace

import pytest
import torch
from torch import nn

import cam_hub
from bench.zoo.check import check_loaded, check_model, smooth_image
from bench.zoo.plan import Candidate
from bench.zoo.row import CHECKS, Row
from bench.zoo.watch import counted, state_of
from tests.fakes.zoo_nets import SMALL, Mirrored, Net


def check(module: nn.Module, size: tuple[int, int, int] = SMALL):
    """The row of a module of our own."""
    candidate = Candidate("ours", type(module).__name__, "ours")
    return check_loaded(candidate, lambda: cam_hub.wrap_model(module, input_size=size))


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
    [
        "test_resnet",
        "test_convnext",
        "test_vit",
        "test_mambaout",
        pytest.param("mixer_s32_224", marks=pytest.mark.slow),
    ],
)
def test_real_architectures_hold_every_check(name):
    row = check_model(Candidate("timm", name, ""))
    assert row.status == "passed", row.reasons


def test_the_same_layer_keeps_its_checks_of_place_and_depth_and_another_layer_does_not(monkeypatch):
    first = check(Net())
    first.digest = "before"

    def again(recorded: Row) -> Row:
        candidate = Candidate("ours", "Net", "ours", recorded=asdict(recorded))
        return check_loaded(candidate, lambda: cam_hub.wrap_model(Net(), input_size=SMALL))

    monkeypatch.setattr("bench.zoo.check.lies_on_image", None)  # cannot be called
    kept = again(first)
    assert (kept.status, kept.checks, kept.margin) == ("passed", first.checks, first.margin)
    assert kept.checked_by == "before"
    other = again(replace(first, grid=[4, 6]))
    assert other.checked_by == ""
    assert not other.checks["on_image"]


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


def test_an_exception_that_is_not_cam_hubs_is_an_error_with_its_location():
    def load() -> cam_hub.LoadedModel:
        raise ZeroDivisionError("on purpose")

    row = check_loaded(Candidate("ours", "broken", "ours"), load)
    assert row.status == "error"
    assert row.reasons[0].startswith("ZeroDivisionError: on purpose (test_zoo_checks.py:")


def test_a_layer_whose_place_is_mirrored_is_caught(monkeypatch):
    # An inverted reading: the positions in cam_hub's output are not those of the image.
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
    assert row.best_late_margin == pytest.approx(row.margin, abs=0.1), "no layer does better"


def test_a_network_that_turns_the_image_upside_down_is_turned_back():
    net = Net()
    net.blocks.insert(0, Mirrored())
    row = check(net)
    assert row.status == "passed", row.reasons
    assert row.margin is not None
    assert row.margin > 0.5


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
