"""torch's modes as they are by default, whatever the caller has set.

Models, layers that were found and recent passes outlive the call that made them, and threads with
other modes share them. So nothing about them may depend on a caller's default type or device,
inference mode, autocast, or function modes.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch.utils import _python_dispatch as dispatch

__all__ = ["default_modes"]

_DEVICE_TYPES = ("cpu", "cuda", "mps", "xpu")


@contextmanager
def default_modes() -> Iterator[None]:
    """Runs a block, or as a decorator a function, with torch's default modes.

    Autograd is enabled, without inference mode and anomaly detection; the default type is float32
    and the default device the CPU; autocast, function modes and dispatch modes are off. Where
    ``torch.use_deterministic_algorithms(True)`` was called, operations without a deterministic
    implementation warn instead of raising an error.

    Everything is restored afterwards. It nests, and several threads may be inside at once: the
    default type, anomaly detection and determinism, which torch has only once per process, are
    changed if they differ from the default, and restored when the last thread leaves.
    """
    changed = (  # which takes a few microseconds to find out
        _users
        or not torch.is_grad_enabled()
        or torch.is_inference_mode_enabled()
        or torch.get_default_dtype() != torch.float32
        or torch.is_anomaly_enabled()
        or torch.are_deterministic_algorithms_enabled()
        or torch._C._len_torch_function_stack()
        or torch._C._len_torch_dispatch_stack()
        or any(map(torch.is_autocast_enabled, _DEVICE_TYPES))
    )
    if not changed:
        yield
        return
    with ExitStack() as stack:
        stack.enter_context(_process_modes())
        stack.enter_context(_function_modes())
        if torch._C._len_torch_dispatch_stack():
            stack.enter_context(dispatch._disable_current_modes())
        for device in _DEVICE_TYPES:
            if torch.is_autocast_enabled(device):
                torch.set_autocast_enabled(device, False)
                stack.callback(torch.set_autocast_enabled, device, True)
        stack.enter_context(torch.inference_mode(False))
        stack.enter_context(torch.enable_grad())
        yield


_lock = threading.Lock()
_users = 0
_restore: list[Callable[[], Any]] = []


@contextmanager
def _process_modes() -> Iterator[None]:
    """Changes what torch has once per process, for the time in which any thread is inside."""
    global _users  # noqa: PLW0603 - as many as torch's own settings
    with _lock:
        _users += 1
        _reset_process()
    try:
        yield
    finally:
        with _lock:
            _users -= 1
            while not _users and _restore:
                _restore.pop()()


def _reset_process() -> None:
    kind = torch.get_default_dtype()
    if kind != torch.float32:
        torch.set_default_dtype(torch.float32)
        _restore.append(lambda: torch.set_default_dtype(kind))
    if torch.is_anomaly_enabled():
        check = torch.is_anomaly_check_nan_enabled()
        torch.autograd.set_detect_anomaly(False)
        _restore.append(lambda: torch.autograd.set_detect_anomaly(True, check))
    strict = not torch.is_deterministic_algorithms_warn_only_enabled()
    if torch.are_deterministic_algorithms_enabled() and strict:
        torch.use_deterministic_algorithms(True, warn_only=True)
        _restore.append(lambda: torch.use_deterministic_algorithms(True))


@contextmanager
def _function_modes() -> Iterator[None]:
    """Takes this thread's function modes away, the default device among them."""
    modes = [
        torch._C._pop_torch_function_stack() for _ in range(torch._C._len_torch_function_stack())
    ]
    default = getattr(torch._GLOBAL_DEVICE_CONTEXT, "device_context", None)
    if default is not None:
        torch._GLOBAL_DEVICE_CONTEXT.device_context = None
    try:
        yield
    finally:
        if default is not None:
            torch._GLOBAL_DEVICE_CONTEXT.device_context = default
        for mode in reversed(modes):
            torch._C._push_on_torch_function_stack(mode)
