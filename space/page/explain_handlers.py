"""What the page answers to a request, and the result that it opens with."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import gradio as gr

from cam_hub.methods import METHODS
from space.components import formatting
from space.components.photo_field import example_named
from space.config.settings import Settings
from space.page.controls import Controls, Values
from space.page.presenter import Presenter, Updates, address_of
from space.page.results_panel import FAILED, NOTHING_YET, STOPPED, ResultsPanel
from space.service.display_options import Look, read_look
from space.service.errors import event_value, readable, teller, token_of, warn
from space.service.explain_form import read_request
from space.service.explainer import Explainer
from space.service.session_result import SessionResult

__all__ = ["Handlers"]


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
