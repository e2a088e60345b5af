"""What a page shows when it is opened: the first sight, or the view of a link."""

from __future__ import annotations

import logging
import threading
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import gradio as gr
from gradio.components import Component

from cam_hub.attribution.choice import method_name
from cam_hub.errors import CamHubError
from cam_hub.options import options_for
from cam_hub.results.explanation import Explanation
from space.components import formatting
from space.components.evidence_view import FIRST_CHECKS
from space.components.photo_field import example_named
from space.config.settings import Settings
from space.page.controls import ANY_LAYERS, LAYER_WORDS, Controls, press
from space.page.results_panel import (
    NOTHING_YET,
    OPENING,
    Presenter,
    Updates,
    address_of,
)
from space.service.errors import readable
from space.service.explain_form import box_text, read_box, read_model_id, read_request, read_texts
from space.service.explainer import Explainer
from space.service.exports import SessionResult
from space.service.photos import read_photo
from space.service.views import DisplayOptions, View, is_link, read_query

__all__ = ["InitialResult", "PageLoad"]

_LOG = logging.getLogger(__name__)

_RETRY_SECONDS = 300.0
"""Seconds after which something that failed is tried again."""

_CHOOSE = "<p>This link names no photo: choose one, then press <strong>Explain</strong>.</p>"


class InitialResult:
    """The explanation of the first example by the model that the page starts with.

    Args:
        explainer: Makes it.
        presenter: Keeps it.
        settings: The app's settings.
    """

    def __init__(self, explainer: Explainer, presenter: Presenter, settings: Settings) -> None:
        self._explainer = explainer
        self._presenter = presenter
        self._settings = settings
        self._lock = threading.Lock()
        self._result: Explanation | None = None
        self._kept: SessionResult | None = None
        self._failed_at = -_RETRY_SECONDS

    def kept(self) -> SessionResult | None:
        """The result, made by the first request; None where there is none to show.

        Its folder is shared by all visitors, and made anew before it is so old that it is removed.
        """
        with self._lock:
            if self._result is None and time.monotonic() - self._failed_at >= _RETRY_SECONDS:
                self._make()
            if self._result is None or self._kept is None:
                return None
            if not _is_fresh(self._kept.folder, self._settings.keep_seconds / 2):
                self._kept = self._presenter.keep(self._result, self._kept.request)
            return self._kept

    def _make(self) -> None:
        self._failed_at = time.monotonic()
        if not self._presenter.examples:
            return
        try:
            model_id = self._settings.default_model
            # Weights are fetched on request only.
            if self._explainer.describe(model_id).fetch_bytes != 0:
                return
            example = self._presenter.examples[0]
            request = read_request(
                image={"path": str(example.served()), "orig_name": example.name},
                model_id=model_id,
                target_layers=["best"],
                limits=self._settings.limits,
            )
            tests = {"checks": FIRST_CHECKS}
            explained = self._explainer.explain(request, lambda part, what: None, None, tests)
            result = explained.result
        except CamHubError as problem:
            _LOG.info("no first sight: %s", problem.message)
            return
        self._result = replace(result)
        self._kept = self._presenter.keep(result, request)


def _is_fresh(folder: Path, seconds: float) -> bool:
    try:
        return time.time() - folder.stat().st_mtime < seconds
    except OSError:
        return False


@dataclass(frozen=True)
class PageLoad:
    """The page's load."""

    settings: Settings
    controls: Controls
    presenter: Presenter
    initial_result: InitialResult

    def connect(self, app: gr.Blocks) -> None:
        """Wires the load of the page that is being built."""
        controls, panel = self.controls, self.presenter.panel
        app.load(
            self.open,
            None,
            [
                *panel.shown,
                *controls.inputs,
                *panel.style.values(),
                controls.method_note,
                controls.layer_choice,
                controls.starter,
                panel.kept,
                panel.pending,
            ],
            show_progress="hidden",
            concurrency_id="opening",
            concurrency_limit=8,
            api_visibility="private",
        )

    def open(self, http: gr.Request) -> Updates:
        """Shows what the address asks for; a link's request is started, not answered here."""
        for example in self.presenter.examples:
            example.served()  # copies that were removed as old are there again, where they were
        query = getattr(http, "query_params", None)
        if query is None or not is_link(query):
            return self._plain(http)
        try:
            with readable(as_html=True):
                view = read_query(query.multi_items(), self.settings.default_model)
                return self._linked(view)
        except gr.Error as problem:
            said = f'<p role="alert">This link does not work. {problem.message}</p>'
            return {self.presenter.panel.summary: said}

    def _plain(self, http: gr.Request) -> Updates:
        kept = self.initial_result.kept()
        if kept is None:
            return {self.presenter.panel.summary: NOTHING_YET}
        shown = self.presenter.all(kept, DisplayOptions(), address_of(self.settings, http))
        return {self.presenter.panel.kept: kept, **shown}

    def _linked(self, view: View) -> Updates:
        """The controls as the link has them; all that can be judged now is."""
        limits, controls, panel = self.settings.limits, self.controls, self.presenter.panel
        model_id = read_model_id(view.model_id, limits)
        method = method_name(view.method[: limits.max_text])
        layers = list(read_texts("layers", view.target_layers, limits.max_layers, limits.max_text))
        classes = read_texts("classes", view.classes, limits.max_classes, limits.max_text)
        contrast = read_texts("than", view.contrast, 1, limits.max_text)
        region = read_box("part", view.region, limits.max_text)
        word = layers[0] if len(layers) == 1 else ""
        is_word = word in dict(LAYER_WORDS).values()
        noise: dict[Component, float] = {
            controls.num_samples: view.num_samples,
            controls.std: view.std,
            controls.seed: view.seed,
        }
        return {
            **self._photo(view.photo),
            controls.model_id: model_id,
            controls.method: method,
            controls.method_note: formatting.method_note(method),
            controls.layer_choice: word if is_word else ANY_LAYERS,
            controls.target_layers: gr.update(value=layers, visible=not is_word),
            controls.classes: list(classes),
            controls.contrast: list(contrast),
            controls.region: box_text(region),
            **{
                field: gr.update(value=noise[field], interactive=uses)
                for field, uses in controls.noise_fields(method).items()
            },
            **{
                controls.options[name]: option.text(view.options[name])
                if name in view.options
                else option.default or ""
                for name, option in options_for("page").items()
            },
            **{each: getattr(view.look, name) for name, each in panel.style.items()},
            panel.pending: view.look,
            panel.summary: OPENING if view.photo else _CHOOSE,
            **({controls.starter: press()} if view.photo else {}),
        }

    def _photo(self, name: str) -> dict[Any, Any]:
        controls = self.controls
        if not name:
            return {controls.photo: None}
        if name.lower().startswith(("http://", "https://")):
            read_photo(name, self.settings.limits.photo_rules)  # refuses what must not be fetched
            return {controls.photo: None, controls.photo_url: name}
        example = example_named(self.presenter.examples, name)
        return {controls.photo: str(example.served()), controls.photo_url: ""}
