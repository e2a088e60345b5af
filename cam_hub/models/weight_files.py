"""Files of weights: which one of a repo is read, and the header of safetensors."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

from safetensors import safe_open
from torch import Tensor

from cam_hub.models.limits import MAX_NAME, MAX_TENSORS

__all__ = ["HEADER_BYTES", "PICKLES", "SAFE", "choose_weights", "read_safetensors", "why_none"]


SAFE = ".safetensors"
PICKLES = (".bin", ".pth", ".pt", ".pth.tar", ".ckpt")
"""Endings of files of weights: of the format that holds nothing else, and of those that may."""

_PREFERRED = (
    "model.safetensors",
    "pytorch_model.bin",
    "pytorch_model.pth",
    "model.pth",
)

_NAME = re.compile(r"[^\x00-\x1f\x7f/\\:]{1,200}\Z")
"""Names that are those of files at the top on every system: no part of a path, no drive."""

_PART = re.compile(r"-\d+-of-\d+\.")
_INDEX = ".index.json"


def choose_weights(files: Collection[str], *, pickles: bool) -> str | None:
    """The file that timm would read weights from.

    Args:
        files: Paths of the repo's files; only those at its top count.
        pickles: Whether a pickle will do where there is no safetensors file.

    Returns:
        Its name, or None if there is none. One of several parts is none.
    """
    endings = (SAFE, *PICKLES) if pickles else SAFE
    allowed = [
        name
        for name in files
        if name.endswith(endings) and _NAME.match(name) and not _PART.search(name)
    ]
    for name in _PREFERRED:
        if name in allowed:
            return name
    by_kind = sorted((not name.endswith(SAFE), name) for name in allowed)
    return by_kind[0][1] if by_kind else None


def why_none(files: Collection[str]) -> str | None:
    """The reason why a repo, or a folder, has no weights to be read, and what would work.

    Args:
        files: Paths of its files, of which ``choose_weights`` has chosen none.

    Returns:
        The reason, in full sentences; None if there is nothing like weights.
    """
    weights = sorted(name for name in files if name.endswith((SAFE, *PICKLES)))
    indices = sorted(name for name in files if name.endswith(_INDEX))
    parts = [name for name in weights if _PART.search(name)]
    if found := [name for name in (*indices, *parts) if _NAME.match(name)]:
        return (
            f"its weights are in several files ({found[0]}), which timm does not read. Saved as "
            "one model.safetensors they work."
        )
    pickle = choose_weights(files, pickles=True)
    if pickle is not None:
        return (
            f"its weights exist only as a pickle ({pickle}), which is not read here. Saved as "
            "model.safetensors they work."
        )
    inside = next((name for name in weights if all(map(_is_part, name.split("/")))), None)
    if inside is not None:
        return (
            f"its weights are in a folder ({inside[:120]}), and timm reads those at the top of a "
            "repo. Saved there as model.safetensors they work."
        )
    return None


def _is_part(part: str) -> bool:
    return bool(_NAME.match(part)) and part not in (".", "..")


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
