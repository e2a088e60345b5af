"""Temporarily puts a network into frozen eval mode, in which its own Python code runs.

While a model is explained it must be in evaluation mode, and its parameters must not ask for
gradients (or autograd would keep what only their gradients need). Hooks must see every layer, once:
compiled code (``torch.compile``) either leaves them out or is compiled again because of them, and
checkpointing runs layers a second time during the backward pass, without hooks. Both only change
how a result is computed, so they are switched off meanwhile. Afterwards everything is as before,
also when several threads explain with one model at once.
"""

from __future__ import annotations

import copy
import threading
from collections.abc import Callable, Hashable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from contextvars import ContextVar
from dataclasses import dataclass, field
from itertools import chain
from operator import attrgetter, methodcaller
from types import FunctionType, MethodType
from typing import Any
from weakref import WeakKeyDictionary

import torch
import torch.utils.checkpoint
from torch import Tensor, nn

from cam_hub.hooks.recording import foreign_hooks

__all__ = [
    "ModuleTree",
    "frozen_eval",
    "mixes_batch",
    "unusable",
    "unwrapped",
    "usable_copy",
    "walk",
]


class ModuleTree:
    """The parts of a network as they were found, so that they need not be looked for again.

    It holds the network. Before each use, ``current`` must be checked.

    Attributes:
        modules: Every submodule once, the network itself included.
        parameters: Where they keep their parameters, by name; those that have any.
        identities: Numbers that distinguish the parts from others while they are held.
        compiled: Whether an attribute or a method was compiled, or a part is a compiled wrapper.
            ``module.compile()``, which can be called at any time, is not looked at.
        checkpoint_flags: Attributes that switch gradient checkpointing on, by their names. Where
            they are on, some networks call the parts of a stage rather than the stage itself.
    """

    def __init__(self, module: nn.Module) -> None:
        self.modules = walk(module)
        self.parameters: list[dict[str, Any]] = []
        self._buffers: list[dict[str, Any]] = []
        self._parts: list[dict[str, Any]] = []
        # Most modules keep nothing of a kind. That they still do is asked of all at once.
        self._empty: list[dict[str, Any]] = []
        self._hooks: list[dict[int, Any]] = []
        self.compiled = False
        self.checkpoint_flags: list[tuple[nn.Module, str]] = []
        for child in self.modules:
            (self.parameters if child._parameters else self._empty).append(child._parameters)
            (self._buffers if child._buffers else self._empty).append(child._buffers)
            (self._parts if child._modules else self._empty).append(child._modules)
            self._hooks += child._forward_hooks, child._forward_pre_hooks
            if "_orig_mod" in child._modules or _has_compiled_method(type(child)):
                self.compiled = True
            for name, value in vars(child).items():
                if type(value) in _FUNCTIONS:
                    self.compiled = self.compiled or hasattr(value, _ORIGINAL)
                elif isinstance(value, bool) and "checkpoint" in name:
                    self.checkpoint_flags.append((child, name))
        self.identities = tuple(map(id, chain.from_iterable(map(_VALUES, self._parts))))

    @property
    def current(self) -> bool:
        """Whether the network still has the same parts."""
        children = chain.from_iterable(map(_VALUES, self._parts))
        return not any(self._empty) and self.identities == tuple(map(id, children))

    def state(self) -> tuple[Hashable, ...] | None:
        """What of a network changes when its answers may: parts, weights, buffers, hooks.

        Writing to a weight counts (``load_state_dict``, a step of an optimiser, anything in place),
        and so does putting another weight or module in its place. What is not seen: writing through
        ``weight.data``, and changing a plain attribute of a module.

        Returns:
            The parts, places in memory, counts of writes, and hooks.
            None where that is unknown (tensors made in inference mode keep no count of writes).
        """
        kept = chain.from_iterable(map(_VALUES, chain(self.parameters, self._buffers)))
        tensors = list(filter(torch.is_tensor, kept))
        try:
            writes = tuple(map(_WRITES, tensors))
        except RuntimeError:  # made in inference mode, which counts no writes
            return None
        hooks: list[int] = []
        if any(self._hooks):
            hooks = [id(hook) for child in self.modules for hook in foreign_hooks(child)]
        return self.identities, tuple(map(Tensor.data_ptr, tensors)), writes, tuple(hooks)


_VALUES = methodcaller("values")
_WRITES = attrgetter("_version")
_TRAINING = attrgetter("training")
_COMPILED_IN_PLACE = attrgetter("_compiled_call_impl")

_ORIGINAL = "_torchdynamo_orig_callable"
"""Where a function that ``torch.compile`` returned keeps the one that it was made from."""


_methods: WeakKeyDictionary[type, bool] = WeakKeyDictionary()


def _has_compiled_method(kind: type) -> bool:
    if kind not in _methods:
        _methods[kind] = any(
            type(value) in _FUNCTIONS and hasattr(value, _ORIGINAL)
            for parent in kind.__mro__
            if not parent.__module__.startswith("torch.")
            for value in vars(parent).values()
        )
    return _methods[kind]


_FUNCTIONS = frozenset((FunctionType, MethodType))  # which have no subclasses


class _Switch:
    """A process-wide state that lasts while at least one thread needs it.

    Args:
        state: Makes the context in which it lasts.
    """

    def __init__(self, state: Callable[[], AbstractContextManager[Any]]) -> None:
        self._state = state
        self._lock = threading.Lock()
        self._users = 0
        self._current: AbstractContextManager[Any] = nullcontext()

    @contextmanager
    def on(self) -> Iterator[None]:
        with self._lock:
            if self._users == 0:
                self._current = self._state()
                self._current.__enter__()
            self._users += 1
        try:
            yield
        finally:
            with self._lock:
                self._users -= 1
                if self._users == 0:
                    self._current.__exit__(None, None, None)


_plain: ContextVar[bool] = ContextVar("cam_hub_plain_forward", default=False)
"""Whether this thread's networks run without gradient checkpointing."""

_checkpoint: Any = torch.utils.checkpoint
_replaced: dict[str, Any] = {}
"""The two parts that checkpointing consists of, while ours are in their place."""


class _Reentrant(_checkpoint.CheckpointFunction):  # type: ignore[misc]
    @classmethod
    def apply(cls, function: Callable[..., Any], preserve: bool, *args: Any) -> Any:
        if _plain.get():
            return function(*args)
        return _replaced["CheckpointFunction"].apply(function, preserve, *args)


def _without_reentry(*args: Any, **named: Any) -> Any:
    return nullcontext() if _plain.get() else _replaced["_checkpoint_hook"](*args, **named)


@contextmanager
def _checkpointing_by_thread() -> Iterator[None]:
    """Checkpointing depends on the calling thread's ``_plain``."""
    for name, ours in (("CheckpointFunction", _Reentrant), ("_checkpoint_hook", _without_reentry)):
        if hasattr(_checkpoint, name):
            _replaced[name] = getattr(_checkpoint, name)
            setattr(_checkpoint, name, ours)
    try:
        yield
    finally:
        vars(_checkpoint).update(_replaced)


_FORCE_EAGER = _Switch(lambda: torch.compiler.set_stance("force_eager"))
_NO_CHECKPOINTING = _Switch(_checkpointing_by_thread)


@dataclass
class _Found:
    """What was switched off in a model, and how many are relying on it."""

    modules: list[nn.Module]
    training: list[nn.Module]
    compiled: bool
    learning: list[nn.Parameter] = field(default_factory=list)
    checkpointing: list[tuple[nn.Module, str]] = field(default_factory=list)
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
        anatomy: Its parts, where they are known and current.
    """
    with _lock:
        found = _found.get(module)
        if found is None:
            parts = anatomy or ModuleTree(module)
            # Torch's switch holds for all threads: it is used only where code is compiled.
            compiled = parts.compiled or any(map(_COMPILED_IN_PLACE, parts.modules))
            found = _Found(parts.modules, list(filter(_TRAINING, parts.modules)), compiled)
            for child in found.training:
                child.training = False
            for weight in chain.from_iterable(map(_VALUES, parts.parameters)):
                if weight is not None and weight.requires_grad:
                    found.learning.append(weight)
                    weight.requires_grad_(False)
            for child, name in parts.checkpoint_flags:
                if vars(child).get(name) is True:
                    found.checkpointing.append((child, name))
                    vars(child)[name] = False
            _found[module] = found
        found.users += 1
    plain = _plain.set(True)
    try:
        with (
            _FORCE_EAGER.on() if found.compiled else nullcontext(),
            _NO_CHECKPOINTING.on(),
            torch.inference_mode(False),
            torch.enable_grad(),
        ):
            yield
    finally:
        _plain.reset(plain)
        with _lock:
            found.users -= 1
            if found.users == 0:
                del _found[module]
                for child in found.modules:
                    child.training = False  # some networks switch parts to training themselves
                for child in found.training:
                    child.training = True
                for weight in found.learning:
                    weight.requires_grad_(True)
                for child, name in found.checkpointing:
                    vars(child)[name] = True


_WRAPPERS = (nn.DataParallel, nn.parallel.DistributedDataParallel)


def unwrapped(module: nn.Module) -> nn.Module:
    """The network inside of ``torch.compile``, ``DataParallel`` and ``DistributedDataParallel``.

    It is the part to call: the wrappers compile, or spread a batch over devices and processes.
    """
    while True:
        if isinstance(module, _WRAPPERS):
            module = module.module
        elif "_orig_mod" in module._modules:
            module = module.get_submodule("_orig_mod")
        else:
            return module


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


def mixes_batch(module: nn.Module) -> bool:
    """Whether one image of a batch can change another's scores in evaluation mode.

    True for batch normalisation without running statistics: such a model sees one image at a
    time.
    """
    return any(
        isinstance(child, nn.modules.batchnorm._BatchNorm)
        and not isinstance(child, nn.modules.instancenorm._InstanceNorm)
        and child.running_mean is None
        for child in walk(module)
    )
