"""Fetches one file of a repo into the Hub's cache: checked, and resumed where it was cut.

huggingface_hub's own download begins anew with every call and does not look at checksums (2.4).
Here what has arrived stays beside its place under the name that the Hub's tools know for it
(``….incomplete``), and gets its place once its size and its digest are those that the Hub names.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

import httpx2
from huggingface_hub import constants, get_session
from huggingface_hub.utils import WeakFileLock, hf_raise_for_status

from cam_hub.errors import HubUnavailable
from cam_hub.sources.facts import FileFacts
from cam_hub.sources.hub_cache import RepoCache

__all__ = ["fetch"]

Told = Callable[[int], None]
"""Called with the bytes of the file that are there."""

_TRIES = 3
"""How often a cut connection is taken up again with little or nothing gained."""
_GAIN = 2**20
"""Bytes that make a try a good one."""
_PAUSE = 0.5
"""Seconds between two of them."""
_CUT = (httpx2.NetworkError, httpx2.RemoteProtocolError, httpx2.TimeoutException)


def fetch(
    id: str,
    file: FileFacts,
    address: str,
    headers: Mapping[str, str],
    cache: RepoCache,
    commit: str,
    told: Told,
) -> Path:
    """Fetches a file, unless its content is in the cache already.

    Args:
        id: The model's ID, for messages.
        file: Which; its size and its digest must be known.
        address: Where it is.
        headers: To send along. The authorization among them goes to no other host.
        cache: Where it goes.
        commit: Whose file it is.
        told: Hears how many bytes are there, again and again; what it raises ends the download.

    Returns:
        The file in the cache.

    Raises:
        HubUnavailable: If what arrives is not what was promised.
        httpx2.HTTPError, OSError: If the network or the disk fails.
    """
    if file.digest is None or file.size is None:
        raise HubUnavailable(id, f"the Hub does not say what {file.name} must add up to.")
    blob, lock = cache.blob(file.digest), cache.lock(file.digest)
    blob.parent.mkdir(parents=True, exist_ok=True)
    lock.parent.mkdir(parents=True, exist_ok=True)
    with ExitStack() as stack:
        while True:
            try:
                stack.enter_context(WeakFileLock(lock, timeout=1.0))
                break
            except TimeoutError:  # somebody else is fetching it; let the caller give up
                told(0)
        if (found := cache.find(commit, file.name, file.size)) is not None:
            return found  # somebody else has fetched it, and may be reading it
        if not cache.holds(file.digest, file.size):
            partial = blob.with_name(f"{file.digest}.incomplete")
            order = _Order(id, file.name, file.size, file.digest, address, headers, partial, told)
            _persist(order)
            _verify(order)
            partial.replace(blob)
        return cache.name(file.digest, commit, file.name)


@dataclass(frozen=True)
class _Order:
    """One file that is to be fetched."""

    id: str
    name: str
    size: int
    digest: str
    address: str
    headers: Mapping[str, str] = field(repr=False)
    partial: Path
    told: Told

    def here(self) -> int:
        """Bytes that have arrived."""
        return self.partial.stat().st_size if self.partial.exists() else 0


def _persist(order: _Order) -> None:
    """Receives until all is there, taking up what was cut."""
    tries = 0
    while True:
        before = order.here()
        try:
            _receive(order)
            return
        except _CUT:
            tries = 1 if order.here() - before >= _GAIN else tries + 1
            if tries >= _TRIES:
                raise
        except OSError as error:
            if not isinstance(error, httpx2.HTTPError):
                order.partial.unlink(missing_ok=True)  # a full disk is not left full
            raise
        time.sleep(_PAUSE)
        order.told(order.here())


def _receive(order: _Order) -> None:
    """Asks once for what is missing, and appends it."""
    start = order.here()
    if start >= order.size > 0:
        return  # complete, but not yet verified; or too long, which the digest will tell
    headers = {**order.headers, "Accept-Encoding": "identity"}
    if start:
        headers["Range"] = f"bytes={start}-"
    with get_session().stream(
        "GET", order.address, headers=headers, timeout=constants.HF_HUB_DOWNLOAD_TIMEOUT
    ) as response:
        if response.status_code == 416 or (
            response.status_code == 206 and not _goes_on_at(response, start)
        ):
            order.partial.unlink(missing_ok=True)
            raise httpx2.RemoteProtocolError("it cannot go on where it was cut")
        if response.status_code != 206:
            hf_raise_for_status(response)
            start = 0  # all of it, whatever was asked for
        _check_promise(order, response, start)
        with order.partial.open("r+b" if start else "wb") as out:
            out.seek(start)
            for chunk in response.iter_bytes():
                out.write(chunk)
                start += len(chunk)
                if start > order.size:
                    break  # too much of it; the digest will tell
                order.told(start)
    if start < order.size:
        raise httpx2.RemoteProtocolError("it ended too early")


def _goes_on_at(response: httpx2.Response, start: int) -> bool:
    return response.headers.get("Content-Range", "").startswith(f"bytes {start}-")


def _check_promise(order: _Order, response: httpx2.Response, start: int) -> None:
    """Refuses what will not have the right size, before it is received."""
    promised = response.headers.get("Content-Length", "")
    plain = response.headers.get("Content-Encoding", "identity") == "identity"
    if plain and promised.isdecimal() and start + int(promised) != order.size:
        raise HubUnavailable(
            order.id,
            f"{order.name} comes with {start + int(promised):,} bytes, and the Hub says that it "
            f"has {order.size:,}. Nothing of it was used; try again later.",
        )


def _verify(order: _Order) -> None:
    """Refuses what does not add up to its digest, and removes it."""
    if len(order.digest) == 64:
        kind, digest = "SHA-256", hashlib.sha256()
    else:
        kind = "git's SHA-1"
        digest = hashlib.sha1(b"blob %d\0" % order.here(), usedforsecurity=False)
    with order.partial.open("rb") as content:
        while chunk := content.read(2**20):
            digest.update(chunk)
    if digest.hexdigest() != order.digest:
        order.partial.unlink()
        raise HubUnavailable(
            order.id,
            f"{order.name} arrived damaged: its checksum ({kind}) is not the one that the Hub "
            "names. It was thrown away; try again.",
        )
