"""Which event of the page calls which handler."""

from __future__ import annotations

from typing import Any

import gradio as gr
from gradio.events import Dependency

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
) -> Dependency:
    """Wires the page that is being built. None of its events is an endpoint.

    Returns:
        The event that answers a request, for those who wait for its end.
    """
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

    # Browsers run the events of one click in this order, each after the end of the one before.
    at_once: dict[str, Any] = {"queue": False, "show_progress": "hidden", **private}
    started = [controls.run.click, controls.std.submit, controls.seed.submit]
    gr.on(started, page.offer_stop, None, controls.stop, **at_once)
    run: Dependency = gr.on(
        started,
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
        controls.stop,
    ]
    for changed in (controls.photo.change, controls.model_id.change):
        changed(page.clear, None, cleared, queue=False, cancels=[run, files], **private)
    run.then(page.withdraw_stop, None, controls.stop, **at_once)
    controls.stop.click(
        page.stopped, kept, [panel.summary, controls.stop], cancels=[run, files], **at_once
    )
    controls.method.change(
        page.switch_noise,
        controls.method,
        [controls.num_samples, controls.std, controls.seed],
        queue=False,
        preprocess=False,
        **private,
    )
    return run
