"""Which event of the tab for comparing calls which handler."""

from __future__ import annotations

from typing import Any

import gradio as gr
from gradio.components import Component

from space.config.settings import Settings
from space.page.compare_handlers import CompareHandlers
from space.page.compare_panel import ComparePanel
from space.page.controls import Controls
from space.service.explainer import Explainer
from space.service.result_files import Workspace

__all__ = ["connect_compare"]


def connect_compare(
    explainer: Explainer,
    workspace: Workspace,
    settings: Settings,
    controls: Controls,
    panel: ComparePanel,
    address: Component | None = None,
) -> None:
    """Wires the tab that is being built. None of its events is an endpoint.

    Args:
        explainer: Has the models.
        workspace: Has the folders of answers.
        settings: Of the app.
        controls: The form, whose photo, method, classes, contrast, region, reference, options and
            noise are taken.
        panel: The tab.
        address: The form's field for a photo's URL, if it has one.
    """
    kept = gr.State(None, time_to_live=settings.keep_seconds)
    page = CompareHandlers(explainer, workspace, settings, panel, kept)
    private: dict[str, Any] = {"api_visibility": "private"}
    at_once: dict[str, Any] = {"queue": False, "show_progress": "hidden", **private}
    look = [panel.scale, panel.alpha, panel.colormap]

    gr.on(
        [panel.kind.input, panel.layers.input],
        page.choose,
        [panel.kind, panel.layers],
        [panel.methods, panel.layers, panel.names, panel.classes],
        preprocess=False,
        **at_once,
    )
    panel.run.click(page.offer_stop, None, panel.stop, **at_once)
    run = panel.run.click(
        page.answer,
        [
            controls.photo,
            address or gr.State(None),
            panel.models,
            panel.kind,
            panel.methods,
            panel.layers,
            panel.names,
            panel.classes,
            *look,
            controls.method,
            controls.classes,
            controls.contrast,
            controls.region,
            controls.reference,
            controls.num_samples,
            controls.std,
            controls.seed,
            *controls.options.values(),
        ],
        [kept, panel.grid, panel.files],
        preprocess=False,
        show_progress_on=panel.grid,
        trigger_mode="once",
        concurrency_id="model",
        concurrency_limit=settings.concurrency,
        **private,
    )
    files = run.success(page.write_files, [kept, *look], panel.files, preprocess=False, **private)
    redraw = gr.on(
        [panel.scale.input, panel.alpha.change, panel.colormap.input],
        page.redraw,
        [kept, *look],
        panel.grid,
        preprocess=False,
        show_progress="hidden",
        trigger_mode="always_last",
        **private,
    )
    redraw.success(
        page.write_files,
        [kept, *look],
        panel.files,
        preprocess=False,
        show_progress="hidden",
        trigger_mode="always_last",
        **private,
    )
    run.then(page.withdraw_stop, None, panel.stop, **at_once)
    panel.stop.click(page.stopped, kept, [panel.grid, panel.stop], cancels=[run, files], **at_once)
    controls.photo.change(
        page.clear,
        None,
        [kept, panel.grid, panel.files, panel.stop],
        cancels=[run, files],
        **at_once,
    )
