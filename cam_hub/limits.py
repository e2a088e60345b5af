"""How much loading a model may cost, decided before anything large is fetched."""

from __future__ import annotations

from dataclasses import dataclass

from cam_hub.errors import InvalidArgument

__all__ = ["UNLIMITED", "LoadLimits"]


@dataclass(frozen=True)
class LoadLimits:
    """What may be loaded.

    Attributes:
        parameters: Most parameters of a model; None for any number.
        download_bytes: Most bytes to fetch for one model; None for any number.
        free_disk_bytes: Bytes that must stay free on the disk that the model is fetched to.
        pickles: Whether weights that exist only as a pickle are read (by a reader that executes
            nothing), with a warning.
        local: Whether folders of this machine may be loaded.
    """

    parameters: int | None = None
    download_bytes: int | None = None
    free_disk_bytes: int = 2**30
    pickles: bool = True
    local: bool = True

    def __post_init__(self) -> None:
        for name in ("parameters", "download_bytes", "free_disk_bytes"):
            value = getattr(self, name)
            if value is not None and value < 0:
                raise InvalidArgument(name, value, "a number of at least 0")


UNLIMITED = LoadLimits()
"""The limits of whoever loads on a machine of their own."""
