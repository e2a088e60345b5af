"""What is behind an address: one file, a folder or a glob of files."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import unquote

from cam_hub.errors import InvalidArgument
from cam_hub.images.remote import RemoteFile, plain_errors

__all__ = ["Listing", "list_address"]

_WILDCARDS = re.compile(r"[*?\[]")
_WEB_WILDCARDS = re.compile(r"[*\[]")  # what follows "?" is a query


@dataclass(frozen=True)
class Listing:
    """The files behind an address.

    Attributes:
        place: The address.
        kind: ``"file"``, ``"folder"`` or ``"glob"``.
        files: The visible files by their paths in the folder, or from the first wildcard on, in
            the order of these.
    """

    place: RemoteFile
    kind: str
    files: Mapping[str, RemoteFile]


def list_address(address: str) -> Listing:
    """Lists what is behind an address.

    Raises:
        InvalidArgument: If the address cannot be.
        PackageMissing: If a package is missing that reads from there.
        SourceUnavailable: If there is nothing, or it cannot be reached.
    """
    if "::" in address:
        raise InvalidArgument("source", address, "a single address, without '::'")
    place = RemoteFile.at(address)
    with plain_errors(place.shown):
        place.filesystem.invalidate_cache()  # an earlier job in this process may have listed it
        if wild := (_WEB_WILDCARDS if place.is_web else _WILDCARDS).search(place.path):
            root = place.path[: place.path.rfind("/", 0, wild.start()) + 1]
            found = place.filesystem.glob(place.path, detail=True)
            paths = [path for path, facts in found.items() if facts["type"] == "file"]
            return Listing(place, "glob", _relative(place, root, paths))
        if _is_file(place):
            return Listing(place, "file", {place.name: place})
        root = place.path.rstrip("/") + "/"
        return Listing(place, "folder", _relative(place, root, place.filesystem.find(root)))


def _is_file(place: RemoteFile) -> bool:
    """Whether a path leads to a file, not to a folder.

    Raises:
        FileNotFoundError: If it leads nowhere.
    """
    facts = place.filesystem.info(place.path)
    if place.is_web:  # a folder is a page there, with links to its files
        return "." in place.name
    return bool(facts["type"] == "file")


def _relative(place: RemoteFile, root: str, paths: list[str]) -> dict[str, RemoteFile]:
    """Visible files by their paths in a folder."""
    found = {}
    for path in paths:
        inner = path.removeprefix(root).removeprefix("/")
        if not any(part.startswith(".") for part in inner.split("/")):
            found[unquote(inner) if place.is_web else inner] = place.other(path)
    return dict(sorted(found.items(), key=lambda each: each[0].split("/")))
