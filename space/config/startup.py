"""Makes odd environments ordinary before anything heavy is imported, or raises ``CannotStart``.

Nothing here imports torch or Gradio, so that what cannot work ends within a moment.
"""

from __future__ import annotations

import os
import socket
import sys
import tempfile
import uuid
from collections.abc import Iterator, MutableMapping
from contextlib import contextmanager, suppress
from pathlib import Path

from cam_hub.errors import CamHubError, InvalidArgument

__all__ = [
    "check_address",
    "direct_loopback",
    "open_standard_streams",
    "prepare",
    "reason_of",
]

_PROXIES = ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY")
_CONNECTIONS = 65_536
_LOOPBACK = ("localhost", "127.0.0.1", "::1")
_NUMBERS = (
    "GRADIO_ANALYTICS_CACHE_FREQUENCY",
    "GRADIO_ANALYTICS_MAX_EVENTS",
    "GRADIO_DEBUG",
    "GRADIO_NODE_NUM_PORTS",
    "GRADIO_NUM_PORTS",
    "WEB_CONCURRENCY",
)
"""Variables that libraries turn into numbers when they are imported."""


class CannotStart(CamHubError):
    """The app cannot start in this environment."""

    code = "cannot_start"


def prepare(environ: MutableMapping[str, str], host: str, port: int) -> None:
    """Sets what libraries read from the environment, and makes the folder for files.

    Args:
        environ: The environment; it is changed.
        host: The address of the server's socket.
        port: Its port.

    Raises:
        CannotStart: If no folder for files can be written.
        InvalidArgument: If a variable of a library is malformed.
    """
    for name in _NUMBERS:
        text = environ.get(name, "").strip() or "0"
        if not (text.isascii() and text.isdigit()):
            raise InvalidArgument(name, text, "a whole number, or to be unset")
        if name in environ and not environ[name].strip():
            del environ[name]
    # No telemetry; read when Gradio and the Hub's client are imported.
    environ["GRADIO_ANALYTICS_ENABLED"] = "False"
    environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    # Gradio's own statistics are shown nowhere, and cost more with every request they keep.
    environ["GRADIO_ANALYTICS_MAX_EVENTS"] = "1"
    # Gradio checks both when it is imported, and tries the port there before the real address.
    environ["GRADIO_SERVER_PORT"] = str(port)
    environ["GRADIO_SERVER_NAME"] = "127.0.0.1"
    environ["MPLBACKEND"] = "agg"  # pictures are drawn into files, never into a window
    _exempt_loopback(environ, host)
    _allow_many_connections()
    folder = _files_folder(environ)
    environ["GRADIO_TEMP_DIR"] = str(folder)
    if _temporary() is None:  # then libraries use the folder for files
        tempfile.tempdir = environ["TMPDIR"] = str(folder)
    if not _can_write(Path(environ.get("HOME") or "/nonexistent")):
        # Without a home, matplotlib looks for a place of its own, and warns that it is slow.
        environ.setdefault("MPLCONFIGDIR", str(folder / "matplotlib"))
    try:
        Path.cwd()
    except OSError:  # it was deleted; Gradio asks for it
        os.chdir(folder)


def check_address(host: str, port: int) -> None:
    """Checks that the server can be bound to an address.

    Raises:
        CannotStart: If it cannot, with the reason.
    """
    bare = host.removeprefix("[").removesuffix("]")
    try:
        found = socket.getaddrinfo(bare, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        # Gradio tries the port on loopback first, whatever the address.
        addresses = [(each[0], each[4]) for each in found[:1]]
        if bare not in ("127.0.0.1", "0.0.0.0"):  # noqa: S104 (a comparison)
            addresses.append((socket.AF_INET, ("127.0.0.1", port)))
        for family, address in addresses:
            with socket.socket(family, socket.SOCK_STREAM) as probe:
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                probe.bind(address)
    except (OSError, UnicodeError, OverflowError) as error:
        reason = getattr(error, "strerror", None) or "it is not an address of this machine"
        raise CannotStart(f"cannot listen on {host}, port {port}: {reason}") from error


@contextmanager
def direct_loopback(environ: MutableMapping[str, str]) -> Iterator[None]:
    """Hides the proxies of the environment while Gradio is imported and checks its own server.

    It does not exempt loopback, and a proxy of a kind that its client does not know (SOCKS without
    a package for it) fails at once.
    """
    names = [name for each in _PROXIES for name in (each, each.lower())]
    hidden = {name: environ.pop(name) for name in names if name in environ}
    try:
        yield
    finally:
        environ.update(hidden)


def reason_of(error: BaseException) -> str:
    """Why the app cannot start, in one line, for an error that a library has raised."""
    if isinstance(error, CamHubError):
        return str(error)
    if isinstance(error, ImportError) and error.name:
        return (
            f"the package {error.name.partition('.')[0]!r} cannot be imported ({error}); "
            "install what requirements.txt lists"
        )
    where = ""
    if trace := error.__traceback__:
        while trace.tb_next is not None:
            trace = trace.tb_next
        where = f" ({Path(trace.tb_frame.f_code.co_filename).name}, line {trace.tb_lineno})"
    return f"cannot start: {type(error).__name__}: {error}{where}"


def _exempt_loopback(environ: MutableMapping[str, str], host: str) -> None:
    """Has clients inside of this process reach the server without a proxy."""
    given = environ.get("no_proxy") or environ.get("NO_PROXY") or ""
    names = [name.strip() for name in given.split(",") if name.strip()]
    bare = host.strip("[]")
    names += [name for name in (*_LOOPBACK, bare) if name not in names]
    environ["NO_PROXY"] = environ["no_proxy"] = ",".join(names)


def _allow_many_connections() -> None:
    """Raises the number of open files to what this user may have: each connection is one."""
    if sys.platform == "win32":
        return
    import resource  # noqa: PLC0415 - not on Windows

    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _CONNECTIONS if hard == resource.RLIM_INFINITY else min(hard, _CONNECTIONS)
    with suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def _files_folder(environ: MutableMapping[str, str]) -> Path:
    """A folder for uploads and results that can be written and belongs to this user.

    Raises:
        CannotStart: If there is none.
    """
    if given := environ.get("GRADIO_TEMP_DIR", "").strip():
        folder = Path(given).absolute()
        if not _can_write(folder):
            raise CannotStart(
                f"the folder for uploads and results, GRADIO_TEMP_DIR={given!r}, cannot be written"
            )
        return folder
    name = f"cam_hub-{os.getuid() if hasattr(os, 'getuid') else 'files'}"
    tried = []
    for base in (_temporary(), Path(environ.get("HOME") or "/nonexistent") / ".cache"):
        if base is None:
            continue
        tried.append(str(base / name))
        if _can_write(base / name) and _is_ours(base / name):
            return base / name
    raise CannotStart(
        "no folder for uploads and results can be written; name one with GRADIO_TEMP_DIR. "
        f"Tried: {', '.join(tried) or 'none, since there is no temporary folder and no home'}"
    )


def _temporary() -> Path | None:
    try:
        return Path(tempfile.gettempdir())
    except OSError:  # none of the usual places can be written
        return None


def _can_write(folder: Path) -> bool:
    """Whether a folder is there, or can be made, and takes files."""
    probe = folder / f".{uuid.uuid4().hex}"
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        probe.write_bytes(b"x")
    except (OSError, ValueError):
        return False
    finally:
        with suppress(OSError, ValueError):
            probe.unlink()
    return True


def _is_ours(folder: Path) -> bool:
    """Whether a folder in a place that all users may write to was made by this user."""
    facts = folder.lstat()
    return (
        folder.is_dir()
        and not folder.is_symlink()
        and (not hasattr(os, "getuid") or facts.st_uid == os.getuid())
    )


def open_standard_streams() -> None:
    """Makes standard output and standard error take any text, also if they are closed.

    What their encoding does not have is written as an escape. A closed one goes nowhere; its number
    must not become that of a socket, into which others then print.
    """
    for number in (0, 1, 2):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:
            nowhere = Path(os.devnull).open("w", encoding="utf-8")  # noqa: SIM115 (for good)
            setattr(sys, name, nowhere)
        elif hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")
