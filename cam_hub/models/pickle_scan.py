"""The instructions of a pickle, counted and bounded before torch follows any of them.

torch's reader with ``weights_only`` executes nothing that it does not know, but it follows
instructions of any number, and what it knows includes functions that allocate memory at will, and
tuples whose hash takes time exponential in their depth. Weights need none of that.
"""

from __future__ import annotations

import io
import pickle
from collections.abc import Callable, Collection, Iterable
from itertools import chain
from pickletools import OpcodeInfo, genops
from typing import Any

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

_PUSHES = frozenset(
    {
        *("NONE", "NEWTRUE", "NEWFALSE", "BININT", "BININT1", "BININT2", "LONG1", "BINFLOAT"),
        *("BINUNICODE", "SHORT_BINSTRING"),
        *("EMPTY_TUPLE", "EMPTY_LIST", "EMPTY_DICT", "EMPTY_SET"),
    }
)
"""Instructions that push a plain object."""

_TUPLES = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}
_POPS = {"APPEND": 1, "BUILD": 1, "SETITEM": 2}

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
    own = torch.serialization.get_safe_globals()
    named = (each if isinstance(each, tuple) else (each, "") for each in own)
    known = _CALLABLE | {name or f"{cls.__module__}.{cls.__qualname__}" for cls, name in named}
    file = io.BytesIO(data)
    try:
        _follow(chain.from_iterable(genops(file) for _ in range(count)), known, poll)
    except (IndexError, KeyError, ValueError) as error:
        raise EOFError("its instructions are cut short, or take what is not there") from error


def _follow(  # noqa: PLR0912 - a branch for each kind of instruction
    instructions: Iterable[tuple[OpcodeInfo, Any, int | None]],
    known: Collection[str | None],
    poll: Callable[[], None],
) -> None:
    """Follows the instructions with the outlines of objects in place of the objects."""
    calls = 0
    stack: list[_Item] = []
    outer_stacks: list[list[_Item]] = []
    memo: dict[Any, _Item] = {}
    for number, (instruction, value, _) in enumerate(instructions, start=1):
        if number % 4096 == 0:
            if number > _INSTRUCTIONS:
                raise pickle.UnpicklingError(f"it has more than {_INSTRUCTIONS:,} instructions")
            poll()
        code = instruction.name
        if code in _PUSHES:
            stack.append(_PLAIN)
        elif code in ("BINPUT", "LONG_BINPUT"):
            memo[value] = stack[-1]
        elif code in ("BINGET", "LONG_BINGET"):
            stack.append(memo[value])
        elif code == "MARK":
            outer_stacks.append(stack)
            stack = []
        elif code in ("TUPLE", "APPENDS", "SETITEMS"):
            items, stack = stack, outer_stacks.pop()
            if code == "TUPLE":
                stack.append(_tuple(items))
        elif code in _TUPLES:
            items = stack[-_TUPLES[code] :]
            del stack[-_TUPLES[code] :]
            stack.append(_tuple(items))
        elif code in ("REDUCE", "NEWOBJ"):
            arguments, function = stack.pop(), stack.pop()
            name = arguments[1] if function[1] == _REBUILD else function[1]
            if name not in known:
                raise pickle.UnpicklingError(f"it calls {str(name)[:80]!r}")
            calls += 1
            if calls > _CALLS:
                raise pickle.UnpicklingError(f"it has more than {_CALLS:,} calls")
            stack.append(_PLAIN)
        elif code in _POPS:
            del stack[-_POPS[code] :]
        elif code == "BINPERSID":
            stack[-1] = _PLAIN
        elif code == "GLOBAL":
            stack.append((1, str(value).replace(" ", ".")))
        elif code == "STOP":
            stack, outer_stacks, memo = [], [], {}
        elif code != "PROTO":
            raise pickle.UnpicklingError(f"it holds the instruction {instruction.code!r}")


def _tuple(items: list[_Item]) -> _Item:
    nodes = 1 + sum(nodes for nodes, _ in items)
    if nodes > _TUPLE_NODES:
        raise pickle.UnpicklingError("it holds tuples in tuples beyond all reason")
    return nodes, items[0][1] if items else None
