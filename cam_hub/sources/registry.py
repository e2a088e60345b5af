"""``load_model``: finds the source that an ID belongs to and lets it load the model."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import torch

from cam_hub._validation import with_hints
from cam_hub.errors import HubUnavailable, InvalidArgument, ModelNotFound, ModelRefused
from cam_hub.hooks.modes import default_modes
from cam_hub.models.limits import UNLIMITED, LoadLimits, ModelFacts, check_limits
from cam_hub.models.loaded_model import (
    LoadedModel,
    LoadRequest,
    Progress,
    Source,
    note_origin,
    pick_device,
)
from cam_hub.models.model_id import ModelId, local_model_id, parse_model_id
from cam_hub.options import OutputChoice, check_options
from cam_hub.sources.hub.source import HubSource
from cam_hub.sources.local import LocalSource
from cam_hub.sources.similar_names import local_hint, suggest
from cam_hub.sources.timm import EmbeddedSource, TimmSource
from cam_hub.sources.torchvision import TorchvisionSource
from cam_hub.targets.registry import make_task

__all__ = ["SOURCES", "describe_model", "known_ids", "load_model"]

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
        token: Access token for private and gated repos. None takes this machine's (``HF_TOKEN`` or
            ``hf auth login``) if it has one, True insists on it, False sends none.
        revision: Branch, tag or commit, as after ``@``.
        limits: How much loading may cost.
        progress: Told, again and again while something is fetched, which part of the work is done
            (in [0, 1]) and what is being done.
        task: What its answer is, one of ``cam_hub.targets.registry.TASKS``, such as
            ``"regression"`` for a network that was fine-tuned to return values; None for what its
            configuration says.
        output: As for ``wrap_model``.

    Returns:
        The model in evaluation mode, with its preprocessing and labels.

    Raises:
        ModelNotFound: If no model has this ID, or more than one; it names the nearest.
        ModelRefused: If it cannot be explained or must not be loaded.
        HubUnavailable: If it had to be fetched and could not be.
        InvalidArgument: If the device does not exist, two revisions are given, or one of a folder,
            the token cannot be one, or there is no such task.
    """
    id = _read_id(model_id, revision, limits)
    request = LoadRequest(id, pretrained, pick_device(device), token, limits, progress)
    wanted = check_options({"output": output})["output"]
    if task is not None:
        make_task(task)  # refused before anything is loaded
    with _nearest_named(request):
        found = _source_of(request).load(request)
    note_origin(found)
    if task is None or task == found.task.name:
        return found if wanted is None else replace(found, task=replace(found.task, wanted=wanted))
    # Labels are those of classes: values have none.
    names = None if task == "regression" else found.class_names
    made = replace(make_task(task, class_names=names), wanted=wanted)
    return replace(found, class_names=names, task=made)


@default_modes()
def describe_model(
    model_id: str | os.PathLike[str],
    *,
    pretrained: bool = True,
    token: str | bool | None = None,
    revision: str | None = None,
    limits: LoadLimits = UNLIMITED,
) -> ModelFacts:
    """Tells what is known about a model, at the price of one small request or none.

    Args:
        model_id: As for ``load_model``.
        pretrained: False describes the bare architecture and contacts no network.
        token: As for ``load_model``.
        revision: Branch, tag or commit, as after ``@``.
        limits: Those that the model would be loaded with. Nothing is refused here; the facts
            say what would be, and why.

    Returns:
        Its facts; those that nobody states are None.

    Raises:
        ModelNotFound: If no model has this ID, or more than one; it names the nearest.
        ModelRefused: If the caller may not see it.
        HubUnavailable: If the Hub had to be asked and did not answer.
        InvalidArgument: If two revisions are given, or the token cannot be one.
    """
    id = _read_id(model_id, revision, limits)
    request = LoadRequest(id, pretrained, torch.device("cpu"), token, limits)
    with _nearest_named(request):
        facts = _source_of(request).describe(request)
    if facts.refusal is None:
        try:
            check_limits(facts, limits)
        except ModelRefused as error:
            return replace(facts, refusal=error.reason)
    return facts


def _source_of(request: LoadRequest) -> Source:
    """The first source that claims the model."""
    for source in SOURCES:
        if source.claims(request):
            return source
    raise ModelNotFound(str(request.id))


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
def _nearest_named(request: LoadRequest) -> Iterator[None]:
    """Adds, to the news that there is no such model, the IDs that could have been meant."""
    try:
        yield
    except ModelNotFound as error:
        if error.nearest:
            raise
        raise suggest(request, error, known_ids(pretrained=request.pretrained)) from error
    except HubUnavailable as error:
        id = request.id
        if not (id.kind == "hub" and request.limits.local and (hint := local_hint(str(id)))):
            raise
        raise HubUnavailable(error.model_id, f"{error.reason} {hint}") from error


def known_ids(*, pretrained: bool) -> list[str]:
    """IDs that the sources can name without any network.

    Args:
        pretrained: Whether trained weights are wanted.
    """
    return [name for source in SOURCES for name in source.known_ids(pretrained=pretrained)]
