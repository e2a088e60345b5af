"""A result as values for the components of the page."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import gradio as gr

from cam_hub.results.explanation import Explanation
from space.components import formatting
from space.components.downloads import take_away_value
from space.components.formatting import prediction_list_html
from space.components.photo_field import Example, example_of
from space.components.preview import Screen, Screens
from space.components.viewer import map_strip_html, viewer_html
from space.config.settings import Settings
from space.page.results_panel import ResultsPanel
from space.service import snippets
from space.service.display_options import Look
from space.service.explain_form import ExplainForm
from space.service.exports import Artifacts, reopen
from space.service.links import View, query_of
from space.service.result_files import Workspace, served
from space.service.session_result import SessionResult

__all__ = ["Presenter", "Updates", "address_of"]

Updates = dict[Any, Any]
"""New values by component."""

_SCREEN_PHOTO = "screen.jpg"


@dataclass(frozen=True)
class Presenter:
    """Shows results. Nothing here runs a model.

    Attributes:
        settings: Of the app.
        workspace: Where results are kept.
        examples: The photos that links can name.
        panel: The components that are written to.
        screens: Results that are ready to be looked at.
    """

    settings: Settings
    workspace: Workspace
    examples: Sequence[Example]
    panel: ResultsPanel
    screens: Screens

    @classmethod
    def of(
        cls,
        settings: Settings,
        workspace: Workspace,
        examples: Sequence[Example],
        panel: ResultsPanel,
    ) -> Presenter:
        """One that holds nothing yet."""
        return cls(settings, workspace, examples, panel, Screens(reopen))

    def keep(self, result: Explanation, request: ExplainForm) -> SessionResult:
        """Writes a new result where it can be looked at again."""
        with self.workspace.writing() as folder:
            result.save_data(folder)
            screen = self.screens.put(folder, result)
            screen.result.photo.save(folder / _SCREEN_PHOTO, quality=90, subsampling=0)
        return SessionResult(folder, request, result.predictions, self._photo_for_links(request))

    def all(self, kept: SessionResult, look: Look, address: str) -> Updates:
        """Everything about a new result.

        Raises:
            CamHubError: If the look does not fit the result, or that is gone.
        """
        screen = self.screens.get(kept.folder)
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
            **self.strip(kept, look),
            **self.large(kept, look, address),
        }

    def large(self, kept: SessionResult, look: Look, address: str) -> Updates:
        """The large picture, and what says how to come back to it; arguments as for ``all``."""
        screen = self.screens.get(kept.folder)
        index, layer = look.at(screen.result)
        return {
            self.panel.summary: formatting.summary(
                screen.result, index, layer, kept.request.contrast
            ),
            self.panel.viewer: viewer_html(screen, look, served(kept.folder / _SCREEN_PHOTO)),
            self.panel.take_away: self._take_away(kept, screen, look, address),
        }

    def strip(self, kept: SessionResult, look: Look) -> Updates:
        """The maps side by side; arguments as for ``all``."""
        return {self.panel.maps: map_strip_html(self.screens.get(kept.folder), look)}

    def file(self, kept: SessionResult, look: Look, kind: str) -> Path:
        """A file of what is shown, with the photo's own pixels; made now if it is not there.

        Raises:
            CamHubError: If the result is gone, or has no map to write.
        """
        result = reopen(kept.folder)
        index, layer = look.at(result)
        artifacts = Artifacts(result, kept.folder, look.alpha, look.colormap, look.scale)
        if kind == "manifest":
            return artifacts.manifest
        if kind == "archive":
            return artifacts.archive()
        if kind == "map":
            return artifacts.map(index, layer)
        path = artifacts.overlay(index, None if len(result.layers) == 1 else layer)
        if path is None:
            result.heatmap(index, layer)  # raises, and says why
            raise AssertionError("a blank map has no heatmap")
        return path

    def _take_away(
        self, kept: SessionResult, screen: Screen, look: Look, address: str
    ) -> dict[str, object]:
        result = screen.result
        index, layer = look.at(result)
        request = replace(kept.request, alpha=look.alpha, colormap=look.colormap, scale=look.scale)
        shown = replace(
            look,
            class_index=None if index == Look().at(result)[0] else index,
            layer=None if len(result.layers) == 1 else layer,
        )
        view = View.of(request, kept.photo, shown)
        chosen = None if index == result.classes[0] else index
        codes = {
            "The same in Python": snippets.python_code(request, result.layers, chosen, shown.layer),
            "The same with gradio_client": snippets.client_code(request, address),
        }
        return take_away_value(
            query_of(view),
            has_photo=bool(kept.photo),
            has_reference=request.reference is None,
            codes=codes,
        )

    def _photo_for_links(self, request: ExplainForm) -> str:
        """What a link can say of the photo: an address, or an example's name."""
        if request.photo.url is not None:
            return request.photo.url
        found = example_of(self.examples, request.photo.path) if request.photo.path else None
        return found.name if found is not None else ""


def address_of(settings: Settings, http: gr.Request) -> str:
    """Where programs find the app: the Space, or the URL at which the visitor found it."""
    if settings.space_id:
        return settings.space_id
    request = http.request if http is not None else None
    return str(request.base_url).rstrip("/") if request is not None else "http://127.0.0.1:7860"
