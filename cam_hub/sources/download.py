"""Fetches one file whose name holds its digest, and goes on where an earlier try was cut.

What has arrived stays beside its place as ``NAME.incomplete``; only what is whole, and has the
right digest, gets the name. torch's own downloader neither resumes nor knows a time-out.
"""

from __future__ import annotations

import hashlib
import http.client
import io
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.error import HTTPError
from urllib.request import Request, urlopen

from filelock import FileLock, Timeout

from cam_hub._version import __version__
from cam_hub.errors import HubUnavailable
from cam_hub.sources.download_faults import cut_short, disk_trouble, http_trouble, no_connection

__all__ = ["Parcel", "download"]

_CHUNK = 2**18
_TRIES = 3  # in a row that bring nothing new
_PAUSE = 0.3  # seconds between them
_SLACK = 2**20  # bytes beyond what is expected
_INTERVAL = 0.1  # seconds between two reports
_DEFAULT_TIMEOUT = 20.0

Told = Callable[[int], None]


class _Broken(Exception):
    """Carries what the network raised, so that nobody else's error is taken for it."""

    def __init__(self, cause: Exception) -> None:
        super().__init__()
        self.cause = cause


@dataclass(frozen=True)
class Parcel:
    """What is to be fetched.

    Attributes:
        id: The model's ID, for messages.
        url: Where it is.
        digest: The first digits of its SHA-256.
        size: About how many bytes it has; far more are not received.
    """

    id: str
    url: str
    digest: str
    size: int

    def refusal(self, reason: str) -> HubUnavailable:
        """The error that tells why it could not be had."""
        return HubUnavailable(self.id, reason)


def download(parcel: Parcel, target: Path, told: Told) -> None:
    """Fetches a file to its place, unless another process does so meanwhile.

    A server that is silent for ``$CAM_HUB_TIMEOUT`` seconds (20 by default) is given up.

    Args:
        parcel: What.
        target: Its place.
        told: Hears a few times per second how many bytes have arrived. What it raises ends the
            download and comes out unchanged; the next one goes on from there.

    Raises:
        HubUnavailable: If the network, the server or the disk fails, or what arrives is damaged.
    """
    partial = target.with_name(f"{target.name}.incomplete")
    lock = FileLock(target.with_name(f".{target.name}.lock"))
    with _disk(parcel):
        target.parent.mkdir(parents=True, exist_ok=True)
    while not lock.is_locked:
        try:
            with _disk(parcel):
                lock.acquire(timeout=0.5)
        except Timeout:  # another process fetches it; whoever waits may still give up
            told(_size(partial))
    try:
        if target.is_file():
            return
        _persist(parcel, partial, _seldom(told))
        told(_size(partial))
        _verify(parcel, partial)
        with _disk(parcel):
            partial.replace(target)
    finally:
        lock.release()


def _persist(parcel: Parcel, partial: Path, told: Told) -> None:
    """Receives until all is there, taking up what was cut."""
    fruitless = 0
    while True:
        before = _size(partial)
        try:
            if _receive(parcel, partial, told):
                return
        except _Broken as broken:
            arrived = _size(partial) > before
            fatal = None if arrived else no_connection(broken.cause)
            if fatal is not None:
                raise parcel.refusal(fatal) from broken.cause
        fruitless = 0 if _size(partial) > before else fruitless + 1
        if fruitless >= _TRIES:
            raise parcel.refusal(cut_short(_size(partial), parcel.size))
        time.sleep(_PAUSE)


def _receive(parcel: Parcel, partial: Path, told: Told) -> bool:
    """Asks once for what is missing, and appends it; whether that was all."""
    start = _size(partial)
    headers = {"User-Agent": f"cam_hub/{__version__}", "Accept-Encoding": "identity"}
    if start:
        headers["Range"] = f"bytes={start}-"
    request = Request(parcel.url, headers=headers)  # noqa: S310 - whoever made it checked it
    try:
        with _network():
            response = urlopen(request, timeout=_timeout())  # noqa: S310
    except HTTPError as error:
        error.close()
        if error.code == 416 and start:
            return True  # nothing is missing; whether it is the right file, the digest will tell
        raise parcel.refusal(http_trouble(error)) from error
    with response:
        position = start if response.status == 206 else 0
        if position and not _goes_on_at(response, start):
            partial.unlink()
            raise parcel.refusal("its server sends another part of the file than it was asked for.")
        promised = response.headers.get("Content-Length", "")
        end = position + int(promised) if promised.isdecimal() else None
        with _disk(parcel):
            file = partial.open("r+b" if position else "wb", buffering=0)
        with file:
            file.seek(position)
            while chunk := _read(response):
                position += len(chunk)
                if position > 2 * parcel.size + _SLACK:
                    partial.unlink()
                    raise parcel.refusal("its server sends far more bytes than the file has.")
                with _disk(parcel, partial):
                    _write(file, chunk)
                told(position)
    return end is None or position >= end


def _read(response: http.client.HTTPResponse) -> bytes:
    with _network():
        return response.read(_CHUNK)


def _write(file: io.RawIOBase, chunk: bytes) -> None:
    """Writes all of it; unbuffered, so that nothing is left to fail when the file is closed."""
    rest = memoryview(chunk)
    while rest:
        rest = rest[file.write(rest) or 0 :]


@contextmanager
def _network() -> Iterator[None]:
    """Marks what the network raises."""
    try:
        yield
    except HTTPError:
        raise
    except (http.client.HTTPException, OSError) as error:  # URLError and time-outs, too
        raise _Broken(error) from error


def _goes_on_at(response: http.client.HTTPResponse, start: int) -> bool:
    return (response.headers.get("Content-Range") or "").startswith(f"bytes {start}-")


def _verify(parcel: Parcel, partial: Path) -> None:
    """Throws away what does not have the right digest."""
    with _disk(parcel):
        with partial.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        if digest.startswith(parcel.digest):
            return
        size = _size(partial)
        partial.unlink()
    raise parcel.refusal(
        f"{size:,} bytes arrived, and their SHA-256 begins with {digest[:8]} instead of "
        f"{parcel.digest}: the file was damaged on its way, or something else was sent in its "
        "place (a login page?). It was thrown away; try again."
    )


@contextmanager
def _disk(parcel: Parcel, partial: Path | None = None) -> Iterator[None]:
    """Turns what the disk raises into an error of ours; a full disk gets its room back."""
    try:
        yield
    except Timeout:
        raise
    except OSError as error:
        if partial is not None:
            partial.unlink(missing_ok=True)
        raise parcel.refusal(disk_trouble(error)) from error


def _timeout() -> float:
    """Seconds of silence after which a server is given up."""
    try:
        seconds = float(os.environ.get("CAM_HUB_TIMEOUT", ""))
    except ValueError:
        return _DEFAULT_TIMEOUT
    return seconds if 0 < seconds < float("inf") else _DEFAULT_TIMEOUT


def _seldom(told: Told) -> Told:
    """The same listener, called a few times per second at most."""
    last = float("-inf")

    def listen(count: int) -> None:
        nonlocal last
        if time.monotonic() - last >= _INTERVAL:
            last = time.monotonic()
            told(count)

    return listen


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0
