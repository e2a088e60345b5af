"""``/describe``: the facts about a model before it is loaded, for programs."""

# Annotations must be real types here, not texts: Gradio reads inputs and outputs off them.

from collections.abc import Callable
from typing import TypedDict

import gradio as gr
from gradio.events import api

from cam_hub.models.loading import ModelFacts
from space.api.endpoint import document
from space.config.settings import DESCRIBING, Settings
from space.service.errors import readable, token_of
from space.service.explain_form import read_model_id
from space.service.explainer import Explainer

__all__ = ["FactsRow", "add_describe_endpoint", "make_describe"]


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


_INPUTS = {
    "model_id": "'owner/name[@revision]' on the Hub, 'torchvision/name[@weights]' or a timm name",
}

_OUTPUTS = {
    "facts": "source: hub, torchvision, embedded or timm; input_size: channels, rows, columns; "
    "fetch_bytes: what would have to be fetched, 0 if all is here; refusal: why this app would "
    "not load it; fresh: false when the Hub did not answer; null: not known",
}


def make_describe(explainer: Explainer, settings: Settings) -> Callable[..., FactsRow]:
    """The endpoint's function for one app."""

    def describe(
        model_id: str = settings.default_model, visitor: gr.OAuthToken | None = None
    ) -> FactsRow:
        """Returns the facts about an image model, without loading or fetching it.

        Args:
            model_id: A timm or torchvision model.
            visitor: Access token, for private and gated models; Gradio hands it over.

        Returns:
            Its size, licence, input and the like.
        """
        with readable(as_html=False):
            id = read_model_id(model_id, settings.limits)
            return _row(explainer.describe(id, token_of(visitor)))

    return describe


def add_describe_endpoint(explainer: Explainer, settings: Settings) -> None:
    """Adds ``/describe`` to the app that is being built, with names and words for its values."""
    event = api(make_describe(explainer, settings), api_name="describe", **DESCRIBING)
    document(event, _INPUTS, _OUTPUTS)


def _row(facts: ModelFacts) -> FactsRow:
    return FactsRow(
        id=facts.id,
        source=facts.source,
        revision=facts.revision,
        parameters=facts.parameters,
        input_size=list(facts.input_size) if facts.input_size else None,
        weights_file=facts.weights_file,
        weights_bytes=facts.weights_bytes,
        fetch_bytes=facts.fetch_bytes,
        licence=facts.licence,
        gated=facts.gated,
        private=facts.private,
        library=facts.library,
        downloads=facts.downloads,
        refusal=facts.refusal,
        fresh=facts.fresh,
    )
