"""Which of a repo's files holds its weights, and why none does."""

from __future__ import annotations

import re
from collections.abc import Collection

__all__ = ["PICKLES", "SAFE", "choose_weights", "why_none"]

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
