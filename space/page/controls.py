"""The left column of the page: what to explain, and how."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import gradio as gr
from gradio.components import Component

from cam_hub.methods import METHODS
from cam_hub.options import options_for
from space.components.class_field import build_class_field
from space.components.formatting import layer_choices, method_choices, method_note
from space.components.model_facts import FACTS_CSS, NO_FACTS
from space.components.model_field import build_model_field
from space.components.photo_field import Example, build_photo_field, photo_of
from space.config.settings import Settings

__all__ = ["ANY_LAYERS", "DEFAULT_METHOD", "LAYER_WORDS", "Controls", "Values", "build_controls"]

DEFAULT_METHOD = "smoothgradcampp"

LAYER_WORDS = (("Best", "best"), ("Stages", "stages"), ("Convolutions", "convs"))
"""Ways to choose target layers that need no names, and the words for them."""

ANY_LAYERS = "any"
"""The way in which layers are picked one by one."""

Values = Mapping[Component, Any]
"""Values by component, as Gradio calls a handler whose inputs are a set."""


@dataclass(frozen=True)
class Controls:
    """The components that visitors set, and the buttons."""

    photo: gr.Image
    photo_url: gr.Textbox
    examples: gr.HTML
    model_id: gr.HTML
    facts: gr.HTML
    method: gr.Dropdown
    method_note: gr.HTML
    layer_choice: gr.Radio
    target_layers: gr.Dropdown
    classes: gr.HTML
    contrast: gr.HTML
    region: gr.Textbox
    reference: gr.Image
    num_samples: gr.Slider
    std: gr.Number
    seed: gr.Number
    options: Mapping[str, gr.Radio | gr.Textbox]
    run: gr.Button
    stop: gr.Button

    @property
    def fields(self) -> dict[str, Component]:
        """The fields of a request but for its photo, by the names of ``/explain``'s parameters."""
        return {
            "model_id": self.model_id,
            "method": self.method,
            "target_layers": self.target_layers,
            "classes": self.classes,
            "contrast": self.contrast,
            "region": self.region,
            "reference": self.reference,
            "num_samples": self.num_samples,
            "std": self.std,
            "seed": self.seed,
            **self.options,
        }

    @property
    def inputs(self) -> set[Component]:
        """The components that ``read`` needs the values of."""
        return {self.photo, self.photo_url, *self.fields.values()}

    def read(self, values: Values) -> dict[str, Any]:
        """The request, as ``read_request`` takes it.

        Args:
            values: Of the components, among others.
        """
        photo = photo_of(values[self.photo], values[self.photo_url])
        return {"image": photo, **{name: values[each] for name, each in self.fields.items()}}


def build_controls(settings: Settings, examples: Sequence[Example]) -> Controls:
    """Builds the column where it is called."""
    gr.HTML("<h2>Ask</h2>", elem_id="ask", padding=False)
    fields = build_photo_field(examples)
    with gr.Row(elem_id="buttons"):
        run = gr.Button("Explain", variant="primary", size="lg", scale=3, elem_id="explain")
        stop = gr.Button(
            "Stop", variant="stop", size="lg", visible=False, min_width=96, elem_id="stop"
        )
    model_id = build_model_field(settings.model_choices, settings.default_model)
    facts = gr.HTML(
        NO_FACTS, css_template=FACTS_CSS, apply_default_css=False, padding=False, elem_id="facts"
    )
    classes = build_class_field(
        "classes",
        "Classes",
        "What to look for. Empty: the predicted one. Any label, an index, or top(3).",
        most=settings.limits.max_classes,
    )
    contrast = build_class_field(
        "contrast", "Rather than", "Why those, and not this one? Empty: no comparison.", most=1
    )
    method = gr.Dropdown(
        choices=method_choices(), value=DEFAULT_METHOD, label="Method", elem_id="method"
    )
    note = gr.HTML(
        method_note(DEFAULT_METHOD), padding=False, apply_default_css=False, elem_id="method_note"
    )
    layer_choice, target_layers = _build_layers()
    with gr.Accordion("Region and reference", open=False, elem_id="special"):
        region, reference = _build_special(settings)
    with gr.Accordion("Evidence and output", open=False, elem_id="options"):
        options = _build_options(settings)
    with gr.Accordion("Noise", open=False, elem_id="advanced"):
        num_samples, std, seed = _build_noise(settings)
    return Controls(
        photo=fields.photo,
        photo_url=fields.address,
        examples=fields.examples,
        model_id=model_id,
        facts=facts,
        method=method,
        method_note=note,
        layer_choice=layer_choice,
        target_layers=target_layers,
        classes=classes,
        contrast=contrast,
        region=region,
        reference=reference,
        num_samples=num_samples,
        std=std,
        seed=seed,
        options=options,
        run=run,
        stop=stop,
    )


def _build_layers() -> tuple[gr.Radio, gr.Dropdown]:
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
    return layer_choice, target_layers


def _build_special(settings: Settings) -> tuple[gr.Textbox, gr.Image]:
    region = gr.Textbox(
        label="Region",
        info="For segmentation and detection: left, top, right, bottom, in the photo's pixels."
        " Empty: all of it.",
        placeholder="120, 40, 300, 260",
        max_lines=1,
        max_length=settings.limits.max_text,
        elem_id="region",
    )
    reference = gr.Image(
        None,
        label="Reference, for models without classes",
        type="filepath",
        image_mode=None,
        sources=["upload", "clipboard"],
        height=160,
        placeholder="None: the photo itself",
        alt_text="The photo to compare with",
        elem_id="reference",
    )
    return region, reference


def _build_options(settings: Settings) -> dict[str, gr.Radio | gr.Textbox]:
    """One component per entry of ``cam_hub.options`` that the page has, in its order."""
    found: dict[str, gr.Radio | gr.Textbox] = {}
    for name, option in options_for("page").items():
        info = option.help[:1].upper() + option.help[1:] + "."
        if option.choices:
            found[name] = gr.Radio(
                [(words, value) for value, words in option.choices.items()],
                value=option.default,
                label=option.title,
                info=info,
                elem_id=f"option_{name}",
            )
        else:
            found[name] = gr.Textbox(
                label=option.title,
                info=info,
                max_lines=1,
                max_length=settings.limits.max_text,
                elem_id=f"option_{name}",
            )
    return found


def _build_noise(settings: Settings) -> tuple[gr.Slider, gr.Number, gr.Number]:
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
    return num_samples, std, seed
