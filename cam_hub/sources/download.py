"""The transfer of one file, and its progress, which a caller may end.

A transfer resumes where it was cut; the file gets its place only when its size and its digest are
right, and until then is ``NAME.incomplete`` beside it. huggingface_hub's download (2.4) begins anew
with every call and checks no digest; torch's does not resume and has no time-out. The HTTP client
is that of huggingface_hub (httpx2), so that proxies, certificates, offline mode and
``HF_HUB_DOWNLOAD_TIMEOUT`` apply to all files.
"""

from __future__ import annotations

import hashlib
import io
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import httpx2
from huggingface_hub import constants, get_session
from huggingface_hub.errors import OfflineModeIsEnabled
from huggingface_hub.utils import WeakFileLock

from cam_hub.errors import HubUnavailable
from cam_hub.models.faults import Sender, TooSlow, network_trouble
from cam_hub.models.limits import readable
from cam_hub.models.loaded_model import Progress

__all__ = ["Parcel", "Report", "Told", "caller_may_stop", "download", "file_lock", "poll_of"]


Told = Callable[[int], None]
"""Called with the bytes of a file that are there. What it raises ends the transfer; it must be
nothing that networks and disks raise."""

_TRIES = 3
"""How often a connection that is cut is taken up again with little or nothing gained."""
_GAIN = 2**20
"""Bytes that make a try a good one."""
_PAUSE = 0.5
"""Seconds between two of them."""
_CUT = (httpx2.NetworkError, httpx2.RemoteProtocolError, httpx2.TimeoutException)
_SLOWEST = 1000
"""Bytes per second: the least that a server may send."""
_WINDOW = 3
"""Time-outs long is the time over which that is measured."""
_SLACK = 2**20
"""Bytes beyond twice the size that may arrive where the size is not exact."""


@dataclass(frozen=True)
class Parcel:
    """One file that is to be fetched.

    Attributes:
        id: The model's ID, for messages.
        name: The file's name, for messages.
        address: Where it is.
        size: Its bytes.
        digest: What it must add up to: 40 hexadecimal digits are the SHA-1 that git gives it;
            any other number of them is how its SHA-256 begins.
        sender: Whose server it is.
        exact: Whether the size is its size, rather than about that.
        headers: To send along. The authorization among them goes to no other host.
    """

    id: str
    name: str
    address: str
    size: int
    digest: str
    sender: Sender
    exact: bool = True
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)

    def refusal(self, reason: str) -> HubUnavailable:
        """The error that tells why it could not be had."""
        return HubUnavailable(self.id, reason)


@contextmanager
def file_lock(target: Path, lock: Path, told: Told) -> Iterator[None]:
    """Sees to it that of all programs that want a file only this thread fetches it.

    Args:
        target: The file's place; its folder is made.
        lock: The file that all of them lock.
        told: Hears, while another has the lock, what that one has got; so a caller may give up.

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
                told(_size(_partial(target)))
        yield


def download(parcel: Parcel, target: Path, told: Told) -> None:
    """Fetches a file to its place, going on where an earlier try was cut.

    A server that is silent for ``HF_HUB_DOWNLOAD_TIMEOUT`` seconds, or sends less than 1,000 bytes
    per second for three times that, is given up like one that cuts the connection: after three
    tries in a row that brought less than a megabyte each.

    Args:
        parcel: What.
        target: Its place. Whoever may want it too is kept off by :func:`alone`.
        told: Hears how many bytes are there, again and again, and of all of them at the end.

    Raises:
        HubUnavailable: If what arrives is not what was promised, or ends too early for good.
        httpx2.HTTPError, OfflineModeIsEnabled, OSError: If nothing arrives, or the disk fails;
            see :func:`cam_hub.models.faults.plain_faults`.
    """
    partial = _partial(target)
    _persist(parcel, partial, lambda count: told(min(count, parcel.size)))
    _verify(parcel, partial)
    partial.replace(target)
    told(parcel.size)


def _persist(parcel: Parcel, partial: Path, told: Told) -> None:
    """Receives until all is there, taking up what was cut."""
    tries = 0
    while True:
        before = _size(partial)
        try:
            _receive(parcel, partial, told)
            return
        except _CUT as error:
            tries = 1 if _size(partial) - before >= _GAIN else tries + 1
            if tries >= _TRIES and (arrived := _size(partial)):
                raise _given_up(parcel, arrived, error) from error
            if tries >= _TRIES:
                raise
        except (HubUnavailable, OfflineModeIsEnabled):  # which are OSErrors, too
            raise
        except OSError:
            with suppress(OSError):
                partial.unlink()  # a full disk is not left full
            raise
        time.sleep(_PAUSE)
        told(_size(partial))


def _given_up(parcel: Parcel, arrived: int, error: Exception) -> HubUnavailable:
    """What to say of a transfer that does not come to its end."""
    about = "" if parcel.exact else "about "
    return parcel.refusal(
        f"{network_trouble(error, parcel.sender)} {arrived:,} of {about}{parcel.size:,} bytes have "
        "arrived. They are kept, and the next try goes on where it was cut."
    )


def _receive(parcel: Parcel, partial: Path, told: Told) -> None:
    """Asks once for what is missing, and appends it."""
    start = _size(partial)
    if parcel.exact and start >= parcel.size > 0:
        return  # complete, but not yet verified; or too long, which the digest will tell
    headers = {**parcel.headers, "Accept-Encoding": "identity"}
    if start:
        headers["Range"] = f"bytes={start}-"
    timeout = constants.HF_HUB_DOWNLOAD_TIMEOUT
    with get_session().stream("GET", parcel.address, headers=headers, timeout=timeout) as response:
        if start and response.status_code == 416:
            if not parcel.exact:
                return  # nothing is missing; whether it is the right file, the digest will tell
            partial.unlink()
            raise httpx2.RemoteProtocolError("it cannot go on where it was cut")
        position = _position(parcel, response, partial, start)
        _check_promise(parcel, response, position)
        with partial.open("r+b" if position else "wb", buffering=0) as out:
            out.seek(position)
            for chunk in _paced(response.iter_raw(), _WINDOW * timeout):
                position += len(chunk)
                if position > (parcel.size if parcel.exact else 2 * parcel.size + _SLACK):
                    break
                _write(out, chunk)
                told(position)
            else:
                if parcel.exact and position < parcel.size:
                    raise httpx2.RemoteProtocolError("it ended too early")
                return
    partial.unlink()
    raise parcel.refusal(
        f"{parcel.sender.name} sends more bytes than the file has. What arrived was thrown away; "
        "try again later."
    )


def _position(parcel: Parcel, response: httpx2.Response, partial: Path, start: int) -> int:
    """Where in the file the bytes of an answer belong."""
    if response.status_code == 200:
        return 0  # all of it, whatever was asked for
    response.raise_for_status()
    if not response.headers.get("Content-Range", "").startswith(f"bytes {start}-"):
        partial.unlink(missing_ok=True)
        raise parcel.refusal(
            f"{parcel.sender.name} sends another part of the file than it was asked for. What had "
            "arrived was thrown away; try again."
        )
    return start


def _check_promise(parcel: Parcel, response: httpx2.Response, position: int) -> None:
    """Refuses what will not have the right size, before it is received."""
    promised = response.headers.get("Content-Length", "")
    if parcel.exact and promised.isdecimal() and position + int(promised) != parcel.size:
        raise parcel.refusal(
            f"{parcel.name} comes with {position + int(promised):,} bytes, and should have "
            f"{parcel.size:,}. Nothing of it was used; try again later."
        )


def _paced(chunks: Iterator[bytes], window: float) -> Iterator[bytes]:
    """Passes on what arrives, as long as enough does.

    Only the time spent on waiting counts, so that a slow disk or listener is not held against the
    server.

    Args:
        chunks: What arrives.
        window: Seconds over which the rate is measured.

    Raises:
        TooSlow: If less arrives in a window than may.
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
            if arrived < _SLOWEST * waited:
                raise TooSlow(f"{arrived} bytes in {waited:.0f} seconds")
            waited, arrived = 0.0, 0
        yield chunk


def _write(file: io.RawIOBase, chunk: bytes) -> None:
    """Writes all of it; unbuffered, so that nothing is left to fail when the file is closed."""
    rest = memoryview(chunk)
    while rest:
        rest = rest[file.write(rest) or 0 :]


def _verify(parcel: Parcel, partial: Path) -> None:
    """Refuses what does not add up to its digest, and removes it."""
    if len(parcel.digest) == 40:
        kind, digest = "git's SHA-1", hashlib.sha1(usedforsecurity=False)
        digest.update(b"blob %d\0" % _size(partial))
    else:
        kind, digest = "SHA-256", hashlib.sha256()
    with partial.open("rb") as content:
        while chunk := content.read(2**20):
            digest.update(chunk)
    if not digest.hexdigest().startswith(parcel.digest):
        partial.unlink()
        raise parcel.refusal(
            f"{parcel.name} arrived damaged, or something else was sent in its place (a login "
            f"page?): its checksum ({kind}) begins with {digest.hexdigest()[:8]} instead of "
            f"{parcel.digest[:8]}. It was thrown away; try again."
        )


def _partial(target: Path) -> Path:
    """Where that which has arrived is kept until it is whole."""
    return target.with_name(f"{target.name}.incomplete")


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0


_SECONDS = 0.1
"""Between two words to the caller."""

_SILENT = 1.0
"""Seconds of reading before the first word: most files are read by then."""


class _Stopped(BaseException):
    """Carries what the caller's function raised past everything that handles errors."""

    def __init__(self, reason: BaseException) -> None:
        super().__init__()
        self.reason = reason


@contextmanager
def caller_may_stop() -> Iterator[None]:
    """Lets out, unchanged, what the function that hears of progress raises inside."""
    try:
        yield
    except _Stopped as stopped:
        reason = stopped.reason
    else:
        return
    raise reason


def poll_of(id: str, progress: Progress | None) -> Callable[[], None]:
    """A function to be called again and again while the files of a model are read.

    It passes on the news, seldom enough, and ends the reading if the caller's function raises.
    Use it inside :func:`caller_may_stop`.

    Args:
        id: The model's ID.
        progress: The caller's function; None if there is none.
    """
    due = time.monotonic() + _SILENT

    def poll() -> None:
        nonlocal due
        if progress is None or (now := time.monotonic()) < due:
            return
        due = now + _SECONDS
        _call(progress, 1.0, f"Reading {id}")

    return poll


def _call(progress: Progress, part: float, words: str) -> None:
    try:
        progress(part, words)
    except BaseException as error:
        raise _Stopped(error) from error


class Report:
    """Adds up the bytes of several files.

    Args:
        id: The model's ID.
        total: Bytes of all files together.
        progress: Hears of it; None for nobody.
    """

    def __init__(self, id: str, total: int, progress: Progress | None) -> None:
        self._id, self._total, self._progress = id, total, progress
        self._before = 0
        self._last = float("-inf")

    def file(self, size: int | None) -> Callable[[int], None]:
        """Begins the next file.

        Args:
            size: Its bytes, if known.

        Returns:
            To be called with the bytes of it that are there.
        """
        before, done = self._before, False
        self._before += size or 0

        def told(count: int) -> None:
            nonlocal done
            now = time.monotonic()
            if now - self._last >= _SECONDS or (count == size and not done):
                self._last, done = now, count == size
                self._tell(before + count)

        return told

    def _tell(self, count: int) -> None:
        if self._progress is None:
            return
        total = max(self._total, count)
        words = f"Fetching {self._id}: {readable(count)} of {readable(total)}"
        _call(self._progress, count / total if total else 1.0, words)
