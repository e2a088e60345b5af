"""What the sources that build timm models share: the registry, labels and preprocessing."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any

import timm
from timm.data.config import resolve_model_data_config
from timm.data.imagenet_info import ImageNetInfo, infer_imagenet_subset
from torch import nn

from cam_hub.errors import ModelNotFound, ModelRefused
from cam_hub.model_id import ModelId
from cam_hub.preprocessing import Preprocessing
from cam_hub.sources.base import LoadedModel, Request, settle

__all__ = ["as_loaded", "build", "hub_id_of", "hub_ids", "require_classes", "tags_of"]


@cache
def hub_ids() -> tuple[str, ...]:
    """The Hub IDs of all pretrained weights that timm knows by name."""
    return tuple(f"timm/{name}" for name in timm.list_pretrained())


def tags_of(architecture: str) -> list[str]:
    """The full names (``architecture.tag``) of an architecture's pretrained weights."""
    return list(timm.list_pretrained(f"{architecture}.*"))


def hub_id_of(name: str) -> str | None:
    """The Hub repo in which timm keeps the weights of a name, with or without tag."""
    config = timm.models.get_pretrained_cfg(name) if _exists(name) else None
    return config.hf_hub_id if config is not None and config.hf_hub_id else None


def build(name: str, **kwargs: Any) -> nn.Module:
    """Builds an architecture of timm's with random weights, without any network.

    Args:
        name: ``architecture`` or ``architecture.tag``; the tag decides about class count and
            preprocessing.
        **kwargs: Handed to ``timm.create_model``.

    Raises:
        ModelNotFound: If timm has no such architecture.
        ModelRefused: If timm cannot build it.
    """
    if not _exists(name):
        raise ModelNotFound(name, hint="timm has no such architecture.")
    try:
        return timm.create_model(name, pretrained=False, **kwargs)
    except Exception as error:  # whatever an architecture's constructor raises
        raise ModelRefused(name, f"timm could not build it ({error}).") from error


def _exists(name: str) -> bool:
    architecture, _, tag = name.partition(".")
    if not timm.is_model(architecture):
        return False
    return not tag or name in timm.list_pretrained(f"{architecture}.*")


def as_loaded(
    module: nn.Module, request: Request, *, id: str, source: str, revision: str | None
) -> LoadedModel:
    """Wraps a timm module with the preprocessing and the labels that it was trained with."""
    require_classes(module, id)
    return LoadedModel(
        id=id,
        module=settle(module, request.device),
        preprocessing=Preprocessing.from_timm(resolve_model_data_config(module)),
        class_names=_class_names(module),
        source=source,
        revision=revision,
        pretrained=request.pretrained,
    )


def require_classes(module: nn.Module, id: str) -> None:
    """Refuses a model without a classifier: there is no class to explain."""
    if getattr(module, "num_classes", 1) == 0:
        raise ModelRefused(
            id, "it has no classifier (num_classes=0), so there is no class to explain."
        )


def _class_names(module: nn.Module) -> tuple[str, ...] | None:
    """The labels that the model's configuration declares, else those of its ImageNet subset."""
    count = getattr(module, "num_classes", None)
    config = getattr(module, "pretrained_cfg", None) or {}
    declared: Sequence[str] | None = config.get("label_names")
    descriptions: dict[str, str] = config.get("label_descriptions") or {}
    if declared:
        names = tuple(str(descriptions.get(name, name)) for name in declared)
        return names if len(names) == count else None
    subset = infer_imagenet_subset(module)
    if not subset:
        return None
    info = ImageNetInfo(subset)
    names = tuple(info.index_to_description(index) for index in range(info.num_classes()))
    return names if len(names) == count else None


def ambiguous(id: ModelId, tags: Sequence[str]) -> ModelNotFound:
    """The error for an architecture of which there are several pretrained weights."""
    return ModelNotFound(
        str(id),
        [f"timm/{tag}" for tag in tags],
        "The name alone does not say which pretrained weights are meant: add the tag.",
    )
