"""The transfer of one file, and its progress, which a caller may end.

A transfer resumes where it was cut; the file gets its place only when its size and its digest are
right, and until then is ``NAME.incomplete`` beside it. huggingface_hub's download (2.4) begins anew
with every call and checks no digest; torch's does not resume and has no time-out. The HTTP client
is that of huggingface_hub (httpx2), so that proxies, certificates, offline mode and
``HF_HUB_DOWNLOAD_TIMEOUT`` apply to all files. Where the Hub offers a file in its Xet storage and
hf_xet is installed, the first attempt streams it from there.

Errors of transfers are put into words that do not repeat a library's message: it may hold addresses
with signatures, local paths, or the header with the token.
"""

from __future__ import annotations

import errno
import hashlib
import io
import socket
import ssl
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from http import HTTPStatus
from importlib.util import find_spec
from pathlib import Path
from urllib.parse import urlsplit

import httpx2
from huggingface_hub import constants, get_session
from huggingface_hub.errors import HfHubHTTPError, OfflineModeIsEnabled
from huggingface_hub.utils import (
    WeakFileLock,
    XetFileData,
    parse_ratelimit_headers,
    parse_xet_file_data_from_response,
)

from cam_hub.errors import CamHubError, HubUnavailable
from cam_hub.models.loading import Progress, format_bytes

__all__ = [
    "FileServer",
    "OnBytes",
    "RemoteFile",
    "Report",
    "caller_may_stop",
    "download",
    "file_lock",
    "poll_of",
    "retry_after",
    "translated_errors",
]


_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_PROXY = (
    "the proxy that the environment names cannot be used: its URL is malformed, or it is a SOCKS "
    "proxy and the package socksio is missing. Correct or unset HTTP_PROXY, HTTPS_PROXY, ALL_PROXY."
)
_FORBIDDEN = {errno.EACCES, errno.EPERM, errno.EROFS}


class TooSlow(httpx2.ReadTimeout):
    """A server keeps sending, but too little to ever finish."""


@dataclass(frozen=True)
class FileServer:
    """The server of files and the place where they are stored, as messages name them.

    Attributes:
        name: What to call it.
        folder: What to call the place of its files.
        setting: The environment variable that has that place elsewhere.
        space_hint: How to make room there, in brackets; empty if no tool does it.
        unreachable_hint: What to look at when it cannot be reached, in full sentences.
        advice: How to do without it, in full sentences; may be empty.
        rate_limit_hint: How to be allowed more requests, in a full sentence; may be empty.
    """

    name: str
    folder: str
    setting: str
    space_hint: str = ""
    unreachable_hint: str = ""
    advice: str = ""
    rate_limit_hint: str = ""


@contextmanager
def translated_errors(id: str, server: FileServer) -> Iterator[None]:
    """Translates errors of the HTTP client and the disk into ours.

    Args:
        id: The model's ID.
        server: The server of the files.

    Raises:
        HubUnavailable: If the network, the server or the disk fails.
    """
    try:
        yield
    except CamHubError:  # of which some are OSErrors
        raise
    except OfflineModeIsEnabled as error:
        reason = "offline mode is on. Unset HF_HUB_OFFLINE to fetch it."
        raise HubUnavailable(id, _sentences(reason, server.advice)) from error
    except (httpx2.HTTPStatusError, HfHubHTTPError) as error:
        raise HubUnavailable(id, _status_error(error.response, server)) from error
    except (httpx2.HTTPError, httpx2.InvalidURL) as error:
        raise HubUnavailable(id, network_error(error, server)) from error
    except OSError as error:
        raise HubUnavailable(id, _disk_error(error, server)) from error
    except (ImportError, ValueError) as error:  # what the client makes of a proxy's URL
        if "proxy" not in str(error).lower():
            raise
        raise HubUnavailable(id, _PROXY) from error


def retry_after(response: httpx2.Response) -> int | None:
    """Seconds to wait before the next request, if the server states them."""
    limit = parse_ratelimit_headers(response.headers)
    if limit is not None and limit.remaining == 0:
        return limit.reset_in_seconds
    text = response.headers.get("Retry-After", "").strip()
    return int(text) if text.isdecimal() and len(text) < 7 else None


def network_error(error: Exception, server: FileServer) -> str:
    """The reason for a request without a response, or a response that does not end."""
    name, causes = server.name, list(_causes(error))
    if isinstance(error, TooSlow):
        return _sentences(f"{name} sends next to nothing. Try again later.", server.advice)
    if isinstance(error, httpx2.TimeoutException):
        reason = f"{name} cannot be reached: no answer in time. Try again later."
        return _sentences(reason, server.advice)
    if isinstance(error, httpx2.TooManyRedirects):
        return _sentences(f"{name} redirects in circles.", server.unreachable_hint)
    if isinstance(error, httpx2.ProxyError):
        return f"{name} cannot be reached: the proxy does not let the request through."
    if any(isinstance(cause, socket.gaierror) for cause in causes):
        return _unreachable(": its host name is not known (DNS)", server)
    if any(isinstance(cause, ssl.SSLError) for cause in causes):
        reason = f"{name} cannot be reached safely: its certificate is not accepted."
        return _sentences(reason, server.advice)
    if any(isinstance(cause, ConnectionRefusedError) for cause in causes):
        return _unreachable(": the connection was refused", server)
    if isinstance(error, httpx2.ConnectError):
        return _unreachable("", server)
    if isinstance(error, httpx2.TransportError):
        return "the connection broke off. Try again."
    return f"{name} answered with something that is not its protocol."


def _unreachable(why: str, server: FileServer) -> str:
    return _sentences(
        f"{server.name} cannot be reached{why}. Is there a network?", server.unreachable_hint
    )


def _status_error(response: httpx2.Response, server: FileServer) -> str:
    """The reason for a response with an error status."""
    name, status = server.name, response.status_code
    try:
        shown = f"error {status} ({HTTPStatus(status).phrase})"
    except ValueError:
        shown = f"error {status}"
    if status == HTTPStatus.TOO_MANY_REQUESTS:
        seconds = retry_after(response)
        when = f"in {seconds} seconds" if seconds is not None else "in a few minutes"
        reason = f"{name} has had too many requests from here (error 429). Try again {when}."
        return _sentences(reason, server.rate_limit_hint)
    if status in (HTTPStatus.NOT_FOUND, HTTPStatus.GONE):
        return _sentences(f"{name} does not have the file: {shown}.", server.advice)
    if status in (HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN):
        return _sentences(f"{name} does not hand out the file: {shown}.", server.advice)
    if status >= 500:
        return _sentences(f"{name} is in trouble: {shown}. Try again later.", server.advice)
    return _sentences(f"{name} answered with {shown}.", server.advice)


def _disk_error(error: OSError, server: FileServer) -> str:
    """The reason where the disk is full or not writable."""
    if error.errno in _FULL:
        hint = f" {server.space_hint}" if server.space_hint else ""
        return (
            "the disk is full, or a limit on file sizes is reached. Make room in "
            f"{server.folder}{hint}, or have it elsewhere ({server.setting})."
        )
    if error.errno in _FORBIDDEN:
        return (
            f"{server.folder} cannot be written. Have it in a folder of your own "
            f"({server.setting})."
        )
    return f"the disk of {server.folder} failed ({error.strerror or type(error).__name__})."


def _sentences(*parts: str) -> str:
    return " ".join(filter(None, parts))


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        yield error
        error = error.__cause__ or error.__context__


OnBytes = Callable[[int], None]
"""Called with the number of bytes received. An exception from it ends the transfer; it must not be
one of those that networks and disks raise."""

_MAX_ATTEMPTS = 3
"""Attempts in a row that may each bring less than ``_GAIN``."""
_GAIN = 2**20
"""The number of bytes after which an attempt does not count."""
_PAUSE = 0.5
"""Seconds between two attempts."""
_CUTS = (httpx2.NetworkError, httpx2.RemoteProtocolError, httpx2.TimeoutException)
_MIN_RATE = 1000
"""The minimum rate of a server, in bytes per second."""
_WINDOW = 3
"""The time over which the rate is measured, in time-outs."""
_SLACK = 2**20
"""The tolerance beyond twice a size that is not exact, in bytes."""


@dataclass(frozen=True)
class RemoteFile:
    """A file to be fetched.

    Attributes:
        id: The model's ID, for messages.
        name: The file's name, for messages.
        address: Its URL.
        size: Its size in bytes.
        digest: Its digest: 40 hexadecimal digits are git's SHA-1 of it; any other number of
            digits is the beginning of its SHA-256.
        server: The operator of the server.
        exact: Whether the size is exact rather than approximate.
        headers: The headers of the request. The authorization is sent to no other host.
    """

    id: str
    name: str
    address: str
    size: int
    digest: str
    server: FileServer
    exact: bool = True
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)

    def refusal(self, reason: str) -> HubUnavailable:
        """The error for a failed transfer."""
        return HubUnavailable(self.id, reason)


@contextmanager
def file_lock(target: Path, lock: Path, on_bytes: OnBytes) -> Iterator[None]:
    """Locks a file, so that only one thread of all processes fetches it.

    Args:
        target: The path of the file; its folder is made.
        lock: The lock file.
        on_bytes: Called with the progress of the other process while that has the lock, so that a
            caller may give up.

    Raises:
        OSError: If the disk fails.
    """
    for path in (target, lock):
        path.parent.mkdir(parents=True, exist_ok=True)
    with ExitStack() as stack:
        while True:
            try:
                stack.enter_context(WeakFileLock(lock, timeout=1.0))
                break
            except TimeoutError:
                on_bytes(_size(_partial(target)))
        yield


def download(file: RemoteFile, target: Path, on_bytes: OnBytes) -> None:
    """Fetches a file, resuming an earlier transfer that was cut.

    The transfer ends after three attempts in a row that brought less than a megabyte each. An
    attempt ends when the connection is cut, when the server sends nothing for
    ``HF_HUB_DOWNLOAD_TIMEOUT`` seconds, or less than 1,000 bytes per second for three times that.

    Args:
        file: The file.
        target: Its path, locked by :func:`file_lock`.
        on_bytes: Called with the number of bytes now and then, and with the size at the end.

    Raises:
        HubUnavailable: If size or digest are wrong, or the transfer ends too early.
        httpx2.HTTPError, OfflineModeIsEnabled, OSError: If nothing arrives, or the disk fails;
            see :func:`cam_hub.sources.download.translated_errors`.
    """
    partial = _partial(target)
    _persist(file, partial, lambda count: on_bytes(min(count, file.size)))
    _verify(file, partial)
    partial.replace(target)
    on_bytes(file.size)


def _persist(file: RemoteFile, partial: Path, on_bytes: OnBytes) -> None:
    """Receives until the file is complete, resuming after each cut."""
    attempts, xet = 0, True
    while True:
        before = _size(partial)
        try:
            _receive(file, partial, on_bytes, xet=xet)
            return
        except _CUTS as error:
            xet = False
            attempts = 1 if _size(partial) - before >= _GAIN else attempts + 1
            if attempts >= _MAX_ATTEMPTS and (arrived := _size(partial)):
                raise _given_up(file, arrived, error) from error
            if attempts >= _MAX_ATTEMPTS:
                raise
        except (HubUnavailable, OfflineModeIsEnabled):  # which are OSErrors, too
            raise
        except OSError:
            with suppress(OSError):
                partial.unlink()  # a full disk is not left full
            raise
        time.sleep(_PAUSE)
        on_bytes(_size(partial))


def _given_up(file: RemoteFile, arrived: int, error: Exception) -> HubUnavailable:
    """The error for a transfer that was cut too often."""
    about = "" if file.exact else "about "
    return file.refusal(
        f"{network_error(error, file.server)} {arrived:,} of {about}{file.size:,} bytes have "
        "arrived. They are kept, and the next try goes on where it was cut."
    )


def _receive(file: RemoteFile, partial: Path, on_bytes: OnBytes, *, xet: bool) -> None:
    """Requests the missing bytes once, from Xet storage if allowed, and appends them."""
    start = _size(partial)
    if file.exact and start >= file.size > 0:
        return  # complete but not verified, or too long, which the digest shows
    headers = {**file.headers, "Accept-Encoding": "identity"}
    if start:
        headers["Range"] = f"bytes={start}-"
    timeout = constants.HF_HUB_DOWNLOAD_TIMEOUT
    with get_session().stream("GET", file.address, headers=headers, timeout=timeout) as response:
        if start and response.status_code == 416:
            if not file.exact:
                return  # complete; the digest shows whether it is the right file
            partial.unlink()
            raise httpx2.RemoteProtocolError("it cannot go on where it was cut")
        position = _position(file, response, partial, start)
        _check_promise(file, response, position)
        in_xet = _find_in_xet(file, response) if xet else None
        if in_xet is None:
            chunks = response.iter_raw()
        else:
            response.close()
            chunks = _stream_from_xet(file, in_xet, position)
        with partial.open("r+b" if position else "wb", buffering=0) as out:
            out.seek(position)
            for chunk in _paced(chunks, _WINDOW * timeout):
                position += len(chunk)
                if position > (file.size if file.exact else 2 * file.size + _SLACK):
                    break
                _write(out, chunk)
                on_bytes(position)
            else:
                if file.exact and position < file.size:
                    raise httpx2.RemoteProtocolError("it ended too early")
                return
    partial.unlink()
    raise file.refusal(
        f"{file.server.name} sends more bytes than the file has. What arrived was thrown away; "
        "try again later."
    )


def _position(file: RemoteFile, response: httpx2.Response, partial: Path, start: int) -> int:
    """The position in the file of the first byte of a response."""
    if response.status_code == 200:
        return 0  # the whole file, even if a range was requested
    response.raise_for_status()
    if not response.headers.get("Content-Range", "").startswith(f"bytes {start}-"):
        partial.unlink(missing_ok=True)
        raise file.refusal(
            f"{file.server.name} sends another part of the file than it was asked for. What had "
            "arrived was thrown away; try again."
        )
    return start


def _check_promise(file: RemoteFile, response: httpx2.Response, position: int) -> None:
    """Refuses a response that announces a wrong size, before it is received."""
    promised = response.headers.get("Content-Length", "")
    if file.exact and promised.isdecimal() and position + int(promised) != file.size:
        raise file.refusal(
            f"{file.name} comes with {position + int(promised):,} bytes, and should have "
            f"{file.size:,}. Nothing of it was used; try again later."
        )


def _find_in_xet(file: RemoteFile, response: httpx2.Response) -> XetFileData | None:
    """The place of a file in the Hub's Xet storage; None if it has none, or hf_xet is missing."""
    if not file.exact or constants.HF_HUB_DISABLE_XET or find_spec("hf_xet") is None:
        return None
    for each in (*response.history, response):
        found = parse_xet_file_data_from_response(each)
        # The authorization is sent to the refresh route.
        if found and urlsplit(found.refresh_route)[:2] == urlsplit(file.address)[:2]:
            return found
    return None


def _stream_from_xet(file: RemoteFile, place: XetFileData, start: int) -> Iterator[bytes]:
    """Yields the bytes of a file from a position on.

    Raises:
        httpx2.ReadError: If hf_xet fails in any way.
    """
    from hf_xet import XetFileInfo, XetSession  # noqa: PLC0415 - optional

    try:
        with XetSession().new_download_stream_group(
            token_refresh_url=place.refresh_route, token_refresh_headers=dict(file.headers)
        ) as group:
            yield from group.download_stream(XetFileInfo(place.file_hash, file.size), start=start)
    except Exception as error:
        raise httpx2.ReadError(f"hf_xet: {error}") from error


def _paced(chunks: Iterator[bytes], window: float) -> Iterator[bytes]:
    """Yields the chunks of a response; ``TooSlow`` if too little arrives in ``window`` seconds.

    Only the time spent waiting counts: a slow disk or callback is not the server's fault.
    """
    waited, arrived = 0.0, 0
    while True:
        before = time.monotonic()
        chunk = next(chunks, None)
        if chunk is None:
            return
        waited += time.monotonic() - before
        arrived += len(chunk)
        if waited >= window:
            if arrived < _MIN_RATE * waited:
                raise TooSlow(f"{arrived} bytes in {waited:.0f} seconds")
            waited, arrived = 0.0, 0
        yield chunk


def _write(file: io.RawIOBase, chunk: bytes) -> None:
    """Writes a whole chunk; unbuffered, so that nothing can fail when the file is closed."""
    rest = memoryview(chunk)
    while rest:
        rest = rest[file.write(rest) or 0 :]


def _verify(file: RemoteFile, partial: Path) -> None:
    """Removes and refuses a file with another digest."""
    if len(file.digest) == 40:
        kind, digest = "git's SHA-1", hashlib.sha1(usedforsecurity=False)
        digest.update(b"blob %d\0" % _size(partial))
    else:
        kind, digest = "SHA-256", hashlib.sha256()
    with partial.open("rb") as content:
        while chunk := content.read(2**20):
            digest.update(chunk)
    if not digest.hexdigest().startswith(file.digest):
        partial.unlink()
        raise file.refusal(
            f"{file.name} arrived damaged, or something else was sent in its place (a login "
            f"page?): its checksum ({kind}) begins with {digest.hexdigest()[:8]} instead of "
            f"{file.digest[:8]}. It was thrown away; try again."
        )


def _partial(target: Path) -> Path:
    """The path of the incomplete file."""
    return target.with_name(f"{target.name}.incomplete")


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0


_INTERVAL = 0.1
"""Minimum time between two calls of a caller's function."""

_FIRST_CALL = 1.0
"""Seconds of reading before the first call: most files are read by then."""


class _Stopped(BaseException):
    """Carries an exception of the caller's function past all error handling."""

    def __init__(self, reason: BaseException) -> None:
        super().__init__()
        self.reason = reason


@contextmanager
def caller_may_stop() -> Iterator[None]:
    """Raises an exception of the caller's progress function unchanged."""
    try:
        yield
    except _Stopped as stopped:
        reason = stopped.reason
    else:
        return
    raise reason


def poll_of(id: str, progress: Progress | None) -> Callable[[], None]:
    """A function to be called often while the files of a model are read.

    It calls the caller's function at most ten times per second, and an exception of that ends the
    reading. Use it inside :func:`caller_may_stop`.

    Args:
        id: The model's ID.
        progress: The caller's function; None if there is none.
    """
    due = time.monotonic() + _FIRST_CALL

    def poll() -> None:
        nonlocal due
        if progress is None or (now := time.monotonic()) < due:
            return
        due = now + _INTERVAL
        _call(progress, 1.0, f"Reading {id}")

    return poll


def _call(progress: Progress, part: float, message: str) -> None:
    try:
        progress(part, message)
    except BaseException as error:
        raise _Stopped(error) from error


class Report:
    """The progress of fetching several files.

    Args:
        id: The model's ID.
        total: The size of all files together, in bytes.
        progress: The caller's function; None if there is none.
    """

    def __init__(self, id: str, total: int, progress: Progress | None) -> None:
        self._id, self._total, self._progress = id, total, progress
        self._before = 0
        self._last = float("-inf")

    def file(self, size: int | None) -> Callable[[int], None]:
        """Begins the next file.

        Args:
            size: Its size in bytes, if known.

        Returns:
            A function to be called with the number of its bytes that have arrived.
        """
        before, done = self._before, False
        self._before += size or 0

        def on_bytes(count: int) -> None:
            nonlocal done
            now = time.monotonic()
            if now - self._last >= _INTERVAL or (count == size and not done):
                self._last, done = now, count == size
                self._report(before + count)

        return on_bytes

    def _report(self, count: int) -> None:
        if self._progress is None:
            return
        total = max(self._total, count)
        message = f"Fetching {self._id}: {format_bytes(count)} of {format_bytes(total)}"
        _call(self._progress, count / total if total else 1.0, message)
