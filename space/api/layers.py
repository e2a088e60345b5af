"""``/layers``: which layers a model has, for programs."""

# Annotations must be real types here, not texts: Gradio reads inputs and outputs off them.

from typing import Any, TypedDict

import gradio as gr

from space.api.endpoint import PARAMETERS, Parameter, add_documented, row_of
from space.config.settings import Settings
from space.service.errors import cancellable_progress, readable, warn
from space.service.explain_form import read_model_id
from space.service.explainer import Explainer

__all__ = ["add_layers_endpoint"]


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


_PARAMETERS = {
    "model_id": PARAMETERS["model_id"],
    "show_all": Parameter(
        bool, "whether layers that give no map are listed, too; reason explains it", False
    ),
}

_OUTPUTS = {
    "layers": "one row per layer in forward order; grid: rows and columns; stage: 0 is the finest; "
    "words: those of best, stages, convs, all that stand for it; null: does not apply",
}


def add_layers_endpoint(explainer: Explainer, settings: Settings) -> None:
    """Adds ``/layers`` to the app that is being built."""

    def layers(values: dict[str, Any], visitor: str | None) -> list[LayerRow]:
        """Lists the layers of an image model that a map can be made from."""
        with readable(as_html=False):
            id = read_model_id(values["model_id"], settings.limits)
            table = explainer.layers(id, cancellable_progress(gr.Progress()), visitor)
            warn(table.notes)
            return [
                row_of(LayerRow, layer, words=table.words_of(layer.name))
                for layer in table.listed(values["show_all"])
            ]

    add_documented(settings, "layers", layers, _PARAMETERS, _OUTPUTS)
