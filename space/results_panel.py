"""The right column of the page: what came out."""

from __future__ import annotations

from dataclasses import dataclass

import gradio as gr

__all__ = ["NOTHING_YET", "STOPPED", "ResultsPanel", "build_results_panel"]

NOTHING_YET = "<p>Choose a photo and press <strong>Explain</strong> (or Ctrl+Enter).</p>"

STOPPED = "<p>Stopped. Press <strong>Explain</strong> to start again.</p>"


@dataclass(frozen=True)
class ResultsPanel:
    """The components that show a result; all but ``summary`` are hidden while there is none."""

    summary: gr.HTML
    body: gr.Column
    shown_class: gr.Radio
    comparison: gr.ImageSlider
    predictions: gr.Label
    gallery: gr.Gallery
    files: gr.File
    manifest: gr.JSON
    python: gr.Code
    client: gr.Code


def build_results_panel() -> ResultsPanel:
    """Builds the column where it is called."""
    summary = gr.HTML(NOTHING_YET, elem_id="summary", min_height=72, padding=True, container=True)
    with gr.Column(visible=False, elem_id="results") as body:
        shown_class = gr.Radio(
            choices=[], label="Shown class", visible=False, elem_id="shown_class"
        )
        comparison = gr.ImageSlider(
            label="Photo | overlay",
            format="png",
            type="filepath",
            slider_position=50,
            max_height=460,
            interactive=False,
            elem_id="comparison",
        )
        with gr.Row():
            with gr.Column(min_width=280, scale=2):
                predictions = gr.Label(
                    label="Predictions",
                    num_top_classes=5,
                    show_heading=False,
                    elem_id="predictions",
                )
            with gr.Column(min_width=280, scale=3):
                gallery = gr.Gallery(
                    label="One map per layer, and their fusion",
                    format="png",
                    columns=3,
                    fit_columns=False,
                    height="auto",
                    object_fit="contain",
                    interactive=False,
                    buttons=["download", "fullscreen"],
                    elem_id="gallery",
                )
        files = gr.File(
            label="Files: everything (ZIP), manifest (JSON), overlays (PNG), maps (NPY)",
            file_count="multiple",
            interactive=False,
            height=320,
            elem_id="files",
        )
        with gr.Accordion("Manifest", open=False):
            manifest = gr.JSON(show_label=False, elem_id="manifest")
        with gr.Accordion("The same in code", open=False):
            python = gr.Code(language="python", label="Python", interactive=False, elem_id="python")
            client = gr.Code(
                language="python", label="gradio_client", interactive=False, elem_id="client"
            )
    return ResultsPanel(
        summary=summary,
        body=body,
        shown_class=shown_class,
        comparison=comparison,
        predictions=predictions,
        gallery=gallery,
        files=files,
        manifest=manifest,
        python=python,
        client=client,
    )
