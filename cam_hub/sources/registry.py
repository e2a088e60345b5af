"""Models by their ID or by words: ``load_model``, ``describe_model`` and ``search_models``."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from difflib import SequenceMatcher
from functools import cache
from itertools import islice
from pathlib import Path

import torch
import torchvision.models as zoo

from cam_hub._validation import check_whole, with_hints
from cam_hub.errors import (
    CamHubError,
    HubUnavailable,
    InvalidArgument,
    ModelNotFound,
    ModelRefused,
    nearest_names,
)
from cam_hub.hooks.modes import default_modes
from cam_hub.models.initialisation import convert
from cam_hub.models.loaded_model import LoadedModel, note_origin
from cam_hub.models.loading import (
    UNLIMITED,
    LoadLimits,
    LoadRequest,
    ModelFacts,
    Progress,
    Source,
    check_limits,
    pick_device,
    pick_dtype,
)
from cam_hub.models.model_id import (
    ModelId,
    local_model_id,
    looks_like_url,
    parse_model_id,
    path_hint,
)
from cam_hub.options import OutputChoice, check_options
from cam_hub.sources.hub.listing import HubListing, ModelHit, Token, shared_listing
from cam_hub.sources.hub.source import HubSource
from cam_hub.sources.timm import EmbeddedSource, LocalSource, TimmSource, ambiguous, tags_of
from cam_hub.sources.torchvision import TorchvisionSource
from cam_hub.targets import make_task

__all__ = [
    "SOURCES",
    "Found",
    "ModelHit",
    "describe_model",
    "find_models",
    "known_ids",
    "load_model",
    "load_requested",
    "search_models",
]


SOURCES: tuple[Source, ...] = (
    EmbeddedSource(),
    TorchvisionSource(),
    TimmSource(),
    HubSource(),
    LocalSource(),
)
"""All sources, in the order in which they are asked."""


@with_hints
@default_modes()
def load_model(
    model_id: str | os.PathLike[str],
    *,
    pretrained: bool = True,
    device: str | torch.device = "auto",
    dtype: str | torch.dtype = "auto",
    token: str | bool | None = None,
    revision: str | None = None,
    limits: LoadLimits = UNLIMITED,
    progress: Progress | None = None,
    task: str | None = None,
    output: OutputChoice = None,
) -> LoadedModel:
    """Loads a model by its ID.

    Args:
        model_id: ``owner/name[@revision]`` for a repo on the Hub (``hf-hub:`` in front is
            accepted) or its URL, ``torchvision/name[@weights]``, a bare timm name such as
            ``resnet50.a1_in1k``, or a folder: a ``Path``, or text that starts with ``./``,
            ``../``, ``/``, ``~`` or ``local-dir:``.
        pretrained: False builds the architecture with random weights and contacts no network.
        device: ``"auto"`` takes CUDA, MPS or the CPU, in this order; otherwise a device of
            torch's.
        dtype: The type of the weights: ``"float32"``, ``"bfloat16"``, ``"float16"`` (or torch's),
            or ``"stored"`` for the one in which they are stored. ``"auto"`` keeps the half
            precision in which networks of 500 million parameters and more are stored, and takes
            float32 for all others.
        token: Access token for private and gated repos. None takes this machine's (``HF_TOKEN`` or
            ``hf auth login``) if it has one, True insists on it, False sends none.
        revision: Branch, tag or commit, as after ``@``.
        limits: How much loading may cost.
        progress: Called while files are fetched, with the fraction of the work that is done
            (in [0, 1]) and a description.
        task: The kind of its output, one of ``cam_hub.targets.TASKS``, such as
            ``"regression"`` for a network that was fine-tuned to return values; None for the task
            in its configuration.
        output: As for ``wrap_model``.

    Returns:
        The model in evaluation mode, with its preprocessing and labels.

    Raises:
        ModelNotFound: If no model has this ID, or more than one; it names the nearest.
        ModelRefused: If it cannot be explained or must not be loaded.
        HubUnavailable: If it could not be fetched.
        InvalidArgument: If the device or type does not exist, two revisions are given, or one of a
            folder, the token cannot be one, or there is no such task.
    """
    id = _read_id(model_id, revision, limits)
    request = LoadRequest(
        id, pretrained, pick_device(device), token, limits, progress, pick_dtype(dtype)
    )
    wanted = check_options({"output": output})["output"]
    if task is not None:
        make_task(task)  # refused before anything is loaded
    found = load_requested(request)
    if task is None or task == found.task.name:
        return found if wanted is None else replace(found, task=replace(found.task, wanted=wanted))
    # Labels are those of classes: values have none.
    names = None if task == "regression" else found.class_names
    made = replace(make_task(task, class_names=names), wanted=wanted)
    return replace(found, class_names=names, task=made)


@default_modes()
def load_requested(request: LoadRequest) -> LoadedModel:
    """Loads a model from the first source that claims it; errors as for ``load_model``."""
    with _source_of(request) as source:
        found = source.load(request)
    found.module.eval().requires_grad_(False).to(request.device)
    if isinstance(request.dtype, torch.dtype):
        convert(found.module, request.dtype)
    if request.dtype == "auto":
        note_origin(found)
    return found


@default_modes()
def describe_model(
    model_id: str | os.PathLike[str],
    *,
    pretrained: bool = True,
    token: str | bool | None = None,
    revision: str | None = None,
    limits: LoadLimits = UNLIMITED,
) -> ModelFacts:
    """Describes a model, at the price of one small request or none.

    Args:
        model_id: As for ``load_model``.
        pretrained: False describes the bare architecture and contacts no network.
        token: As for ``load_model``.
        revision: Branch, tag or commit, as after ``@``.
        limits: The limits for loading it. A model that exceeds them is described, with the reason
            in ``refusal``.

    Returns:
        Its facts; unknown ones are None.

    Raises:
        ModelNotFound: If no model has this ID, or more than one; it names the nearest.
        ModelRefused: If the caller may not see it.
        HubUnavailable: If the Hub was needed and did not respond.
        InvalidArgument: If two revisions are given, or the token cannot be one.
    """
    id = _read_id(model_id, revision, limits)
    request = LoadRequest(id, pretrained, torch.device("cpu"), token, limits)
    with _source_of(request) as source:
        facts = source.describe(request)
    if facts.refusal is None:
        try:
            check_limits(facts, limits)
        except ModelRefused as error:
            return replace(facts, refusal=error.reason)
    return facts


def _read_id(model_id: str | os.PathLike[str], revision: str | None, limits: LoadLimits) -> ModelId:
    """The ID that was meant, with a revision that is given beside it.

    A path is always a folder's, where those may be loaded.
    """
    if isinstance(model_id, os.PathLike):
        id = local_model_id(model_id) if limits.local else parse_model_id("local-dir:")
    else:
        id = parse_model_id(model_id, limits.local)
    if revision is None:
        return id
    if id.kind == "local":
        raise InvalidArgument("revision", revision, "none, since a folder has no revisions")
    if id.revision not in (None, revision):
        raise InvalidArgument("revision", revision, f"the one in the ID ({id.revision!r})")
    return parse_model_id(f"{id.repo}@{revision}")


@contextmanager
def _source_of(request: LoadRequest) -> Iterator[Source]:
    """The first source that claims the model; its ``ModelNotFound`` gets the nearest IDs."""
    try:
        for source in SOURCES:
            if source.claims(request):
                break
        else:
            raise ModelNotFound(str(request.id))
        yield source
    except ModelNotFound as error:
        if error.nearest:
            raise
        raise _with_nearest(request, error) from error
    except HubUnavailable as error:
        id = request.id
        if not (id.kind == "hub" and request.limits.local and (hint := _local_hint(str(id)))):
            raise
        raise HubUnavailable(error.model_id, f"{error.reason} {hint}") from error


def known_ids(*, pretrained: bool) -> list[str]:
    """IDs that the sources can name without any network.

    Args:
        pretrained: Whether trained weights are wanted.
    """
    return [name for source in SOURCES for name in source.known_ids(pretrained=pretrained)]


_MAX_NAMES = 5
_MIN_SIMILARITY = 0.6
"""Minimum similarity, in [0, 1], of the name of a suggested repo."""


def _with_nearest(request: LoadRequest, error: ModelNotFound) -> ModelNotFound:
    """The error of a source for an unknown ID, with the nearest IDs.

    The Hub is searched only for IDs of repos on it; if it does not respond, the suggestions come
    from the libraries.
    """
    id = request.id
    if id.kind == "local":
        return error
    if request.limits.local and (hint := _local_hint(str(id))):
        error = ModelNotFound(str(id), error.nearest, f"{hint} {error.hint}".strip())
    owner, _, name = id.name.rpartition("/")
    tags = tags_of(name) if request.pretrained and owner == "timm" else []
    if tags and "." not in name:
        return ambiguous(id, tags)
    from_hub = _on_hub(request) if request.pretrained and id.kind == "hub" else []
    from_libraries = _in_libraries(str(id.repo), known_ids(pretrained=request.pretrained))
    nearest = list(dict.fromkeys([*from_hub, *from_libraries]))[:_MAX_NAMES]
    return ModelNotFound(str(id), nearest, error.hint)


def _local_hint(id: str) -> str:
    """A hint for an ID that may be a path."""
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
        pass  # the error about the unknown ID is more useful
    near = [
        id
        for id in dict.fromkeys(found)
        if _similarity(id.partition("/")[2], name) >= _MIN_SIMILARITY
    ]
    return sorted(near, key=lambda id: -_similarity(id, request.id.name))[:_MAX_NAMES]


def _in_libraries(wanted: str, known: Iterable[str]) -> list[str]:
    """Known IDs of the same architecture, or else of those with similar names."""
    by_stem: dict[str, list[str]] = {}
    for id in known:
        by_stem.setdefault(_stem(id), []).append(id)
    if "." in wanted.rpartition("/")[2]:  # without a tag, all are equally similar
        for ids in by_stem.values():
            ids.sort(key=lambda id: -_similarity(id, wanted))
    stem = _stem(wanted)
    if stem in by_stem:
        return by_stem[stem][:_MAX_NAMES]
    beginning = sorted((name for name in by_stem if name.startswith(stem)), key=len)
    near = dict.fromkeys([*beginning[:_MAX_NAMES], *nearest_names(stem, by_stem, _MAX_NAMES)])
    return [id for name in near for id in _one_per_owner(by_stem[name])][:_MAX_NAMES]


def _one_per_owner(ids: Iterable[str]) -> list[str]:
    """The first ID of each library."""
    first: dict[str, str] = {}
    for id in ids:
        first.setdefault(id.rpartition("/")[0], id)
    return list(first.values())


def _stem(id: str) -> str:
    """The architecture in an ID: without owner, tag and revision."""
    return id.rpartition("/")[2].partition("@")[0].partition(".")[0].lower()


def _similarity(one: str, other: str) -> float:
    return SequenceMatcher(None, one.lower(), other.lower(), autojunk=False).ratio()


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
    named = [hit for hit in _fitting(timms, words) if hit.id not in known]
    others = _fitting(torchvisions, words)
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
    """The models in whose IDs all words stand."""
    return [hit for hit in hits if all(word in hit.id.lower() for word in words)]


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
