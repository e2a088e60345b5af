"""The header of a safetensors file, read with suspicion before anything is made of it.

A file is eight bytes of the header's length, the header (JSON: of each tensor its type, its shape
and the range of its bytes), and the bytes.
"""

from __future__ import annotations

import json
from math import prod
from pathlib import Path
from typing import Any

__all__ = ["HEADER_BYTES", "check_header"]

HEADER_BYTES = 2**24
"""Longer headers are not read. One of 10,000 tensors takes some 1.2 MB."""

_BITS = {
    **dict.fromkeys(("BOOL", "U8", "I8", "F8_E4M3", "F8_E5M2", "F8_E8M0"), 8),
    **dict.fromkeys(("U16", "I16", "F16", "BF16"), 16),
    **dict.fromkeys(("U32", "I32", "F32"), 32),
    **dict.fromkeys(("U64", "I64", "F64", "C64"), 64),
}


def check_header(path: Path) -> None:
    """Checks that a header tells of nothing but tensors that lie in the file, each byte in one.

    Raises:
        ValueError: If it does not, with what is wrong.
        OSError: If the file cannot be read.
    """
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
        text = file.read(length)
    try:
        header = json.loads(text, object_pairs_hook=_without_repeats)
    except RecursionError:
        raise ValueError("its header is nested too deep") from None
    except UnicodeDecodeError:
        raise ValueError("its header is no text") from None
    except json.JSONDecodeError as error:
        raise ValueError(f"its header is no JSON ({error.msg})") from None
    if not isinstance(header, dict):
        raise ValueError("its header is no table of tensors")
    _check_ranges(header, size - 8 - length)


def _without_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"its header names {twice[:80]!r} twice")
    return found


def _check_ranges(header: dict[str, Any], size: int) -> None:
    """Every tensor's range is as long as its shape asks for, and they follow without a gap."""
    ranges = []
    for name, entry in header.items():
        if name == "__metadata__":
            continue
        shown = name[:80]
        try:
            kind, shape = entry["dtype"], entry["shape"]
            start, end = map(_count, entry["data_offsets"])
            count = prod(map(_count, shape))
        except (TypeError, KeyError, ValueError, OverflowError):
            raise ValueError(f"its header does not say what {shown!r} is") from None
        if kind not in _BITS:
            raise ValueError(f"{shown!r} is of a type {str(kind)[:40]!r} that is not known")
        if end > size:
            raise ValueError(f"{shown!r} ends at byte {end:,} of {size:,}: the file is cut short")
        if count * _BITS[kind] != (end - start) * 8:
            raise ValueError(f"{shown!r} has another number of bytes than its shape asks for")
        ranges.append((start, end, shown))
    position = 0
    for start, end, shown in sorted(ranges):
        if start != position:
            what = "overlaps another tensor" if start < position else "follows bytes of no tensor"
            raise ValueError(f"{shown!r} {what}")
        position = end
    if position != size:
        raise ValueError(f"{size - position:,} bytes at its end belong to no tensor")


def _count(value: object) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise ValueError
    return value
