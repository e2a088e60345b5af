"""The memory that a device has left, and work cut into chunks that fit."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import TypeVar

import torch

from cam_hub.errors import CamHubError, OutOfMemory

__all__ = [
    "copies_at_once",
    "free_bytes",
    "free_part",
    "group_room",
    "in_chunks",
    "is_out_of_memory",
    "reported",
]


_T = TypeVar("_T")

_PART = 0.25
"""The part of the free memory that one piece of work may plan with."""

_LEAST = 256 << 20
"""What may be planned with in any case."""


def free_part(device: torch.device, most: int) -> int:
    """The bytes that a piece of work may plan to use: a quarter of what is free.

    Args:
        device: Where the work is done.
        most: Never more than this; also the answer where it is not known what is free.
    """
    free = free_bytes(device)
    return most if free is None else max(_LEAST, min(most, int(free * _PART)))


def in_chunks(items: Iterable[_T], size: int) -> Iterator[list[_T]]:
    """Cuts items into lists of a size, the last of which may be shorter; none is drawn early."""
    pending = iter(items)
    while chunk := list(islice(pending, size)):
        yield chunk


_WORDS = (
    "can't allocate memory",
    "not enough memory",
    "out of memory",
    "cannot allocate memory",
    "bad_alloc",
    "_status_alloc_failed",
)
"""Words of torch's allocators, in lower case, where they have no class of error for it."""

_ONEDNN = "could not create a primitive"
"""The whole message of oneDNN if it finds no room for its code or its buffers."""


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error means that memory did not suffice, on whatever device."""
    seen: set[int] = set()
    found: BaseException | None = error
    while found is not None and id(found) not in seen:
        if _says_out_of_memory(found):
            return True
        seen.add(id(found))  # a network may raise an error of its own in its place
        found = found.__cause__ or (None if found.__suppress_context__ else found.__context__)
    return False


@contextmanager
def reported(model_id: str, work: str) -> Iterator[None]:
    """Raises an error with a model's ID if memory does not suffice.

    Args:
        model_id: The ID.
        work: What was done, and would need less if done otherwise.

    Raises:
        OutOfMemory: In place of whatever the device's allocator raises.
    """
    try:
        yield
    except CamHubError:
        raise
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        raise OutOfMemory(model_id, work) from None


def _says_out_of_memory(error: BaseException) -> bool:
    if isinstance(error, (MemoryError, torch.OutOfMemoryError)):
        return True
    said = str(error).lower() if isinstance(error, RuntimeError) else ""
    return any(words in said for words in _WORDS) or said.rstrip() == _ONEDNN


def free_bytes(device: torch.device) -> int | None:
    """The bytes that a device could hand out; None where that is not known."""
    if device.type == "cuda":
        return _free_on_gpu(device)
    if device.type != "cpu":
        return None
    known = [bytes_ for bytes_ in (_available(), group_room()) if bytes_ is not None]
    return min(known, default=None)


def _free_on_gpu(device: torch.device) -> int:
    """What this process can still have: other processes have a part, and it may have a limit."""
    free, total = torch.cuda.mem_get_info(device)
    reserved, used = torch.cuda.memory_reserved(device), torch.cuda.memory_allocated(device)
    share = getattr(torch.cuda, "get_per_process_memory_fraction", None)
    allowed = int(total * (share(device) if share else 1.0))
    # What torch has reserved and does not use is free for it.
    return max(0, min(free + reserved - used, allowed - used))


def _available() -> int | None:
    """What the kernel could hand out without swapping; known on Linux only."""
    try:
        lines = Path("/proc/meminfo").read_text("ascii").splitlines()
        available = next(line for line in lines if line.startswith("MemAvailable:"))
        return int(available.split()[1]) * 1024
    except (OSError, ValueError, StopIteration):
        return None


def group_room(
    root: Path = Path("/sys/fs/cgroup"), own: Path = Path("/proc/self/cgroup")
) -> int | None:
    """What the limits of this process's control groups (containers) leave.

    Args:
        root: Where the groups are mounted.
        own: Names the groups of this process.

    Returns:
        Bytes, or None without a limit. Files that the kernel has cached, or that are mapped, can be
        given back, so that they do not count as used.
    """
    try:
        lines = own.read_text("utf-8").splitlines()
    except (OSError, UnicodeDecodeError):
        return None
    rooms = []
    for line in lines:
        _, controllers, path, *_ = [*line.split(":", 2), "", ""]
        if controllers == "":  # version 2
            files = root, "memory.max", "memory.current", ""
        elif "memory" in controllers.split(","):
            names = "memory.limit_in_bytes", "memory.usage_in_bytes", "total_"
            files = (root / "memory", *names)
        else:
            continue
        base, limit, usage, prefix = files
        group = base / path.lstrip("/")
        # In a container, its own group is mounted as the root.
        rooms += [
            _group_room(folder, limit, usage, prefix)
            for folder in dict.fromkeys((group, *group.parents, base))
            if folder == base or base in folder.parents
        ]
    return min((room for room in rooms if room is not None), default=None)


def _group_room(folder: Path, limit: str, usage: str, prefix: str) -> int | None:
    try:
        most = int((folder / limit).read_text("ascii"))
        used = int((folder / usage).read_text("ascii"))
        stat = (folder / "memory.stat").read_text("ascii").split()
    except (OSError, ValueError):  # "max", or no such group here
        return None
    counts = dict(zip(stat[::2], stat[1::2], strict=False))
    cached = sum(int(counts.get(f"{prefix}{kind}_file", 0)) for kind in ("inactive", "active"))
    return max(0, most - used + cached)


_BUDGET = 4 << 30
"""The maximum bytes of the activations of the copies that run at once, roughly."""

_ALIVE = 3
"""Outputs of about the greatest one's size that a network holds at once, as a rule of thumb."""


def copies_at_once(largest: int, device: torch.device, budget: int | None = None) -> int:
    """How many copies can run beside the input that they are compared with, at least one.

    Args:
        largest: Bytes of the largest output for one image.
        device: Where they run.
        budget: Bytes that their activations may take, roughly; None for a part of what the
            device has free.
    """
    room = free_part(device, _BUDGET) if budget is None else budget
    return max(1, room // max(1, largest * _ALIVE) - 1)
