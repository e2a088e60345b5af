"""IDs that an unknown one may have been meant for."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import SequenceMatcher
from pathlib import Path

from cam_hub.errors import CamHubError, ModelNotFound, nearest_names
from cam_hub.models import timm_models
from cam_hub.models.loaded_model import LoadRequest
from cam_hub.models.model_id import path_hint
from cam_hub.sources.hub.listing import shared_listing

__all__ = ["local_hint", "suggest"]

_MOST = 5
_ALIKE = 0.6
"""How alike (in [0, 1]) a repo's name must be to be worth naming."""


def suggest(request: LoadRequest, error: ModelNotFound, known: Iterable[str]) -> ModelNotFound:
    """The same error with the nearest IDs.

    The Hub is asked only where it has just said that it has no such repo; if it does not answer
    now, what the libraries know has to do.

    Args:
        request: What was asked for and not found.
        error: What the source said.
        known: The IDs that can be named without any network.
    """
    id = request.id
    if id.kind == "local":
        return error
    if request.limits.local and (hint := local_hint(str(id))):
        error = ModelNotFound(str(id), error.nearest, f"{hint} {error.hint}".strip())
    owner, _, name = id.name.rpartition("/")
    tags = timm_models.tags_of(name) if request.pretrained and owner == "timm" else []
    if tags and "." not in name:
        return timm_models.ambiguous(id, tags)
    from_hub = _on_hub(request) if request.pretrained and id.kind == "hub" else []
    from_libraries = _in_libraries(str(id.repo), known)
    nearest = list(dict.fromkeys([*from_hub, *from_libraries]))[:_MOST]
    return ModelNotFound(str(id), nearest, error.hint)


def local_hint(id: str) -> str:
    """What to do if an ID was meant as a path."""
    if Path(id).is_dir():
        return f"There is a folder of this name here: give it as Path({id!r})."
    return path_hint(id)


def _on_hub(request: LoadRequest) -> list[str]:
    """Repos of the same name, and of the same owner with a similar one."""
    owner, _, name = request.id.name.partition("/")
    found: list[str] = []
    try:
        for search, author in ((name, None), ("", owner)):
            hits = shared_listing.find(search, author=author, limit=100, token=request.token)
            found += [hit.id for hit in hits]
    except CamHubError:
        pass  # the error that is being explained says more
    near = [id for id in dict.fromkeys(found) if _alike(id.partition("/")[2], name) >= _ALIKE]
    return sorted(near, key=lambda id: -_alike(id, request.id.name))[:_MOST]


def _in_libraries(wanted: str, known: Iterable[str]) -> list[str]:
    """Known IDs of the same architecture, or else of those with similar names."""
    by_stem: dict[str, list[str]] = {}
    for id in known:
        by_stem.setdefault(_stem(id), []).append(id)
    if "." in wanted.rpartition("/")[2]:  # without a tag, any is as good as another
        for ids in by_stem.values():
            ids.sort(key=lambda id: -_alike(id, wanted))
    stem = _stem(wanted)
    if stem in by_stem:
        return by_stem[stem][:_MOST]
    beginning = sorted((name for name in by_stem if name.startswith(stem)), key=len)
    near = dict.fromkeys([*beginning[:_MOST], *nearest_names(stem, by_stem, _MOST)])
    return [id for name in near for id in _one_per_owner(by_stem[name])][:_MOST]


def _one_per_owner(ids: Iterable[str]) -> list[str]:
    """The first ID of each library."""
    first: dict[str, str] = {}
    for id in ids:
        first.setdefault(id.rpartition("/")[0], id)
    return list(first.values())


def _stem(id: str) -> str:
    """The architecture in an ID: without owner, tag and revision."""
    return id.rpartition("/")[2].partition("@")[0].partition(".")[0].lower()


def _alike(one: str, other: str) -> float:
    return SequenceMatcher(None, one.lower(), other.lower(), autojunk=False).ratio()
