"""``load_model``: finds the source that an ID belongs to and lets it load the model."""

from __future__ import annotations

import torch

from cam_hub.errors import InvalidArgument, ModelNotFound, nearest_names
from cam_hub.limits import UNLIMITED, LoadLimits
from cam_hub.model_id import ModelId, parse_model_id
from cam_hub.sources.base import LoadedModel, Progress, Request, Source, pick_device
from cam_hub.sources.embedded import EmbeddedSource
from cam_hub.sources.hub import HubSource
from cam_hub.sources.timm_source import TimmSource
from cam_hub.sources.torchvision_source import TorchvisionSource

__all__ = ["SOURCES", "load_model"]

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
    token: str | None = None,
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
        token: Access token for private and gated repos.
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
        InvalidArgument: If the device does not exist, or two revisions are given.
    """
    id = parse_model_id(model_id)
    if revision is not None:
        if id.revision not in (None, revision):
            raise InvalidArgument("revision", revision, f"the one in the ID ({id.revision!r})")
        id = parse_model_id(f"{id.repo}@{revision}")
    request = Request(id, pretrained, pick_device(device), token, limits, progress)
    for source in SOURCES:
        if source.claims(request):
            try:
                return source.load(request)
            except ModelNotFound as error:
                if error.nearest:
                    raise
                raise ModelNotFound(model_id, _nearest(id, pretrained), error.hint) from error
    raise ModelNotFound(model_id)


def _nearest(id: ModelId, pretrained: bool) -> list[str]:
    """IDs that could have been meant; what timm keeps is looked for by its bare name, too."""
    known = [name for source in SOURCES for name in source.known_ids(pretrained=pretrained)]
    name = str(id)
    return list(dict.fromkeys([*nearest_names(name, known), *nearest_names(id.name, known)]))[:5]
