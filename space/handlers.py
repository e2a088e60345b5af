"""What the page answers when something on it is used."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import gradio as gr

from cam_hub.methods import METHODS
from cam_hub.results import Explanation
from space import snippets, views
from space.artifacts import Artifacts, reopen, shown
from space.controls import Controls
from space.explainer import Explainer
from space.problems import readable
from space.request import Request, read_request
from space.results_panel import NOTHING_YET, STOPPED, ResultsPanel
from space.settings import Settings
from space.visitor import teller, token_of, warn
from space.workspace import Workspace

__all__ = ["Handlers", "Kept"]

Updates = dict[Any, Any]
"""New values by component."""


@dataclass(frozen=True)
class Kept:
    """What the server remembers of a visitor's last result.

    Attributes:
        folder: Where its files are. The explanation itself stays there too: sessions cost no
            memory.
        request: What was asked for.
    """

    folder: Path
    request: Request


@dataclass(frozen=True)
class Handlers:
    """The handlers. Gradio's own conversions of inputs are off: they would decode photos."""

    explainer: Explainer
    workspace: Workspace
    settings: Settings
    controls: Controls
    panel: ResultsPanel
    kept: gr.State

    def answer(
        self,
        photo: Any,
        model_id: Any,
        method: Any,
        target_layers: Any,
        classes: Any,
        num_samples: Any,
        std: Any,
        seed: Any,
        alpha: Any,
        colormap: Any,
        http: gr.Request,
        visitor: gr.OAuthToken | None,
        progress: gr.Progress = gr.Progress(),  # noqa: B008 (how Gradio wants it)
    ) -> Updates:
        """Explains the photo and shows the result."""
        with readable(as_html=True):
            request = read_request(
                image=photo,
                model_id=model_id,
                method=method,
                target_layers=target_layers,
                classes=classes,
                num_samples=num_samples,
                std=std,
                seed=seed,
                alpha=alpha,
                colormap=colormap,
                limits=self.settings.limits,
            )
            tell = teller(progress)
            explained = self.explainer.explain(request, tell, token_of(visitor))
            result, layers = explained.result, explained.layers
            warn(layers.notes)
            tell(0.92, "Drawing")
            folder = self.workspace.folder()
            result.save_data(folder)
            index = views.first_shown_class(result)
            artifacts = Artifacts(result, folder, request.alpha, request.colormap)
            panel, controls = self.panel, self.controls
            return {
                self.kept: Kept(folder, request),
                panel.body: gr.update(visible=True),
                panel.shown_class: gr.update(
                    choices=views.shown_class_choices(result),
                    value=index,
                    visible=len(result.classes) > 1,
                ),
                panel.predictions: views.probabilities(result.predictions),
                panel.manifest: dict(result.manifest),
                panel.files: None,
                controls.classes: gr.update(choices=views.class_choices(result.predictions)),
                controls.target_layers: gr.update(choices=views.layer_choices(layers.usable)),
                **self._pictures(artifacts, index),
                **self._code(request, result, index, http),
            }

    def redraw(
        self, kept: Kept | None, index: Any, alpha: Any, colormap: Any, http: gr.Request
    ) -> Updates:
        """Shows another class or another look of the result, without the model."""
        if kept is None:
            return {self.panel.comparison: gr.skip()}
        with readable(as_html=True):
            artifacts = self._artifacts(kept, alpha, colormap)
            number = _index(artifacts, index)
            request = replace(kept.request, alpha=float(alpha), colormap=str(colormap))
            return {
                **self._pictures(artifacts, number),
                **self._code(request, artifacts.result, number, http),
            }

    def write_files(self, kept: Kept | None, index: Any, alpha: Any, colormap: Any) -> Updates:
        """Offers the files of what is shown; pictures come first, so this is a step of its own."""
        if kept is None:
            return {self.panel.files: None}
        with readable(as_html=True):
            artifacts = self._artifacts(kept, alpha, colormap)
            number = _index(artifacts, index)
            paths = [
                artifacts.archive(),
                artifacts.manifest,
                *artifacts.overlays(number),
                *artifacts.maps(number),
            ]
            return {self.panel.files: [str(path) for path in paths]}

    def clear(self) -> Updates:
        """Takes away what belongs to another photo or model."""
        panel = self.panel
        return {
            self.kept: None,
            panel.summary: NOTHING_YET,
            panel.body: gr.update(visible=False),
            panel.comparison: None,
            panel.gallery: None,
            panel.files: None,
            self.controls.classes: gr.update(choices=[], value=[]),
            self.controls.stop: gr.update(visible=False),
        }

    def offer_stop(self) -> Updates:
        """Lets the request be ended while it runs."""
        return {self.controls.stop: gr.update(visible=True)}

    def withdraw_stop(self) -> Updates:
        """Takes that away when it is over."""
        return {self.controls.stop: gr.update(visible=False)}

    def stopped(self, kept: Kept | None) -> Updates:
        """Says that the request was ended; a result from before it stays in view."""
        said = gr.skip() if kept is not None else STOPPED
        return {self.panel.summary: said, **self.withdraw_stop()}

    def switch_noise(self, method: Any) -> Updates:
        """Lets the noise be set only where the method makes use of it."""
        noisy = method in METHODS and METHODS[method].needs_noise
        controls = self.controls
        return {
            field: gr.update(interactive=noisy)
            for field in (controls.num_samples, controls.std, controls.seed)
        }

    def _artifacts(self, kept: Kept, alpha: Any, colormap: Any) -> Artifacts:
        return Artifacts(reopen(kept.folder), kept.folder, float(alpha), str(colormap))

    def _code(self, request: Request, result: Explanation, index: int, http: gr.Request) -> Updates:
        chosen = None if index == result.classes[0] else index
        address = self.settings.space_id or _address(http)
        return {
            self.panel.python: snippets.python_code(request, result.layers, chosen),
            self.panel.client: snippets.client_code(request, address),
        }

    def _pictures(self, artifacts: Artifacts, index: int) -> Updates:
        panel = self.panel
        overlay = artifacts.overlay(index) or artifacts.photo
        return {
            panel.summary: f"<p>{views.summary(artifacts.result, index)}</p>",
            panel.comparison: (str(shown(artifacts.photo)), str(shown(overlay))),
            panel.gallery: [
                (str(path), caption) for path, caption in views.gallery(artifacts, index)
            ],
        }


def _index(artifacts: Artifacts, index: Any) -> int:
    """The class to show: the one that was chosen, unless it belongs to an earlier result."""
    result = artifacts.result
    return index if index in result.classes else views.first_shown_class(result)


def _address(http: gr.Request) -> str:
    """The URL at which the visitor found the app."""
    return (
        str(http.request.base_url).rstrip("/")
        if http.request is not None
        else "http://127.0.0.1:7860"
    )
