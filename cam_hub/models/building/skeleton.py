"""Builds a network without drawing weights that its checkpoint overwrites at once.

Constructors fill every parameter with random numbers, which takes seconds for a large network.
Here the initialisers of parameters do nothing, and loading a state dict hands its tensors over
instead of copying them. Whatever else a constructor computes (buffers above all, also those that
no checkpoint holds) is computed as ever, by the network's own code: nothing needs to be known
about any architecture.

What was left out must never be seen. Where a constructor looks at such a value, or a checkpoint
leaves one as it is, the network is built again in the ordinary way.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from types import FrameType
from typing import Any

import torch
from torch import Tensor, nn
from torch.multiprocessing.reductions import StorageWeakRef
from torch.overrides import TorchFunctionMode

from cam_hub.models.building.alignment import align

__all__ = ["loaded"]

_WRITES = {"__setitem__", "__iadd__", "__isub__", "__imul__", "__itruediv__", "__ipow__"}
"""Functions that write to their first argument, though their names do not end in one ``_``."""

_RESHAPES = {
    "as_strided_",
    "detach_",
    "rename_",
    "requires_grad_",
    "resize_",
    "resize_as_",
    "set_",
    "share_memory_",
    "squeeze_",
    "swapaxes_",
    "swapdims_",
    "t_",
    "transpose_",
    "unsqueeze_",
}
"""Functions that change a tensor, but none of its values."""

_FACTS = _RESHAPES | {
    "__hash__",
    "__len__",
    "__set__",
    "_set_grad_enabled",
    "data_ptr",
    "dim",
    "element_size",
    "get_device",
    "is_complex",
    "is_contiguous",
    "is_floating_point",
    "is_shared",
    "ndimension",
    "nelement",
    "numel",
    "size",
    "storage_offset",
    "stride",
    "untyped_storage",
}
"""Functions that tell of a tensor what does not depend on its values, and give no view of it."""

_PRODUCTS = {"conv2d", "linear"}
"""Costly functions that are not computed of what was left out. (Some constructors pass a picture
through a part of the network to find out a shape.)"""


def loaded(
    build: Callable[[], nn.Module],
    *,
    own_memory: bool = False,
    poll: Callable[[], None] = lambda: None,
) -> nn.Module:
    """Calls a function that builds a network and loads a checkpoint into it.

    The network is the same as ``build()`` gives, bit for bit, and so are its outputs. Tensors of
    the state dict become its own memory where they fit. Those of a safetensors file are a private
    mapping of the file: weights are read when they are first used, and writing to them leaves the
    file as it is. The file may be deleted or replaced meanwhile, but not overwritten in place.

    Only this thread is affected. As hardly anything is drawn, torch's random generator is left
    in another state than by ``build()``.

    Args:
        build: Gives the network with its weights, and keeps no tensor of the state dict. It is
            called a second time where something was left out that mattered.
        own_memory: Whether all tensors are copied, so that the file may be overwritten, too: for
            folders that people write to.
        poll: Called at every call of torch's functions; what it raises ends the loading.

    Raises:
        Exception: Whatever ``build`` raises.
    """
    mode = _WithoutInitialisation(poll)
    try:
        with mode:
            module = build()
    except Exception:
        if not mode.values_were_read:
            raise
    else:
        if not mode.values_were_read and not mode.left_out(module):
            if own_memory:
                for weight in mode.handed_over:
                    weight.data = weight.data.clone()
            else:
                align(module, mode.handed_over)
            return module
    with _Polling(poll):
        return build()


class _Polling(TorchFunctionMode):
    """Calls a function at every call of torch's functions."""

    def __init__(self, poll: Callable[[], None]) -> None:
        super().__init__()
        self._poll = poll

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Iterable[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        if getattr(func, "__name__", "") not in _FACTS:  # those that restore modes must not fail
            self._poll()
        return func(*args, **(kwargs or {}))


class _WithoutInitialisation(TorchFunctionMode):
    """Leaves out what is written to parameters, and knows what is hollow for that reason.

    Memory is known by its address. A weak reference keeps the address from being used again, and
    lets the memory itself go. Modes are a thread's own: others initialise as ever.

    Attributes:
        values_were_read: Whether a value that had been left out has left the world of tensors.
        handed_over: Parameters whose memory was the checkpoint's.
    """

    def __init__(self, poll: Callable[[], None]) -> None:
        super().__init__()
        self._poll = poll
        self.values_were_read = False
        self.handed_over: list[nn.Parameter] = []
        self._owners: dict[int, tuple[nn.Parameter, StorageWeakRef]] = {}
        self._hollow: dict[int, StorageWeakRef] = {}
        self._taken: dict[int, StorageWeakRef] = {}

    def left_out(self, module: nn.Module) -> bool:
        """Whether anything in a network still lacks what was left out, or was computed of it."""
        for child in module.modules():
            for kept in (child._parameters, child._buffers, vars(child)):
                if self._is_hollow(list(kept.values())):
                    return True
        return False

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Iterable[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """Sees every function of torch's that this thread calls."""
        kwargs = kwargs or {}
        name = getattr(func, "__name__", "")
        if name in _FACTS:
            return func(*args, **kwargs)
        self._poll()
        first = args[0] if args else kwargs.get("tensor")
        if isinstance(first, nn.Parameter):
            self._note(first)
        if _writes(name) and isinstance(first, Tensor):
            known = self._owners.get(_address(first))
            if known is not None:
                return self._write(name, known[0], first, args, kwargs)
        if name == "__get__":
            return self._get(func, first, sys._getframe(1))
        if _only_shapes(name) or not self._is_hollow((args, list(kwargs.values()))):
            return func(*args, **kwargs)
        if name in _PRODUCTS and not kwargs:
            result = torch.zeros_like(func(*map(_on_meta, args)), device="cpu")
        else:
            result = func(*args, **kwargs)
        self._follow(args, kwargs, result)
        return result

    def _get(self, func: Any, tensor: Any, caller: FrameType) -> Any:
        """An attribute. Torch's initialisers leave tensors without numbers alone, so these are."""
        asked = func.__self__.__name__ == "is_meta" and isinstance(tensor, nn.Parameter)
        if asked and caller.f_globals.get("__name__") == nn.init.__name__:
            self._mark(tensor)
            return True
        return func(tensor)

    def _note(self, parameter: nn.Parameter) -> None:
        storage = parameter.untyped_storage()
        address = storage._cdata
        if address not in self._taken and address not in self._owners:
            self._owners[address] = (parameter, _weakly(storage))

    def _write(
        self,
        name: str,
        owner: nn.Parameter,
        target: Tensor,
        args: tuple[Any, ...],
        kwargs: Mapping[str, Any],
    ) -> Tensor:
        """What is done instead of writing to the memory of a parameter."""
        address = _address(target)
        if name != "copy_" or target is not owner or self._is_hollow(args[1:]):
            self._mark(target)
            return target
        if self._may_take(owner, args[1]) and _state_dict_is_loaded(sys._getframe(2)):
            storage = args[1].untyped_storage()
            self._taken[storage._cdata] = _weakly(storage)
            self._mark(owner)  # whatever else has that memory does not get the numbers
            owner.data = args[1].detach()
            self.handed_over.append(owner)
        else:
            owner.copy_(*args[1:], **kwargs)
            self._hollow.pop(address, None)
        return target

    def _may_take(self, owner: nn.Parameter, value: object) -> bool:
        """Whether a tensor can become a parameter's memory: of its kind, and nobody else's."""
        if type(value) not in (Tensor, nn.Parameter) or not isinstance(value, Tensor):
            return False
        storage = value.untyped_storage()
        return (
            (value.shape, value.dtype, value.device) == (owner.shape, owner.dtype, owner.device)
            and value.stride() == owner.stride()
            and value.is_contiguous()
            and storage.nbytes() == value.numel() * value.element_size()
            and storage._cdata not in self._taken
            and storage._cdata not in self._owners
        )

    def _follow(self, args: Sequence[Any], kwargs: Mapping[str, Any], result: object) -> None:
        """What is computed of hollow tensors is hollow; what is not a tensor must not be."""
        results = list(_tensors(result))
        for tensor in results:
            self._mark(tensor)
        if not results or _keeps_statistics(args, kwargs):
            self.values_were_read = True

    def _mark(self, tensor: Tensor) -> None:
        self._hollow.setdefault(_address(tensor), _weakly(tensor.untyped_storage()))

    def _is_hollow(self, values: object) -> bool:
        return bool(self._hollow) and any(
            _address(each) in self._hollow for each in _tensors(values)
        )


def _on_meta(value: Any) -> Any:
    return torch.empty_like(value, device="meta") if isinstance(value, Tensor) else value


def _keeps_statistics(args: Sequence[Any], kwargs: Mapping[str, Any]) -> bool:
    """Whether a function is a batch normalisation that writes to its buffers on the side."""
    return kwargs.get("training") is True and len(args) > 1 and isinstance(args[1], Tensor)


def _weakly(storage: torch.UntypedStorage) -> StorageWeakRef:
    return StorageWeakRef(storage)  # type: ignore[no-untyped-call]


def _only_shapes(name: str) -> bool:
    return name.endswith("_like") or name.startswith("new_")


def _writes(name: str) -> bool:
    return (name.endswith("_") and not name.endswith("__")) or name in _WRITES


def _address(tensor: Tensor) -> int:
    return int(tensor.untyped_storage()._cdata)


def _tensors(values: object) -> Iterator[Tensor]:
    """All tensors in a nest of lists and tuples."""
    if isinstance(values, Tensor):
        yield values
    elif isinstance(values, (list, tuple)):
        for value in values:
            yield from _tensors(value)


def _state_dict_is_loaded(caller: FrameType) -> bool:
    """Whether it is torch that calls, on behalf of ``load_state_dict``.

    A constructor may go on with what it copied from; a state dict is done with.
    """
    return caller.f_code is nn.Module._load_from_state_dict.__code__
