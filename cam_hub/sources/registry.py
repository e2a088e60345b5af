"""``load_model``: finds the source that an ID belongs to and lets it load the model."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from cam_hub.errors import InvalidArgument, ModelNotFound, nearest_names
from cam_hub.limits import UNLIMITED, LoadLimits
from cam_hub.model_id import ModelId, parse_model_id
from cam_hub.sources.base import LoadedModel, Progress, Request, Source, pick_device
from cam_hub.sources.embedded import EmbeddedSource
from cam_hub.sources.facts import ModelFacts
from cam_hub.sources.hub import HubSource
from cam_hub.sources.timm_source import TimmSource
from cam_hub.sources.torchvision_source import TorchvisionSource

__all__ = ["SOURCES", "describe_model", "load_model"]

SOURCES: tuple[Source, ...] = (
    EmbeddedSource(),
    TorchvisionSource(),
    TimmSource(),
    HubSource(),
)
"""All sources, in the order in which they are asked."""


def load_model(
    model_id: str,
    *,
    pretrained: bool = True,
    device: str | torch.device = "auto",
    token: str | bool | None = None,
    revision: str | None = None,
    limits: LoadLimits = UNLIMITED,
    progress: Progress | None = None,
) -> LoadedModel:
    """Loads a model by its ID.

    Args:
        model_id: ``owner/name[@revision]`` for a repo on the Hub (``hf-hub:`` in front is
            accepted), ``torchvision/name[@weights]``, or a bare timm name such as
            ``resnet50.a1_in1k``.
        pretrained: False builds the architecture with random weights and contacts no network.
        device: ``"auto"`` takes CUDA, MPS or the CPU, in this order; otherwise a device of
            torch's.
        token: Access token for private and gated repos. None takes this machine's (``HF_TOKEN`` or
            ``hf auth login``) if it has one, True insists on it, False sends none.
        revision: Branch, tag or commit, as after ``@``.
        limits: How much loading may cost.
        progress: Told, again and again while something is fetched, which part of the work is done
            (in [0, 1]) and what is being done.

    Returns:
        The model in evaluation mode, with its preprocessing and labels.

    Raises:
        ModelNotFound: If no model has this ID, or more than one; it names the nearest.
        ModelRefused: If it cannot be explained or must not be loaded.
        HubUnavailable: If it had to be fetched and could not be.
        InvalidArgument: If the device does not exist, two revisions are given, or the token
            cannot be one.
    """
    id = _with_revision(parse_model_id(model_id), revision)
    request = Request(id, pretrained, pick_device(device), token, limits, progress)
    with _nearest_named(model_id, request):
        return _source_of(model_id, request).load(request)


def describe_model(
    model_id: str,
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
        limits: Decides, as in ``load_model``, whether a pickle counts as weights. Nothing is
            refused for its size.

    Returns:
        Its facts; those that nobody states are None.

    Raises:
        ModelNotFound: If no model has this ID, or more than one; it names the nearest.
        ModelRefused: If the caller may not see it.
        HubUnavailable: If the Hub had to be asked and did not answer.
        InvalidArgument: If two revisions are given, or the token cannot be one.
    """
    id = _with_revision(parse_model_id(model_id), revision)
    request = Request(id, pretrained, torch.device("cpu"), token, limits)
    with _nearest_named(model_id, request):
        return _source_of(model_id, request).describe(request)


def _with_revision(id: ModelId, revision: str | None) -> ModelId:
    """The ID with a revision that is given beside it."""
    if revision is None:
        return id
    if id.revision not in (None, revision):
        raise InvalidArgument("revision", revision, f"the one in the ID ({id.revision!r})")
    return parse_model_id(f"{id.repo}@{revision}")


def _source_of(model_id: str, request: Request) -> Source:
    """The first source that claims the model."""
    for source in SOURCES:
        if source.claims(request):
            return source
    raise ModelNotFound(model_id)


@contextmanager
def _nearest_named(model_id: str, request: Request) -> Iterator[None]:
    """Adds, to the news that there is no such model, the IDs that could have been meant."""
    try:
        yield
    except ModelNotFound as error:
        if error.nearest:
            raise
        nearest = _nearest(request.id, request.pretrained)
        raise ModelNotFound(model_id, nearest, error.hint) from error


def _nearest(id: ModelId, pretrained: bool) -> list[str]:
    """IDs that could have been meant; what timm keeps is looked for by its bare name, too."""
    known = [name for source in SOURCES for name in source.known_ids(pretrained=pretrained)]
    name = str(id)
    return list(dict.fromkeys([*nearest_names(name, known), *nearest_names(id.name, known)]))[:5]
