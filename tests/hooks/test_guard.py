"""The state of a model is restored, whatever happens in between."""

from __future__ import annotations

import threading

import pytest
import torch
from torch import nn

from cam_hub.hooks.frozen_eval import ModuleTree, frozen_eval, mixes_batch


def half_trained() -> nn.Sequential:
    """A module in which training flags and requires_grad differ between parts."""
    module = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Dropout(), nn.Conv2d(4, 2, 1))
    module.train()
    module[1].eval()
    module[0].weight.requires_grad_(False)
    return module


def flags(module: nn.Module) -> list[bool]:
    return [m.training for m in module.modules()] + [p.requires_grad for p in module.parameters()]


def test_inside_the_module_is_in_evaluation_mode_and_frozen():
    module = half_trained()
    with frozen_eval(module):
        assert not any(flags(module))


def test_every_flag_is_as_before_afterwards():
    module = half_trained()
    before = flags(module)
    with frozen_eval(module):
        pass
    assert flags(module) == before


def test_every_flag_is_as_before_after_a_failure():
    module = half_trained()
    before = flags(module)
    with pytest.raises(ZeroDivisionError), frozen_eval(module):
        raise ZeroDivisionError
    assert flags(module) == before


def test_it_nests():
    module = half_trained()
    before = flags(module)
    with frozen_eval(module):
        with frozen_eval(module):
            pass
        assert not any(flags(module))
    assert flags(module) == before


def test_threads_that_overlap_restore_only_when_the_last_one_leaves():
    module = half_trained()
    before = flags(module)
    inside, leave = threading.Event(), threading.Event()

    def hold() -> None:
        with frozen_eval(module):
            inside.set()
            leave.wait(10)

    thread = threading.Thread(target=hold)
    with frozen_eval(module):
        thread.start()
        assert inside.wait(10)
    assert not any(flags(module)), "the thread still needs it quiet"
    leave.set()
    thread.join()
    assert flags(module) == before


@pytest.mark.parametrize("host", [torch.no_grad, torch.inference_mode])
def test_gradients_work_inside_a_host_that_switched_them_off(host):
    module = half_trained()
    with host():
        with frozen_eval(module):
            leaf = torch.ones(1, 3, 8, 8, requires_grad=True)
            module(leaf).sum().backward()
            assert leaf.grad is not None
        assert not torch.is_grad_enabled()


def test_gradients_of_the_users_own_training_are_not_touched():
    module = half_trained()
    module(torch.ones(2, 3, 8, 8)).sum().backward()
    before = [None if p.grad is None else p.grad.clone() for p in module.parameters()]
    with frozen_eval(module):
        leaf = torch.ones(1, 3, 8, 8, requires_grad=True)
        module(leaf).sum().backward()
    for old, weight in zip(before, module.parameters(), strict=True):
        assert (old is None) == (weight.grad is None)
        assert old is None or torch.equal(old, weight.grad)


def test_batch_norm_without_running_statistics_mixes_images():
    assert mixes_batch(nn.Sequential(nn.BatchNorm2d(3, track_running_stats=False)))
    assert not mixes_batch(
        nn.Sequential(nn.BatchNorm2d(3), nn.InstanceNorm2d(3), nn.GroupNorm(1, 3))
    )


def test_parts_are_current_until_one_is_exchanged_or_added():
    module = nn.Sequential(nn.Conv2d(3, 4, 1), nn.Sequential(), nn.ReLU())
    changes = [
        lambda: module[1].append(nn.ReLU()),  # where there was nothing before
        lambda: module.__setitem__(2, nn.GELU()),
        lambda: module[2].register_buffer("offset", torch.zeros(1)),
    ]
    for change in changes:
        anatomy = ModuleTree(module)
        assert anatomy.current
        change()
        assert not anatomy.current
