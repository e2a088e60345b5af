"""Hooks: what they record, that they leave no trace, and that threads do not hear each other."""

from __future__ import annotations

import threading
from collections import namedtuple

import pytest
import torch
from torch import nn

from cam_hub.errors import LayerNotFound, NoMap
from cam_hub.guard import quiet
from cam_hub.recording import main_tensor, modules_by_name, observe, tap


class Doubling(nn.Module):
    """y = sum over positions of (2 x + 1)², with every step a layer of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.affine = nn.Conv2d(1, 1, 1)
        nn.init.constant_(self.affine.weight, 2.0)
        nn.init.constant_(self.affine.bias, 1.0)  # type: ignore[arg-type]
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return (self.relu(self.affine(x)) ** 2).flatten(1).sum(dim=1, keepdim=True)


def hooks_of(module: nn.Module) -> int:
    return sum(len(child._forward_hooks) for child in module.modules())


@pytest.fixture
def x() -> torch.Tensor:
    return torch.tensor([[[[1.0, -2.0]]]])


def test_activations_and_gradients_are_those_worked_out_by_hand(x):
    module = Doubling()
    with quiet(module), tap(module, ["affine"]) as taps:
        score = module(x).sum()
        gradients = taps.gradients(score, ["affine"])
    # affine: 2*1+1 = 3 and 2*(-2)+1 = -3; d(relu(a)²)/da = 2a for a > 0, else 0.
    assert taps.activations["affine"].tolist() == [[[[3.0, -3.0]]]]
    assert gradients["affine"].tolist() == [[[[6.0, 0.0]]]]


def test_an_in_place_layer_that_follows_does_not_overwrite_the_record(x):
    module = Doubling()
    with quiet(module), tap(module, ["affine", "relu"]) as taps:
        module(x)
    assert taps.activations["affine"].tolist() == [[[[3.0, -3.0]]]]
    assert taps.activations["relu"].tolist() == [[[[3.0, 0.0]]]]


def test_the_network_computes_the_same_with_and_without_taps(x):
    module = Doubling()
    plain = module(x)
    with quiet(module), tap(module, ["affine", "relu"]):
        tapped = module(x)
    assert torch.equal(plain, tapped)


def test_nothing_before_the_first_target_layer_is_part_of_the_graph(x):
    module = Doubling()
    with quiet(module), tap(module, ["relu"]) as taps:
        module(x)
    assert taps.activations["relu"].is_leaf


def test_a_layer_that_runs_several_times_keeps_its_last_output(x):
    layer = nn.Conv2d(1, 1, 1)
    module = nn.Sequential(layer, layer)
    with quiet(module), tap(module, ["0"]) as taps:
        out = module(x)
    assert taps.calls == {"0": 2}
    assert torch.equal(taps.activations["0"], out)


def test_a_score_that_does_not_depend_on_a_layer_has_zero_gradient_there(x):
    class Branches(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.used, self.unused = nn.Conv2d(1, 1, 1), nn.Conv2d(1, 1, 1)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            self.unused(x)
            return self.used(x).sum(dim=(1, 2, 3))

    module = Branches()
    with quiet(module), tap(module, ["used", "unused"]) as taps:
        gradients = taps.gradients(module(x).sum(), ["used", "unused"])
    assert gradients["used"].any()
    assert not gradients["unused"].any()


def test_a_score_cut_off_from_all_layers_says_so(x):
    class Cut(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(1, 1, 1)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.conv(x).detach().sum(dim=(1, 2, 3))

    module = Cut()
    with quiet(module), tap(module, ["conv"]) as taps:
        score = module(x).sum()
        with pytest.raises(NoMap, match="does not depend"):
            taps.gradients(score, ["conv"])


def test_a_module_in_two_places_answers_to_both_names():
    layer = nn.ReLU()
    module = nn.ModuleDict({"a": layer, "b": layer})
    assert set(modules_by_name(module)) == {"a", "b"}


def test_an_unknown_layer_names_the_nearest_and_leaves_no_hook():
    module = Doubling()
    with pytest.raises(LayerNotFound) as caught, tap(module, ["affine", "afine"]):
        pass
    assert caught.value.nearest == ("affine",)
    assert hooks_of(module) == 0


def test_no_hook_is_left_after_success_and_after_failure(x):
    module = Doubling()
    with tap(module, ["affine"]):
        module(x)
    assert hooks_of(module) == 0
    with pytest.raises(RuntimeError), observe(module, lambda *_: None):
        module(torch.ones(1, 99, 1, 1))
    assert hooks_of(module) == 0


def test_hooks_of_the_user_stay(x):
    module = Doubling()
    seen = []
    handle = module.affine.register_forward_hook(lambda *_: seen.append(1))
    with tap(module, ["affine"]):
        module(x)
    assert seen == [1]
    assert hooks_of(module) == 1
    handle.remove()


def test_layers_are_observed_in_the_order_in_which_they_finish(x):
    module = nn.Sequential(nn.Sequential(nn.ReLU()), nn.Tanh())
    names = []
    with observe(module, lambda name, _: names.append(name)):
        module(x)
    assert names == ["0.0", "0", "1"]


def test_threads_on_one_module_record_only_their_own_pass():
    module = Doubling()
    start = threading.Barrier(8)
    wrong: list[float] = []

    def work(value: float) -> None:
        start.wait(10)
        for _ in range(50):
            with quiet(module), tap(module, ["affine"]) as taps:
                score = module(torch.full((1, 1, 4, 4), value)).sum()
                gradient = taps.gradients(score, ["affine"])["affine"]
            expected = 2 * value + 1
            if (taps.activations["affine"] != expected).any() or (gradient != 2 * expected).any():
                wrong.append(value)

    threads = [threading.Thread(target=work, args=(float(i + 1),)) for i in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []
    assert hooks_of(module) == 0


Pair = namedtuple("Pair", ["first", "second"])


@pytest.mark.parametrize(
    "wrap",
    [
        lambda t: (t, "aux"),
        lambda t: [t, None],
        lambda t: {"out": t, "aux": 1},
        lambda t: Pair(t, 2),
        lambda t: ("text", [t]),
    ],
    ids=["tuple", "list", "dict", "namedtuple", "nested"],
)
def test_outputs_in_containers_are_recorded_and_the_container_keeps_its_shape(wrap, x):
    class Wrapping(nn.Module):
        def forward(self, x: torch.Tensor) -> object:
            return wrap(x * 2)

    module = nn.Sequential(Wrapping())
    with quiet(module), tap(module, ["0"]) as taps:
        out = module(x)
    assert type(out) is type(wrap(x))
    assert torch.equal(taps.activations["0"], x * 2)
    found = main_tensor(out)
    assert found is not None
    assert found.requires_grad, "what the network goes on with hangs on the record"


def test_what_holds_no_tensor_has_no_main_tensor():
    assert main_tensor(None) is None
    assert main_tensor({"a": [1, "b"]}) is None


def test_a_layer_that_returns_its_input_has_only_the_gradient_of_what_follows_it():
    class Through(nn.Module):
        """The identity's output is halved; its input goes another way, too."""

        def __init__(self) -> None:
            super().__init__()
            self.first, self.same = nn.Linear(2, 2), nn.Identity()

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x = self.first(x)
            return self.same(x) * 0.5 + x * 3

    torch.manual_seed(0)
    module = Through().requires_grad_(False)
    with tap(module, ["first", "same"]) as taps:
        score = module(torch.ones(1, 2)).sum()
        gradients = taps.gradients(score, ["first", "same"])
    assert gradients["same"].tolist() == [[0.5, 0.5]]
    assert gradients["first"].tolist() == [[3.5, 3.5]]
