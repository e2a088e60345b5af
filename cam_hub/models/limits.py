"""How much loading a model may cost, decided before anything large is fetched."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace

from cam_hub.errors import InvalidArgument

__all__ = ["MAX_NAME", "MAX_TENSORS", "UNLIMITED", "LoadLimits"]

MAX_TENSORS = 2**15
"""Maximum number of tensors in a file of weights. timm's largest networks have some thousands."""

MAX_NAME = 512
"""Maximum length of a tensor's name, in characters."""

_WORDS = {"1": True, "true": True, "yes": True, "on": True}
_WORDS |= {"0": False, "false": False, "no": False, "off": False}


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
        keep_restricted: Whether files of private and gated repos that a given token has opened
            stay in the disk cache. An app that serves several people says no: it then fetches
            them into a folder of their own, and removes that as soon as the model is built.
    """

    parameters: int | None = None
    download_bytes: int | None = None
    free_disk_bytes: int = 2**30
    pickles: bool = True
    local: bool = True
    keep_restricted: bool = True

    def __post_init__(self) -> None:
        for name in ("parameters", "download_bytes", "free_disk_bytes"):
            value = getattr(self, name)
            if value is not None and value < 0:
                raise InvalidArgument(name, value, "a number of at least 0")

    def from_environment(
        self, prefix: str = "CAM_HUB_", environ: Mapping[str, str] | None = None
    ) -> LoadLimits:
        """These limits, with what the environment says in place of some of them.

        Args:
            prefix: In front of the names, which are the attributes' in capitals: for example
                ``CAM_HUB_DOWNLOAD_BYTES=2_000_000_000``, ``CAM_HUB_PARAMETERS=none``,
                ``CAM_HUB_PICKLES=off``. Empty values count as not given.
            environ: The variables; those of this process if left out.

        Raises:
            InvalidArgument: If a variable does not hold what its limit takes.
        """
        variables = os.environ if environ is None else environ
        changes = {
            field.name: _read(prefix + field.name.upper(), text, getattr(UNLIMITED, field.name))
            for field in fields(self)
            if (text := variables.get(prefix + field.name.upper(), "").strip())
        }
        return replace(self, **changes)  # type: ignore[arg-type]


def _read(name: str, text: str, default: bool | int | None) -> bool | int | None:
    """A limit out of its variable, of the kind that its default is of."""
    if isinstance(default, bool):
        if text.lower() not in _WORDS:
            raise InvalidArgument(name, text, "'on' or 'off'")
        return _WORDS[text.lower()]
    if default is None and text.lower() == "none":
        return None
    try:
        number = int(text)
    except ValueError:
        number = -1
    if number < 0:
        other = " or 'none'" if default is None else ""
        raise InvalidArgument(name, text, f"a whole number of at least 0{other}")
    return number


UNLIMITED = LoadLimits()
"""The limits of whoever loads on a machine of their own."""
