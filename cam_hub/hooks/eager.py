"""Runs a network's own Python: no compiled code, no gradient checkpointing.

Hooks must see every layer, once. Compiled code (``torch.compile``) either leaves them out or is
compiled again because of them, and checkpointing runs layers a second time during the backward
pass, without hooks. Both only change how a result is computed. Here they are switched off for the
time of a pass, without writing to the network.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from contextvars import ContextVar
from types import FunctionType, MethodType
from typing import Any
from weakref import WeakKeyDictionary

import torch
import torch.utils.checkpoint
from torch import nn

__all__ = ["eager", "has_compiled_functions", "unwrapped"]

_WRAPPERS = (nn.DataParallel, nn.parallel.DistributedDataParallel)

_ORIGINAL = "_torchdynamo_orig_callable"
"""Where a function that ``torch.compile`` returned keeps the one that it was made from."""


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


def has_compiled_functions(modules: Sequence[nn.Module]) -> bool:
    """Whether an attribute or a method of a module was compiled, or a part is a compiled wrapper.

    ``module.compile()``, which can be called at any time, is not looked at.
    """
    return any(
        "_orig_mod" in child._modules
        or any(_is_compiled(each) for each in vars(child).values() if type(each) in _FUNCTIONS)
        or _has_compiled_method(type(child))
        for child in modules
    )


@contextmanager
def eager(*, compiled: bool) -> Iterator[None]:
    """Runs code of the calling thread without gradient checkpointing, and not compiled.

    Args:
        compiled: Whether there is compiled code. Only then is torch's own switch used
            (``torch.compiler.set_stance``), which holds for all threads.
    """
    with ExitStack() as stack:
        if compiled:
            stack.enter_context(_FORCE_EAGER.on())
        stack.enter_context(_NO_CHECKPOINTING.on())
        token = _plain.set(True)
        try:
            yield
        finally:
            _plain.reset(token)


_plain: ContextVar[bool] = ContextVar("cam_hub_plain_forward", default=False)


class _Switch:
    """Something process-wide that is on while at least one thread needs it.

    Args:
        turn_on: Turns it on; returns what turns it off again.
    """

    def __init__(self, turn_on: Callable[[], Callable[[], object]]) -> None:
        self._turn_on = turn_on
        self._lock = threading.Lock()
        self._users = 0
        self._turn_off: Callable[[], object] = int

    @contextmanager
    def on(self) -> Iterator[None]:
        with self._lock:
            if self._users == 0:
                self._turn_off = self._turn_on()
            self._users += 1
        try:
            yield
        finally:
            with self._lock:
                self._users -= 1
                if self._users == 0:
                    self._turn_off()


def _force_eager() -> Callable[[], object]:
    stance = torch.compiler.set_stance("force_eager")
    stance.__enter__()
    return lambda: stance.__exit__(None, None, None)


def _switch_checkpointing_off() -> Callable[[], object]:
    """Replaces the two parts that checkpointing consists of by ones that ask the calling thread."""
    place: Any = torch.utils.checkpoint
    reentrant: Any = place.CheckpointFunction
    hook: Any = getattr(place, "_checkpoint_hook", None)

    class Reentrant(reentrant):  # type: ignore[misc]
        @classmethod
        def apply(cls, function: Callable[..., Any], preserve: bool, *args: Any) -> Any:
            if _plain.get():
                return function(*args)
            return reentrant.apply(function, preserve, *args)

    def without_reentry(*args: Any, **named: Any) -> Any:
        return nullcontext() if _plain.get() else hook(*args, **named)

    place.CheckpointFunction = Reentrant
    if hook is not None:
        place._checkpoint_hook = without_reentry

    def restore() -> None:
        place.CheckpointFunction = reentrant
        if hook is not None:
            place._checkpoint_hook = hook

    return restore


_FORCE_EAGER = _Switch(_force_eager)
_NO_CHECKPOINTING = _Switch(_switch_checkpointing_off)

_methods: WeakKeyDictionary[type, bool] = WeakKeyDictionary()


def _has_compiled_method(kind: type) -> bool:
    if kind not in _methods:
        _methods[kind] = any(
            _is_compiled(value)
            for parent in kind.__mro__
            if not parent.__module__.startswith("torch.")
            for value in vars(parent).values()
        )
    return _methods[kind]


_FUNCTIONS = frozenset((FunctionType, MethodType))  # which have no subclasses


def _is_compiled(value: object) -> bool:
    return type(value) in _FUNCTIONS and hasattr(value, _ORIGINAL)
