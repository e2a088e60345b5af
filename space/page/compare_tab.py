"""The tab that compares models, methods, layers and classes: components, handlers, events."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gradio as gr
from gradio.components import Component

from cam_hub.attribution.choice import AUTO
from cam_hub.errors import InvalidArgument
from cam_hub.layers.listing import FAITHFUL
from cam_hub.results.comparison import Comparison
from cam_hub.results.comparison_grid import check_scale
from space.components.comparison import (
    GRID_CSS,
    GRID_JS,
    NO_GRID,
    grid_html,
    scale_choices,
    tile_side,
)
from space.components.formatting import colormap_choices, method_choices
from space.components.style import html_view
from space.config.settings import Settings
from space.page.controls import ANY_LAYERS, LAYER_WORDS, Controls, Values, hide_button, show_button
from space.service.errors import cancellable_progress, readable, token_of, warn
from space.service.explain_form import read_compare_request
from space.service.explainer import Explainer
from space.service.exports import write_compare_files
from space.service.result_files import Workspace

__all__ = ["COMPARE_TAB", "CompareHandlers", "ComparePanel"]


COMPARE_TAB = "compare"

_KINDS = [("Methods", "methods"), ("Layers", "layers"), ("Classes", "classes")]


class ComparePanel:
    """The components of the tab, built where it is called.

    ``kept`` holds the folder of the visitor's last answer.

    Args:
        settings: The app's settings.
    """

    def __init__(self, settings: Settings) -> None:
        limits = settings.limits
        self.kept = gr.State(None, time_to_live=settings.keep_seconds)
        self.models = gr.Dropdown(
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
        self.kind = gr.Radio(_KINDS, value="methods", label="Columns", elem_id="compare_kind")
        self.methods = gr.Dropdown(
            choices=method_choices(),
            value=[AUTO, "smoothgradcampp", "layercam"],
            multiselect=True,
            label="Methods",
            info="For the first class of the form, or each model's predicted one.",
            elem_id="compare_methods",
        )
        self.layers = gr.Radio(
            [
                *[(title, word) for title, word in LAYER_WORDS if word not in ("best", FAITHFUL)],
                ("All, first to last", "all"),
                ("By name", ANY_LAYERS),
            ],
            value="stages",
            visible=False,
            label="Layers",
            info=f"With the form's method. At most {limits.max_cells} maps in all.",
            elem_id="compare_layers",
        )
        self.names = gr.Dropdown(
            choices=[],
            value=[],
            multiselect=True,
            allow_custom_value=True,
            visible=False,
            label="Layers by name",
            info="Type a name and press Enter; the tab Layers lists them.",
            elem_id="compare_names",
        )
        self.classes = gr.Dropdown(
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
            self.run = gr.Button("Compare", variant="primary", scale=3, elem_id="compare_run")
            self.stop = gr.Button(
                "Stop", variant="stop", visible=False, min_width=96, elem_id="compare_stop"
            )
        with gr.Row():
            self.scale = gr.Radio(
                scale_choices(),
                value="shares",
                label="Colours",
                min_width=300,
                elem_id="compare_scale",
            )
            self.alpha = gr.Slider(
                0, 1, 0.5, step=0.05, label="Opacity", min_width=160, elem_id="compare_alpha"
            )
            self.colormap = gr.Dropdown(
                choices=colormap_choices(),
                value="jet",
                label="Colour map",
                min_width=160,
                elem_id="compare_colormap",
            )
        self.grid = html_view("compare_grid", GRID_CSS, GRID_JS, NO_GRID, min_height=96)
        self.files = gr.File(
            label="Files: everything (ZIP), the sheet (PNG), of layers an animation (WebP)",
            file_count="multiple",
            interactive=False,
            visible=False,
            elem_id="compare_files",
        )

    @property
    def style(self) -> dict[str, Component]:
        """How maps are drawn: the components by the names of ``/compare``'s parameters."""
        return {"scale": self.scale, "alpha": self.alpha, "colormap": self.colormap}


Updates = dict[Any, Any]
"""New values by component."""

_STOPPED = (
    '<p class="note" role="status">Stopped. Press <strong>Compare</strong> to start again.</p>'
)


@dataclass(frozen=True)
class CompareHandlers:
    """The handlers, and the events that call them. Only ``answer`` uses models.

    The folder that ``panel.kept`` holds has the comparison twice: ``whole``, for taking away, and
    ``screen``, on a photo of the size in which it is shown, so that another look is drawn at once.
    """

    explainer: Explainer
    workspace: Workspace
    settings: Settings
    controls: Controls
    panel: ComparePanel

    def answer(
        self,
        values: Values,
        visitor: gr.OAuthToken | None,
        progress: gr.Progress = gr.Progress(),  # noqa: B008 (how Gradio wants it)
    ) -> Updates:
        """Compares, and shows the grid; the form fills in what the tab leaves open."""
        with readable(as_html=True):
            panel, form = self.panel, self.controls.read(values)
            kind, classes = values[panel.kind], form["classes"]
            layers = values[panel.layers]
            named = values[panel.names] if layers == ANY_LAYERS else layers
            own = values[panel.classes] or classes or ["top(3)"]
            of_columns = {
                "models": values[panel.models],
                "methods": values[panel.methods] if kind == "methods" else form["method"],
                "target_layers": named if kind == "layers" else None,
                "classes": own if kind == "classes" else _first(classes),
            }
            request = read_compare_request(
                **{**form, **of_columns},
                **{name: values[each] for name, each in panel.style.items()},
                limits=self.settings.limits,
            )
            report = cancellable_progress(progress)
            grid = self.explainer.compare(request, report, token_of(visitor))
            warn(note for row in grid.rows for note in row.notes)
            report(0.92, "Drawing")
            with self.workspace.writing() as folder:
                grid.save_data(folder / "whole")
                screen = grid.reduced(tile_side(grid))
                screen.save_data(folder / "screen")
            look = request.scale, request.form.alpha, request.form.colormap
            return {
                self.panel.kept: folder,
                panel.grid: grid_html(screen, *look),
                panel.files: gr.update(value=None, visible=True),
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

    def stopped(self, kept: Path | None) -> Updates:
        """Reports that the request was ended; a grid from before it stays in view."""
        return {self.panel.grid: gr.skip() if kept else _STOPPED, self.panel.stop: hide_button()}

    def clear(self) -> Updates:
        """Takes away what belongs to another photo."""
        return {
            self.panel.kept: None,
            self.panel.grid: NO_GRID,
            self.panel.files: gr.update(value=None, visible=False),
            self.panel.stop: hide_button(),
        }

    def connect(self) -> None:
        """Wires the tab that is being built. None of its events is an endpoint."""
        panel = self.panel
        private: dict[str, Any] = {"api_visibility": "private"}
        at_once: dict[str, Any] = {"queue": False, "show_progress": "hidden", **private}
        look = panel.style.values()

        gr.on(
            [panel.kind.input, panel.layers.input],
            self.choose,
            [panel.kind, panel.layers],
            [panel.methods, panel.layers, panel.names, panel.classes],
            preprocess=False,
            **at_once,
        )
        panel.run.click(show_button, None, panel.stop, **at_once)
        run = panel.run.click(
            self.answer,
            {
                *self.controls.inputs,
                *look,
                panel.models,
                panel.kind,
                panel.methods,
                panel.layers,
                panel.names,
                panel.classes,
            },
            [panel.kept, panel.grid, panel.files],
            preprocess=False,
            show_progress_on=panel.grid,
            trigger_mode="once",
            concurrency_id="model",
            concurrency_limit=self.settings.concurrency,
            **private,
        )
        files = run.success(
            self.write_files, [panel.kept, *look], panel.files, preprocess=False, **private
        )
        redraw = gr.on(
            [panel.scale.input, panel.alpha.change, panel.colormap.input],
            self.redraw,
            [panel.kept, *look],
            panel.grid,
            preprocess=False,
            show_progress="hidden",
            trigger_mode="always_last",
            **private,
        )
        redraw.success(
            self.write_files,
            [panel.kept, *look],
            panel.files,
            preprocess=False,
            show_progress="hidden",
            trigger_mode="always_last",
            **private,
        )
        # After an error, browsers run what follows `failure` only, not `then`.
        run.failure(hide_button, None, panel.stop, **at_once)
        run.then(hide_button, None, panel.stop, **at_once)
        panel.stop.click(
            self.stopped, panel.kept, [panel.grid, panel.stop], cancels=[run, files], **at_once
        )
        self.controls.photo.change(
            self.clear,
            None,
            [panel.kept, panel.grid, panel.files, panel.stop],
            cancels=[run, files],
            **at_once,
        )


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
