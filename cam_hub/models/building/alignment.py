"""Weights that lie askew in memory, and which of them must be moved.

Torch's own tensors begin at multiples of 64 bytes; those of a mapped file anywhere. Products of
few rows are summed in an order that depends on that, so that the last bits of a score would
differ from those of a network whose weights were copied. Larger products, and convolutions, pack
their weights first and do not depend on it: those may stay where they are.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
from timm.data.config import resolve_model_data_config
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

__all__ = ["align"]

_ALIGNMENT = 64
"""Bytes: what torch's own allocator keeps to."""

_WORTH_A_TRIAL = 32 << 20
"""Bytes. So many are moved faster than it is found out which of them must be."""

_FEW = 16
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
    askew: Sequence[nn.Parameter] = [each for each in weights if each.data_ptr() % _ALIGNMENT]
    if sum(weight.nbytes for weight in askew) > _WORTH_A_TRIAL:
        askew = _delicate(module, askew)
    for weight in askew:
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

    (``deepcopy`` makes so many objects that Python's collector of garbage steps in.)

    Args:
        module: The network.
        copies: By the ``id`` of each of its modules, parameters and buffers; what is not there
            yet is added.
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

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Iterable[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
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
    return columns >= _FEW and result.numel() // columns >= _FEW
