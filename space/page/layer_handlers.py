"""What the page answers when target layers are looked at or chosen."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import gradio as gr

from cam_hub.layers.listing import SUGGESTIONS
from space.components import formatting, layer_table
from space.config.settings import Settings
from space.page.controls import ANY_LAYERS, LAYER_WORDS, Controls
from space.page.layers_panel import LAYERS_TAB, LayersPanel
from space.service.errors import readable
from space.service.explain_form import read_model_id, read_texts
from space.service.explainer import Explainer
from space.service.request_context import event_value, teller, token_of, warn

__all__ = ["LayerHandlers"]

Updates = dict[Any, Any]
"""New values by component."""


@dataclass(frozen=True)
class LayerHandlers:
    """The handlers. Only ``show`` uses a model."""

    explainer: Explainer
    settings: Settings
    controls: Controls
    panel: LayersPanel

    def show(
        self,
        model_id: Any,
        target_layers: Any,
        show_all: Any,
        visitor: gr.OAuthToken | None,
        progress: gr.Progress = gr.Progress(),  # noqa: B008 (how Gradio wants it)
    ) -> Updates:
        """Lists the model's layers; a problem is told in their place."""
        try:
            with readable(as_html=True):
                wanted = self._layers(target_layers)
                table = self.explainer.layers(
                    read_model_id(model_id, self.settings.limits),
                    teller(progress),
                    token_of(visitor),
                )
                warn(table.notes)
                return {
                    self.panel.table: layer_table.layer_table(
                        table, wanted, show_all=bool(show_all)
                    ),
                    self.controls.target_layers: gr.update(
                        choices=formatting.layer_choices(table.usable)
                    ),
                }
        except gr.Error as problem:
            return {self.panel.table: layer_table.layer_trouble(problem.message)}

    def show_if_open(
        self,
        is_open: Any,
        model_id: Any,
        target_layers: Any,
        show_all: Any,
        visitor: gr.OAuthToken | None,
        progress: gr.Progress = gr.Progress(),  # noqa: B008
    ) -> Updates:
        """Likewise, but only while somebody looks: it takes seconds."""
        if not is_open:
            return {self.panel.table: gr.skip()}
        return self.show(model_id, target_layers, show_all, visitor, progress)

    def choose(self, choice: Any) -> Updates:
        """Takes a word for the target layers; or lets them be picked, starting from the last."""
        chosen = self.controls.target_layers
        if choice in dict(LAYER_WORDS).values():
            return {chosen: gr.update(value=[choice], visible=False)}
        return {chosen: gr.update(visible=True), self.panel.tabs: gr.Tabs(selected=LAYERS_TAB)}

    def pick(self, ticked: gr.EventData) -> Updates:
        """Takes the layers whose rows are ticked."""
        with readable(as_html=True):
            names = self._layers(event_value(ticked, "chosen"))
            return {
                self.controls.layer_choice: ANY_LAYERS,
                self.controls.target_layers: gr.update(value=names, visible=True),
            }

    def forget(self, target_layers: Any) -> Updates:
        """Takes away layers that another model has; words mean something for every model."""
        updates: Updates = {self.panel.table: layer_table.NO_TABLE}
        offered = gr.update(choices=formatting.layer_choices())
        chosen = target_layers if isinstance(target_layers, list) else [None]
        if not all(isinstance(name, str) and name in SUGGESTIONS for name in chosen):
            offered = gr.update(choices=formatting.layer_choices(), value=["best"], visible=False)
            updates[self.controls.layer_choice] = "best"
        return {**updates, self.controls.target_layers: offered}

    def _layers(self, value: Any) -> list[str]:
        limits = self.settings.limits
        return list(read_texts("target_layers", value, limits.max_layers, limits.max_text))
