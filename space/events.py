"""Which event of the page calls which handler."""

from __future__ import annotations

from typing import Any

import gradio as gr

from space.controls import Controls
from space.explainer import Explainer
from space.handlers import Handlers
from space.results_panel import ResultsPanel
from space.settings import Settings
from space.style import SHOW_RESULT
from space.workspace import Workspace

__all__ = ["connect"]


def connect(
    explainer: Explainer,
    workspace: Workspace,
    settings: Settings,
    controls: Controls,
    panel: ResultsPanel,
) -> None:
    """Wires the page that is being built. None of its events is an endpoint."""
    kept = gr.State(None, time_to_live=settings.keep_seconds)
    page = Handlers(explainer, workspace, settings, controls, panel, kept)
    private: dict[str, Any] = {"api_visibility": "private"}
    model: dict[str, Any] = {
        "concurrency_id": "model",
        "concurrency_limit": settings.concurrency,
        **private,
    }
    pictures = [panel.summary, panel.comparison, panel.gallery, panel.python, panel.client]
    look = [kept, panel.shown_class, controls.alpha, controls.colormap]

    run = gr.on(
        [controls.run.click, controls.std.submit, controls.seed.submit],
        page.answer,
        controls.inputs,
        [
            kept,
            *pictures,
            panel.body,
            panel.shown_class,
            panel.predictions,
            panel.manifest,
            panel.files,
            controls.classes,
            controls.target_layers,
        ],
        preprocess=False,
        show_progress_on=panel.summary,
        trigger_mode="once",
        **model,
    )
    controls.run.click(None, js=SHOW_RESULT, **private)
    files = run.success(
        page.write_files, look, panel.files, preprocess=False, show_progress="minimal", **private
    )
    redraw = gr.on(
        [panel.shown_class.input, controls.alpha.change, controls.colormap.input],
        page.redraw,
        look,
        pictures,
        preprocess=False,
        show_progress="hidden",
        trigger_mode="always_last",
        **private,
    )
    redraw.success(
        page.write_files,
        look,
        panel.files,
        preprocess=False,
        show_progress="hidden",
        trigger_mode="always_last",
        **private,
    )
    cleared = [
        kept,
        panel.summary,
        panel.body,
        panel.comparison,
        panel.gallery,
        panel.files,
        controls.classes,
    ]
    for changed in (controls.photo.change, controls.model_id.change):
        changed(page.clear, None, cleared, queue=False, cancels=[run, files], **private)
    controls.method.change(
        page.switch_noise,
        controls.method,
        [controls.num_samples, controls.std, controls.seed],
        queue=False,
        preprocess=False,
        **private,
    )
