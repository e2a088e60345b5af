"""Source of torchvision's image classifiers, by name and weights."""

from __future__ import annotations

from collections.abc import Iterable
from functools import cache
from pathlib import Path
from urllib.error import URLError

import torchvision.models as zoo

from cam_hub.errors import HubUnavailable, ModelNotFound, ModelRefused
from cam_hub.preprocessing import Preprocessing
from cam_hub.sources.base import LoadedModel, Request, settle, wake

__all__ = ["TorchvisionSource"]


@cache
def _classifiers() -> tuple[str, ...]:
    return tuple(zoo.list_models(module=zoo))


class TorchvisionSource:
    """Loads ``torchvision/NAME[@WEIGHTS]``."""

    name = "torchvision"

    def claims(self, request: Request) -> bool:
        """Whether the ID names torchvision."""
        return request.id.kind == "torchvision"

    def load(self, request: Request) -> LoadedModel:
        """Builds the model; its checkpoint is downloaded unless torch's hub folder has it."""
        name = request.id.name
        if name not in _classifiers():
            if name in zoo.list_models():
                raise ModelRefused(
                    str(request.id), "it is not an image classifier; those of torchvision work."
                )
            raise ModelNotFound(str(request.id))
        weights = _weights(request)
        preset = weights.transforms()
        try:
            module = zoo.get_model(name, weights=weights if request.pretrained else None)
        except URLError as error:
            raise HubUnavailable(
                str(request.id),
                f"{error.reason}. A checkpoint {Path(weights.url).name} in torch's hub folder "
                "($TORCH_HOME/hub/checkpoints) is used without a download.",
            ) from error
        if not request.pretrained:
            wake(module)
        categories = weights.meta.get("categories")
        return LoadedModel(
            id=str(request.id),
            module=settle(module, request.device),
            preprocessing=Preprocessing.from_torchvision(preset),
            class_names=tuple(categories) if categories else None,
            source=self.name,
            revision=weights.name if request.pretrained else None,
            pretrained=request.pretrained,
        )

    def known_ids(self, *, pretrained: bool) -> Iterable[str]:
        """All image classifiers of torchvision."""
        return [f"torchvision/{name}" for name in _classifiers()]


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
