"""Leaves a model as it was found.

While a model is explained it must be in evaluation mode, and its parameters must not ask for
gradients (or autograd would keep what only their gradients need). Afterwards every flag is as
before, also when several threads explain with one model at once.
"""

from __future__ import annotations

import copy
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from itertools import chain
from operator import attrgetter, methodcaller
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from cam_hub.hooks.eager import eager, has_compiled_functions

__all__ = ["ModuleTree", "frozen_eval", "mixes_batch", "unusable", "usable_copy", "walk"]


class ModuleTree:
    """The parts of a network as they were found, so that nobody has to look for them again.

    It holds the network. Whoever keeps it asks whether it is still ``current``.

    Attributes:
        modules: Every submodule once, the network itself included.
        parameters: Where they keep their parameters, by name; those that have any.
        batch_norms: Modules that may answer for a batch as a whole.
        identities: What tells the parts from others while they are held.
    """

    def __init__(self, module: nn.Module) -> None:
        self.modules = walk(module)
        parameters = [child._parameters for child in self.modules]
        buffers = [child._buffers for child in self.modules]
        parts = [child._modules for child in self.modules]
        # Most modules keep nothing of a kind. That they still do is asked of all at once.
        self.parameters = [each for each in parameters if each]
        self._buffers = [each for each in buffers if each]
        self._parts = [each for each in parts if each]
        self._empty = [each for each in (*parameters, *buffers, *parts) if not each]
        forward = ("_forward_hooks", "_forward_pre_hooks")
        self._hooks = [vars(child)[each] for child in self.modules for each in forward]
        self.identities = self._children()
        self.batch_norms = [
            child
            for child in self.modules
            if isinstance(child, nn.modules.batchnorm._BatchNorm)
            and not isinstance(child, nn.modules.instancenorm._InstanceNorm)
        ]

    @property
    def current(self) -> bool:
        """Whether the network still has the same parts."""
        return not any(self._empty) and self.identities == self._children()

    @property
    def tensors(self) -> list[Tensor]:
        """Every parameter and buffer, as they are now."""
        kept = chain(self.parameters, self._buffers)
        return [each for each in chain.from_iterable(map(_VALUES, kept)) if each is not None]

    @property
    def hooked(self) -> bool:
        """Whether there is any hook on the way forwards."""
        return any(self._hooks)

    @property
    def compiled(self) -> bool:
        """Whether a part was compiled by ``torch.compile`` or ``module.compile()``."""
        return self._compiled_functions or any(map(_COMPILED_IN_PLACE, self.modules))

    @cached_property
    def _compiled_functions(self) -> bool:
        return has_compiled_functions(self.modules)

    @cached_property
    def checkpoint_flags(self) -> list[tuple[nn.Module, str]]:
        """Attributes that switch gradient checkpointing on, by their names.

        Where they are on, some networks call the parts of a stage rather than the stage itself.
        """
        return [
            (child, name)
            for child in self.modules
            for name, value in vars(child).items()
            if isinstance(value, bool) and "checkpoint" in name
        ]

    def _children(self) -> tuple[int, ...]:
        return tuple(map(id, chain.from_iterable(map(_VALUES, self._parts))))


_VALUES = methodcaller("values")
_COMPILED_IN_PLACE = attrgetter("_compiled_call_impl")


@dataclass
class _Found:
    """What was switched off in a model, and how many are relying on it."""

    training: list[nn.Module]
    evaluating: list[nn.Module]
    learning: list[nn.Parameter]
    checkpointing: list[tuple[nn.Module, str]]
    compiled: bool = False
    users: int = 0


_lock = threading.Lock()
_found: WeakKeyDictionary[nn.Module, _Found] = WeakKeyDictionary()


@contextmanager
def frozen_eval(module: nn.Module, anatomy: ModuleTree | None = None) -> Iterator[None]:
    """Holds a module in evaluation mode with frozen parameters, with autograd switched on.

    Its own Python runs: compiled code and gradient checkpointing are switched off meanwhile.

    It nests, and any number of threads may hold the same module: the first one in switches, the
    last one out restores. Autograd works inside whatever the caller's own mode is
    (``no_grad``, ``inference_mode``).

    Args:
        module: The model. The flags are set one by one rather than by ``eval()``, which some
            models override to do more than that.
        anatomy: Its parts, where they are at hand and current.
    """
    with _lock:
        found = _found.get(module)
        if found is None:
            found = _to_switch_off(anatomy or ModuleTree(module))
            for child in found.training:
                child.training = False
            for weight in found.learning:
                weight.requires_grad_(False)
            for child, name in found.checkpointing:
                vars(child)[name] = False
            _found[module] = found
        found.users += 1
    try:
        with (
            eager(compiled=found.compiled),
            torch.inference_mode(False),
            torch.enable_grad(),
        ):
            yield
    finally:
        with _lock:
            found.users -= 1
            if found.users == 0:
                del _found[module]
                for child in found.evaluating:
                    child.training = False  # some networks switch parts to training themselves
                for child in found.training:
                    child.training = True
                for weight in found.learning:
                    weight.requires_grad_(True)
                for child, name in found.checkpointing:
                    vars(child)[name] = True


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


def unusable(module: nn.Module) -> str | None:
    """The reason why no map can be made with a module's tensors; None if there is none.

    Args:
        module: The module, with its parameters, buffers, and tensors in plain attributes.
    """
    for name, tensor in _tensors_of(module):
        if tensor.is_meta:
            return (
                f"its tensor {name!r} is on the meta device: it has a shape, but no values. Load "
                "its weights first: module.to_empty(device='cpu'), then load_state_dict."
            )
        if tensor.is_inference():
            return (
                f"its tensor {name!r} was made under torch.inference_mode(), and autograd cannot "
                "use it. Build or load the module outside of inference mode; wrap_model also takes "
                "it as it is, and clones such tensors."
            )
    return None


def usable_copy(module: nn.Module) -> nn.Module | None:
    """A copy of a module in which tensors of inference mode are cloned; all others are shared.

    Returns:
        None if the module cannot be copied.
    """
    shared = {id(each): each for _, each in _tensors_of(module) if not each.is_inference()}
    try:
        return copy.deepcopy(module, dict[int, Any](shared))
    except Exception:  # noqa: BLE001 - whatever a module of the user's holds that has no copy
        return None


def _tensors_of(module: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Parameters, buffers and tensors in plain attributes, with their names."""
    for path, child in module.named_modules():
        for kept in (child._parameters, child._buffers, vars(child)):
            for name, value in kept.items():
                several = value if isinstance(value, (list, tuple)) else (value,)
                for tensor in several:
                    if isinstance(tensor, Tensor):
                        yield f"{path}.{name}" if path else name, tensor


def _to_switch_off(anatomy: ModuleTree) -> _Found:
    weights = chain.from_iterable(map(_VALUES, anatomy.parameters))
    learning = {id(each): each for each in weights if each is not None and each.requires_grad}
    training = [child for child in anatomy.modules if child.training]
    checkpointing = [
        each for each in anatomy.checkpoint_flags if vars(each[0]).get(each[1]) is True
    ]
    evaluating = [child for child in anatomy.modules if not child.training]
    return _Found(training, evaluating, list(learning.values()), checkpointing, anatomy.compiled)


def mixes_batch(module: nn.Module, anatomy: ModuleTree | None = None) -> bool:
    """Tells whether one image of a batch can change another's scores in evaluation mode.

    True for batch normalisation without running statistics: such a model sees one image at a
    time.

    Args:
        module: The model.
        anatomy: Its parts, where they are at hand and current.
    """
    found = (anatomy or ModuleTree(module)).batch_norms
    return any(child.running_mean is None for child in found)
