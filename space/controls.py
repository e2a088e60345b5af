"""The left column of the page: what to explain, and how."""

from __future__ import annotations

from dataclasses import dataclass

import gradio as gr
from gradio.components import Component

from cam_hub.methods import METHODS
from space.facts_view import FACTS_CSS, NO_FACTS
from space.model_field import build_model_field
from space.settings import Settings, example_photos
from space.views import colormap_choices, layer_choices, method_choices

__all__ = ["ANY_LAYERS", "DEFAULT_METHOD", "LAYER_WORDS", "Controls", "build_controls"]

DEFAULT_METHOD = "smoothgradcampp"

LAYER_WORDS = (("Best", "best"), ("Stages", "stages"), ("Convolutions", "convs"))
"""Ways to choose target layers that need no names, and the words for them."""

ANY_LAYERS = "any"
"""The way in which layers are picked one by one."""


@dataclass(frozen=True)
class Controls:
    """The components that visitors set, and the button."""

    photo: gr.Image
    model_id: gr.HTML
    facts: gr.HTML
    method: gr.Dropdown
    layer_choice: gr.Radio
    target_layers: gr.Dropdown
    classes: gr.Dropdown
    num_samples: gr.Slider
    std: gr.Number
    seed: gr.Number
    alpha: gr.Slider
    colormap: gr.Dropdown
    run: gr.Button
    stop: gr.Button

    @property
    def inputs(self) -> list[Component]:
        """Everything that makes a request, in the order of ``read_request``'s arguments."""
        return [
            self.photo,
            self.model_id,
            self.method,
            self.target_layers,
            self.classes,
            self.num_samples,
            self.std,
            self.seed,
            self.alpha,
            self.colormap,
        ]


def build_controls(settings: Settings) -> Controls:
    """Builds the column where it is called."""
    photo = gr.Image(
        label="Photo",
        type="filepath",
        image_mode=None,
        sources=["upload", "clipboard", "webcam"],
        height=300,
        elem_id="photo",
    )
    if found := example_photos():
        gr.Examples(
            examples=[[path] for path in found],
            inputs=[photo],
            label="Or one of these",
            elem_id="examples",
            api_visibility="private",
            cache_examples=False,
        )
    with gr.Row():
        run = gr.Button("Explain", variant="primary", size="lg", scale=3, elem_id="explain")
        stop = gr.Button(
            "Stop", variant="stop", size="lg", visible=False, min_width=96, elem_id="stop"
        )
    model_id = build_model_field(settings.model_choices, settings.default_model)
    facts = gr.HTML(
        NO_FACTS, css_template=FACTS_CSS, apply_default_css=False, padding=False, elem_id="facts"
    )
    method = gr.Dropdown(
        choices=method_choices(), value=DEFAULT_METHOD, label="Method", elem_id="method"
    )
    layer_choice = gr.Radio(
        choices=[*LAYER_WORDS, ("Any", ANY_LAYERS)],
        value="best",
        label="Target layers",
        info="The recommended one, the end of each stage, every convolution, or those that you"
        " pick. Several are fused.",
        elem_id="layer_choice",
    )
    # What is asked for is always what stands here, also while it cannot be seen.
    target_layers = gr.Dropdown(
        choices=layer_choices(),
        value=["best"],
        multiselect=True,
        allow_custom_value=True,
        label="Picked layers",
        info="Tick rows of the table, or choose or type names. Empty: the recommended one.",
        visible=False,
        elem_id="target_layers",
    )
    classes = gr.Dropdown(
        choices=[],
        value=[],
        multiselect=True,
        allow_custom_value=True,
        label="Class",
        info="Empty: the predicted one. Or labels, indices, top(3).",
        elem_id="classes",
    )
    with gr.Accordion("Look and noise", open=False, elem_id="advanced"):
        with gr.Row():
            alpha = gr.Slider(0, 1, 0.5, step=0.05, label="Opacity", elem_id="alpha", min_width=240)
            colormap = gr.Dropdown(
                choices=colormap_choices(),
                value="jet",
                label="Colour map",
                elem_id="colormap",
                min_width=240,
            )
        noisy = METHODS[DEFAULT_METHOD].needs_noise
        num_samples = gr.Slider(
            1,
            settings.limits.max_samples,
            4,
            step=1,
            label="Samples",
            info="Noisy copies that are averaged.",
            interactive=noisy,
            elem_id="num_samples",
        )
        with gr.Row():
            std = gr.Number(
                0.3,
                step=0.05,
                label="Noise",
                info="Standard deviation.",
                interactive=noisy,
                elem_id="std",
                min_width=120,
            )
            seed = gr.Number(
                0,
                precision=0,
                label="Seed",
                info="The same seed, the same map.",
                interactive=noisy,
                elem_id="seed",
                min_width=120,
            )
    return Controls(
        photo=photo,
        model_id=model_id,
        facts=facts,
        method=method,
        layer_choice=layer_choice,
        target_layers=target_layers,
        classes=classes,
        num_samples=num_samples,
        std=std,
        seed=seed,
        alpha=alpha,
        colormap=colormap,
        run=run,
        stop=stop,
    )
