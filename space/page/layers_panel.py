"""The tab beside the result: which layers a model has."""

from __future__ import annotations

from dataclasses import dataclass

import gradio as gr

from space.components.layer_table import NO_TABLE, TABLE_CSS, TABLE_JS

__all__ = ["LAYERS_TAB", "RESULT_TAB", "LayersPanel", "build_layers_panel"]

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
