"""Leaves a model as it was found.

While a model is explained it must be in evaluation mode, and its parameters must not ask for
gradients (or autograd would keep what only their gradients need). Afterwards every flag is as
before, also when several threads explain with one model at once.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from weakref import WeakKeyDictionary

import torch
from torch import nn

__all__ = ["mixes_batch", "quiet", "walk"]


@dataclass
class _Found:
    """What was switched off in a model, and how many are relying on it."""

    training: list[nn.Module]
    learning: list[nn.Parameter]
    users: int = 0


_lock = threading.Lock()
_found: WeakKeyDictionary[nn.Module, _Found] = WeakKeyDictionary()


@contextmanager
def quiet(module: nn.Module) -> Iterator[None]:
    """Holds a module in evaluation mode with frozen parameters, with autograd switched on.

    It nests, and any number of threads may hold the same module: the first one in switches, the
    last one out restores. Autograd works inside whatever the caller's own mode is
    (``no_grad``, ``inference_mode``).

    Args:
        module: The model. The flags are set one by one rather than by ``eval()``, which some
            models override to do more than that.
    """
    with _lock:
        found = _found.get(module)
        if found is None:
            found = _to_switch_off(module)
            for child in found.training:
                child.training = False
            for weight in found.learning:
                weight.requires_grad_(False)
            _found[module] = found
        found.users += 1
    try:
        with torch.inference_mode(False), torch.enable_grad():
            yield
    finally:
        with _lock:
            found.users -= 1
            if found.users == 0:
                del _found[module]
                for child in found.training:
                    child.training = True
                for weight in found.learning:
                    weight.requires_grad_(True)


def walk(module: nn.Module) -> list[nn.Module]:
    """Every submodule once, itself included; ``Module.modules()`` at a fraction of its cost."""
    found = [module]
    seen = {id(module)}
    for child in found:  # which grows on the way
        for part in child._modules.values():
            if part is not None and id(part) not in seen:
                seen.add(id(part))
                found.append(part)
    return found


def _to_switch_off(module: nn.Module) -> _Found:
    training: list[nn.Module] = []
    learning: dict[int, nn.Parameter] = {}
    for child in walk(module):
        if child.training:
            training.append(child)
        for weight in child._parameters.values():
            if weight is not None and weight.requires_grad:
                learning[id(weight)] = weight
    return _Found(training, list(learning.values()))


def mixes_batch(module: nn.Module) -> bool:
    """Tells whether one image of a batch can change another's scores in evaluation mode.

    True for batch normalisation without running statistics: such a model sees one image at a
    time.
    """
    return any(
        isinstance(child, nn.modules.batchnorm._BatchNorm) and child.running_mean is None
        for child in walk(module)
        if not isinstance(child, nn.modules.instancenorm._InstanceNorm)
    )
