"""What the page answers to a request, and the result that it opens with."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import gradio as gr

from cam_hub.errors import CamHubError
from cam_hub.methods import METHODS
from cam_hub.results.explanation import Explanation
from space.components import formatting
from space.components.photo_field import example_named
from space.config.settings import Settings
from space.page.controls import Controls, Values
from space.page.presenter import Presenter, Updates
from space.page.results_panel import FAILED, NOTHING_YET, STOPPED, ResultsPanel
from space.service.display_options import Look, read_look
from space.service.errors import readable
from space.service.explain_form import read_request
from space.service.explainer import Explainer
from space.service.request_context import event_value, teller, token_of, warn
from space.service.session_result import SessionResult

__all__ = ["FirstSight", "Handlers", "address_of"]


_LOG = logging.getLogger(__name__)

_AGAIN = 300.0
"""Seconds after which something that failed is tried again."""


class FirstSight:
    """The explanation of the first example by the model that the page starts with.

    Args:
        explainer: Makes it.
        presenter: Keeps it.
        settings: Of the app.
    """

    def __init__(self, explainer: Explainer, presenter: Presenter, settings: Settings) -> None:
        self._explainer = explainer
        self._presenter = presenter
        self._settings = settings
        self._lock = threading.Lock()
        self._result: Explanation | None = None
        self._kept: SessionResult | None = None
        self._failed_at = -_AGAIN

    def kept(self) -> SessionResult | None:
        """The result, made by whoever asks first; None where there is none to show.

        Its folder is shared by all visitors, and made anew before it is so old that it is removed.
        """
        with self._lock:
            if self._result is None and time.monotonic() - self._failed_at >= _AGAIN:
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
            # Weights are fetched when somebody asks for them, not for a first sight.
            if self._explainer.describe(model_id).fetch_bytes != 0:
                return
            example = self._presenter.examples[0]
            request = read_request(
                image={"path": str(example.served()), "orig_name": example.name},
                model_id=model_id,
                target_layers=["best"],
                limits=self._settings.limits,
            )
            result = self._explainer.explain(request, lambda part, what: None).result
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
class Handlers:
    """The handlers. Gradio's own conversions of inputs are off: they would decode photos.

    ``kept`` is the visitor's last result, ``pending`` the class and the layer that the next one is
    to show.
    """

    explainer: Explainer
    settings: Settings
    controls: Controls
    panel: ResultsPanel
    presenter: Presenter
    kept: gr.State
    pending: gr.State

    def answer(
        self,
        values: Values,
        http: gr.Request,
        visitor: gr.OAuthToken | None,
        progress: gr.Progress = gr.Progress(),  # noqa: B008 (how Gradio wants it)
    ) -> Updates:
        """Explains the photo and shows the result."""
        with lasting(), readable(as_html=True):
            style = {name: values[each] for name, each in self.panel.style.items()}
            request = read_request(
                **self.controls.read(values),
                alpha=style["alpha"],
                colormap=style["colormap"],
                limits=self.settings.limits,
            )
            look = read_look(**style)
            pending: Look | None = values[self.pending]
            if pending is not None:
                look = replace(look, class_index=pending.class_index, layer=pending.layer)
            tell = teller(progress)
            explained = self.explainer.explain(request, tell, token_of(visitor))
            result, layers = explained.result, explained.layers
            look.at(result)
            warn(layers.notes)
            tell(0.92, "Drawing")
            kept = self.presenter.keep(result, request)
            return {
                self.kept: kept,
                self.pending: None,
                self.controls.photo: None if request.photo.url is not None else gr.skip(),
                self.controls.target_layers: gr.update(
                    choices=formatting.layer_choices(layers.usable)
                ),
                **self.presenter.all(kept, look, address_of(self.settings, http)),
            }

    def choose_example(self, chosen: gr.EventData) -> Updates:
        """Takes an example for the photo."""
        with readable(as_html=True):
            name = event_value(chosen, "name")
            example = example_named(self.presenter.examples, str(name))
            return {
                self.controls.photo: str(example.served()),
                self.controls.photo_url: "",
                **self._forget_photo(),
            }

    def take_photo(self, photo: Any) -> Updates:
        """Another photo was put in, or taken away: an address means it no more."""
        updates = self._forget_photo()
        if photo is not None:
            updates[self.controls.photo_url] = ""
        return updates

    def take_address(self, address: Any, kept: SessionResult | None) -> Updates:
        """An address was typed: the photo beside it is not meant any more."""
        text = address.strip() if isinstance(address, str) else ""
        if not text or (kept is not None and kept.request.photo.url == text):
            return {self.pending: gr.skip()}
        return {self.controls.photo: None, **self._forget_photo()}

    def _forget_photo(self) -> Updates:
        """Takes away what belongs to the photo before: a region was meant in its pixels."""
        return {self.controls.region: "", **self.clear()}

    def clear(self) -> Updates:
        """Takes away what belongs to another photo or model; what was asked for stays."""
        panel = self.panel
        return {
            self.kept: None,
            self.pending: None,
            panel.summary: NOTHING_YET,
            panel.body: gr.update(visible=False),
            panel.viewer: "",
            panel.maps: "",
            self.controls.stop: gr.update(visible=False),
        }

    def offer_stop(self) -> Updates:
        """Lets the request be ended while it runs."""
        return {self.controls.stop: gr.update(visible=True)}

    def withdraw_stop(self) -> Updates:
        """Takes that away when it is over."""
        return {self.controls.stop: gr.update(visible=False)}

    def stopped(self, kept: SessionResult | None) -> Updates:
        """Says that the request was ended; a result from before it stays in view."""
        said = gr.skip() if kept is not None else STOPPED
        return {self.panel.summary: said, **self.withdraw_stop()}

    def failed(self, kept: SessionResult | None) -> Updates:
        """Says that there is no answer; a result from before it stays in view."""
        said = gr.skip() if kept is not None else FAILED
        return {self.pending: None, self.panel.summary: said, **self.withdraw_stop()}

    def explain_method(self, method: Any) -> Updates:
        """Says what a method does; lets the noise be set only where it makes use of it."""
        noisy = method in METHODS and METHODS[method].needs_noise
        controls = self.controls
        fields = (controls.num_samples, controls.std, controls.seed)
        return {
            controls.method_note: formatting.method_note(method),
            **{field: gr.update(interactive=noisy) for field in fields},
        }


@contextmanager
def lasting() -> Iterator[None]:
    """Messages of its block stay on the page until they are closed, since nothing else does."""
    try:
        yield
    except gr.Error as problem:
        problem.duration = None
        raise


def address_of(settings: Settings, http: gr.Request) -> str:
    """Where programs find the app: the Space, or the URL at which the visitor found it."""
    if settings.space_id:
        return settings.space_id
    request = http.request if http is not None else None
    return str(request.base_url).rstrip("/") if request is not None else "http://127.0.0.1:7860"
