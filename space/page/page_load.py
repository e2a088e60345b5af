"""What a page shows when it is opened: the first sight, or the view of a link."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import gradio as gr

from cam_hub.methods import METHODS
from cam_hub.options import options_for
from space.components import formatting
from space.components.photo_field import example_named
from space.config.settings import Settings
from space.page.controls import ANY_LAYERS, LAYER_WORDS, Controls
from space.page.display_handlers import press
from space.page.explain_handlers import FirstSight, address_of
from space.page.presenter import Presenter, Updates
from space.page.results_panel import NOTHING_YET, OPENING, ResultsPanel
from space.service.display_options import Look
from space.service.errors import readable
from space.service.explain_form import box_text, read_box, read_model_id, read_texts
from space.service.links import View, is_link, read_query
from space.service.photos import read_photo

__all__ = ["Opening"]

_CHOOSE = "<p>This link names no photo: choose one, then press <strong>Explain</strong>.</p>"


@dataclass(frozen=True)
class Opening:
    """The handler of the page's load."""

    settings: Settings
    controls: Controls
    panel: ResultsPanel
    presenter: Presenter
    first_sight: FirstSight
    kept: gr.State
    pending: gr.State
    starter: gr.HTML

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
            return {self.panel.summary: said}

    def _plain(self, http: gr.Request) -> Updates:
        kept = self.first_sight.kept()
        if kept is None:
            return {self.panel.summary: NOTHING_YET}
        shown = self.presenter.all(kept, Look(), address_of(self.settings, http))
        return {self.kept: kept, **shown}

    def _linked(self, view: View) -> Updates:
        """The controls as the link has them; all that can be judged now is."""
        limits, controls, panel = self.settings.limits, self.controls, self.panel
        model_id = read_model_id(view.model_id, limits)
        method = METHODS[view.method[: limits.max_text]]
        layers = list(read_texts("layers", view.target_layers, limits.max_layers, limits.max_text))
        classes = read_texts("classes", view.classes, limits.max_classes, limits.max_text)
        contrast = read_texts("than", view.contrast, 1, limits.max_text)
        region = read_box("part", view.region, limits.max_text)
        word = layers[0] if len(layers) == 1 else ""
        is_word = word in dict(LAYER_WORDS).values()
        noise = {
            controls.num_samples: view.num_samples,
            controls.std: view.std,
            controls.seed: view.seed,
        }
        return {
            **self._photo(view.photo),
            controls.model_id: model_id,
            controls.method: method.name,
            controls.method_note: formatting.method_note(method.name),
            controls.layer_choice: word if is_word else ANY_LAYERS,
            controls.target_layers: gr.update(value=layers, visible=not is_word),
            controls.classes: list(classes),
            controls.contrast: list(contrast),
            controls.region: box_text(region),
            **{
                field: gr.update(value=value, interactive=method.needs_noise)
                for field, value in noise.items()
            },
            **{
                controls.options[name]: option.text(view.options[name])
                if name in view.options
                else option.default or ""
                for name, option in options_for("page").items()
            },
            panel.view: view.look.view,
            panel.alpha: view.look.alpha,
            panel.colormap: view.look.colormap,
            panel.threshold: view.look.threshold,
            panel.scale: view.look.scale,
            self.pending: view.look,
            panel.summary: OPENING if view.photo else _CHOOSE,
            **({self.starter: press()} if view.photo else {}),
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
