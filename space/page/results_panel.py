"""The right column of the page: what came out."""

from __future__ import annotations

from dataclasses import dataclass

import gradio as gr
from gradio.blocks import Block
from gradio.components import Component

from space.components.downloads import build_take_away
from space.components.formatting import build_prediction_list, colormap_choices
from space.components.viewer import build_map_strip, build_viewer
from space.service.display_options import SCALES, VIEWS, Look

__all__ = ["FAILED", "NOTHING_YET", "OPENING", "STOPPED", "ResultsPanel", "build_results_panel"]

NOTHING_YET = "<p>Choose a photo and press <strong>Explain</strong> (or Ctrl+Enter).</p>"

OPENING = "<p>Opening the view of the link …</p>"

STOPPED = "<p>Stopped. Press <strong>Explain</strong> to start again.</p>"

FAILED = "<p>Not explained: the message says why.</p>"


@dataclass(frozen=True)
class ResultsPanel:
    """The components that show a result; all but ``summary`` are hidden while there is none.

    ``shown_layer`` holds which map is large, empty for the fusion.
    """

    summary: gr.HTML
    body: gr.Column
    shown_class: gr.Radio
    shown_layer: gr.State
    viewer: gr.HTML
    view: gr.Radio
    alpha: gr.Slider
    threshold: gr.Slider
    colormap: gr.Dropdown
    scale: gr.Radio
    predictions: gr.HTML
    maps: gr.HTML
    take_away: gr.HTML

    @property
    def style(self) -> dict[str, Component]:
        """How maps are drawn: the components by the attributes of ``Look``."""
        return {
            "view": self.view,
            "alpha": self.alpha,
            "colormap": self.colormap,
            "threshold": self.threshold,
            "scale": self.scale,
        }

    @property
    def look(self) -> dict[str, Component]:
        """The components of a ``Look`` by its attributes."""
        return {"class_index": self.shown_class, "layer": self.shown_layer, **self.style}

    @property
    def large(self) -> list[Component]:
        """The components that another map changes."""
        return [self.summary, self.viewer, self.take_away]

    @property
    def shown(self) -> list[Block]:
        """The components that another result changes."""
        parts = [self.body, self.shown_class, self.shown_layer, self.predictions, self.maps]
        return [*self.large, *parts]


def build_results_panel() -> ResultsPanel:
    """Builds the column where it is called."""
    plain = Look()
    summary = gr.HTML(
        NOTHING_YET,
        html_template='<div class="said" role="status"></div>',
        js_on_load=_SUMMARY_JS,
        apply_default_css=False,
        min_height=64,
        elem_id="summary",
    )
    with gr.Column(visible=False, elem_id="results") as body:
        viewer = build_viewer()
        shown_class = gr.Radio(
            choices=[], label="Shown class", visible=False, elem_id="shown_class"
        )
        with gr.Row(elem_id="look"):
            view = gr.Radio(
                choices=[(words, name) for name, words in VIEWS.items()],
                value=plain.view,
                label="Show",
                elem_id="view",
                min_width=260,
            )
            colormap = gr.Dropdown(
                choices=colormap_choices(),
                value=plain.colormap,
                label="Colours",
                elem_id="colormap",
                min_width=200,
            )
            alpha = gr.Slider(
                0, 1, plain.alpha, step=0.05, label="Opacity", elem_id="alpha", min_width=200
            )
            threshold = gr.Slider(
                0.05,
                1,
                plain.threshold,
                step=0.05,
                label="Threshold of boxes and cut-out",
                interactive=False,
                elem_id="threshold",
                min_width=200,
            )
            scale = gr.Radio(
                choices=[(words, name) for name, words in SCALES.items()],
                value=plain.scale,
                label="Scale of the colours",
                elem_id="scale",
                min_width=260,
            )
        with gr.Row(equal_height=False):
            with gr.Column(min_width=260, scale=2):
                predictions = build_prediction_list()
            with gr.Column(min_width=260, scale=3):
                maps = build_map_strip()
        take_away = build_take_away()
    return ResultsPanel(
        summary=summary,
        body=body,
        shown_class=shown_class,
        shown_layer=gr.State(""),
        viewer=viewer,
        view=view,
        alpha=alpha,
        threshold=threshold,
        colormap=colormap,
        scale=scale,
        predictions=predictions,
        maps=maps,
        take_away=take_away,
    )


# Screen readers speak what changes inside of an element that is there all along.
_SUMMARY_JS = """
const said = element.querySelector(".said");
const say = () => { if (said.innerHTML !== props.value) said.innerHTML = props.value; };
say();
watch("value", say);
"""
