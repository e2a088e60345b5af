"""How much memory a device has left, and work cut into chunks that fit into it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import TypeVar

import torch

__all__ = ["free_part", "in_chunks", "is_out_of_memory"]

_T = TypeVar("_T")

_PART = 0.25
"""The part of the free memory that one piece of work may plan with."""

_LEAST = 256 << 20
"""What may be planned with in any case."""


def free_part(device: torch.device, most: int) -> int:
    """Bytes that a piece of work may plan to use: a quarter of what is free.

    Args:
        device: Where the work is done.
        most: Never more than this; also the answer where nobody can tell what is free.
    """
    free = _free(device)
    return most if free is None else max(_LEAST, min(most, int(free * _PART)))


def in_chunks(items: Iterable[_T], size: int) -> Iterator[list[_T]]:
    """Cuts items into lists of a size, the last of which may be shorter; none is drawn early."""
    pending = iter(items)
    while chunk := list(islice(pending, size)):
        yield chunk


_WORDS = ("can't allocate memory", "not enough memory", "out of memory", "cannot allocate memory")
"""What torch's allocators say, in lower case, where they have no class of error for it."""

_ONEDNN = "could not create a primitive"
"""What oneDNN says where it finds no room for its code or its buffers, and nothing after it."""


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory did not suffice, on whatever device."""
    if isinstance(error, (MemoryError, torch.OutOfMemoryError)):
        return True
    said = str(error).lower() if isinstance(error, RuntimeError) else ""
    return any(words in said for words in _WORDS) or said.rstrip() == _ONEDNN


def _free(device: torch.device) -> int | None:
    if device.type == "cuda":
        free: int = torch.cuda.mem_get_info(device)[0]
        return free
    if device.type != "cpu":
        return None
    try:
        # What the kernel could hand out without swapping; Linux tells.
        lines = Path("/proc/meminfo").read_text("ascii").splitlines()
        available = next(line for line in lines if line.startswith("MemAvailable:"))
        return int(available.split()[1]) * 1024
    except (OSError, ValueError, StopIteration):
        return None
