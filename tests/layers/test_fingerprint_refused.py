"""Networks whose experiments have no name."""

from __future__ import annotations

import functools
import types
from collections.abc import Callable

import pytest
import torch
from torch import nn
from torch.nn import functional

from tests.fakes.fingerprint_nets import SIZE, Mine, forward_of_mine, key_of, small


def hooked(model: nn.Module) -> None:
    model[0].register_forward_hook(lambda _module, _inputs, output: output * 0)


def hooked_before(model: nn.Module) -> None:
    model[0].register_forward_pre_hook(lambda _module, inputs: inputs)


def hooked_backwards(model: nn.Module) -> None:
    model[0].register_full_backward_hook(lambda _module, grads, _outputs: grads)


def patched(model: nn.Module) -> None:
    model[0].forward = types.MethodType(forward_of_mine, model[0])


def patched_in_disguise(model: nn.Module) -> None:
    model[0].forward = functools.wraps(model[0].forward)(lambda x: x)


def patched_within(model: nn.Module) -> None:
    model[0].forward = functools.partial(functional.relu, inplace=forward_of_mine)


def given_an_object(model: nn.Module) -> None:
    model[0].helper = types.SimpleNamespace(function=forward_of_mine)


def given_a_module(model: nn.Module) -> None:
    model[0].aside = [Mine()]


def another_class(model: nn.Module) -> None:
    model[0].__class__ = type("Conv2d", (nn.Conv2d,), {"__module__": nn.Conv2d.__module__})


CHANGES: list[Callable[[nn.Module], None]] = [
    hooked, hooked_before, hooked_backwards, patched, patched_in_disguise, patched_within,
    given_an_object, given_a_module, another_class,
]  # fmt: skip


@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.__name__)
def test_a_network_with_code_of_the_users_in_it_has_no_name(change):
    model = small()
    assert key_of(model) is not None
    change(model)
    assert key_of(model) is None


def test_a_class_of_the_users_has_no_name_wherever_it_stands():
    assert key_of(Mine(nn.ReLU())) is None
    assert key_of(nn.Sequential(nn.ReLU(), nn.Sequential(Mine()))) is None


def test_a_class_of_torchs_whose_code_was_exchanged_has_no_name(monkeypatch):
    original = nn.ReLU.forward
    monkeypatch.setattr(nn.ReLU, "forward", functools.wraps(original)(forward_of_mine))
    assert key_of(small()) is None
    monkeypatch.undo()
    assert key_of(small()) is not None


@pytest.mark.parametrize("name", ["forward", "__call__", "children", "_compiled_call_impl"])
def test_a_name_of_torchs_own_that_is_replaced_for_all_modules_takes_the_name_away(
    monkeypatch, name
):
    monkeypatch.setattr(nn.Module, name, forward_of_mine)
    assert key_of(small()) is None


def test_a_method_that_others_add_to_all_modules_changes_nothing(monkeypatch):
    # Importing transformers does: without this rule, no layer would be found again on disk.
    before = key_of(small())
    monkeypatch.setattr(nn.Module, "smart_helper_of_mine", forward_of_mine, raising=False)
    assert key_of(small()) == before is not None


def test_a_hook_for_all_modules_takes_the_name_away_until_it_is_removed():
    handle = nn.modules.module.register_module_forward_hook(lambda *_: None)
    try:
        assert key_of(small()) is None
    finally:
        handle.remove()
    assert key_of(small()) is not None


@pytest.mark.filterwarnings("ignore")  # tracing is deprecated, and traced models are still about
def test_graphs_whose_code_is_data_have_no_name():
    assert key_of(torch.fx.symbolic_trace(small())) is None
    assert key_of(torch.jit.trace(small(), torch.zeros(1, *SIZE))) is None


def test_a_module_in_an_odd_state_has_no_name_and_no_error():
    assert key_of(nn.Sequential(nn.LazyConv2d(4, 3))) is None
    endless = small()
    endless.circle = []
    endless.circle.append(endless.circle)
    assert key_of(endless) is None
