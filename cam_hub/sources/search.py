"""Search for models: what the Hub lists, and what timm and torchvision know by name."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import islice

import torchvision.models as zoo

from cam_hub._validation import check_whole
from cam_hub.errors import HubUnavailable, InvalidArgument
from cam_hub.models.model_id import looks_like_url, parse_model_id
from cam_hub.sources.hub.listing import HubListing, ModelHit, Token, shared_listing
from cam_hub.sources.registry import known_ids

__all__ = ["Found", "ModelHit", "find_models", "search_models"]

_MAX_CHARS = 200
_MAX_LIMIT = 100
_PER_LIBRARY_HIT = 3
"""Repos of the Hub before each equally fitting model of torchvision's, which has no number of
downloads to compare."""


_RANKS = 7
_PARTS = re.compile(r"[^a-z0-9]+")


@dataclass(frozen=True)
class Found:
    """The result of a search.

    Attributes:
        hits: Best first.
        trouble: Why the Hub's list is missing; None if it is included.
    """

    hits: tuple[ModelHit, ...]
    trouble: str | None = None


def search_models(
    query: str, *, limit: int = 20, token: str | bool | None = None
) -> list[ModelHit]:
    """Finds models by words of their IDs.

    Args:
        query: Words, all of which must stand in the ID, in any order and case; an ID or the URL of
            a repo; empty for the most downloaded ones.
        limit: Maximum number of models, 1 to 100.
        token: Access token, so that private repos are found, too; None for the one that this
            machine is logged in with, False for none.

    Returns:
        Models of exactly this name first, then those that begin with the first word, then the
        others; the most downloaded first within each group. Without the Hub, timm's and
        torchvision's own models, after three seconds at most.

    Raises:
        InvalidArgument: If a value cannot work, or the Hub does not accept the token.
        ModelNotFound: If the query is a URL, but not of a model.
    """
    return list(find_models(query, limit=limit, token=token).hits)


def find_models(
    query: str, *, limit: int = 20, token: Token = None, listing: HubListing = shared_listing
) -> Found:
    """Finds models, and reports whether the Hub's list is included.

    Args:
        query: As for ``search_models``.
        limit: As for ``search_models``.
        token: As for ``search_models``.
        listing: The listing of the Hub.
    """
    words = _words(query)
    check_whole("limit", limit, 1, _MAX_LIMIT)
    trouble = None
    listed: list[ModelHit] = []
    try:
        listed = _listed(words, limit, token, listing)
    except HubUnavailable as error:
        trouble = error.reason
    known = {hit.id for hit in listed}
    timms, torchvisions = _library_hits()
    named = [hit for hit in timms if _fits(hit.id, words) and hit.id not in known]
    others = [hit for hit in torchvisions if _fits(hit.id, words)]
    return Found(tuple(_mixed([*listed, *named], others, words)[:limit]), trouble)


def _words(query: str) -> list[str]:
    """The words of a query, in lower case."""
    if not isinstance(query, str) or len(query) > _MAX_CHARS:
        raise InvalidArgument("query", query, f"a text of at most {_MAX_CHARS} characters")
    # IDs have no unprintable characters, and a request cannot hold some of them.
    text = "".join(letter if letter.isprintable() else " " for letter in query).strip()
    if looks_like_url(text):
        text = parse_model_id(text).name
    name = text.partition("@")[0].removeprefix("hf-hub:").removeprefix("hf_hub:")
    return name.lower().split()


def _listed(words: Sequence[str], limit: int, token: Token, listing: HubListing) -> list[ModelHit]:
    """The models that the Hub lists."""
    hits = _fitting(listing.find(" ".join(words), limit=limit, token=token), words)
    if not hits and len(words) > 1:
        # Words that do not stand side by side in the ID: those with the longest of them.
        longest = max(words, key=len)
        hits = _fitting(listing.find(longest, limit=_MAX_LIMIT, token=token), words)
    return hits


def _fitting(hits: Iterable[ModelHit], words: Sequence[str]) -> list[ModelHit]:
    return [hit for hit in hits if _fits(hit.id, words)]


def _fits(id: str, words: Sequence[str]) -> bool:
    text = id.lower()
    return all(word in text for word in words)


def _mixed(
    repos: Sequence[ModelHit], others: Sequence[ModelHit], words: Sequence[str]
) -> list[ModelHit]:
    """Both, by how well they fit, then by downloads; the others, which have none, in between."""
    mixed: list[ModelHit] = []
    for rank in range(_RANKS):
        here = [hit for hit in repos if _rank(hit.id, words) == rank]
        here.sort(key=lambda hit: -(hit.downloads or 0))
        ahead = iter(here)
        for hit in others:
            if _rank(hit.id, words) == rank:
                if rank or not words:  # a model of exactly this name comes first
                    mixed += islice(ahead, _PER_LIBRARY_HIT)
                mixed.append(hit)
        mixed += ahead
    return mixed


def _rank(id: str, words: Sequence[str]) -> int:
    """How well an ID matches words; 0 is best.

    The order is: the whole name, the architecture, the beginning, anything else; within each,
    whole parts of the name come before pieces of them.
    """
    text, name = id.lower(), id.lower().rpartition("/")[2]
    first = words[0] if words else ""
    if not first or first in (text, name):
        return 0
    if first == name.partition(".")[0]:
        rank = 1
    else:
        rank = 3 if text.startswith(first) or name.startswith(first) else 5
    return rank if set(words) <= set(_PARTS.split(text)) else rank + 1


@cache
def _library_hits() -> tuple[tuple[ModelHit, ...], tuple[ModelHit, ...]]:
    """The models that are known without a network: timm's weights, and torchvision's."""
    ids = dict.fromkeys(known_ids(pretrained=True))
    prefix = "torchvision/"
    return (
        tuple(ModelHit(id, "timm", library="timm") for id in ids if not id.startswith(prefix)),
        tuple(_torchvision_hit(id) for id in ids if id.startswith(prefix)),
    )


def _torchvision_hit(id: str) -> ModelHit:
    """A model of torchvision's, with the facts in the metadata of its default weights."""
    meta = zoo.get_model_weights(id.partition("/")[2])["DEFAULT"].meta
    megabytes = meta.get("_file_size")
    return ModelHit(
        id,
        "torchvision",
        parameters=meta.get("num_params"),
        bytes=round(megabytes * 2**20) if megabytes else None,
        library="torchvision",
    )
