"""Networks built without initialising weights that a checkpoint overwrites."""

from __future__ import annotations

import copy
import sys
from collections.abc import Callable, Iterable, Sequence
from types import FrameType
from typing import Any

import torch
from timm.data.config import resolve_model_data_config
from torch import Tensor, nn
from torch.multiprocessing.reductions import StorageWeakRef
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves

from cam_hub.errors import ModelRefused

__all__ = ["align", "build_on_meta", "build_without_initialisation", "wake"]


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


_ALIGNMENT = 64
"""Bytes: what torch's own allocator keeps to."""

_MIN_BYTES_TO_EXAMINE = 32 << 20
"""Bytes. So many are moved faster than it is found out which of them must be."""

_MAX_UNPACKED = 16
"""Products of fewer rows, or columns, may be computed without packing. (Seen to depend on
alignment: those of one.)"""

_PACKED = {"linear": -1, "conv1d": 1, "conv2d": 1, "conv3d": 1}
"""Products that pack their weight, with the axis of the result that it made."""

_ELEMENTWISE = {"add", "batch_norm", "group_norm", "layer_norm", "mul", "rms_norm", "sub"}
"""Functions that meet every element of a weight on its own."""

_VIEWS = {"flatten", "reshape", "view"}
"""Functions whose result is the weight itself in another shape."""

_SHAPE_OF_FIRST = {
    *("batch_norm", "dropout", "gelu", "group_norm", "hardswish", "layer_norm", "relu"),
    *("sigmoid", "silu", "softmax"),
}
"""Frequent functions whose result has the shape of their first argument. Torch takes long to find
that out."""

_STEP_BY_STEP = {"gru", "lstm", "rnn_relu", "rnn_tanh"}
"""Functions that take longer without numbers than their weights take to be moved."""


def align(module: nn.Module, weights: Sequence[nn.Parameter]) -> None:
    """Moves those weights whose place in memory could be seen in the network's outputs.

    Args:
        module: The network. Of timm's, large weights stay if in a pass of one picture of the size
            that it was made for they are used in no other way than packed or elementwise.
        weights: Those of its parameters that may lie askew.
    """
    askew: list[nn.Parameter] = []
    size = 0
    for weight in weights:
        if weight.data_ptr() % _ALIGNMENT:
            askew.append(weight)
            size += weight.nbytes
    for weight in _delicate(module, askew) if size > _MIN_BYTES_TO_EXAMINE else askew:
        weight.data = weight.data.clone()


def _delicate(module: nn.Module, weights: Sequence[nn.Parameter]) -> Sequence[nn.Parameter]:
    """Those weights that a pass without numbers does not show to be safe where they are."""
    if not hasattr(module, "pretrained_cfg"):
        return weights
    try:
        size = resolve_model_data_config(module)["input_size"]
        copies: dict[int, Any] = {}
        twin = _twin(module, copies).eval()
        watch = _Uses(id(copies[id(weight)]) for weight in weights)
        with torch.no_grad(), watch:
            twin(torch.empty(1, *size, device="meta"))
    except Exception:  # noqa: BLE001 (whatever a network does that cannot be done without numbers)
        return weights
    safe = watch.safe - watch.unsafe
    return [weight for weight in weights if id(copies[id(weight)]) not in safe]


def _twin(module: nn.Module, copies: dict[int, Any]) -> nn.Module:
    """The structure of a network, with weights that have no numbers: a pass may leave traces in it.

    (``deepcopy`` makes so many objects that Python's collector of garbage steps in.) ``copies``, by
    the ``id`` of each module, parameter and buffer, is added to.
    """
    if id(module) in copies:
        found: nn.Module = copies[id(module)]
        return found
    twin = copies[id(module)] = type(module).__new__(type(module))
    for name, value in vars(module).items():
        # Containers may be caches.
        twin.__dict__[name] = copy.copy(value) if type(value) in (dict, list, set) else value
    for own, theirs in ((twin._parameters, module._parameters), (twin._buffers, module._buffers)):
        for name, tensor in theirs.items():
            if tensor is not None:
                own[name] = copies.setdefault(id(tensor), _without_numbers(tensor))
    for name, child in module._modules.items():
        if child is not None:
            twin._modules[name] = _twin(child, copies)
    return twin


def _without_numbers(tensor: Tensor) -> Any:
    empty = torch.empty_like(tensor, device="meta", requires_grad=False)
    return nn.Parameter(empty, requires_grad=False) if isinstance(tensor, nn.Parameter) else empty


class _Uses(TorchFunctionMode):
    """Notes how a network uses its weights, on tensors without numbers.

    Args:
        weights: The ``id`` of each weight.

    Attributes:
        safe: Weights that were used in a way that does not depend on where they lie.
        unsafe: Weights that were used in some other way.
    """

    def __init__(self, weights: Iterable[int]) -> None:
        super().__init__()
        self._keys = {weight: weight for weight in weights}
        self._views: list[Tensor] = []
        self.safe: set[int] = set()
        self.unsafe: set[int] = set()

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Sees every function of torch's that the network calls."""
        kwargs = kwargs or {}
        name = getattr(func, "__name__", "")
        if name in _STEP_BY_STEP:
            raise NotImplementedError(name)
        result = _shortcut(name, args)
        if result is None:
            result = func(*args, **kwargs)
        # Of what is called like "view_as", other arguments give no more than their shape.
        values = args[:1] if name.endswith("_as") else (*args, *kwargs.values())
        given = (self._keys.get(id(value)) for value in values)
        used = {key for key in given if key is not None}
        if not used or name in ("__get__", "size"):
            return result
        if name in _VIEWS:
            self._views.append(result)  # held, so that nothing else comes to have its id
            self._keys[id(result)] = used.pop()
        else:
            (self.safe if _is_safe(name, result) else self.unsafe).update(used)
        return result


def _shortcut(name: str, args: Sequence[Any]) -> Tensor | None:
    """The result without numbers of some frequent functions."""
    if not args or not isinstance(args[0], Tensor):
        return None
    first = args[0]
    if name in _SHAPE_OF_FIRST:
        shape: Sequence[int] = first.shape
    elif name == "linear" and len(args) > 1:
        shape = (*first.shape[:-1], args[1].shape[0])
    elif name == "scaled_dot_product_attention" and len(args) > 2:
        shape = (*first.shape[:-1], args[2].shape[-1])
    else:
        return None
    return torch.empty(shape, dtype=first.dtype, device="meta")


def _is_safe(name: str, result: Tensor) -> bool:
    if name in _ELEMENTWISE:
        return True
    if name not in _PACKED:
        return False
    columns = result.shape[_PACKED[name]]
    return columns >= _MAX_UNPACKED and result.numel() // columns >= _MAX_UNPACKED


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
            called a second time where a skipped initialisation mattered.
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
        if not mode.values_were_read and not mode.has_uninitialized(module):
            if own_memory:
                for weight in mode.adopted:
                    weight.data = weight.data.clone()
            else:
                align(module, mode.adopted)
            return module
    with _Polling(poll):
        return build()


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

    def __init__(self, poll: Callable[[], None]) -> None:
        super().__init__()
        self._poll = poll
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
                elif self._can_adopt(owner, args[1], sys._getframe(1)):
                    storage = args[1].untyped_storage()
                    self._adopted_storages[storage._cdata] = _weak_ref(storage)
                    # Whatever else has that memory does not get the numbers.
                    self._mark_uninitialized(owner)
                    owner.data = args[1].detach()
                    self.adopted.append(owner)
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

    def _can_adopt(self, owner: nn.Parameter, value: object, caller: FrameType) -> bool:
        """Whether a tensor can become a parameter's memory: of its kind, and not used elsewhere.

        A constructor may go on with what it copied from; a state dict is done with. So it must be
        torch that calls, on behalf of ``load_state_dict``.
        """
        if caller.f_code is not nn.Module._load_from_state_dict.__code__:
            return False
        if type(value) not in (Tensor, nn.Parameter) or not isinstance(value, Tensor):
            return False
        storage = value.untyped_storage()
        return (
            (value.shape, value.dtype, value.device) == (owner.shape, owner.dtype, owner.device)
            and value.stride() == owner.stride()
            and value.is_contiguous()
            and storage.nbytes() == value.numel() * value.element_size()
            and storage._cdata not in self._adopted_storages
            and storage._cdata not in self._owners
        )

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
