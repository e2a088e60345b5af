"""A name for what a network computes, its weights' values left out.

Two networks of one fingerprint run the same code with the same settings on inputs of the same
size, so what the experiment found out about one holds for the other. That can only be told of
classes whose code is fixed by a version number: those of torch, torchvision and timm.
"""

from __future__ import annotations

import functools
import hashlib
import importlib.util
import json
import re
import sys
import types
import weakref
from collections.abc import Callable, Iterable, Mapping
from enum import Enum
from pathlib import Path
from typing import Any

import numpy as np
import timm
import torch
import torchvision
from torch import Tensor, nn
from torch.nn.modules import module as torch_module

from cam_hub._version import __version__

__all__ = ["fingerprint", "versions"]

_VERSIONED = frozenset({"torch", "torchvision", "timm"})
"""Packages whose classes may make up a network: their versions are part of the fingerprint."""

_OURS = "cam_hub.hooks.recording"
"""Where our own hooks come from; another thread's pass may be under way."""

_HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")

_BESIDE = frozenset(vars(nn.Module())) | {
    "_compiled_call_impl",  # the same computation, compiled
    "pretrained_cfg",  # where weights come from, which computes nothing
    "default_cfg",
}
"""Attributes of a module that are described otherwise, or that change nothing in its output."""

_ADDRESS = re.compile(r" at 0x[0-9a-fA-F]+")


class _Unknown(Exception):
    """Something takes part in the network whose code no version number fixes."""


def fingerprint(
    module: nn.Module,
    input_size: tuple[int, ...],
    *,
    dtype: torch.dtype,
    extra: Mapping[str, str],
) -> str | None:
    """Names an experiment: the network without its weights' values, the input, and the versions.

    What counts: every submodule's class, ``extra_repr`` and plain attributes (strides, numbers of
    heads, flags, functions); names, shapes and types of parameters and buffers; hooks; the
    arguments below; ``versions()``. What does not: values of weights, training or evaluation mode,
    ``requires_grad``, the device, the process.

    Args:
        module: The network.
        input_size: Shape of one input.
        dtype: Type of that input.
        extra: Anything else that the answer depends on, such as where the weights come from.

    Returns:
        64 hexadecimal digits, or None where no such name would be safe: a class, a function or a
        hook that is not from torch, torchvision, timm or Python itself takes part (its code may
        change without a trace), or TorchScript and traced graphs, whose code is data.
    """
    try:
        described = [
            _Description().module(module),
            [int(length) for length in input_size],
            str(dtype),
            sorted((str(key), str(value)) for key, value in extra.items()),
            sorted(versions().items()),
        ]
        text = json.dumps(described)
    except Exception:  # noqa: BLE001 - odd modules fail oddly; they merely go without a cache
        return None
    return hashlib.sha256(text.encode()).hexdigest()


@functools.cache
def versions() -> Mapping[str, str]:
    """What an answer holds for: the packages' versions, and a digest of our own source.

    The digest keeps answers of an earlier experiment out where code changes between releases.
    """
    package = Path(__file__).parent.parent
    digest = hashlib.sha256()
    for path in sorted(package.rglob("*.py")):
        digest.update(path.relative_to(package).as_posix().encode() + b"\0")
        digest.update(hashlib.sha256(path.read_bytes()).digest())
    return {
        "cam_hub": __version__,
        "source": digest.hexdigest(),
        "torch": str(torch.__version__),
        "torchvision": str(torchvision.__version__),
        "timm": str(timm.__version__),
    }


class _Description:
    """Describes one network as nested lists that JSON can hold.

    Modules and objects are numbered as they are met, so that one met again is told from its copy,
    and circles end.
    """

    def __init__(self) -> None:
        self._numbers: dict[int, int] = {}
        self._sound: set[type] = set()

    def module(self, module: nn.Module) -> list[Any]:
        number = self._numbers.get(id(module))
        if number is not None:
            return ["again", number]
        self._numbers[id(module)] = len(self._numbers)
        if isinstance(module, torch.jit.ScriptModule):
            raise _Unknown
        attributes = vars(module)
        return [
            "module",
            self._class(type(module)),
            _ADDRESS.sub("", module.extra_repr()),
            [[name, _tensor(tensor)] for name, tensor in module._parameters.items()],
            [[name, _tensor(tensor)] for name, tensor in module._buffers.items()],
            [
                [name, self._value(attributes[name])]
                for name in sorted(attributes)
                if name not in _BESIDE
            ],
            self._hooks(module),
            [
                [name, None if child is None else self.module(child)]
                for name, child in module._modules.items()
            ],
        ]

    def _hooks(self, module: nn.Module) -> list[Any]:
        # Hooks for all modules at once count as each one's. Copies: threads come and go.
        places = [getattr(module, name) for name in _HOOKS]
        places += [getattr(torch_module, "_global" + name) for name in _HOOKS]
        return [
            [place, self._value(hook)]
            for place, hooks in enumerate(places)
            if hooks
            for hook in list(hooks.values())
            if _home(hook) != _OURS
        ]

    def _value(self, value: Any) -> Any:
        """An attribute's value: what it is made of, never where it lies in memory."""
        kind = type(value)
        if value is None or kind in (bool, int, float, str):
            return value
        if kind in (tuple, list, torch.Size):
            return [kind.__name__, *map(self._value, value)]
        if isinstance(value, Enum):
            return ["enum", self._class(kind), value.name]
        if isinstance(value, Tensor):
            return _tensor(value)
        if isinstance(value, nn.Module):
            return self.module(value)
        if isinstance(value, Mapping) and kind.__module__ in ("builtins", "collections"):
            # Tensors that a pass keeps by size or device are no setting.
            items = [item for item in value.items() if not isinstance(item[1], Tensor)]
            return ["dict", *([self._value(key), self._value(one)] for key, one in items)]
        if kind in (set, frozenset):
            return ["set", *sorted(json.dumps(self._value(part)) for part in value)]
        if isinstance(value, np.generic):
            return ["scalar", str(value.dtype), repr(value.item())]
        if isinstance(value, (torch.dtype, torch.memory_format, torch.layout)):
            return ["constant", str(value)]
        if isinstance(value, (torch.device, weakref.ref)):
            return [kind.__name__]
        return self._code(value)

    def _code(self, value: Any) -> list[Any]:
        """Something that runs or may run: a function, a class, an object with methods."""
        if isinstance(value, type):
            return ["class", self._class(value)]
        if isinstance(value, functools.partial):
            parts = (value.func, value.args, value.keywords)
            return ["partial", *map(self._value, parts)]
        if isinstance(value, types.MethodType):
            return ["method", self._value(value.__func__), self._value(value.__self__)]
        if isinstance(value, types.FunctionType):
            cells = [cell.cell_contents for cell in value.__closure__ or ()]
            kept = [cells, value.__defaults__, value.__kwdefaults__]
            line = value.__code__.co_firstlineno
            return ["function", _path(value), line, *map(self._value, kept)]
        if isinstance(value, (types.BuiltinFunctionType, types.BuiltinMethodType)):
            return ["builtin", *_builtin(value)]
        number = self._numbers.get(id(value))
        if number is not None:
            return ["again", number]
        self._numbers[id(value)] = len(self._numbers)
        # An object without a __dict__ hides its state: TypeError, so no fingerprint.
        attributes = vars(value)
        described = [[name, self._value(attributes[name])] for name in sorted(attributes)]
        return ["object", self._class(type(value)), described]

    def _class(self, cls: type) -> str:
        """A class's path, once it is known to be what its package ships, methods included."""
        if cls not in self._sound:
            found: Any = sys.modules.get(cls.__module__)
            for name in cls.__qualname__.split("."):
                found = getattr(found, name, None)
            if found is not cls:
                raise _Unknown  # made while the program ran, or replaced
            for base in cls.__mro__:
                if base not in self._sound:
                    _require(base.__module__)
                    for name, member in vars(base).items():
                        for function in _functions([member]):
                            if not _is_known(_home(function)) and not _is_unused_addition(
                                base, name
                            ):
                                raise _Unknown
                    self._sound.add(base)
        return f"{cls.__module__}.{cls.__qualname__}"


def _tensor(tensor: Tensor | None) -> list[Any] | None:
    return None if tensor is None else ["tensor", *tensor.shape, str(tensor.dtype)]


def _functions(values: Iterable[Any]) -> Iterable[Callable[..., Any]]:
    """The Python functions among a class's members, with those that they wrap."""
    for member in values:
        inner = member.fget if isinstance(member, property) else member
        function = getattr(inner, "__func__", inner)
        while isinstance(function, types.FunctionType):
            yield function
            function = getattr(function, "__wrapped__", None)


def _is_unused_addition(cls: type, name: str) -> bool:
    """Whether a name was added to ``nn.Module`` by others, and occurs nowhere in torch's own code.

    Importing transformers adds a method for its own models to ``nn.Module``. No other network runs
    differently for that.
    """
    return cls is nn.Module and not hasattr(object, name) and name not in _names_of_torch()


@functools.cache
def _names_of_torch() -> frozenset[str]:
    """The names that the file of ``nn.Module`` defines or mentions."""
    spec = importlib.util.find_spec(nn.Module.__module__)
    loader: Any = spec.loader if spec is not None else None
    return frozenset(_mentioned(loader.get_code(nn.Module.__module__)))


def _mentioned(code: types.CodeType) -> set[str]:
    names = {*code.co_names, *(part for part in code.co_consts if isinstance(part, str))}
    for part in code.co_consts:
        if isinstance(part, types.CodeType):
            names |= _mentioned(part)
    return names


def _home(function: Any) -> str | None:
    """The module in which a function was written, whatever ``functools.wraps`` made it say."""
    code = getattr(function, "__func__", function)
    if isinstance(code, types.FunctionType):
        name = code.__globals__.get("__name__")
        return name if isinstance(name, str) else None
    return type(function).__module__


def _is_known(home: str | None) -> bool:
    """Whether code is from the versioned packages or Python's own library."""
    root = (home or "").partition(".")[0]
    return root in _VERSIONED or root in sys.stdlib_module_names


def _require(home: str | None) -> None:
    """Refuses code from any other place."""
    if not _is_known(home):
        raise _Unknown


def _path(function: types.FunctionType) -> str:
    home = _home(function)
    _require(home)
    return f"{home}.{function.__qualname__}"


def _builtin(function: types.BuiltinFunctionType | types.BuiltinMethodType) -> tuple[str, str]:
    owner = function.__self__
    home = function.__module__ or (owner if isinstance(owner, type) else type(owner)).__module__
    _require(home)
    return home, function.__qualname__
