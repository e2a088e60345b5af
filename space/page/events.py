"""Which event of the page calls which handler."""

from __future__ import annotations

from typing import Any

import gradio as gr
from gradio.blocks import Block
from gradio.events import Dependency

from space.components.style import SHOW_RESULT, STARTER_JS
from space.config.settings import Settings
from space.page.controls import Controls
from space.page.display_handlers import LookHandlers
from space.page.explain_handlers import Handlers
from space.page.presenter import Presenter
from space.page.results_panel import ResultsPanel
from space.service.explainer import Explainer

__all__ = ["Wiring"]

_PRIVATE: dict[str, Any] = {"api_visibility": "private"}
_AT_ONCE: dict[str, Any] = {"queue": False, "show_progress": "hidden", **_PRIVATE}


class Wiring:
    """Wires the page that is being built. None of its events is an endpoint.

    Attributes:
        kept: The visitor's last result.
        pending: The class and the layer that the next result is to show.
        starter: Presses the button.
        run: The event that answers a request, for those who wait for its end.
    """

    def __init__(
        self,
        explainer: Explainer,
        settings: Settings,
        controls: Controls,
        panel: ResultsPanel,
        presenter: Presenter,
    ) -> None:
        self.kept = gr.State(None, time_to_live=settings.keep_seconds)
        self.pending = gr.State(None)
        self.starter = gr.HTML("", js_on_load=STARTER_JS, elem_id="starter", turn=0)
        self._settings, self._controls, self._panel = settings, controls, panel
        self._presenter = presenter
        self._page = Handlers(
            explainer, settings, controls, panel, presenter, self.kept, self.pending
        )
        self.run = self._answers()
        self._asks()
        self._looks()

    def _answers(self) -> Dependency:
        """The button. Browsers run the events of one click one after the other, in this order."""
        page, controls, panel = self._page, self._controls, self._panel
        started = [
            controls.run.click,
            controls.std.submit,
            controls.seed.submit,
            controls.photo_url.submit,
            controls.region.submit,
        ]
        gr.on(started, page.offer_stop, None, controls.stop, **_AT_ONCE)
        run: Dependency = gr.on(
            started,
            page.answer,
            {*controls.inputs, *panel.style.values(), self.pending},
            [self.kept, self.pending, *self._panel.shown, controls.photo, controls.target_layers],
            preprocess=False,
            show_progress_on=panel.summary,
            trigger_mode="once",
            concurrency_id="model",
            concurrency_limit=self._settings.concurrency,
            **_PRIVATE,
        )
        controls.run.click(None, js=SHOW_RESULT, **_PRIVATE)
        # After an error, browsers run what follows `failure` only, not `then`.
        outcome = [self.pending, panel.summary, controls.stop]
        run.failure(page.failed, self.kept, outcome, **_AT_ONCE)
        run.then(page.withdraw_stop, None, controls.stop, **_AT_ONCE)
        controls.stop.click(
            page.stopped, self.kept, [panel.summary, controls.stop], cancels=[run], **_AT_ONCE
        )
        return run

    @property
    def _cleared(self) -> list[Any]:
        panel = self._panel
        shown = [panel.summary, panel.body, panel.viewer, panel.maps]
        return [self.kept, self.pending, *shown, self._controls.stop]

    def _asks(self) -> None:
        """What is taken for another question ends the answer to the last one."""
        page, controls = self._page, self._controls
        anew: dict[str, Any] = {"cancels": [self.run], "preprocess": False, **_AT_ONCE}
        another_photo = [controls.region, *self._cleared]
        controls.examples.select(
            page.choose_example,
            None,
            [controls.photo, controls.photo_url, *another_photo],
            trigger_mode="multiple",
            **anew,
        )
        gr.on(
            [controls.photo.input, controls.photo.clear],
            page.take_photo,
            controls.photo,
            [controls.photo_url, *another_photo],
            **anew,
        )
        # Not while one types: a pasted address fires no event of its own before it is left.
        controls.photo_url.blur(
            page.take_address,
            [controls.photo_url, self.kept],
            [controls.photo, *another_photo],
            preprocess=False,
            **_AT_ONCE,
        )
        controls.model_id.select(page.clear, None, self._cleared, **anew)
        controls.method.change(
            page.explain_method,
            controls.method,
            [controls.method_note, controls.num_samples, controls.std, controls.seed],
            preprocess=False,
            **_AT_ONCE,
        )

    def _looks(self) -> None:
        """Whatever changes how a result is looked at; the last change wins."""
        panel, controls = self._panel, self._controls
        page = LookHandlers(
            self._settings, controls, panel, self._presenter, self.kept, self.starter
        )
        look: set[Block] = {self.kept, *panel.look.values()}
        quick: dict[str, Any] = {
            "preprocess": False,
            "show_progress": "hidden",
            "trigger_mode": "always_last",
            "concurrency_id": "look",
            "concurrency_limit": 4,
            **_PRIVATE,
        }
        every = [panel.shown_class.input, panel.colormap.input, panel.scale.input]
        gr.on(
            [*every, panel.view.input, panel.alpha.input, panel.threshold.input],
            page.redraw,
            look,
            self._panel.large,
            **quick,
        )
        gr.on(every, page.redraw_strip, look, panel.maps, **quick)
        # A deferred event is repeated with the data of the event before it: each of these runs.
        each = {**quick, "trigger_mode": "multiple"}
        panel.maps.select(page.pick_layer, look, [panel.shown_layer, *self._panel.large], **each)
        panel.predictions.select(
            page.pick_class,
            look,
            [panel.shown_class, panel.maps, controls.classes, self.starter, *self._panel.large],
            **each,
        )
        # Files of large photos take seconds, in which others want to look.
        making = {**each, "concurrency_id": "files", "concurrency_limit": 2}
        panel.take_away.select(page.hand_over, look, panel.take_away, **making).failure(
            page.no_file, None, panel.take_away, **_AT_ONCE
        )
        panel.view.change(
            page.fit,
            panel.view,
            [panel.alpha, panel.threshold, panel.colormap],
            preprocess=False,
            **_AT_ONCE,
        )
