"""``/layers``: which layers a model has, for programs."""

# Annotations must be real types here, not texts: Gradio reads inputs and outputs off them.

from collections.abc import Callable
from typing import TypedDict

import gradio as gr
from gradio.events import api

from space.api.endpoint import document
from space.config.settings import Settings
from space.service.errors import cancellable_progress, readable, token_of, warn
from space.service.explain_form import read_model_id
from space.service.explainer import Explainer, LayerTable

__all__ = ["LayerRow", "add_layers_endpoint", "make_layers"]


class LayerRow(TypedDict):
    """One layer: the public facts of ``cam_hub.LayerInfo``, and the words that stand for it."""

    name: str
    module_type: str
    layout: str | None
    grid: list[int] | None
    channels: int | None
    prefix_tokens: int
    suffix_tokens: int
    is_conv: bool
    stage: int | None
    usable: bool
    recommended: bool
    words: list[str]
    reason: str


_INPUTS = {
    "model_id": "'owner/name[@revision]' on the Hub, 'torchvision/name[@weights]' or a timm name",
    "show_all": "whether layers that give no map are listed, too; reason explains it",
}

_OUTPUTS = {
    "layers": "one row per layer in forward order; grid: rows and columns; stage: 0 is the finest; "
    "words: those of best, stages, convs, all that stand for it; null: does not apply",
}


def make_layers(explainer: Explainer, settings: Settings) -> Callable[..., list[LayerRow]]:
    """The endpoint's function for one app."""

    def layers(
        model_id: str = settings.default_model,
        show_all: bool = False,
        visitor: gr.OAuthToken | None = None,
    ) -> list[LayerRow]:
        """Lists the layers of an image model that a map can be made from.

        Args:
            model_id: A timm or torchvision model.
            show_all: Whether layers that give no map are listed, too.
            visitor: Access token, for private and gated models; Gradio hands it over.

        Returns:
            One row per layer, in forward order.
        """
        with readable(as_html=False):
            table = explainer.layers(
                read_model_id(model_id, settings.limits),
                cancellable_progress(gr.Progress()),
                token_of(visitor),
            )
            warn(table.notes)
            return _rows(table, show_all)

    return layers


def add_layers_endpoint(explainer: Explainer, settings: Settings) -> None:
    """Adds ``/layers`` to the app that is being built, with names and words for its values."""
    event = api(
        make_layers(explainer, settings),
        api_name="layers",
        concurrency_id="model",
        concurrency_limit=settings.concurrency,
    )
    document(event, _INPUTS, _OUTPUTS)


def _rows(table: LayerTable, show_all: bool) -> list[LayerRow]:
    return [
        LayerRow(
            name=layer.name,
            module_type=layer.module_type,
            layout=layer.layout,
            grid=list(layer.grid) if layer.grid else None,
            channels=layer.channels,
            prefix_tokens=layer.prefix_tokens,
            suffix_tokens=layer.suffix_tokens,
            is_conv=layer.is_conv,
            stage=layer.stage,
            usable=layer.usable,
            recommended=layer.recommended,
            words=table.words_of(layer.name),
            reason=layer.reason,
        )
        for layer in table.listed(show_all)
    ]
