"""Source of torchvision's models, by name and weights."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Mapping
from functools import cache
from pathlib import Path
from typing import Any
from urllib.error import URLError

import torch
import torchvision.models as zoo
from torch import nn

from cam_hub.errors import HubUnavailable, ModelNotFound, ModelRefused
from cam_hub.sources.admission import admit
from cam_hub.sources.base import LoadedModel, Request, settle, wake
from cam_hub.sources.facts import ModelFacts
from cam_hub.sources.torchvision_kinds import KINDS, REFUSED, Kind, detect_anything
from cam_hub.tasks.registry import make_task

__all__ = ["TorchvisionSource"]


@cache
def _kinds() -> Mapping[str, Kind]:
    """What kind each model that can be explained is of."""
    return {name: kind for package, kind in KINDS.items() for name in zoo.list_models(package)}


@cache
def _reasons() -> Mapping[str, str]:
    """Why each of the others cannot be."""
    return {name: why for package, why in REFUSED.items() for name in zoo.list_models(package)}


class TorchvisionSource:
    """Loads ``torchvision/NAME[@WEIGHTS]``."""

    name = "torchvision"

    def claims(self, request: Request) -> bool:
        """Whether the ID names torchvision."""
        return request.id.kind == "torchvision"

    def load(self, request: Request) -> LoadedModel:
        """Builds the model; its checkpoint is downloaded unless torch's hub folder has it."""
        id, kind = str(request.id), _kind(request)
        weights = _weights(request)
        admit(self.describe(request), request.limits, Path(torch.hub.get_dir()))
        module = _build(request, weights)
        if not request.pretrained:
            wake(module)
            detect_anything(module)
        categories = weights.meta.get("categories")
        names = tuple(categories) if categories else None
        return LoadedModel(
            id=id,
            module=settle(module, request.device),
            preprocessing=kind.preprocessing(weights, module),
            class_names=names,
            source=self.name,
            revision=weights.name if request.pretrained else None,
            pretrained=request.pretrained,
            task=make_task(kind.task, class_names=names),
        )

    def describe(self, request: Request) -> ModelFacts:
        """What torchvision itself says about the weights; it names no licence."""
        _kind(request)
        weights = _weights(request)
        size = round(weights.meta.get("_file_size", 0) * 2**20) or None
        file = Path(weights.url).name
        cached = (Path(torch.hub.get_dir()) / "checkpoints" / file).is_file()
        return ModelFacts(
            id=str(request.id),
            source=self.name,
            revision=weights.name if request.pretrained else None,
            parameters=weights.meta.get("num_params"),
            weights_file=file if request.pretrained else None,
            weights_bytes=size if request.pretrained else None,
            fetch_bytes=0 if cached or not request.pretrained else size,
            library="torchvision",
        )

    def known_ids(self, *, pretrained: bool) -> Iterable[str]:
        """All models of torchvision that can be explained."""
        return [f"torchvision/{name}" for name in _kinds()]


def _kind(request: Request) -> Kind:
    """What kind of model it is, if it is one that can be explained."""
    name, id = request.id.name, str(request.id)
    if name in _reasons():
        raise ModelRefused(id, _reasons()[name])
    if name not in _kinds():
        raise ModelNotFound(id)
    return _kinds()[name]


def _build(request: Request, weights: zoo.Weights) -> nn.Module:
    """The network, with these weights or random ones."""
    name = request.id.name
    options: dict[str, Any] = {}
    if "weights_backbone" in inspect.signature(zoo.get_model_builder(name)).parameters:
        # Or a backbone's weights would be fetched, even for a model with random ones.
        options["weights_backbone"] = None
    try:
        module: nn.Module = zoo.get_model(
            name, weights=weights if request.pretrained else None, **options
        )
    except URLError as error:
        raise HubUnavailable(
            str(request.id),
            f"{error.reason}. A checkpoint {Path(weights.url).name} in torch's hub folder "
            "($TORCH_HOME/hub/checkpoints) is used without a download.",
        ) from error
    return module


def _weights(request: Request) -> zoo.Weights:
    """The weights that the ID names, or the model's default ones."""
    choices = zoo.get_model_weights(request.id.name)
    wanted = request.id.revision or "DEFAULT"
    if wanted not in choices.__members__:
        raise ModelNotFound(
            str(request.id),
            [f"{request.id.repo}@{name}" for name in choices.__members__],
            "The model has no weights of this name.",
        )
    chosen: zoo.Weights = choices[wanted]
    return chosen
