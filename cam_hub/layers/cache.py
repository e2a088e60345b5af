"""The layer cache: the layers of models loaded by their ID, one small JSON file per model and size.

A cache must never be the reason for a failure, so nothing here raises: a folder that cannot be
written is not used, a damaged or foreign file is ignored, and the next ``write`` replaces it.
"""

from __future__ import annotations

import functools
import hashlib
import json
import os
import re
import stat
import sys
import tempfile
import time
import weakref
from contextlib import suppress
from pathlib import Path
from types import FunctionType
from typing import Any

import torch
from torch import Tensor, fx, nn

from cam_hub.hooks.recording import foreign_hooks
from cam_hub.models.loaded_model import LoadedModel

__all__ = ["MAX_BYTES", "MAX_FILES", "cache_key", "folder", "read", "write"]

VERSION = 1
"""Raise it when discovery finds other layers, or describes them differently, for the same network.

A release of cam_hub, torch or timm does not empty the cache.
"""

MAX_FILES = 500
"""Maximum number of files; the oldest are deleted."""

MAX_BYTES = 8 * 2**20
"""Maximum size of a file; a larger one is neither written nor read."""

_KEY = re.compile(r"[0-9a-f]{64}")
_UNFINISHED = ".tmp"
_ABANDONED = 3600.0
"""Seconds after which an unfinished file counts as left over from a process that died."""

_PACKAGES = frozenset({"torch", "torchvision", "timm", "numpy"}) | sys.stdlib_module_names
"""Packages whose code may make up a network; the code of others may change without a trace."""

_NOT_SETTINGS = frozenset(vars(nn.Module())) | {
    "_compiled_call_impl",  # the same computation, compiled
    "pretrained_cfg",  # where weights come from
    "default_cfg",
}
"""Attributes of a module that are described otherwise, or do not change its output."""


def cache_key(model: LoadedModel, size: tuple[int, ...]) -> str | None:
    """The key of a model's layers: a hash of the network's structure, its origin and the input.

    The structure is every submodule's name, class and plain attributes (strides, numbers of
    heads), and the names, shapes and types of parameters and buffers. Values of weights do not
    count: source and revision identify them, and random weights are taken as equivalent.

    Args:
        model: The model.
        size: Shape of the input, without the batch.

    Returns:
        64 hexadecimal digits, or None if the layers must not be cached: for a wrapped module, for
        hooks, and for classes or functions that are not from torch, torchvision, timm or Python.
    """
    head = model.task.head
    if model.pretrained is None or (head is not None and callable(head.choice)):
        return None
    described = [
        [VERSION, model.source, model.revision, model.pretrained],
        [model.task.name, "" if head is None else head.name],
        [size, str(model.dtype)],
    ]
    try:
        if nn.modules.module._has_any_global_hook():  # type: ignore[no-untyped-call]
            return None
        kinds: dict[type, None] = {}  # in order
        for name, part in model.module.named_modules():
            described.append([name, *_structure(part)])
            kinds[type(part)] = None
        described += map(_replaced_methods, kinds)
        text = json.dumps(described, default=_described)
    except Exception:  # noqa: BLE001 - odd modules fail oddly; they are not cached
        return None
    return hashlib.sha256(text.encode()).hexdigest()


def _structure(part: nn.Module) -> list[Any]:
    """Class, tensors and settings of one module, without its children.

    Raises:
        TypeError: If no version of a package determines its code.
    """
    hooked = foreign_hooks(part) or part._backward_hooks or part._backward_pre_hooks
    if hooked or isinstance(part, (torch.jit.ScriptModule, fx.GraphModule)):
        raise TypeError
    tensors = [*part._parameters.items(), *part._buffers.items()]
    settings: list[Any] = []
    for name in sorted(vars(part).keys() - _NOT_SETTINGS):
        value = vars(part)[name]
        if isinstance(value, dict):
            # Forward passes store tensors there, by size or device.
            value = {str(key): each for key, each in value.items() if not isinstance(each, Tensor)}
        settings.append([name, value])
    return [type(part), tensors, settings]


def _replaced_methods(kind: type) -> list[Any]:
    """The functions of a class, and of those that it is derived from, that stem from elsewhere."""
    found: list[Any] = []
    for base in kind.__mro__:
        if base is nn.Module:  # to which other packages add methods
            continue
        for name, value in vars(base).items():
            code = getattr(value, "__func__", getattr(value, "fget", value))
            if isinstance(code, FunctionType) and (
                code.__qualname__ != f"{base.__qualname__}.{name}"
                or {code.__module__, code.__globals__.get("__name__")} != {base.__module__}
            ):
                found.append([base, name, code])
    return found


def _described(value: Any) -> Any:
    """A value that JSON has no form for: the name of its code, and attributes of an object.

    Raises:
        TypeError: If that is not one of the packages whose code is known.
    """
    if isinstance(value, Tensor):
        return [value.shape, str(value.dtype)]
    if isinstance(value, (set, frozenset)):
        return sorted(map(repr, value))
    if isinstance(value, functools.partial):
        return [value.func, value.args, value.keywords]
    if isinstance(value, (torch.dtype, torch.memory_format, torch.device)):
        return str(value)
    if isinstance(value, (range, slice, bytes, complex)):
        return repr(value)
    is_code = hasattr(value, "__qualname__")
    code = value if is_code else type(value)
    # functools.wraps changes a function's __module__, but not its globals.
    module = getattr(code, "__globals__", {}).get("__name__", code.__module__) or "builtins"
    if module.partition(".")[0] not in _PACKAGES:
        raise TypeError
    name = f"{module}.{code.__qualname__}"
    if is_code or isinstance(value, weakref.ref):
        return name
    return [name, vars(value)]  # a TypeError for values of NumPy and others without attributes


def folder() -> Path | None:
    """The folder of the cache, by the environment at the time of the call.

    Returns:
        ``layers`` in ``$CAM_HUB_CACHE``, else in ``$XDG_CACHE_HOME/cam_hub``, else in
        ``~/.cache/cam_hub``; it need not exist. None if ``CAM_HUB_CACHE`` is empty or ``off``, or
        the home folder is unknown.
    """
    chosen = os.environ.get("CAM_HUB_CACHE")
    if chosen is not None and chosen.strip().lower() in ("", "off"):
        return None
    shared = os.environ.get("XDG_CACHE_HOME", "")
    try:
        if chosen is not None:
            return Path(chosen).expanduser() / "layers"
        # The XDG specification has relative paths ignored.
        base = Path(shared) if Path(shared).is_absolute() else Path.home() / ".cache"
    except RuntimeError:
        return None
    return base / "cam_hub" / "layers"


def read(key: str) -> Any | None:
    """Reads what ``write`` stored under a key; changes nothing on disk.

    Args:
        key: 64 hexadecimal digits, from ``cache_key``.

    Returns:
        The payload as JSON (tuples have become lists), or None if there is none: no file, no
        cache, or a file that is damaged, too large, not a regular file, or not this key's.
    """
    path = _path(key)
    # RecursionError (nested too deeply) is a RuntimeError, a number too long a ValueError.
    with suppress(OSError, ValueError, RuntimeError, MemoryError):
        found = path and path.lstat()  # links are not followed, pipes not opened
        if path and found and stat.S_ISREG(found.st_mode) and found.st_size <= MAX_BYTES:
            entry = json.loads(path.read_bytes())
            if isinstance(entry, dict) and entry == _entry(key, entry.get("payload")):
                return entry["payload"]
    return None


def write(key: str, payload: Any) -> None:
    """Stores a payload under a key, in place of an earlier one; does nothing if it cannot.

    Safe with any number of processes and threads at once: a file appears whole or not at all.

    Args:
        key: 64 hexadecimal digits, from ``cache_key``.
        payload: A value that JSON can hold; no other is stored.
    """
    path = _path(key)
    with suppress(OSError, TypeError, ValueError, RuntimeError, MemoryError):
        content = json.dumps(_entry(key, payload), separators=(",", ":")).encode()
        if path is None or len(content) > MAX_BYTES:
            return
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, unfinished = tempfile.mkstemp(_UNFINISHED, path.name, path.parent)
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(content)
            with suppress(OSError):  # an empty folder in the file's place; a full one stays
                path.rmdir()
            Path(unfinished).replace(path)
        finally:
            Path(unfinished).unlink(missing_ok=True)
        _prune(path.parent)


def _entry(key: str, payload: Any) -> dict[str, Any]:
    """The content of a file. The digest shows damage that leaves the JSON valid."""
    digest = hashlib.sha256(json.dumps(payload).encode()).hexdigest()
    return {"key": key, "sha256": digest, "payload": payload}


def _path(key: str) -> Path | None:
    root = folder()
    return root / f"{key}.json" if root is not None and _KEY.fullmatch(key) else None


def _prune(root: Path) -> None:
    """Deletes the oldest files above ``MAX_FILES``, and unfinished ones that were left behind.

    Files whose names do not begin with a key stay.
    """
    files: list[tuple[float, Path]] = []
    for path in root.iterdir():
        if _KEY.match(path.name):
            with suppress(FileNotFoundError):  # another process prunes, too
                files.append((path.lstat().st_mtime, path))
    doomed = sorted(files)[: max(len(files) - MAX_FILES, 0)]
    stale = time.time() - _ABANDONED
    doomed += [(age, path) for age, path in files if path.suffix == _UNFINISHED and age < stale]
    for _, path in doomed:
        with suppress(OSError):
            path.unlink()
