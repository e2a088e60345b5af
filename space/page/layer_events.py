"""Which event around the target layers calls which handler."""

from __future__ import annotations

from typing import Any

import gradio as gr

from space.components.layer_table import TICK_JS
from space.components.style import SHOW_LAYERS
from space.config.settings import Settings
from space.page.controls import Controls
from space.page.layer_handlers import LayerHandlers
from space.page.layers_panel import RESULT_TAB, LayersPanel
from space.service.explainer import Explainer

__all__ = ["connect_layers"]


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
    panel.table.select(page.pick, None, [controls.layer_choice, controls.target_layers], **quick)
    controls.target_layers.change(None, controls.target_layers, js=TICK_JS, **private)

    controls.model_id.select(
        page.forget,
        controls.target_layers,
        [panel.table, controls.layer_choice, controls.target_layers],
        cancels=[opened, more],
        **quick,
    ).then(page.show_if_open, [panel.is_open, *chosen], **looking)
