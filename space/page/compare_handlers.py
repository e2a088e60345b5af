"""What the page answers when things are compared."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gradio as gr

from cam_hub.errors import InvalidArgument
from cam_hub.results.comparison import Comparison
from cam_hub.results.comparison_sheets import check_scale
from space.components.comparison import NO_GRID, grid_html, tile_side
from space.components.photo_field import photo_of
from space.config.settings import Settings
from space.page.compare_panel import ComparePanel
from space.page.controls import ANY_LAYERS
from space.service.compare_exports import write_compare_files
from space.service.compare_form import read_compare_request
from space.service.errors import readable
from space.service.explainer import Explainer
from space.service.request_context import teller, token_of, warn
from space.service.result_files import Workspace

__all__ = ["CompareHandlers"]

Updates = dict[Any, Any]
"""New values by component."""

_STOPPED = (
    '<p class="note" role="status">Stopped. Press <strong>Compare</strong> to start again.</p>'
)


@dataclass(frozen=True)
class CompareHandlers:
    """The handlers. Only ``answer`` uses models; ``kept`` holds the folder of the last answer.

    That folder has the comparison twice: ``whole``, for taking away, and ``screen``, on a photo of
    the size in which it is shown, so that another look is drawn at once.
    """

    explainer: Explainer
    workspace: Workspace
    settings: Settings
    panel: ComparePanel
    kept: gr.State

    def answer(
        self,
        photo: Any,
        address: Any,
        models: Any,
        kind: Any,
        methods: Any,
        layers: Any,
        names: Any,
        classes: Any,
        scale: Any,
        alpha: Any,
        colormap: Any,
        main_method: Any,
        main_classes: Any,
        contrast: Any,
        region: Any,
        reference: Any,
        num_samples: Any,
        std: Any,
        seed: Any,
        sign: Any,
        target: Any,
        output: Any,
        call: Any,
        sampling: Any,
        visitor: gr.OAuthToken | None,
        progress: gr.Progress = gr.Progress(),  # noqa: B008 (how Gradio wants it)
    ) -> Updates:
        """Compares, and shows the grid; the form fills in what the tab leaves open."""
        with readable(as_html=True):
            named = names if layers == ANY_LAYERS else layers
            own = classes or main_classes or ["top(3)"]
            request = read_compare_request(
                image=photo_of(photo, address),
                models=models,
                methods=methods if kind == "methods" else main_method,
                target_layers=named if kind == "layers" else None,
                classes=own if kind == "classes" else _first(main_classes),
                num_samples=num_samples,
                std=std,
                seed=seed,
                scale=scale,
                alpha=alpha,
                colormap=colormap,
                contrast=contrast,
                region=region,
                reference=reference,
                options={
                    "sign": sign,
                    "target": target,
                    "output": output,
                    "call": call,
                    "sampling": sampling,
                },
                limits=self.settings.limits,
            )
            tell = teller(progress)
            grid = self.explainer.compare(request, tell, token_of(visitor))
            warn(note for row in grid.rows for note in row.notes)
            tell(0.92, "Drawing")
            with self.workspace.writing() as folder:
                grid.save_data(folder / "whole")
                screen = grid.reduced(tile_side(grid))
                screen.save_data(folder / "screen")
            shown = grid_html(screen, request.scale, request.alpha, request.colormap)
            return {
                self.kept: folder,
                self.panel.grid: shown,
                self.panel.files: gr.update(value=None, visible=True),
            }

    def redraw(self, kept: Path | None, scale: Any, alpha: Any, colormap: Any) -> Updates:
        """Shows the same maps in another look."""
        if kept is None:
            return {self.panel.grid: gr.skip()}
        with readable(as_html=True):
            grid = _reopened(kept / "screen")
            return {
                self.panel.grid: grid_html(grid, check_scale(scale), float(alpha), str(colormap))
            }

    def write_files(self, kept: Path | None, scale: Any, alpha: Any, colormap: Any) -> Updates:
        """Offers the files of what is shown; the grid comes first, so this is a step of its own."""
        if kept is None:
            return {self.panel.files: gr.skip()}
        with readable(as_html=True):
            grid = _reopened(kept / "whole")
            files = write_compare_files(grid, kept, check_scale(scale), float(alpha), str(colormap))
            paths = [files.archive, files.sheet, *files.strips]
            return {self.panel.files: gr.update(value=[str(path) for path in paths], visible=True)}

    def choose(self, kind: Any, layers: Any) -> Updates:
        """Shows the fields for what the columns are."""
        panel = self.panel
        return {
            panel.methods: gr.update(visible=kind == "methods"),
            panel.layers: gr.update(visible=kind == "layers"),
            panel.names: gr.update(visible=kind == "layers" and layers == ANY_LAYERS),
            panel.classes: gr.update(visible=kind == "classes"),
        }

    def offer_stop(self) -> Updates:
        """Lets the request be ended while it runs."""
        return {self.panel.stop: gr.update(visible=True)}

    def withdraw_stop(self) -> Updates:
        """Takes that away when it is over."""
        return {self.panel.stop: gr.update(visible=False)}

    def stopped(self, kept: Path | None) -> Updates:
        """Says that the request was ended; a grid from before it stays in view."""
        return {self.panel.grid: gr.skip() if kept else _STOPPED, **self.withdraw_stop()}

    def clear(self) -> Updates:
        """Takes away what belongs to another photo."""
        return {
            self.kept: None,
            self.panel.grid: NO_GRID,
            self.panel.files: gr.update(value=None, visible=False),
            **self.withdraw_stop(),
        }


def _first(classes: Any) -> Any:
    """The one class that all columns are about."""
    return classes[:1] if isinstance(classes, list) else classes


def _reopened(folder: Path) -> Comparison:
    try:
        return Comparison.load(folder)
    except InvalidArgument:
        raise InvalidArgument(
            "comparison", "the earlier one", "one that is still kept; compare again"
        ) from None
