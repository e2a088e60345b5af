"""Connections to Ray: a session of one job on this machine, a cluster, or what is open already."""

from __future__ import annotations

import os
import secrets
import shutil
import signal
import tempfile
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from cam_hub._text import first_line
from cam_hub.datasets.rows import require
from cam_hub.errors import ClusterUnavailable

__all__ = ["Session", "open_session", "require_ray"]

_LOCAL: Final = "local"

_TOKEN: Final = "RAY_AUTH_TOKEN"  # noqa: S105 - a name

_QUIET: Final = {"log_to_driver": False, "logging_level": "ERROR"}


def require_ray(module: str = "ray") -> Any:
    """Ray, or a module of it, imported when it is needed.

    Raises:
        PackageMissing: If it is not installed.
    """
    return require(module, "runner='ray'", "pip install 'cam-hub[ray]'")


@dataclass(frozen=True)
class Session:
    """A connection to Ray.

    Attributes:
        ray: The package.
        own: Whether it was started for this job, on this machine and with its environment.
    """

    ray: Any
    own: bool


@contextmanager
def open_session(address: str | None) -> Iterator[Session]:
    """Connects to Ray, and leaves everything as it was.

    Args:
        address: As ``RayRunner`` has it.

    Raises:
        PackageMissing: If Ray is not installed.
        ClusterUnavailable: If it does not start, or the cluster cannot be reached.
    """
    ray = require_ray()
    if ray.is_initialized():
        yield Session(ray, own=False)
        return
    place = address or os.environ.get("RAY_ADDRESS") or _LOCAL
    with ExitStack() as after:
        if threading.current_thread() is threading.main_thread():  # where Ray sets a handler
            after.callback(signal.signal, signal.SIGTERM, signal.getsignal(signal.SIGTERM))
        try:
            if place == _LOCAL:
                _start(ray, after)
            else:
                after.callback(ray.shutdown)
                ray.init(address=place, **_QUIET)
        except (OSError, RuntimeError, ValueError, ray.exceptions.RayError) as error:
            where = "a session on this machine" if place == _LOCAL else f"the cluster {place!r}"
            raise ClusterUnavailable(f"{where} cannot be opened: {first_line(error)}") from error
        yield Session(ray, own=place == _LOCAL)


def _start(ray: Any, after: ExitStack) -> None:
    """Starts a session that only this machine can reach, with its files in a folder of its own."""
    # The default folder would be the user's next cluster's, too. Sockets need a short path.
    root = "/tmp" if Path("/tmp").is_dir() else None  # noqa: S108
    folder = tempfile.mkdtemp(prefix="cam-hub-ray-", dir=root)
    after.callback(shutil.rmtree, folder, ignore_errors=True)
    after.callback(ray.shutdown)
    if not _has_token():
        # Otherwise Ray writes one to the home. It stays set, as Ray does not read it again.
        os.environ[_TOKEN] = secrets.token_hex(32)
    with _loopback():
        ray.init(
            address=_LOCAL,
            include_dashboard=False,
            _node_ip_address="127.0.0.1",
            _temp_dir=folder,
            **_QUIET,
        )


def _has_token() -> bool:
    """Whether the user has decided how sessions are protected."""
    names = ("RAY_AUTH_MODE", _TOKEN, "RAY_AUTH_TOKEN_PATH")
    return (
        any(name in os.environ for name in names) or Path("~/.ray/auth_token").expanduser().exists()
    )


@contextmanager
def _loopback() -> Iterator[None]:
    """Has Ray listen on the loopback interface only, and send no usage statistics.

    On Linux, Ray replaces 127.0.0.1 by the address that other machines see, unless clusters are
    switched off as they are on other systems. It reads that setting when it is imported, its
    processes when they start.
    """
    constants = require_ray("ray._private.ray_constants")
    clusters = constants.ENABLE_RAY_CLUSTER
    settings = {"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0", "RAY_USAGE_STATS_ENABLED": "0"}
    before = {name: os.environ.get(name) for name in settings}
    try:
        os.environ.update(settings)
        constants.ENABLE_RAY_CLUSTER = False
        yield
    finally:
        constants.ENABLE_RAY_CLUSTER = clusters
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
