"""``/describe``: the facts about a model before it is loaded, for programs."""

# Annotations must be real types here, not texts: Gradio reads inputs and outputs off them.

from typing import Any, TypedDict

from space.api.endpoint import PARAMETERS, add_documented, row_of
from space.config.settings import DESCRIBING, Settings
from space.service.errors import readable
from space.service.explain_form import read_model_id
from space.service.explainer import Explainer

__all__ = ["add_describe_endpoint"]


class FactsRow(TypedDict):
    """One model: the facts of ``cam_hub.ModelFacts`` that are not lists."""

    id: str
    source: str
    revision: str | None
    parameters: int | None
    input_size: list[int] | None
    weights_file: str | None
    weights_bytes: int | None
    fetch_bytes: int | None
    licence: str | None
    gated: bool
    private: bool
    library: str | None
    downloads: int | None
    refusal: str | None
    fresh: bool


_PARAMETERS = {"model_id": PARAMETERS["model_id"]}

_OUTPUTS = {
    "facts": "source: hub, torchvision, embedded or timm; input_size: channels, rows, columns; "
    "fetch_bytes: what would have to be fetched, 0 if all is here; refusal: why this app would "
    "not load it; fresh: false when the Hub did not answer; null: not known",
}


def add_describe_endpoint(explainer: Explainer, settings: Settings) -> None:
    """Adds ``/describe`` to the app that is being built."""

    def describe(values: dict[str, Any], visitor: str | None) -> FactsRow:
        """Returns the facts about an image model, without loading or fetching it."""
        with readable(as_html=False):
            id = read_model_id(values["model_id"], settings.limits)
            return row_of(FactsRow, explainer.describe(id, visitor))

    add_documented(settings, "describe", describe, _PARAMETERS, _OUTPUTS, **DESCRIBING)
