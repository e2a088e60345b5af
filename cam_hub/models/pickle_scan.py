"""The instructions of a pickle, counted and bounded before torch follows any of them.

torch's reader with ``weights_only`` executes nothing that it does not know, but it follows
instructions of any number, and what it knows includes functions that allocate memory at will, and
tuples whose hash takes time exponential in their depth. Weights need none of that.
"""

from __future__ import annotations

import pickle
from collections.abc import Callable

import torch

from cam_hub.models.loading import MAX_TENSORS

__all__ = ["PICKLE_BYTES", "scan_pickles"]

PICKLE_BYTES = 2**24
"""Pickles with more instructions (in bytes) are not read. A network of 10,000 tensors and its
optimiser take some 8 MB."""

_INSTRUCTIONS = 32 * MAX_TENSORS
"""A tensor takes some 30 instructions, with its optimiser's some 100; timm's largest networks have
some thousands of tensors."""

_CALLS = 8 * MAX_TENSORS
_TUPLE_NODES = 10_000

_PUSHES = {b"N": 0, b"\x88": 0, b"\x89": 0, b")": 0, b"]": 0, b"}": 0, b"\x8f": 0}
_PUSHES |= {b"K": 1, b"M": 2, b"J": 4, b"G": 8}
"""Instructions that push a plain object, with the bytes of their argument."""

_COUNTED = {b"X": 4, b"U": 1, b"\x8a": 1}
"""The same for an object of variable length, with the bytes of that length."""

_PUTS = {b"q": 1, b"r": 4}
_GETS = {b"h": 1, b"j": 4}
_TUPLES = {b"\x85": 1, b"\x86": 2, b"\x87": 3}
_TO_MARK = frozenset({b"t", b"e", b"u"})
_POPS = {b"a": 1, b"b": 1, b"s": 2}
_CALLS_OF = frozenset({b"R", b"\x81"})

_REBUILD = "torch._tensor._rebuild_from_type_v2"
"""Calls the function that its first argument names."""

_CALLABLE = frozenset(
    {
        "argparse.Namespace",
        "collections.Counter",
        "collections.OrderedDict",
        "torch.Size",
        "torch._utils._rebuild_parameter",
        "torch._utils._rebuild_parameter_with_state",
        "torch._utils._rebuild_tensor",
        "torch._utils._rebuild_tensor_v2",
        "torch.device",
        "torch.nn.parameter.Parameter",
        "torch.serialization._get_layout",
        # Other kinds of tensors are rebuilt to be named in the refusal.
        "torch._utils._rebuild_meta_tensor_no_storage",
        "torch._utils._rebuild_sparse_tensor",
    }
)
"""What a file of weights may call."""

_Item = tuple[int, str | None]
"""An object on the stack: its number of nodes if it is a tuple, else 1; the name if it is a global,
or the name of the first member if it is a tuple that begins with a global."""

_PLAIN: _Item = (1, None)


def scan_pickles(data: bytes, count: int, poll: Callable[[], None]) -> None:
    """Checks pickles that follow each other.

    Takes time linear in their length.

    Args:
        data: The bytes; what follows the last pickle is not looked at.
        count: The number of pickles.
        poll: Called every few thousand instructions.

    Raises:
        UnpicklingError: If there are more or other instructions than weights need.
        EOFError: If the data end too early, or make no sense.
    """
    scan = _Scan(data, poll)
    for _ in range(count):
        scan.run()


class _Scan:
    """Follows the instructions with the outlines of objects in place of the objects."""

    def __init__(self, data: bytes, poll: Callable[[], None]) -> None:
        self._data, self._poll = data, poll
        self._place = self._steps = self._calls = 0
        own = torch.serialization.get_safe_globals()
        named = (each if isinstance(each, tuple) else (each, "") for each in own)
        self._callable = _CALLABLE | {
            name or f"{cls.__module__}.{cls.__qualname__}" for cls, name in named
        }

    def run(self) -> None:  # noqa: PLR0912 - a branch for each kind of instruction
        """Scans up to the end of the next pickle."""
        stack: list[_Item] = []
        outer_stacks: list[list[_Item]] = []
        memo: dict[int, _Item] = {}
        while True:
            self._steps += 1
            if self._steps % 4096 == 0:
                self._check_steps()
            code = self._take(1)
            if code in _PUSHES:
                self._place += _PUSHES[code]
                stack.append(_PLAIN)
                continue
            try:
                if code in _PUTS:
                    memo[self._number(_PUTS[code])] = stack[-1]
                elif code in _GETS:
                    stack.append(memo[self._number(_GETS[code])])
                elif code == b"(":
                    outer_stacks.append(stack)
                    stack = []
                elif code in _TO_MARK:
                    items, stack = stack, outer_stacks.pop()
                    if code == b"t":
                        stack.append(_tuple(items))
                elif code in _TUPLES:
                    items = stack[-_TUPLES[code] :]
                    del stack[-_TUPLES[code] :]
                    stack.append(_tuple(items))
                elif code in _COUNTED:
                    length = self._number(_COUNTED[code])
                    self._place += length
                    stack.append(_PLAIN)
                elif code in _CALLS_OF:
                    arguments, function = stack.pop(), stack.pop()
                    self._call(function, arguments)
                    stack.append(_PLAIN)
                elif code in _POPS:
                    del stack[-_POPS[code] :]
                elif code == b"Q":
                    stack[-1] = _PLAIN
                elif code == b"c":
                    stack.append((1, f"{self._line()}.{self._line()}"))
                elif code == b"\x80":
                    self._take(1)
                elif code == b".":
                    return
                else:
                    raise pickle.UnpicklingError(f"it holds the instruction {code!r}")
            except (IndexError, KeyError):
                raise EOFError("its instructions take what is not there") from None

    def _check_steps(self) -> None:
        if self._steps > _INSTRUCTIONS:
            raise pickle.UnpicklingError(f"it has more than {_INSTRUCTIONS:,} instructions")
        self._poll()

    def _call(self, function: _Item, arguments: _Item) -> None:
        name = arguments[1] if function[1] == _REBUILD else function[1]
        if name not in self._callable:
            raise pickle.UnpicklingError(f"it calls {str(name)[:80]!r}")
        self._calls += 1
        if self._calls > _CALLS:
            raise pickle.UnpicklingError(f"it has more than {_CALLS:,} calls")

    def _take(self, count: int) -> bytes:
        found = self._data[self._place : self._place + count]
        self._place += count
        if len(found) < count:
            raise EOFError("its instructions are cut short, or too many")
        return found

    def _number(self, size: int) -> int:
        return int.from_bytes(self._take(size), "little")

    def _line(self) -> str:
        end = self._data.find(b"\n", self._place, self._place + 1000)
        if end < 0:
            raise pickle.UnpicklingError("it names something without an end")
        line = self._data[self._place : end]
        self._place = end + 1
        return line.decode("utf-8", "replace")


def _tuple(items: list[_Item]) -> _Item:
    nodes = 1 + sum(nodes for nodes, _ in items)
    if nodes > _TUPLE_NODES:
        raise pickle.UnpicklingError("it holds tuples in tuples beyond all reason")
    return nodes, items[0][1] if items else None
