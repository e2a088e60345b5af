"""The tab that puts models, methods, layers and classes beside each other."""

from __future__ import annotations

from dataclasses import dataclass

import gradio as gr

from space.components.comparison import GRID_CSS, GRID_JS, NO_GRID, scale_choices
from space.components.formatting import colormap_choices, method_choices
from space.config.settings import Settings
from space.page.controls import ANY_LAYERS, LAYER_WORDS

__all__ = ["COMPARE_TAB", "ComparePanel", "build_compare_tab"]

COMPARE_TAB = "compare"

_KINDS = [("Methods", "methods"), ("Layers", "layers"), ("Classes", "classes")]


@dataclass(frozen=True)
class ComparePanel:
    """The components of the tab."""

    models: gr.Dropdown
    kind: gr.Radio
    methods: gr.Dropdown
    layers: gr.Radio
    names: gr.Dropdown
    classes: gr.Dropdown
    run: gr.Button
    stop: gr.Button
    scale: gr.Radio
    alpha: gr.Slider
    colormap: gr.Dropdown
    grid: gr.HTML
    files: gr.File


def build_compare_tab(settings: Settings) -> ComparePanel:
    """Builds the inside of the tab where it is called."""
    limits = settings.limits
    models = gr.Dropdown(
        choices=settings.model_choices,
        value=[settings.default_model],
        multiselect=True,
        allow_custom_value=True,
        max_choices=limits.max_models,
        label="Models",
        info=f"The rows, at most {limits.max_models}: choose IDs, or type any other and press"
        " Enter. Everything else is as in the form.",
        elem_id="compare_models",
    )
    kind = gr.Radio(_KINDS, value="methods", label="Columns", elem_id="compare_kind")
    methods = gr.Dropdown(
        choices=method_choices(),
        value=["smoothgradcampp", "layercam", "gradcam"],
        multiselect=True,
        label="Methods",
        info="For the first class of the form, or each model's predicted one.",
        elem_id="compare_methods",
    )
    layers = gr.Radio(
        [
            *[(title, word) for title, word in LAYER_WORDS if word != "best"],
            ("All, first to last", "all"),
            ("By name", ANY_LAYERS),
        ],
        value="stages",
        visible=False,
        label="Layers",
        info=f"With the form's method. At most {limits.max_cells} maps in all.",
        elem_id="compare_layers",
    )
    names = gr.Dropdown(
        choices=[],
        value=[],
        multiselect=True,
        allow_custom_value=True,
        visible=False,
        label="Layers by name",
        info="Type a name and press Enter; the tab Layers lists them.",
        elem_id="compare_names",
    )
    classes = gr.Dropdown(
        choices=["top(3)"],
        value=["top(3)"],
        multiselect=True,
        allow_custom_value=True,
        visible=False,
        label="Classes",
        info="Labels, indices, or top(3) for each model's own. Empty: those of the form.",
        elem_id="compare_classes",
    )
    with gr.Row():
        run = gr.Button("Compare", variant="primary", scale=3, elem_id="compare_run")
        stop = gr.Button(
            "Stop", variant="stop", visible=False, min_width=96, elem_id="compare_stop"
        )
    with gr.Row():
        scale = gr.Radio(
            scale_choices(), value="shares", label="Colours", min_width=300, elem_id="compare_scale"
        )
        alpha = gr.Slider(
            0, 1, 0.5, step=0.05, label="Opacity", min_width=160, elem_id="compare_alpha"
        )
        colormap = gr.Dropdown(
            choices=colormap_choices(),
            value="jet",
            label="Colour map",
            min_width=160,
            elem_id="compare_colormap",
        )
    grid = gr.HTML(
        NO_GRID,
        css_template=GRID_CSS,
        js_on_load=GRID_JS,
        apply_default_css=False,
        padding=False,
        min_height=96,
        elem_id="compare_grid",
    )
    files = gr.File(
        label="Files: everything (ZIP), the sheet (PNG), of layers an animation (WebP)",
        file_count="multiple",
        interactive=False,
        visible=False,
        elem_id="compare_files",
    )
    return ComparePanel(
        models=models,
        kind=kind,
        methods=methods,
        layers=layers,
        names=names,
        classes=classes,
        run=run,
        stop=stop,
        scale=scale,
        alpha=alpha,
        colormap=colormap,
        grid=grid,
        files=files,
    )
