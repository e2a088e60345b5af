"""Source of torchvision's models, by name and weights."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Mapping
from functools import cache
from typing import Any, cast

import torchvision.models as zoo
from torch import nn

from cam_hub.errors import ModelNotFound, ModelRefused
from cam_hub.models.admission import admit
from cam_hub.models.building.skeleton import loaded
from cam_hub.models.facts import ModelFacts
from cam_hub.models.loaded_model import LoadedModel, Request, settle, wake
from cam_hub.sources.torchvision.kinds import KINDS, REFUSED, Kind, detect_anything
from cam_hub.sources.torchvision.weights import fetch_weights, weights_bytes, weights_file
from cam_hub.targets.registry import make_task

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
        admit(self.describe(request), request.limits, weights_file(weights).parent)
        module = _build(request, weights)
        if not request.pretrained:
            wake(module)
            detect_anything(module)
        names = _labels(weights)
        task = kind.task
        if task == "classification" and names is None:
            # The checkpoint's classifier is filled up with NaN.
            _without_classes(module)
            task = "similarity"
        return LoadedModel(
            id=id,
            module=settle(module, request.device),
            preprocessing=kind.preprocessing(weights, module),
            class_names=names,
            source=self.name,
            revision=weights.name if request.pretrained else None,
            pretrained=request.pretrained,
            task=make_task(task, class_names=names),
        )

    def describe(self, request: Request) -> ModelFacts:
        """What torchvision itself says about the weights; it names no licence."""
        kind = _kind(request)
        weights = _weights(request)
        file, size = weights_file(weights), weights_bytes(weights)
        return ModelFacts(
            id=str(request.id),
            source=self.name,
            revision=weights.name if request.pretrained else None,
            parameters=weights.meta.get("num_params"),
            weights_file=file.name if request.pretrained else None,
            weights_bytes=size if request.pretrained else None,
            fetch_bytes=0 if file.is_file() or not request.pretrained else size,
            library="torchvision",
            input_size=_input_size(kind, weights),
            class_names=_labels(weights),
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


def _labels(weights: zoo.Weights) -> tuple[str, ...] | None:
    """One label per class that the weights were trained for."""
    categories = weights.meta.get("categories")
    return tuple(categories) if categories else None


def _input_size(kind: Kind, weights: zoo.Weights) -> tuple[int, ...] | None:
    """The input that the weights ask for; that of a detector only the built network tells."""
    if kind.task == "detection":
        return None
    return kind.preprocessing(weights, nn.Identity()).input_size


def _build(request: Request, weights: zoo.Weights) -> nn.Module:
    """The network, with these weights or random ones."""
    name = request.id.name
    options: dict[str, Any] = {}
    if "weights_backbone" in inspect.signature(zoo.get_model_builder(name)).parameters:
        # Or a backbone's weights would be fetched, even for a model with random ones.
        options["weights_backbone"] = None
    if request.pretrained:
        fetch_weights(request, weights)
    try:
        if not request.pretrained:
            return cast(nn.Module, zoo.get_model(name, weights=None, **options))
        return loaded(lambda: zoo.get_model(name, weights=weights, **options))
    except Exception as error:  # whatever a file of another network makes torch raise
        first = (str(error) or type(error).__name__).splitlines()[0]
        raise ModelRefused(
            str(request.id), f"torchvision could not build it from its checkpoint ({first})."
        ) from error


def _without_classes(module: nn.Module) -> None:
    """Takes away a classifier that was never trained: it is the last part of all of them."""
    name, _ = list(module.named_children())[-1]
    setattr(module, name, nn.Identity())


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
