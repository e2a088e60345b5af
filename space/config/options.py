"""Every setting of the app in one table: its flag, its environment variable, what it takes.

``app.py``, its ``--help`` and ``docs/space.md`` all follow it. Nothing heavy is imported, so that
``--help`` answers at once.
"""

from __future__ import annotations

import argparse
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from cam_hub.errors import InvalidArgument
from cam_hub.options import SWITCH_WORDS

__all__ = ["HOST", "OPTIONS", "Option", "add_options", "read_options"]

Kind = Literal["count", "amount", "seconds", "text", "words", "hosts", "switch", "port"]

_EXPECTED = {
    "count": "a whole number of at least 1",
    "amount": "a whole number of at least 0",
    "seconds": "a number above 0",
    "text": "a text without white space inside",
    "words": "names of letters, digits, '.', '_' and '-', with commas between them",
    "hosts": "hosts as 'cam.example.org' or 'localhost:3000', with commas between them, or 'none'",
    "switch": "'on' or 'off'",
    "port": "1 to 65535",
}
HOST = re.compile(r"(?:\[[0-9A-Fa-f:.]{2,45}\]|\w[\w.-]{0,252})(?::[0-9]{1,5})?\Z", re.ASCII)
"""A name or an address (IPv6 in brackets), perhaps with a port."""

_OWNER = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*\Z")


@dataclass(frozen=True)
class Option:
    """One setting.

    Attributes:
        name: The flag without its dashes.
        kind: What it takes.
        default: Its value where nothing is given.
        help: What it does, for people.
        field: Which field of ``Settings`` it is: ``concurrency``, ``limits.max_pixels``,
            ``load_limits.pickles``; empty for what only ``app.py`` uses.
        on_space: Its default on a Space, where that differs.
        optional: Whether ``none`` is a value.
    """

    name: str
    kind: Kind
    default: Any
    help: str
    field: str = ""
    on_space: Any = None
    optional: bool = False

    @property
    def flag(self) -> str:
        """On the command line."""
        return f"--{self.name}"

    @property
    def variable(self) -> str:
        """In the environment."""
        return "CAM_HUB_" + self.name.replace("-", "_").upper()

    def default_text(self) -> str:
        """The default, as it would be typed."""
        text = _typed(self.default)
        return text if self.on_space is None else f"{text}; on a Space {_typed(self.on_space)}"

    def read(self, text: str, where: str) -> Any:
        """The value that was typed.

        Args:
            text: What was typed.
            where: The flag or the variable, for messages.

        Raises:
            InvalidArgument: If it is none of this kind.
        """
        text = text.strip()
        if self.optional and text.lower() == "none":
            return None
        value = _value(self.kind, text)
        if value is None:
            other = ", or 'none'" if self.optional else ""
            raise InvalidArgument(where, text, _EXPECTED[self.kind] + other)
        return value


OPTIONS = (
    Option("host", "text", "127.0.0.1", "address to listen on; 0.0.0.0 for all of this machine's",
           "host", on_space="0.0.0.0"),  # noqa: S104 (a Space is reached from outside)
    Option("port", "port", 7860, "port to listen on"),
    Option("allowed-hosts", "hosts", (), "further hosts under which the app is reached, and whose "
           "pages may send it requests, as cam.example.org,localhost:3000; none for no others",
           "allowed_hosts"),
    Option("device", "text", "auto", "where models run: auto (the best there is), cpu, cuda, "
           "cuda:<index> or mps", "device"),
    Option("model", "text", "timm/tf_efficientnet_lite0.in1k",
           "model that the page starts with; the default's weights are installed", "default_model"),
    Option("owners", "words", None, "whose models on the Hub are loaded, as timm,me; none for "
           "everybody's", "limits.owners", optional=True),
    Option("concurrency", "count", 2, "requests that use a model at the same time", "concurrency"),
    Option("queue", "count", 64, "requests that may wait", "queue_size"),
    Option("sessions", "count", 1000, "pages in browsers whose last result is remembered",
           "sessions"),
    Option(
        "max-samples",
        "count",
        64,
        "noisy copies of one request; below 64 none are added to unstable maps",
        "limits.max_samples",
    ),
    Option("max-passes", "count", 4096, "images that pass the model for the maps of one request",
           "limits.max_passes"),
    Option("max-classes", "count", 10, "classes of one request", "limits.max_classes"),
    Option("max-layers", "count", 64, "layers of one request", "limits.max_layers"),
    Option("max-models", "count", 6, "models of one comparison", "limits.max_models"),
    Option("max-cells", "count", 64, "maps of one comparison", "limits.max_cells"),
    Option("max-top", "count", 100, "predicted classes that are returned", "limits.max_top"),
    Option("max-pixels", "count", 64_000_000, "pixels of a photo", "limits.max_pixels"),
    Option("max-bytes", "count", 40 * 2**20, "bytes of a photo's file", "limits.max_file_bytes"),
    Option("urls", "switch", True, "whether photos are fetched from public URLs", "limits.by_url"),
    Option("url-seconds", "seconds", 15.0, "how long a photo at a URL is waited for",
           "limits.urls.total_seconds"),
    Option("parameters", "amount", 700_000_000, "parameters of a model", "load_limits.parameters",
           optional=True),
    Option("download-bytes", "amount", 4 * 10**9, "bytes that are fetched for one model",
           "load_limits.download_bytes", optional=True),
    Option("free-disk-bytes", "amount", 5 * 10**9, "bytes of the disk that stay free",
           "load_limits.free_disk_bytes"),
    Option("pickles", "switch", False, "whether weights that exist only as a pickle are read",
           "load_limits.pickles"),
    Option("keep-restricted", "switch", False, "whether files of private and gated models that a "
           "visitor's token opened stay on the disk", "load_limits.keep_restricted"),
    Option("model-bytes", "amount", 4 * 2**30, "bytes of weights that stay loaded", "model_bytes"),
    Option("disk-bytes", "amount", None, "bytes of downloaded weights, uploads and results "
           "together that stay on the disk; the oldest go first", "disk_bytes",
           on_space=20 * 10**9, optional=True),
    Option("file-bytes", "count", 2**31, "bytes of uploads and results that stay on the disk; the "
           "oldest go first", "file_bytes"),
    Option("visitor-bytes", "count", 2**29, "bytes of the uploads of one visitor that stay",
           "visitor_bytes"),
    Option("upload-bytes", "count", 84 * 2**20, "bytes of one upload, all its files together",
           "upload_bytes"),
    Option("keep-seconds", "count", 86_400, "how long uploads and results are kept",
           "keep_seconds"),
    Option("cleaning-seconds", "count", 3600, "how often old ones are looked for",
           "cleaning_seconds"),
    Option("random-weights", "switch", False, "models get random weights; nothing is fetched, and "
           "maps mean nothing", "random_weights"),
)  # fmt: skip
"""All settings. Those of what may be loaded are ``cam_hub.LoadLimits``'."""


def add_options(parser: argparse.ArgumentParser) -> None:
    """Adds all flags to a command line."""
    for option in OPTIONS:
        parser.add_argument(
            option.flag,
            metavar=option.kind.upper(),
            help=f"{option.help} (default: {option.default_text()})",
        )


def read_options(
    typed: Mapping[str, str | None], variables: Mapping[str, str], *, on_space: bool
) -> dict[str, Any]:
    """The values of all settings: what was typed, else the variable, else the default.

    Args:
        typed: By the flags' names, with ``_`` for ``-``; None where a flag was not given.
        variables: The environment. Empty ones count as not given. ``GRADIO_SERVER_PORT`` stands
            in for ``CAM_HUB_PORT``.
        on_space: Whether the app runs on a Space.

    Returns:
        Values by the options' names.

    Raises:
        InvalidArgument: If one of them is not a value of its setting.
    """
    found = {}
    for option in OPTIONS:
        names = [option.variable, *(["GRADIO_SERVER_PORT"] if option.name == "port" else [])]
        given = [(variables[name], name) for name in names if variables.get(name, "").strip()]
        text = typed.get(option.name.replace("-", "_"))
        if text is not None:
            found[option.name] = option.read(text, option.flag)
        elif given:
            found[option.name] = option.read(*given[0])
        else:
            there = on_space and option.on_space is not None
            found[option.name] = option.on_space if there else option.default
    return found


def _value(kind: Kind, text: str) -> Any:
    """The value of a text, or None if it is not of the kind."""
    if kind == "switch":
        return SWITCH_WORDS.get(text.lower())
    if kind == "text":
        return text if text and not re.search(r"\s", text) else None
    if kind == "words":
        words = tuple(word for word in re.split(r"[,\s]+", text) if word)
        return words if words and all(map(_OWNER.match, words)) else None
    if kind == "hosts":
        hosts = () if text == "none" else tuple(host for host in re.split(r"[,\s]+", text) if host)
        return hosts if (hosts or text == "none") and all(map(HOST.match, hosts)) else None
    try:
        number = float(text) if kind == "seconds" else int(text)
    except ValueError:
        return None
    least, most = {"count": (1, math.inf), "amount": (0, math.inf), "port": (1, 65535)}.get(
        kind, (1e-3, 1e6)
    )
    return number if least <= number <= most else None


def _typed(value: Any) -> str:
    if value is None or value == ():
        return "none"
    if isinstance(value, bool):
        return "on" if value else "off"
    if isinstance(value, int):
        # As it is typed: Python reads the separators.
        return f"{value:_}" if value >= 100_000 else str(value)
    return f"{value:g}" if isinstance(value, float) else str(value)
