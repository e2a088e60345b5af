"""How a network is run: so that its passes can be compared with each other, and by fast paths.

A network is mostly a function of the image. Some draw random numbers (dropout that stays active),
write to their buffers (observers, running averages), or take one image at a time. What a network
does is observed (``layers/model_runner.py``); here a forward pass is run accordingly, and leaves
the network and the caller's random numbers as they were.

A fast path computes the same numbers where torch takes a slow one on a CPU. A convolution whose
kernel covers its whole input (the fully connected layers of a VGG, written as convolutions) is one
product of a vector and a matrix. As a convolution of a single image it takes ten times as long,
since the weights are laid out anew each time. And in the backward pass from a class token, most of
what is multiplied is zero: see ``sparse_gradients``.
"""

from __future__ import annotations

import random
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from cam_hub.hooks import sparse_gradients
from cam_hub.hooks.frozen_eval import walk

__all__ = [
    "PLAIN",
    "Execution",
    "Shortcuts",
    "Worth",
    "changed_numbers",
    "shortcuts",
    "watch",
    "worth",
]

Place = tuple[str, str]
"""Where a network keeps a tensor: name of the submodule, and of the buffer or attribute."""

_SEED = 0


@dataclass(frozen=True)
class Execution:
    """How a network has to be run.

    Attributes:
        draws: Whether it draws random numbers, which are seeded for the time of a pass.
        varies: Whether its answers depend on them, or differ from pass to pass for other reasons.
        settled: Whether seeding makes its answers repeatable.
        one_by_one: Whether images pass one at a time: it takes no batch, or images in one change
            each other's answers.
        folded: Whether it folds the frames of a clip into the batch: one clip passes at a time.
        written: Buffers and tensors that a pass writes to; of a network that varies, numbers, too.
        notes: What those who look at a result should know; derived.
    """

    draws: bool = False
    varies: bool = False
    settled: bool = True
    one_by_one: bool = False
    folded: bool = False
    written: tuple[Place, ...] = ()
    notes: tuple[str, ...] = field(init=False, repr=False, compare=False, default=())

    @property
    def is_plain(self) -> bool:
        """Whether nothing of the kind applies."""
        return self == PLAIN

    def __post_init__(self) -> None:
        found = []
        if self.varies and self.settled:
            found.append(
                "The model's answer changes from pass to pass (dropout or another random step is "
                "active): its random numbers were seeded, and images passed one at a time."
            )
        elif self.varies:
            found.append(
                "The model's answer changes from pass to pass, also with seeded random numbers: "
                "the same call may give another map."
            )
        elif self.one_by_one and not self.folded:
            found.append("The model takes one image at a time, and was run so.")
        if self.written:
            names = sorted({".".join(filter(None, place)) for place in self.written})
            shown = ", ".join(names[:3]) + (", …" if len(names) > 3 else "")
            found.append(f"A pass writes to the model's own tensors ({shown}); they were restored.")
        object.__setattr__(self, "notes", tuple(found))

    @contextmanager
    def around(self, module: nn.Module) -> Iterator[None]:
        """The context of one forward pass of a network, or of a copy of it."""
        if not (self.draws or self.varies or self.written):
            yield
            return
        # Numbers and tensors are shared by all threads.
        with _LOCK:
            tensors = [_Tensor(module.get_submodule(path), name) for path, name in self.written]
            numbers, own = _numbers_of_process(), _numbers_of_network(module)
            try:
                for tensor in tensors:
                    tensor.lend()
                if self.draws:
                    for source in numbers:  # those of the network's own stand where they stood
                        source.seed(_SEED)
                yield
            finally:
                for tensor in tensors:
                    tensor.restore()
                for source in (*numbers, *own):
                    source.restore()


PLAIN = Execution()
"""That of most networks."""

_LOCK = threading.RLock()

_GENERATORS = (torch.Generator, random.Random, np.random.Generator)


class _Tensor:
    """A tensor of a module, which a copy takes the place of for a while; or a number."""

    def __init__(self, owner: nn.Module, name: str) -> None:
        self._at: dict[str, Any] = owner._buffers if name in owner._buffers else vars(owner)
        self._name = name
        self._own: Any = self._at[name]
        self._lent: Tensor | None = None
        self._version = 0

    def lend(self) -> None:
        """Puts a copy in its place."""
        if isinstance(self._own, Tensor):
            self._lent = self._at[self._name] = self._own.detach().clone()
            self._version = self._lent._version

    @property
    def is_written(self) -> bool:
        """Whether the copy was written to, or replaced by one of other values."""
        now, own = self._at.get(self._name), self._own
        if now is self._lent and now is not None and now._version != self._version:
            return True  # with the same values this time, as observers of a range do
        # The count alone does not suffice: batch normalisation writes without being counted.
        if not isinstance(now, Tensor) or now.shape != own.shape or now.dtype != own.dtype:
            return True
        return not torch.equal(now.detach(), own.detach())

    def restore(self) -> None:
        """Puts the tensor back, which was not written to."""
        self._at[self._name] = self._own


class _Numbers:
    """A source of random numbers: how to read, write and seed its state, and how it stood."""

    def __init__(
        self,
        read: Callable[[], Any],
        write: Callable[[Any], object],
        seed: Callable[[int], object],
    ) -> None:
        self._read, self._write, self.seed = read, write, seed
        self._state = read()

    @property
    def is_moved(self) -> bool:
        """Whether numbers were drawn since."""
        return not _same(self._read(), self._state)

    def restore(self) -> None:
        """Puts it back to where it stood."""
        self._write(self._state)


def _same(one: Any, other: Any) -> bool:
    """Whether two states of a source of random numbers are the same."""
    if isinstance(one, Tensor):
        return torch.equal(one, other)
    if isinstance(one, np.ndarray):
        return np.array_equal(one, other)
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(_same(one[key], other[key]) for key in one)
    if isinstance(one, tuple) and any(isinstance(part, np.ndarray) for part in one):
        return len(one) == len(other) and all(map(_same, one, other))
    return bool(one == other)


def _numbers_of_process() -> list[_Numbers]:
    """The sources of random numbers of the process."""
    generators = [torch.default_generator]
    if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        generators += torch.cuda.default_generators
    return [
        *map(_numbers_of, generators),
        _Numbers(random.getstate, random.setstate, random.seed),
        _Numbers(np.random.get_state, np.random.set_state, np.random.seed),
    ]


def _numbers_of_network(module: nn.Module) -> list[_Numbers]:
    """The sources of random numbers that a network keeps itself."""
    values = [value for child in walk(module) for value in vars(child).values()]
    # Networks have thousands of attributes of some twenty types, and torch answers slowly.
    kinds = {kind for kind in set(map(type, values)) if issubclass(kind, _GENERATORS)}
    return [_numbers_of(value) for value in values if type(value) in kinds] if kinds else []


def _numbers_of(generator: Any) -> _Numbers:
    if isinstance(generator, torch.Generator):
        return _Numbers(generator.get_state, generator.set_state, generator.manual_seed)
    if isinstance(generator, random.Random):
        return _Numbers(generator.getstate, generator.setstate, generator.seed)
    bits = generator.bit_generator

    def write(state: Any) -> None:
        bits.state = state

    return _Numbers(lambda: bits.state, write, lambda seed: write(type(bits)(seed).state))


class Watch:
    """What a pass has done to a network and to random numbers; filled by ``watch``.

    Attributes:
        drawn: Whether random numbers were drawn.
        written: Tensors that were written to.
    """

    drawn: bool = False
    written: tuple[Place, ...] = ()


@contextmanager
def watch(module: nn.Module, *, seed: int | None = None) -> Iterator[Watch]:
    """Watches one pass of a network; afterwards everything is as before, also after a failure.

    Args:
        module: The network.
        seed: The seed of the random numbers during the pass; None for those that are next.
    """
    found = Watch()
    with _LOCK:
        tensors = {
            (path, name): _Tensor(child, name)
            for path, child in module.named_modules()
            if not isinstance(child, torch.jit.ScriptModule)
            for name in _tensors_of(child)
        }
        before = numbers = [*_numbers_of_process(), *_numbers_of_network(module)]
        if seed is not None:
            for source in before:
                source.seed(seed)
            numbers = [*_numbers_of_process(), *_numbers_of_network(module)]
        try:
            for tensor in tensors.values():  # memory may run out on the way
                tensor.lend()
            yield found
            found.drawn = any(each.is_moved for each in numbers)
            found.written = tuple(place for place, each in tensors.items() if each.is_written)
        finally:
            for tensor in tensors.values():
                tensor.restore()
            for source in before:
                source.restore()


def changed_numbers(module: nn.Module, run: Callable[[], object]) -> tuple[Place, ...]:
    """Plain attributes that are numbers, and others after a pass; they are put back."""
    before = {
        (path, name): (child, value)
        for path, child in module.named_modules()
        for name, value in vars(child).items()
        if isinstance(value, (int, float)) and not isinstance(value, bool)
    }
    run()
    changed = []
    for (path, name), (child, value) in before.items():
        if vars(child).get(name) != value:
            vars(child)[name] = value
            changed.append((path, name))
    return tuple(changed)


def _tensors_of(module: nn.Module) -> list[str]:
    """Names of the buffers of one module, and of plain attributes that are tensors."""
    plain = [
        name
        for name, value in vars(module).items()
        if isinstance(value, Tensor) and not isinstance(value, nn.Parameter)
    ]
    return [name for name, value in module._buffers.items() if value is not None] + plain


_LARGE = 2**20
"""Weights of a convolution below which there is nothing to gain."""


class Worth(NamedTuple):
    """Which shortcuts may help a network.

    Attributes:
        convolutions: Those of convolutions that cover their input: there is one that may, and is
            large.
        tokens: Those of the backward pass through layers of tokens.
    """

    convolutions: bool = False
    tokens: bool = False


def worth(modules: Iterable[nn.Module]) -> Worth:
    """Determines which shortcuts may help a network.

    None does where code is compiled or scripted, which is optimised already. And torch's own
    attention module is faster without a graph, but not while its functions are looked at: there the
    layers before the target layer would lose more than those behind it gain.

    Args:
        modules: All of its modules.
    """
    convolutions, tokens = False, True
    for child in modules:
        if (
            isinstance(child, torch.jit.ScriptModule)
            or "_orig_mod" in child._modules
            or child._compiled_call_impl is not None
        ):
            return Worth()
        if isinstance(child, nn.MultiheadAttention):
            tokens = False
        if isinstance(child, nn.Conv2d) and child.groups == 1 and _is_large(child.weight):
            convolutions = True
    return Worth(convolutions, tokens)


def shortcuts(
    helpful: Worth, device: torch.device, *, tokens: bool = False
) -> AbstractContextManager[Any]:
    """The context of a forward pass that takes the shortcuts, where there may be any.

    Every call of torch in it costs a microsecond more, so it is empty where there is nothing to
    gain.

    Args:
        helpful: The result of ``worth``.
        device: Where the pass runs. Only the CPU has use for shortcuts.
        tokens: Whether the backward pass reaches layers of tokens of which few matter.
    """
    taken = Worth(helpful.convolutions, helpful.tokens and tokens)
    if not any(taken) or device.type != "cpu" or torch.is_autocast_enabled("cpu"):
        return nullcontext()
    return Shortcuts(convolutions=taken.convolutions, tokens=taken.tokens)


class Shortcuts(TorchFunctionMode):
    """Takes the place of some of torch's functions where a shorter way gives the same.

    Args:
        convolutions: Whether that of convolutions is taken.
        tokens: Whether those of layers of tokens are taken.
    """

    def __init__(self, *, convolutions: bool, tokens: bool) -> None:
        super().__init__()
        self._ways: dict[Any, Callable[..., Tensor | None]] = {}
        if convolutions:
            self._ways[functional.conv2d] = _whole_convolution
        if tokens:
            self._ways[functional.linear] = sparse_gradients.linear
            self._ways[functional.scaled_dot_product_attention] = sparse_gradients.attention

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Iterable[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """What torch calls in place of each of its functions."""
        del types
        way = self._ways.get(func)
        # Some networks switch autocast on themselves; shortcuts compute in the tensors' own type.
        if way is not None and not torch.is_autocast_enabled("cpu"):
            found = way(*args, **(kwargs or {}))
            if found is not None:
                return found
        return func(*args, **(kwargs or {}))


def _whole_convolution(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: object = 1,
    padding: object = 0,
    dilation: object = 1,
    groups: int = 1,
) -> Tensor | None:
    """A convolution with a single position as a product; None where it is not one."""
    del stride, dilation  # a single position: with a wider dilation it would not fit
    fits = input.ndim == 4 and input.shape[1:] == weight.shape[1:] and groups == 1
    if not fits or not _is_large(weight) or padding not in (0, (0, 0), [0, 0], "valid"):
        return None
    last = weight.is_contiguous(memory_format=torch.channels_last)
    if last and len(input) > 1:
        return None  # of several images, with weights in this order, the convolution is fast
    if last:  # the flat weights must be a view
        weight, input = weight.permute(0, 2, 3, 1), input.permute(0, 2, 3, 1)
    found = functional.linear(input.flatten(1), weight.flatten(1), bias)
    return found[:, :, None, None]


def _is_large(weight: Tensor) -> bool:
    return weight.numel() >= _LARGE and weight.shape[2:].numel() > 1
