"""Hooks: what they record, their complete removal, and the isolation of threads."""

from __future__ import annotations

import threading
from collections import namedtuple

import pytest
import torch
from torch import nn

from cam_hub.errors import LayerNotFound, NoMap
from cam_hub.hooks.frozen_eval import frozen_eval
from cam_hub.hooks.recording import main_tensor, modules_by_name, observe
from tests.fakes.gradients import gradients_of, tap


class Doubling(nn.Module):
    """y = sum over positions of (2 x + 1)², with every step in a separate layer."""

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
    with frozen_eval(module), tap(module, ["affine"]) as taps:
        score = module(x).sum()
        gradients = gradients_of(taps, score, ["affine"])
    # affine: 2*1+1 = 3 and 2*(-2)+1 = -3; d(relu(a)²)/da = 2a for a > 0, else 0.
    assert taps.activations["affine"].tolist() == [[[[3.0, -3.0]]]]
    assert gradients["affine"].tolist() == [[[[6.0, 0.0]]]]


def test_an_in_place_layer_that_follows_does_not_overwrite_the_record(x):
    module = Doubling()
    with frozen_eval(module), tap(module, ["affine", "relu"]) as taps:
        module(x)
    assert taps.activations["affine"].tolist() == [[[[3.0, -3.0]]]]
    assert taps.activations["relu"].tolist() == [[[[3.0, 0.0]]]]


def test_the_network_computes_the_same_with_and_without_taps(x):
    module = Doubling()
    plain = module(x)
    with frozen_eval(module), tap(module, ["affine", "relu"]):
        tapped = module(x)
    assert torch.equal(plain, tapped)


def steps_of(tensor: torch.Tensor) -> list[str]:
    """The names of all nodes of a tensor's graph."""
    pending, seen = [tensor.grad_fn], []
    while pending:
        node = pending.pop()
        if node is not None and node not in seen:
            seen.append(node)
            pending += [parent for parent, _ in node.next_functions]
    return [node.name() for node in seen]


def test_nothing_before_the_first_target_layer_is_part_of_the_graph(x):
    module = Doubling()
    with frozen_eval(module), tap(module, ["relu"]) as taps:
        late = steps_of(module(x))
        assert taps.activations["relu"].requires_grad
    with frozen_eval(module), tap(module, ["affine"]):
        early = steps_of(module(x))
    assert not any("Convolution" in name or "Relu" in name for name in late)
    assert any("Relu" in name for name in early)


@pytest.mark.parametrize("overwritten", [None, {"affine"}])
def test_the_rows_asked_for_are_recorded_and_the_gradient_is_that_of_all(x, overwritten):
    module = Doubling()
    batch = torch.cat([x, x + 1, x + 2])
    with frozen_eval(module), tap(module, ["affine"], overwritten=overwritten, rows=[0]) as taps:
        gradients = gradients_of(taps, module(batch).sum(), ["affine"])
    assert taps.intact
    assert taps.activations["affine"].tolist() == [[[[3.0, -3.0]]]]
    assert gradients["affine"].tolist() == [[[[6.0, 0.0]]], [[[10.0, 0.0]]], [[[14.0, 2.0]]]]


def test_layers_that_are_not_written_to_are_recorded_without_a_copy(x):
    module = Doubling()
    with frozen_eval(module), tap(module, ["relu"], overwritten=()) as taps:
        out = module(x)
    assert taps.intact
    assert taps.activations["relu"].untyped_storage().data_ptr() in {
        saved.untyped_storage().data_ptr()
        for saved in [out.grad_fn.next_functions[0][0].next_functions[0][0]._saved_self]
    }


def test_a_layer_that_is_written_to_after_all_is_noticed(x):
    module = Doubling()
    with frozen_eval(module), tap(module, ["affine"], overwritten=()) as taps:
        module(x)
    assert not taps.intact


def test_an_output_that_its_own_gradient_needs_is_not_overwritten_unseen():
    class Spoilt(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = nn.Linear(2, 2), nn.Sigmoid()

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.second(self.first(x)).mul_(2)

    module = Spoilt()
    with frozen_eval(module), tap(module, ["first", "second"], rows=[0]) as taps:
        score = module(torch.ones(2, 2)).sum()
        with pytest.raises(RuntimeError, match="modified by an inplace"):
            gradients_of(taps, score, ["first", "second"])
    with frozen_eval(module), tap(module, ["first", "second"]) as taps:
        gradients = gradients_of(taps, module(torch.ones(2, 2)).sum(), ["second"])
    assert gradients["second"].tolist() == [[2.0, 2.0], [2.0, 2.0]]


def test_a_gradient_consumer_may_stop_the_backward_pass(x):
    module = Doubling()

    def stop(name: str, gradient: torch.Tensor) -> None:
        raise KeyError(name)

    with frozen_eval(module), tap(module, ["affine"]) as taps:
        score = module(x).sum()
        with pytest.raises(KeyError):
            taps.visit_gradients(score, stop)
        assert gradients_of(taps, score, ["affine"])["affine"].tolist() == [[[[6.0, 0.0]]]]


def test_a_layer_that_runs_several_times_keeps_its_last_output(x):
    layer = nn.Conv2d(1, 1, 1)
    module = nn.Sequential(layer, layer)
    with frozen_eval(module), tap(module, ["0"]) as taps:
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
    with frozen_eval(module), tap(module, ["used", "unused"]) as taps:
        gradients = gradients_of(taps, module(x).sum(), ["used", "unused"])
    assert gradients["used"].any()
    assert not gradients["unused"].any()


def test_a_score_that_depends_on_no_layer_is_reported(x):
    class Cut(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(1, 1, 1)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.conv(x).detach().sum(dim=(1, 2, 3))

    module = Cut()
    with frozen_eval(module), tap(module, ["conv"]) as taps:
        score = module(x).sum()
        with pytest.raises(NoMap, match="does not depend"):
            gradients_of(taps, score, ["conv"])


def test_a_module_in_two_places_answers_to_both_names():
    layer = nn.ReLU()
    module = nn.ModuleDict({"a": layer, "b": layer})
    assert set(modules_by_name(module)) == {"a", "b"}


def test_modules_have_the_names_and_the_order_that_torch_gives_them():
    shared = nn.Sequential(nn.ReLU(), nn.Conv2d(1, 1, 1))
    module = nn.Sequential(shared, nn.ModuleDict({"again": shared, "none": nn.Identity()}))
    module[1].register_module("left_out", None)
    named = module.named_modules(remove_duplicate=False)
    assert list(modules_by_name(module).items()) == [(name, part) for name, part in named if name]


def test_a_module_that_contains_itself_ends_with_an_error():
    module = nn.Sequential(nn.ReLU())
    module.register_module("itself", module)
    with pytest.raises(RecursionError, match="contain themselves"):
        modules_by_name(module)


def test_an_unknown_layer_names_the_nearest_and_leaves_no_hook():
    module = Doubling()
    with pytest.raises(LayerNotFound) as caught, tap(module, ["affine", "afine"]):
        pass
    assert caught.value.nearest == ("affine",)
    assert hooks_of(module) == 0


def test_a_layer_that_an_attribute_of_the_class_hides_is_found(x):
    class Hidden(nn.Module):
        conv = None

        def __init__(self) -> None:
            super().__init__()
            self._modules["conv"] = nn.Conv2d(1, 1, 1)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self._modules["conv"](x)

    module = Hidden()
    with frozen_eval(module), tap(module, ["conv"]) as taps:
        out = module(x)
    assert torch.equal(taps.activations["conv"], out)


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
            with frozen_eval(module), tap(module, ["affine"]) as taps:
                score = module(torch.full((1, 1, 4, 4), value)).sum()
                gradient = gradients_of(taps, score, ["affine"])["affine"]
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
    with frozen_eval(module), tap(module, ["0"]) as taps:
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
        """The identity's output is halved; its input is also used elsewhere."""

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
        gradients = gradients_of(taps, score, ["first", "same"])
    assert gradients["same"].tolist() == [[0.5, 0.5]]
    assert gradients["first"].tolist() == [[3.5, 3.5]]
