"""A safetensors file of unknown origin, read.

A file is eight bytes of the header's length, the header (JSON: the type, the shape and the byte
range of each tensor), and the bytes. The safetensors library checks types, shapes and ranges. It
accepts a name that occurs twice, and any number of tensors; both are refused here.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from safetensors import safe_open
from torch import Tensor

from cam_hub.models.limits import MAX_NAME, MAX_TENSORS

__all__ = ["HEADER_BYTES", "read_safetensors"]

HEADER_BYTES = 2**24
"""Longer headers are not read. One of 10,000 tensors takes some 1.2 MB."""


def read_safetensors(path: Path, poll: Callable[[], None]) -> dict[str, Tensor]:
    """Reads a file; the tensors are mapped from it.

    Takes time linear in the size of the header.

    Args:
        path: The file.
        poll: Called between two tensors.

    Raises:
        ValueError: If its header is too long, or names too many tensors or one twice.
        SafetensorError: If it is damaged, or lies about its content.
        OSError: If it cannot be read.
    """
    header = _header(path)
    with safe_open(path, framework="pt", device="cpu") as file:
        names = list(file.keys())
        if len(names) > MAX_TENSORS:
            raise ValueError(f"it has {len(names):,} tensors, more than {MAX_TENSORS:,}")
        _refuse_repeated(header)
        tensors = {}
        for name in names:
            if len(name) > MAX_NAME:
                raise ValueError(f"the name {name[:60]!r}… has more than {MAX_NAME} characters")
            tensors[name] = file.get_tensor(name)
            poll()
    return tensors


def _header(path: Path) -> bytes:
    """The text of the header."""
    size = path.stat().st_size
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if size < 10 or length > size - 8:
            raise ValueError(
                f"its header claims {length:,} bytes, of a file of {size:,}: it is no safetensors "
                "file, or cut short"
            )
        if length > HEADER_BYTES:
            raise ValueError(f"its header has {length:,} bytes, more than {HEADER_BYTES:,}")
        return file.read(length)


def _refuse_repeated(header: bytes) -> None:
    """Refuses a name that occurs twice in any object of a header that is known to be valid."""

    def unique(pairs: list[tuple[str, Any]]) -> None:
        if len({name for name, _ in pairs}) == len(pairs):
            return
        seen: set[str] = set()
        for name, _ in pairs:
            if name in seen:
                raise ValueError(f"its header names {name[:80]!r} twice")
            seen.add(name)

    json.loads(header, object_pairs_hook=unique)
