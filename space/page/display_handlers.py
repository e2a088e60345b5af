"""What the page answers when a result is looked at in another way. Nothing here runs a model."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

import gradio as gr

from cam_hub.errors import InvalidArgument
from space.components.downloads import FILE_KINDS
from space.config.settings import Settings
from space.page.controls import Controls, Values
from space.page.presenter import Presenter, Updates, address_of
from space.page.results_panel import ResultsPanel
from space.service.display_options import Look, read_look
from space.service.errors import event_value, readable
from space.service.label_search import naming
from space.service.result_files import served

__all__ = ["LookHandlers", "press"]


@dataclass(frozen=True)
class LookHandlers:
    """The handlers. What comes from a page without a result is passed over.

    ``kept`` is the visitor's last result; ``starter`` presses the button.
    """

    settings: Settings
    controls: Controls
    panel: ResultsPanel
    presenter: Presenter
    kept: gr.State
    starter: gr.HTML

    def redraw(
        self,
        values: Values,
        http: gr.Request,
    ) -> Updates:
        """Draws the large picture anew."""
        kept = values[self.kept]
        if kept is None:
            return self._nothing()
        with readable(as_html=True):
            look = self._look(values)
            return self.presenter.large(kept, look, address_of(self.settings, http))

    def redraw_strip(
        self,
        values: Values,
    ) -> Updates:
        """Draws the maps side by side anew."""
        kept = values[self.kept]
        if kept is None:
            return {self.panel.maps: gr.skip()}
        with readable(as_html=True):
            look = self._look(values)
            return self.presenter.strip(kept, look)

    def pick_layer(
        self,
        values: Values,
        picked: gr.EventData,
        http: gr.Request,
    ) -> Updates:
        """Shows one of the maps large."""
        layer = event_value(picked, "layer")
        shown = self.redraw({**values, self.panel.shown_layer: layer}, http)
        return {self.panel.shown_layer: layer or "", **shown}

    def pick_class(
        self,
        values: Values,
        picked: gr.EventData,
        http: gr.Request,
    ) -> Updates:
        """Shows the class of a prediction: at once if it was explained, else by a new request."""
        index = event_value(picked, "chosen")
        kept = values[self.kept]
        if kept is None:
            return self._nothing()
        with readable(as_html=True):
            look = self._look(values, class_index=index)
            result = self.presenter.screens.get(kept.folder).result
            if index in result.classes:
                address = address_of(self.settings, http)
                return {
                    self.panel.shown_class: index,
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
            return {self.controls.classes: names[:most], self.starter: press()}

    def hand_over(
        self,
        values: Values,
        picked: gr.EventData,
    ) -> Updates:
        """Makes a file of what is shown."""
        kind = event_value(picked, "kind")
        with readable(as_html=True):
            if not isinstance(kind, str) or kind not in FILE_KINDS:
                raise InvalidArgument("kind", kind, f"one of {', '.join(FILE_KINDS)}")
            kept = values[self.kept]
            if kept is None:
                raise InvalidArgument("result", None, "one: explain a photo first")
            look = self._look(values)
            path = self.presenter.file(kept, look, kind)
            ready = {"address": served(path), "name": path.name, "turn": time.monotonic_ns()}
            return {self.panel.take_away: gr.update(ready=ready)}

    def no_file(self) -> Updates:
        """Ends the waiting for a file that there is not."""
        return {self.panel.take_away: gr.update(ready={"turn": time.monotonic_ns()})}

    def fit(self, view: Any) -> Updates:
        """Lets only what has an effect on a view be set."""
        return {
            self.panel.alpha: gr.update(interactive=view in ("overlay", "boxes")),
            self.panel.threshold: gr.update(interactive=view in ("boxes", "cutout")),
            self.panel.colormap: gr.update(interactive=view != "cutout"),
        }

    def _look(self, values: Values, **changed: Any) -> Look:
        found = {name: values[each] for name, each in self.panel.look.items()}
        return read_look(**{**found, **changed})

    def _nothing(self) -> Updates:
        return {self.panel.viewer: gr.skip()}


def press() -> dict[str, Any]:
    """The update that lets the starter press the button."""
    update: dict[str, Any] = gr.update(turn=time.monotonic_ns())
    return update
