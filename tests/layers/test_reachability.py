"""The layers that scores depend on: gradients of the backward pass, with and without copies."""

from __future__ import annotations

from typing import Any

import pytest
import timm
import torch
from torch import nn

from cam_hub.hooks.frozen_eval import frozen_eval
from cam_hub.hooks.recording import watch_writes
from cam_hub.layers.layouts import Arrangement
from cam_hub.layers.probe import disturb
from cam_hub.layers.reachability import dependences
from cam_hub.layers.recommendation import read_layouts
from tests.fakes.gradients import gradients_of, tap


def run(module: nn.Module, batch: torch.Tensor) -> Any:
    return module(batch)


def as_it_is(output: torch.Tensor) -> torch.Tensor:
    return output


class Cascade(nn.Module):
    """A convolution, an in-place ReLU, and a sum of residuals that is also written in place."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 4, 3, padding=1)
        self.act = nn.ReLU(inplace=True)
        self.body = nn.Conv2d(4, 4, 3, padding=1)
        self.head = nn.Linear(4, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        before = self.act(self.stem(x))
        after = self.body(before)
        after += before
        return self.head(after.mean(dim=(2, 3)))  # type: ignore[no-any-return]


@pytest.fixture
def net() -> nn.Module:
    torch.manual_seed(0)
    return Cascade().eval()


@pytest.fixture
def noise() -> torch.Tensor:
    return torch.randn((1, 3, 16, 16), generator=torch.Generator().manual_seed(0))


def layers_of(module: nn.Module, noise: torch.Tensor) -> dict[str, Arrangement]:
    findings = disturb(module, noise, run)
    return {name: found.arrangement for name, found in read_layouts(findings).items()}


def test_writes_are_noticed_after_they_happened():
    tensor = torch.zeros(3)
    written = watch_writes(tensor)
    assert not written()
    tensor.view(3, 1).add_(1)
    assert written()


def test_a_tensor_without_a_count_of_writes_counts_as_written_to():
    with torch.inference_mode():
        tensor = torch.zeros(3)
    assert watch_writes(tensor)()


def test_layers_that_are_written_to_afterwards_are_distinguished(net, noise):
    found = {name: finding.overwritten for name, finding in disturb(net, noise, run).items()}
    assert found == {"stem": True, "act": False, "body": True, "head": False}


@pytest.mark.parametrize("overwritten", [None, {"stem", "body"}], ids=["unknown", "known"])
def test_gradients_that_come_by_are_those_that_could_be_kept(net, noise, overwritten):
    names = ["stem", "act", "body"]
    seen: dict[str, torch.Tensor] = {}
    with frozen_eval(net), tap(net, names, overwritten=overwritten) as taps:
        score = net(noise)[0, 2]
        taps.visit_gradients(score, lambda name, gradient: seen.update({name: gradient.clone()}))
        assert taps.intact
        kept = gradients_of(taps, score, names)
    assert seen.keys() == kept.keys()
    for name in names:
        assert torch.equal(seen[name], kept[name]), name


def test_no_hook_stays_on_the_graph_after_gradients_came_by(net, noise):
    seen: list[str] = []
    with frozen_eval(net), tap(net, ["stem", "body"]) as taps:
        score = net(noise)[0, 2]
        taps.visit_gradients(score, lambda name, _: seen.append(name))
        gradients_of(taps, score, ["stem", "body"])
    assert sorted(seen) == ["body", "stem"]


@pytest.mark.parametrize("name", ["test_resnet", "test_vit", "test_efficientnet"])
def test_what_is_known_of_writes_changes_nothing_but_the_cost(name):
    torch.manual_seed(0)
    module = timm.create_model(name).eval()
    noise = torch.randn((1, 3, 160, 160), generator=torch.Generator().manual_seed(0))
    findings = disturb(module, noise, run)
    layers = {each: found.arrangement for each, found in read_layouts(findings).items()}
    written = {each for each in layers if findings[each].overwritten}
    with dependences(module, noise, run, as_it_is, layers) as reached:
        plain = dict(reached)
    with dependences(module, noise, run, as_it_is, layers, overwritten=written) as reached:
        assert dict(reached) == plain


@pytest.mark.parametrize("wrong", [set(), {"body"}, {"stem"}], ids=["none", "body", "stem"])
def test_a_wrong_word_about_writes_is_noticed_and_corrected(net, noise, wrong):
    layers = layers_of(net, noise)
    with dependences(net, noise, run, as_it_is, layers) as reached:
        right = dict(reached)
    with dependences(net, noise, run, as_it_is, layers, overwritten=wrong) as reached:
        assert dict(reached) == right
    assert right.keys() == {"stem", "act", "body"}
    assert not any(module._forward_hooks for module in net.modules())


def test_an_error_of_the_model_itself_is_raised_unchanged(net, noise):
    layers = layers_of(net, noise)
    net.head = nn.Linear(3, 5)
    with (
        pytest.raises(RuntimeError, match="shapes cannot be multiplied"),
        dependences(net, noise, run, as_it_is, layers, overwritten={"stem", "body"}),
    ):
        pytest.fail("there is nothing to depend on")


def test_a_layer_feeds_those_that_come_before_it(net, noise):
    layers = layers_of(net, noise)
    with dependences(net, noise, run, as_it_is, layers, overwritten={"stem", "body"}) as reached:
        assert reached.feeding("body") == {"stem", "act"}
        assert reached.feeding("stem") == set()


def test_what_the_graph_shows_of_dependence_is_what_gradients_show(noise):
    """A residual sum with one branch multiplied by zero, which the graph does not show."""

    class Branches(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem, self.left = nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(4, 4, 1)
            self.right, self.last = nn.Conv2d(4, 4, 1), nn.Conv2d(4, 4, 1)
            self.head = nn.Linear(4, 5)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x = self.stem(x)
            left, right = self.left(x), self.right(x)
            x = self.last(left + 0 * right) + right
            return self.head(x.mean(dim=(2, 3)))  # type: ignore[no-any-return]

    torch.manual_seed(0)
    net = Branches().eval()
    with dependences(net, noise, run, as_it_is, layers_of(net, noise)) as reached:
        taps = reached._taps
        assert taps.upstream(taps.activations["last"]) == {"stem", "left", "right", "last"}
        assert taps.upstream(taps.activations["last"], stop="left") == {"stem", "right", "last"}
        assert reached.feeding("last") == {"stem", "left"}
        assert reached.feeding("right") == {"stem"}
