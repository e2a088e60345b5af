"""The result on the page: its components, their values, and how it is displayed.

Nothing here runs a model.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import gradio as gr
from gradio.blocks import Block
from gradio.components import Component

from cam_hub.errors import InvalidArgument
from cam_hub.results.explanation import Explanation
from space.components import formatting
from space.components.downloads import FILE_KINDS, build_downloads, downloads_value
from space.components.evidence_view import NOT_TESTED, TESTING, build_evidence, evidence_html
from space.components.formatting import (
    build_prediction_list,
    colormap_choices,
    prediction_list_html,
)
from space.components.photo_field import Example, example_of
from space.components.style import html_view
from space.components.viewer import (
    PreviewCache,
    build_map_strip,
    build_viewer,
    map_strip_html,
    viewer_html,
)
from space.config.settings import Settings
from space.page.controls import Controls, Values, press
from space.service.errors import event_value, readable
from space.service.explain_form import ExplainForm
from space.service.explainer import naming
from space.service.exports import Exports, SessionResult, reopen
from space.service.result_files import Workspace, served
from space.service.views import (
    SCALES,
    VIEWS,
    DisplayOptions,
    View,
    client_code,
    python_code,
    query_of,
    read_display_options,
)

__all__ = [
    "FAILED",
    "NOTHING_YET",
    "OPENING",
    "STOPPED",
    "DisplayHandlers",
    "Presenter",
    "ResultsPanel",
    "Updates",
    "address_of",
]


NOTHING_YET = "<p>Choose a photo and press <strong>Explain</strong> (or Ctrl+Enter).</p>"

OPENING = "<p>Opening the view of the link …</p>"

STOPPED = "<p>Stopped. Press <strong>Explain</strong> to start again.</p>"

FAILED = "<p>Not explained: the message gives the reason.</p>"


class ResultsPanel:
    """The components that show a result, built where it is called.

    All but ``summary`` are hidden while there is none.

    Args:
        settings: The app's settings.

    Attributes:
        shown_layer: Which map is large, empty for the fusion.
        kept: The visitor's last result.
        pending: The class and the layer that the next result is to show.
    """

    def __init__(self, settings: Settings) -> None:
        plain = DisplayOptions()
        self.summary = html_view(
            "summary",
            "",
            _SUMMARY_JS,
            NOTHING_YET,
            html_template='<div class="summary" role="status"></div>',
            min_height=64,
        )
        with gr.Column(visible=False, elem_id="results") as self.body:
            self.viewer = build_viewer()
            self.evidence = build_evidence()
            self.shown_class = gr.Radio(
                choices=[], label="Shown class", visible=False, elem_id="shown_class"
            )
            with gr.Row(elem_id="look"):
                self.view = gr.Radio(
                    choices=[(words, name) for name, words in VIEWS.items()],
                    value=plain.view,
                    label="Show",
                    elem_id="view",
                    min_width=260,
                )
                self.colormap = gr.Dropdown(
                    choices=colormap_choices(),
                    value=plain.colormap,
                    label="Colours",
                    elem_id="colormap",
                    min_width=200,
                )
                self.alpha = gr.Slider(
                    0, 1, plain.alpha, step=0.05, label="Opacity", elem_id="alpha", min_width=200
                )
                self.threshold = gr.Slider(
                    0.05,
                    1,
                    plain.threshold,
                    step=0.05,
                    label="Threshold of boxes and cut-out",
                    interactive=False,
                    elem_id="threshold",
                    min_width=200,
                )
                self.scale = gr.Radio(
                    choices=[(words, name) for name, words in SCALES.items()],
                    value=plain.scale,
                    label="Scale of the colours",
                    elem_id="scale",
                    min_width=260,
                )
            with gr.Row(equal_height=False):
                with gr.Column(min_width=260, scale=2):
                    self.predictions = build_prediction_list()
                with gr.Column(min_width=260, scale=3):
                    self.maps = build_map_strip()
            self.downloads = build_downloads()
        self.shown_layer = gr.State("")
        self.kept = gr.State(None, time_to_live=settings.keep_seconds)
        self.pending = gr.State(None)

    @cached_property
    def style(self) -> dict[str, Component]:
        """How maps are drawn: the components by the attributes of ``DisplayOptions``."""
        return {
            "view": self.view,
            "alpha": self.alpha,
            "colormap": self.colormap,
            "threshold": self.threshold,
            "scale": self.scale,
        }

    @property
    def look(self) -> dict[str, Component]:
        """The components of a ``DisplayOptions`` by its attributes."""
        return {"class_index": self.shown_class, "layer": self.shown_layer, **self.style}

    @property
    def large(self) -> list[Component]:
        """The components that another map changes."""
        return [self.summary, self.viewer, self.evidence, self.downloads]

    @property
    def shown(self) -> list[Block]:
        """The components that another result changes."""
        parts = [self.body, self.shown_class, self.shown_layer, self.predictions, self.maps]
        return [*self.large, *parts]


# Screen readers announce changes within an element that was there before.
_SUMMARY_JS = """
const summary = element.querySelector(".summary");
const update = () => {
  if (summary.innerHTML !== props.value) summary.innerHTML = props.value;
};
update();
watch("value", update);
"""


Updates = dict[Any, Any]
"""New values by component."""

_PREVIEW_PHOTO = "screen.jpg"


@dataclass(frozen=True)
class Presenter:
    """Shows results. Nothing here runs a model.

    Attributes:
        settings: The app's settings.
        workspace: Where results are kept.
        examples: The photos that links can name.
        panel: The components that are written to.
        previews: Results that are ready to be looked at.
    """

    settings: Settings
    workspace: Workspace
    examples: Sequence[Example]
    panel: ResultsPanel
    previews: PreviewCache = field(default_factory=lambda: PreviewCache(reopen))

    def keep(self, result: Explanation, request: ExplainForm) -> SessionResult:
        """Writes a new result where it can be looked at again."""
        with self.workspace.writing() as folder:
            result.save_data(folder)
            screen = self.previews.put(folder, result)
            screen.result.photo.save(folder / _PREVIEW_PHOTO, quality=90, subsampling=0)
        # A link names an address or an example.
        photo = request.photo.url or ""
        if request.photo.path and (example := example_of(self.examples, request.photo.path)):
            photo = example.name
        return SessionResult(folder, request, result.predictions, photo)

    def all(self, kept: SessionResult, look: DisplayOptions, address: str) -> Updates:
        """Everything about a new result.

        Raises:
            CamHubError: If the look does not fit the result, or that is gone.
        """
        screen = self.previews.get(kept.folder)
        result, panel = screen.result, self.panel
        index, _ = look.at(result)
        return {
            panel.body: gr.update(visible=True),
            panel.shown_class: gr.update(
                choices=formatting.shown_class_choices(result),
                value=index,
                visible=len(result.classes) > 1,
            ),
            panel.shown_layer: look.layer or "",
            panel.predictions: prediction_list_html(result.predictions, result.classes),
            panel.maps: map_strip_html(screen, look),
            **self.large(kept, look, address, testing=True),
        }

    def large(
        self, kept: SessionResult, look: DisplayOptions, address: str, *, testing: bool = False
    ) -> Updates:
        """The large picture, with its evidence, link and code; arguments as for ``all``.

        Args:
            kept: The result.
            look: How it is displayed.
            address: Where programs find the app.
            testing: Whether a map without evidence is about to be tested.
        """
        screen = self.previews.get(kept.folder)
        result = screen.result
        index, layer = look.at(result)
        request = replace(kept.request, alpha=look.alpha, colormap=look.colormap, scale=look.scale)
        shown = replace(
            look,
            class_index=None if index == DisplayOptions().at(result)[0] else index,
            layer=None if len(result.layers) == 1 else layer,
        )
        chosen = None if index == result.classes[0] else index
        downloads = downloads_value(
            query_of(View.of(request, kept.photo, shown)),
            has_photo=bool(kept.photo),
            has_reference=request.reference is None,
            codes={
                "The same in Python": python_code(request, result.layers, chosen, shown.layer),
                "The same with gradio_client": client_code(request, address),
            },
        )
        name = f"{kept.folder.name} {index} {layer}"
        tested = screen.evidence.get((index, layer))
        return {
            self.panel.evidence: gr.update(
                shown=name,
                value="" if tested is None else evidence_html(tested, name),
                note=TESTING if testing else NOT_TESTED,
            ),
            self.panel.summary: formatting.summary(result, index, layer, request.contrast),
            self.panel.viewer: viewer_html(screen, look, served(kept.folder / _PREVIEW_PHOTO)),
            self.panel.downloads: downloads,
        }

    def strip(self, kept: SessionResult, look: DisplayOptions) -> Updates:
        """The maps side by side; arguments as for ``all``."""
        return {self.panel.maps: map_strip_html(self.previews.get(kept.folder), look)}

    def file(self, kept: SessionResult, look: DisplayOptions, kind: str) -> Path:
        """A file of what is shown, with the photo's own pixels; made now if it is not there.

        Raises:
            CamHubError: If the result is gone, or has no map to write.
        """
        result = reopen(kept.folder)
        index, layer = look.at(result)
        artifacts = Exports(result, kept.folder, look.alpha, look.colormap, look.scale)
        if kind == "manifest":
            return artifacts.manifest
        if kind == "archive":
            return artifacts.archive()
        if kind == "map":
            return artifacts.map(index, layer)
        path = artifacts.overlay(index, None if len(result.layers) == 1 else layer)
        if path is None:
            result.heatmap(index, layer)  # raises with the reason
            raise AssertionError("a blank map has no heatmap")
        return path


def address_of(settings: Settings, http: gr.Request) -> str:
    """Where programs find the app: the Space, or the URL at which the visitor found it."""
    if settings.space_id:
        return settings.space_id
    request = http.request if http is not None else None
    return str(request.base_url).rstrip("/") if request is not None else "http://127.0.0.1:7860"


@dataclass(frozen=True)
class DisplayHandlers:
    """The handlers. What comes from a page without a result is passed over."""

    settings: Settings
    controls: Controls
    presenter: Presenter

    def redraw(self, values: Values, http: gr.Request) -> Updates:
        """Draws the large picture anew."""
        kept = values[self.presenter.panel.kept]
        if kept is None:
            return self._nothing()
        with readable(as_html=True):
            look = self._look(values)
            return self.presenter.large(kept, look, address_of(self.settings, http))

    def redraw_strip(self, values: Values) -> Updates:
        """Draws the maps side by side anew."""
        kept = values[self.presenter.panel.kept]
        if kept is None:
            return {self.presenter.panel.maps: gr.skip()}
        with readable(as_html=True):
            look = self._look(values)
            return self.presenter.strip(kept, look)

    def pick_layer(self, values: Values, picked: gr.EventData, http: gr.Request) -> Updates:
        """Shows one of the maps large."""
        layer = event_value(picked, "layer")
        shown = self.redraw({**values, self.presenter.panel.shown_layer: layer}, http)
        return {self.presenter.panel.shown_layer: layer or "", **shown}

    def pick_class(self, values: Values, picked: gr.EventData, http: gr.Request) -> Updates:
        """Shows the class of a prediction: at once if it was explained, else by a new request."""
        index = event_value(picked, "chosen")
        kept = values[self.presenter.panel.kept]
        if kept is None:
            return self._nothing()
        with readable(as_html=True):
            look = self._look(values, class_index=index)
            result = self.presenter.previews.get(kept.folder).result
            if index in result.classes:
                address = address_of(self.settings, http)
                return {
                    self.presenter.panel.shown_class: index,
                    **self.presenter.large(kept, look, address),
                    **self.presenter.strip(kept, look),
                }
            found = next((p for p in result.predictions if p.class_index == index), None)
            if found is None:
                raise InvalidArgument("class", index, "one of the predictions")
            labels = {found.class_index: found.label, **result.labels}
            texts = list(labels.values())
            names = [naming(text, each, texts.count(text)) for each, text in labels.items()]
            most = self.settings.limits.max_classes
            return {self.controls.classes: names[:most], self.controls.starter: press()}

    def download(self, values: Values, picked: gr.EventData) -> Updates:
        """Makes a file of what is shown."""
        kind = event_value(picked, "kind")
        with readable(as_html=True):
            if not isinstance(kind, str) or kind not in FILE_KINDS:
                raise InvalidArgument("kind", kind, f"one of {', '.join(FILE_KINDS)}")
            kept = values[self.presenter.panel.kept]
            if kept is None:
                raise InvalidArgument("result", None, "one: explain a photo first")
            look = self._look(values)
            path = self.presenter.file(kept, look, kind)
            ready = {"address": served(path), "name": path.name, "turn": time.monotonic_ns()}
            return {self.presenter.panel.downloads: gr.update(ready=ready)}

    def end_download(self) -> Updates:
        """Ends the waiting for a file that there is not."""
        return {self.presenter.panel.downloads: gr.update(ready={"turn": time.monotonic_ns()})}

    def enable_controls(self, view: Any) -> Updates:
        """Lets only what has an effect on a view be set."""
        return {
            self.presenter.panel.alpha: gr.update(interactive=view in ("overlay", "boxes")),
            self.presenter.panel.threshold: gr.update(interactive=view in ("boxes", "cutout")),
            self.presenter.panel.colormap: gr.update(interactive=view != "cutout"),
        }

    def _look(self, values: Values, **changed: Any) -> DisplayOptions:
        found = {name: values[each] for name, each in self.presenter.panel.look.items()}
        return read_display_options(**{**found, **changed})

    def _nothing(self) -> Updates:
        return {self.presenter.panel.viewer: gr.skip()}
