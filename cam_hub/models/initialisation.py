"""Networks built without initialising weights that a checkpoint overwrites."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable
from types import FrameType
from typing import Any

import torch
from torch import Tensor, nn
from torch.multiprocessing.reductions import StorageWeakRef
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves

from cam_hub.errors import ModelRefused

__all__ = ["build_on_meta", "build_without_initialisation", "convert", "wake"]


_LARGEST_STEP = 2**28
"""Elements of one intermediate result; among all of timm's architectures the largest tensor of any
kind is a parameter of 2**27 elements."""


class _Meter(TorchFunctionMode):
    """Counts what a constructor asks of torch."""

    def __init__(self, id: str, calls: int, poll: Callable[[], None]) -> None:
        super().__init__()
        self.id = id
        self.poll = poll
        self.calls = 0
        self.max_calls = calls

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if getattr(func, "__name__", "") == "_set_grad_enabled":  # restoring a mode must not fail
            return func(*args, **(kwargs or {}))
        self.calls += 1
        self.poll()
        if self.calls > self.max_calls:
            raise ModelRefused(
                self.id, "it asks for a network of far more layers than its file has weights for."
            )
        result = func(*args, **(kwargs or {}))
        if isinstance(result, Tensor) and result.numel() > _LARGEST_STEP:
            raise ModelRefused(
                self.id,
                f"it asks for a network of which one tensor alone has {result.numel():,} elements.",
            )
        return result


def build_on_meta(
    id: str,
    construct: Callable[[], nn.Module],
    calls: int,
    poll: Callable[[], None] = lambda: None,
) -> nn.Module:
    """Builds a network on torch's "meta" device.

    Args:
        id: The model's ID, for messages.
        construct: Builds it, with random weights.
        calls: How many calls of torch's functions that may take.
        poll: Called at each of them; what it raises ends the trial.

    Raises:
        ModelRefused: If it takes more, or makes a tensor beyond all reason on the way.
    """
    with torch.device("meta"), _Meter(id, calls, poll):
        return construct()


_WRITES = {"__setitem__", "__iadd__", "__isub__", "__imul__", "__itruediv__", "__ipow__"}
"""Functions that write to their first argument, though their names do not end in one ``_``."""

_RESHAPES = {
    *("as_strided_", "detach_", "rename_", "requires_grad_", "resize_", "resize_as_", "set_"),
    *("share_memory_", "squeeze_", "swapaxes_", "swapdims_", "t_", "transpose_", "unsqueeze_"),
}
"""Functions that change a tensor, but none of its values."""

_FACTS = _RESHAPES | {
    *("__hash__", "__len__", "__set__", "_set_grad_enabled", "data_ptr", "dim", "element_size"),
    *("get_device", "is_complex", "is_contiguous", "is_floating_point", "is_shared", "ndimension"),
    *("nelement", "numel", "size", "storage_offset", "stride", "untyped_storage"),
}
"""Functions whose result does not depend on a tensor's values, and is not a view of it."""

_PRODUCTS = {"conv2d", "linear"}
"""Costly functions that are not computed of what was left out. (Some constructors pass a picture
through a part of the network to find out a shape.)"""


def build_without_initialisation(
    build: Callable[[], nn.Module],
    *,
    dtype: torch.dtype = torch.float32,
    own_memory: bool = False,
    poll: Callable[[], None] = lambda: None,
) -> nn.Module:
    """Calls a function that builds a network in float32 and loads a checkpoint into it.

    The network is the same as ``build().to(dtype)``, bit for bit, and so are its outputs. Tensors
    of the state dict become its own memory where they fit. Those of a safetensors file are a
    private mapping of the file: weights are read when they are first used, and writing to them
    leaves the file as it is. The file may be deleted or replaced meanwhile, but not overwritten in
    place.

    Only this thread is affected. As hardly anything is drawn, torch's random generator is left
    in another state than by ``build()``.

    Args:
        build: Gives the network with its weights, and keeps no tensor of the state dict. It is
            called a second time where a skipped initialisation mattered.
        dtype: The floating-point type of the network. No weight that the checkpoint holds takes
            memory in another one.
        own_memory: Whether all tensors are copied, so that the file may be overwritten, too: for
            folders that people write to.
        poll: Called at every call of torch's functions; what it raises ends the loading.

    Raises:
        Exception: Whatever ``build`` raises.
    """
    mode = _WithoutInitialisation(poll, dtype)
    try:
        with mode:
            module = build()
    except Exception:
        if not mode.values_were_read:
            raise
    else:
        if not mode.values_were_read and not mode.has_uninitialized(module):
            if own_memory:
                for weight in mode.adopted:
                    weight.data = weight.data.clone()
            return module if dtype == torch.float32 else convert(module, dtype)
    with _Polling(poll):
        module = build()
    return module if dtype == torch.float32 else convert(module, dtype)


def convert(module: nn.Module, dtype: torch.dtype) -> nn.Module:
    """Converts all floating-point tensors of a module, and returns it."""
    for child in module.modules():
        # Tensors that are neither parameters nor buffers do not follow by themselves.
        for name, value in vars(child).items():
            if isinstance(value, Tensor) and value.is_floating_point():
                vars(child)[name] = value.detach().to(dtype)
    return module.to(dtype)


class _Polling(TorchFunctionMode):
    """Calls a function at every call of torch's functions."""

    def __init__(self, poll: Callable[[], None]) -> None:
        super().__init__()
        self._poll = poll

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if getattr(func, "__name__", "") not in _FACTS:  # those that restore modes must not fail
            self._poll()
        return func(*args, **(kwargs or {}))


_weak_ref: Callable[[torch.UntypedStorage], StorageWeakRef] = StorageWeakRef


class _WithoutInitialisation(TorchFunctionMode):
    """Skips writes to parameters, and tracks which memory is uninitialized for that reason.

    Memory is known by its address. A weak reference keeps the address from being used again, and
    lets the memory itself go. Modes are a thread's own: others initialise as ever.

    Attributes:
        values_were_read: Whether a value that had been left out has left the world of tensors.
        adopted: Parameters whose memory was the checkpoint's.
    """

    def __init__(self, poll: Callable[[], None], dtype: torch.dtype) -> None:
        super().__init__()
        self._poll = poll
        self._dtype = dtype
        self.values_were_read = False
        self.adopted: list[nn.Parameter] = []
        self._owners: dict[int, tuple[nn.Parameter, StorageWeakRef]] = {}
        self._uninitialized: dict[int, StorageWeakRef] = {}
        self._adopted_storages: dict[int, StorageWeakRef] = {}

    def has_uninitialized(self, module: nn.Module) -> bool:
        """Whether anything in a network still lacks what was left out, or was computed of it."""
        for child in module.modules():
            for values in (child._parameters, child._buffers, vars(child)):
                if self._is_uninitialized(values.values()):
                    return True
        return False

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Sees every function of torch's that this thread calls."""
        kwargs = kwargs or {}
        name = getattr(func, "__name__", "")
        if name in _FACTS:
            return func(*args, **kwargs)
        self._poll()
        first = args[0] if args else kwargs.get("tensor")
        if isinstance(first, nn.Parameter):
            storage = first.untyped_storage()
            address = storage._cdata
            if address not in self._adopted_storages and address not in self._owners:
                self._owners[address] = first, _weak_ref(storage)
            # Torch's initialisers leave tensors without numbers alone, so these are such tensors.
            is_meta = name == "__get__" and func.__self__.__name__ == "is_meta"
            if is_meta and sys._getframe(1).f_globals.get("__name__") == nn.init.__name__:
                self._mark_uninitialized(first)
                return True
        writes = name in _WRITES or (name.endswith("_") and not name.endswith("__"))
        if writes and isinstance(first, Tensor):
            known = self._owners.get(first.untyped_storage()._cdata)
            if known is not None:
                owner = known[0]
                if name != "copy_" or first is not owner or self._is_uninitialized(args[1:]):
                    self._mark_uninitialized(first)
                elif (found := self._memory_for(owner, args[1], sys._getframe(1))) is not None:
                    # Whatever else has the parameter's memory does not get the numbers.
                    self._mark_uninitialized(owner)
                    owner.data = found
                else:
                    owner.copy_(*args[1:], **kwargs)
                    self._uninitialized.pop(owner.untyped_storage()._cdata, None)
                return first
        no_values = name == "__get__" or name.endswith("_like") or name.startswith("new_")
        if no_values or not self._is_uninitialized((*args, *kwargs.values())):
            return func(*args, **kwargs)
        if name in _PRODUCTS and not kwargs:
            result = torch.zeros_like(func(*map(_on_meta, args)), device="cpu")
        else:
            result = func(*args, **kwargs)
        results = [each for each in tree_leaves(result) if isinstance(each, Tensor)]
        self._mark_uninitialized(*results)
        # A batch normalisation writes statistics to its buffers.
        in_training = kwargs.get("training") is True
        batch_norm = in_training and len(args) > 1 and isinstance(args[1], Tensor)
        # A result that is not a tensor has read values.
        self.values_were_read |= batch_norm or not results
        return result

    def _memory_for(self, owner: nn.Parameter, value: object, caller: FrameType) -> Tensor | None:
        """The memory in which a parameter gets the values of a tensor; None for its own.

        The tensor itself becomes that memory if it is of the same kind and not used elsewhere. A
        constructor may go on with what it copied from; a state dict is done with. So it must be
        torch that calls, on behalf of ``load_state_dict``.
        """
        if caller.f_code is not nn.Module._load_from_state_dict.__code__:
            return None
        if type(value) not in (Tensor, nn.Parameter) or not isinstance(value, Tensor):
            return None
        dtype = self._dtype if owner.is_floating_point() else owner.dtype
        storage = value.untyped_storage()
        if (
            (value.shape, value.dtype, value.device) == (owner.shape, dtype, owner.device)
            and value.stride() == owner.stride()
            and value.is_contiguous()
            and storage.nbytes() == value.numel() * value.element_size()
            and storage._cdata not in self._adopted_storages
            and storage._cdata not in self._owners
        ):
            self._adopted_storages[storage._cdata] = _weak_ref(storage)
            self.adopted.append(owner)
            return value.detach()
        if owner.dtype == dtype:
            return None
        return torch.empty_like(owner, dtype=dtype).copy_(value.detach())

    def _mark_uninitialized(self, *tensors: Tensor) -> None:
        for tensor in tensors:
            storage = tensor.untyped_storage()
            self._uninitialized.setdefault(storage._cdata, _weak_ref(storage))

    def _is_uninitialized(self, values: Iterable[object]) -> bool:
        """Whether a tensor among values, or in lists and tuples of them, lacks its numbers."""
        found = list(values) if self._uninitialized else []
        for value in found:  # which grows by the values within
            if isinstance(value, (list, tuple)):
                found.extend(value)
            elif isinstance(value, Tensor) and (
                value.untyped_storage()._cdata in self._uninitialized
            ):
                return True
        return False


def _on_meta(value: Any) -> Any:
    return torch.empty_like(value, device="meta") if isinstance(value, Tensor) else value


def wake(module: nn.Module) -> None:
    """Draws, in a model with random weights, those weights that its constructor leaves at zero.

    Zero weights (classifiers of some architectures) are a place to start training from; until
    then no score depends on anything, and there is nothing to explain.
    """
    for weight in module.parameters():
        if weight.ndim > 1 and not bool(weight.any()):
            nn.init.trunc_normal_(weight, std=0.02)
