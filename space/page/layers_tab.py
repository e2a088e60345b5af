"""The tab of layers: components, handlers, events."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import gradio as gr

from cam_hub.layers.listing import SUGGESTIONS
from space.components import formatting, layer_table
from space.components.layer_table import NO_TABLE, TABLE_CSS, TABLE_JS, TICK_JS
from space.components.style import SHOW_LAYERS
from space.config.settings import Settings
from space.page.controls import ANY_LAYERS, LAYER_WORDS, Controls
from space.service.errors import cancellable_progress, event_value, readable, token_of, warn
from space.service.explain_form import read_model_id, read_texts
from space.service.explainer import Explainer

__all__ = [
    "LAYERS_TAB",
    "RESULT_TAB",
    "LayerHandlers",
    "LayersPanel",
    "build_layers_panel",
    "connect_layers",
]


RESULT_TAB = "result"
LAYERS_TAB = "layers"


@dataclass(frozen=True)
class LayersPanel:
    """The components of the tab, and the tabs.

    ``is_open`` holds whether the tab is in front: layers are looked for only then.
    """

    tabs: gr.Tabs
    result_tab: gr.Tab
    layers_tab: gr.Tab
    is_open: gr.State
    show_all: gr.Checkbox
    table: gr.HTML


def build_layers_panel(tabs: gr.Tabs, result_tab: gr.Tab, layers_tab: gr.Tab) -> LayersPanel:
    """Builds the inside of the tab where it is called."""
    table = gr.HTML(
        NO_TABLE,
        css_template=TABLE_CSS,
        js_on_load=TABLE_JS,
        apply_default_css=False,
        min_height=96,
        elem_id="layer_table",
    )
    show_all = gr.Checkbox(
        False,
        label="Show also layers that give no map, and why",
        container=False,
        elem_id="show_all",
    )
    return LayersPanel(
        tabs=tabs,
        result_tab=result_tab,
        layers_tab=layers_tab,
        is_open=gr.State(False),
        show_all=show_all,
        table=table,
    )


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
        """Lists the model's layers; a problem is shown in their place."""
        try:
            with readable(as_html=True):
                wanted = self._layers(target_layers)
                table = self.explainer.layers(
                    read_model_id(model_id, self.settings.limits),
                    cancellable_progress(progress),
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
        """Lists them only while the tab is open: it takes seconds."""
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


def connect_layers(
    explainer: Explainer, settings: Settings, controls: Controls, panel: LayersPanel
) -> None:
    """Wires the tab that is being built. None of its events is an endpoint."""
    page = LayerHandlers(explainer, settings, controls, panel)
    private: dict[str, Any] = {"api_visibility": "private", "preprocess": False}
    quick: dict[str, Any] = {"queue": False, "show_progress": "hidden", **private}
    looking: dict[str, Any] = {
        "outputs": [panel.table, controls.target_layers],
        "show_progress_on": panel.table,
        "trigger_mode": "always_last",
        "concurrency_id": "model",
        "concurrency_limit": settings.concurrency,
        **private,
    }
    chosen = [controls.model_id, controls.target_layers, panel.show_all]

    # Tabs fire this also when an event brings them to the front.
    panel.layers_tab.select(lambda: True, None, panel.is_open, **quick)
    panel.result_tab.select(lambda: False, None, panel.is_open, **quick)
    opened = panel.layers_tab.select(page.show, chosen, **looking)
    opened.then(None, controls.layer_choice, js=SHOW_LAYERS, **private)
    more = panel.show_all.input(page.show, chosen, **looking)
    controls.run.click(lambda: gr.Tabs(selected=RESULT_TAB), None, panel.tabs, **quick)

    controls.layer_choice.input(
        page.choose, controls.layer_choice, [controls.target_layers, panel.tabs], **quick
    ).then(None, controls.layer_choice, js=SHOW_LAYERS, **private)
    panel.table.select(
        page.pick,
        None,
        [controls.layer_choice, controls.target_layers],
        trigger_mode="multiple",
        **quick,
    )
    controls.target_layers.change(None, controls.target_layers, js=TICK_JS, **private)

    controls.model_id.select(
        page.forget,
        controls.target_layers,
        [panel.table, controls.layer_choice, controls.target_layers],
        cancels=[opened, more],
        **quick,
    ).then(page.show_if_open, [panel.is_open, *chosen], **looking)
