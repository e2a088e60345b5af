"""Explaining on the page: the handlers, and the events that call them."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import gradio as gr
from gradio.blocks import Block
from gradio.events import Dependency

from cam_hub.faithfulness import Evidence
from cam_hub.methods import METHODS
from cam_hub.results.serialization import PHOTO
from space.components import formatting
from space.components.evidence_view import FIRST_CHECKS, NOT_TESTED, evidence_html
from space.components.photo_field import example_named
from space.components.style import SHOW_RESULT
from space.config.settings import Settings
from space.page.controls import Controls, Values, hide_button, show_button
from space.page.results_panel import (
    FAILED,
    NOTHING_YET,
    STOPPED,
    DisplayHandlers,
    Presenter,
    ResultsPanel,
    Updates,
    address_of,
)
from space.service.errors import cancellable_progress, event_value, readable, token_of, warn
from space.service.explain_form import read_request
from space.service.explainer import Explainer
from space.service.exports import SessionResult, record_evidence
from space.service.photos import Photo
from space.service.views import DisplayOptions, read_display_options

__all__ = ["ExplainEvents"]


_PRIVATE: dict[str, Any] = {"api_visibility": "private"}
_AT_ONCE: dict[str, Any] = {"queue": False, "show_progress": "hidden", **_PRIVATE}


@dataclass(frozen=True)
class ExplainEvents:
    """The handlers, and the events that call them, none of which is an endpoint.

    Gradio's own conversions of inputs are off: they would decode photos.
    """

    explainer: Explainer
    settings: Settings
    controls: Controls
    panel: ResultsPanel
    presenter: Presenter

    def connect(self) -> Dependency:
        """Wires the page that is being built.

        Returns:
            The event that answers a request, for those who wait for its end.
        """
        run = self._connect_explain()
        self._connect_form(run)
        self._connect_display()
        return run

    def _connect_explain(self) -> Dependency:
        """The button. Browsers run the events of one click one after the other, in this order."""
        controls, panel = self.controls, self.panel
        started = [
            controls.run.click,
            controls.std.submit,
            controls.seed.submit,
            controls.photo_url.submit,
            controls.region.submit,
        ]
        gr.on(started, show_button, None, controls.stop, **_AT_ONCE)
        run: Dependency = gr.on(
            started,
            self.answer,
            {*controls.inputs, *panel.style.values(), panel.pending},
            [panel.kept, panel.pending, *panel.shown, controls.photo, controls.target_layers],
            preprocess=False,
            show_progress_on=panel.summary,
            trigger_mode="once",
            concurrency_id="model",
            concurrency_limit=self.settings.concurrency,
            **_PRIVATE,
        )
        controls.run.click(None, js=SHOW_RESULT, **_PRIVATE)
        # After an error, browsers run what follows `failure` only, not `then`.
        outcome = [panel.pending, panel.summary, controls.stop]
        run.failure(self.failed, panel.kept, outcome, **_AT_ONCE)
        run.then(hide_button, None, controls.stop, **_AT_ONCE)
        # After the map is shown, so that it is not delayed.
        tested: set[Block] = {panel.kept, panel.shown_class, panel.shown_layer}
        testing: dict[str, Any] = {
            "preprocess": False,
            "show_progress": "hidden",
            "concurrency_id": "model",
            "concurrency_limit": self.settings.concurrency,
            **_PRIVATE,
        }
        first = run.success(self.test, tested, panel.evidence, **testing)
        further = panel.evidence.select(
            self.test_further, tested, panel.evidence, trigger_mode="once", **testing
        )
        for event in (first, further):
            event.failure(self.not_tested, None, panel.evidence, **_AT_ONCE)
        controls.stop.click(
            self.stopped, panel.kept, [panel.summary, controls.stop], cancels=[run], **_AT_ONCE
        )
        return run

    @property
    def _cleared(self) -> list[Any]:
        panel = self.panel
        shown = [panel.summary, panel.body, panel.viewer, panel.evidence, panel.maps]
        return [panel.kept, panel.pending, *shown, self.controls.stop]

    def _connect_form(self, run: Dependency) -> None:
        """What is taken for another question ends the answer to the last one."""
        controls = self.controls
        anew: dict[str, Any] = {"cancels": [run], "preprocess": False, **_AT_ONCE}
        another_photo = [controls.region, *self._cleared]
        controls.examples.select(
            self.choose_example,
            None,
            [controls.photo, controls.photo_url, *another_photo],
            trigger_mode="multiple",
            **anew,
        )
        gr.on(
            [controls.photo.input, controls.photo.clear],
            self.take_photo,
            controls.photo,
            [controls.photo_url, *another_photo],
            **anew,
        )
        # Not while one types: a pasted address fires no event of its own before it is left.
        controls.photo_url.blur(
            self.take_address,
            [controls.photo_url, self.panel.kept],
            [controls.photo, *another_photo],
            preprocess=False,
            **_AT_ONCE,
        )
        controls.model_id.select(self.clear, None, self._cleared, **anew)
        controls.method.change(
            self.explain_method,
            controls.method,
            [controls.method_note, controls.num_samples, controls.std, controls.seed],
            preprocess=False,
            **_AT_ONCE,
        )

    def _connect_display(self) -> None:
        """Whatever changes how a result is looked at; the last change wins."""
        controls, panel = self.controls, self.panel
        page = DisplayHandlers(self.settings, controls, self.presenter)
        look: set[Block] = {panel.kept, *panel.look.values()}
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
            panel.large,
            **quick,
        )
        gr.on(every, page.redraw_strip, look, panel.maps, **quick)
        # A deferred event is repeated with the data of the event before it: each of these runs.
        each = {**quick, "trigger_mode": "multiple"}
        panel.maps.select(page.pick_layer, look, [panel.shown_layer, *panel.large], **each)
        panel.predictions.select(
            page.pick_class,
            look,
            [panel.shown_class, panel.maps, controls.classes, controls.starter, *panel.large],
            **each,
        )
        # Files of large photos take seconds, in which others want to look.
        making = {**each, "concurrency_id": "files", "concurrency_limit": 2}
        panel.downloads.select(page.download, look, panel.downloads, **making).failure(
            page.end_download, None, panel.downloads, **_AT_ONCE
        )
        panel.view.change(
            page.enable_controls,
            panel.view,
            [panel.alpha, panel.threshold, panel.colormap],
            preprocess=False,
            **_AT_ONCE,
        )

    def answer(
        self,
        values: Values,
        http: gr.Request,
        visitor: gr.OAuthToken | None,
        progress: gr.Progress = gr.Progress(),  # noqa: B008 (how Gradio wants it)
    ) -> Updates:
        """Explains the photo and shows the result."""
        with persistent_messages(), readable(as_html=True):
            style = {name: values[each] for name, each in self.panel.style.items()}
            request = read_request(
                **self.controls.read(values),
                alpha=style["alpha"],
                colormap=style["colormap"],
                limits=self.settings.limits,
            )
            look = read_display_options(**style)
            pending: DisplayOptions | None = values[self.panel.pending]
            if pending is not None:
                look = replace(look, class_index=pending.class_index, layer=pending.layer)
            report = cancellable_progress(progress)
            # Where a GPU is lent per call, a test of its own would take another call.
            tests = {"checks": FIRST_CHECKS} if self.settings.zero_gpu else None
            explained = self.explainer.explain(request, report, token_of(visitor), tests)
            result = explained.result
            look.at(result)
            warn(explained.notes)
            report(0.92, "Drawing")
            kept = self.presenter.keep(result, request)
            return {
                self.panel.kept: kept,
                self.panel.pending: None,
                self.controls.photo: None if request.photo.url is not None else gr.skip(),
                self.controls.target_layers: gr.update(
                    choices=formatting.layer_choices(explained.layers)
                ),
                **self.presenter.all(kept, look, address_of(self.settings, http)),
            }

    def test(
        self,
        values: Values,
        visitor: gr.OAuthToken | None,
        progress: gr.Progress = gr.Progress(),  # noqa: B008 (how Gradio wants it)
    ) -> Updates:
        """Makes the first tests of the map that is shown."""
        return self._test(values, FIRST_CHECKS, token_of(visitor), progress)

    def test_further(
        self,
        values: Values,
        visitor: gr.OAuthToken | None,
        progress: gr.Progress = gr.Progress(),  # noqa: B008 (how Gradio wants it)
    ) -> Updates:
        """Makes further tests of the map that is shown."""
        return self._test(values, [*FIRST_CHECKS, "road"], token_of(visitor), progress)

    def _test(
        self, values: Values, checks: list[str], visitor: str | None, progress: gr.Progress
    ) -> Updates:
        kept: SessionResult | None = values[self.panel.kept]
        if kept is None:
            return {self.panel.evidence: gr.skip()}
        with persistent_messages(), readable(as_html=True):
            shown = self.panel
            look = read_display_options(
                class_index=values[shown.shown_class], layer=values[shown.shown_layer]
            )
            screen = self.presenter.previews.get(kept.folder)
            index, layer = look.at(screen.result)
            found = screen.evidence.get((index, layer), Evidence((), index, layer))
            missing = [check for check in checks if check not in found]
            if missing:
                request = kept.request
                if request.photo.url is not None:  # what lies there may have changed
                    photo = Photo(request.photo.name, kept.folder / PHOTO)
                    request = replace(request, photo=photo)
                method = METHODS[screen.result.method]
                if method.level == "layer":  # the map that is shown, not one that is chosen anew
                    layers = tuple(screen.result.layers)
                    request = replace(request, method=method.name, target_layers=layers)
                tests = {"checks": missing, "class_index": index, "layer": layer}
                report = cancellable_progress(progress)
                result = self.explainer.explain(request, report, visitor, tests).result
                made = Evidence.from_dict(result.manifest["evidence"])
                found = replace(made, tests=(*found.tests, *made.tests))
                screen.evidence[index, layer] = found
                record_evidence(kept.folder, found.to_dict())
            name = f"{kept.folder.name} {index} {layer}"
            return {self.panel.evidence: gr.update(value=evidence_html(found, name))}

    def not_tested(self) -> Updates:
        """Reports that a test failed; a message gives the reason."""
        return {self.panel.evidence: gr.update(note=NOT_TESTED, turn=time.monotonic_ns())}

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
            return {self.panel.pending: gr.skip()}
        return {self.controls.photo: None, **self._forget_photo()}

    def _forget_photo(self) -> Updates:
        """Takes away what belongs to the photo before: a region was meant in its pixels."""
        return {self.controls.region: "", **self.clear()}

    def clear(self) -> Updates:
        """Takes away what belongs to another photo or model; what was asked for stays."""
        panel = self.panel
        return {
            self.panel.kept: None,
            self.panel.pending: None,
            panel.summary: NOTHING_YET,
            panel.body: gr.update(visible=False),
            panel.viewer: "",
            panel.evidence: gr.update(value="", note="", shown=""),
            panel.maps: "",
            self.controls.stop: gr.update(visible=False),
        }

    def stopped(self, kept: SessionResult | None) -> Updates:
        """Reports that the request was ended; a result from before it stays in view."""
        said = gr.skip() if kept is not None else STOPPED
        return {self.panel.summary: said, self.controls.stop: hide_button()}

    def failed(self, kept: SessionResult | None) -> Updates:
        """Reports a failure; a result from before it stays in view."""
        said = gr.skip() if kept is not None else FAILED
        return {
            self.panel.pending: None,
            self.panel.summary: said,
            self.controls.stop: hide_button(),
        }

    def explain_method(self, method: Any) -> Updates:
        """Describes a method; enables noise and seed only for methods that use them."""
        used = self.controls.noise_fields(method)
        return {
            self.controls.method_note: formatting.method_note(method),
            **{field: gr.update(interactive=uses) for field, uses in used.items()},
        }


@contextmanager
def persistent_messages() -> Iterator[None]:
    """Messages of its block stay on the page until they are closed, since nothing else does."""
    try:
        yield
    except gr.Error as problem:
        problem.duration = None
        raise
