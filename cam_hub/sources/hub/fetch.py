"""Fetches one file of a repo into the Hub's cache, where huggingface_hub's own tools find it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from cam_hub.errors import HubUnavailable
from cam_hub.models.facts import FileFacts
from cam_hub.sources.hub.cache import RepoCache
from cam_hub.sources.hub.errors import HUB
from cam_hub.sources.transfer import Parcel, Told, alone, receive

__all__ = ["fetch"]


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
    blob = cache.blob(file.digest)
    with alone(blob, cache.lock(file.digest), told):
        if (found := cache.find(commit, file.name, file.size)) is not None:
            return found  # somebody else has fetched it, and may be reading it
        if not cache.holds(file.digest, file.size):
            parcel = Parcel(id, file.name, address, file.size, file.digest, HUB, headers=headers)
            receive(parcel, blob, told)
        return cache.name(file.digest, commit, file.name)
