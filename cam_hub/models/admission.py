"""Refuses models that cost more than is allowed, by what is known before they are fetched."""

from __future__ import annotations

import shutil
from pathlib import Path

from cam_hub.errors import ModelRefused
from cam_hub.models.facts import ModelFacts
from cam_hub.models.limits import LoadLimits

__all__ = ["admit", "readable"]

_BYTES_PER_PARAMETER = 4
"""Of float32, which weights are stored in unless they say otherwise."""


def admit(facts: ModelFacts, limits: LoadLimits, folder: Path | None = None) -> None:
    """Does nothing if a model is within the limits.

    Args:
        facts: What is known about it. What is not known does not count, except that parameters
            are then taken from the bytes of the weights.
        limits: How much it may cost.
        folder: Where its files would go; it need not exist yet.

    Raises:
        ModelRefused: If it is not; it names the number and the limit.
    """
    parameters, about, fetch = facts.parameters, "", facts.fetch_bytes
    if parameters is None and facts.weights_bytes is not None:
        parameters, about = facts.weights_bytes // _BYTES_PER_PARAMETER, "about "
    if _exceeds(parameters, limits.parameters):
        raise ModelRefused(
            facts.id,
            f"it has {about}{parameters:,} parameters, and at most {limits.parameters:,} are "
            "loaded here. A smaller model works.",
        )
    if _exceeds(fetch, limits.download_bytes):
        raise ModelRefused(
            facts.id,
            f"{readable(fetch)} would have to be fetched for it, and at most "
            f"{readable(limits.download_bytes)} are fetched here. A smaller model works.",
        )
    if fetch and folder is not None:
        free = _free(folder)
        if free - fetch < limits.free_disk_bytes:
            raise ModelRefused(
                facts.id,
                f"{readable(fetch)} would have to be fetched for it, of {readable(free)} that are "
                f"free on the disk of the cache, and {readable(limits.free_disk_bytes)} must stay "
                "free.",
            )


def readable(count: int | None) -> str:
    """A number of bytes, for people: ``"97.8 MB"``."""
    if count is None:
        return "an unknown number of bytes"
    if count < 1000:
        return f"{count} bytes"
    size, unit = float(count), "bytes"
    for unit in ("kB", "MB", "GB", "TB"):  # noqa: B007
        size /= 1000
        if size < 999.95:
            break
    return f"{size:.1f} {unit}"


def _exceeds(number: int | None, limit: int | None) -> bool:
    return number is not None and limit is not None and number > limit


def _free(folder: Path) -> int:
    """Bytes that are free where a folder is, or would be made."""
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    return shutil.disk_usage(folder).free
