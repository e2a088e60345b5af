"""Source of timm architectures with random weights: no network, by any of their names."""

from __future__ import annotations

from collections.abc import Iterable

import timm

from cam_hub.errors import ModelNotFound
from cam_hub.models import timm_models
from cam_hub.models.facts import ModelFacts
from cam_hub.models.limits import check_limits
from cam_hub.models.loaded_model import LoadedModel, LoadRequest, wake

__all__ = ["TimmSource"]


class TimmSource:
    """Builds ``timm/NAME`` and bare names with random weights."""

    name = "timm"

    def claims(self, request: LoadRequest) -> bool:
        """Whether random weights of a timm architecture are asked for."""
        return not request.pretrained and request.id.kind in ("timm", "hub")

    def load(self, request: LoadRequest) -> LoadedModel:
        """Builds the architecture; what is on the Hub under other owners cannot be known here."""
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
            hint="Only the repo itself says which architecture it holds, and pretrained=False "
            "contacts no network: give the architecture's name instead.",
        )
    return name
