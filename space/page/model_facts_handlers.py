"""What the page says about a model as soon as its ID is there, before anything is fetched."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import gradio as gr
from gradio.events import Dependency

from cam_hub.errors import CamHubError
from space.components.model_facts import ASKING, NO_FACTS, facts_html, trouble_html
from space.config.settings import DESCRIBING, Settings
from space.page.controls import Controls
from space.service.errors import readable, title_of
from space.service.explain_form import read_model_id
from space.service.explainer import Explainer
from space.service.request_context import token_of

__all__ = ["connect_facts"]


def connect_facts(
    app: gr.Blocks, explainer: Explainer, settings: Settings, controls: Controls, run: Dependency
) -> None:
    """Wires the lines below the field for the model's ID. None of the events is an endpoint.

    Args:
        app: The app that is being built.
        explainer: Asks for the facts.
        settings: Of the app.
        controls: Have the field and the lines.
        run: The event that loads the model. Connected before, so that nothing waits for the facts.
    """
    page = _Describer(explainer, settings)
    quiet: dict[str, Any] = {
        "show_progress": "hidden",
        "preprocess": False,
        "api_visibility": "private",
        **DESCRIBING,
    }
    # The value of the field changes when an ID was chosen or its text is left: not while one types.
    gr.on(
        [app.load, controls.model_id.change],
        page.show,
        controls.model_id,
        controls.facts,
        trigger_mode="always_last",
        **quiet,
    )
    run.success(page.refresh, controls.model_id, controls.facts, **quiet)


@dataclass(frozen=True)
class _Describer:
    """The handlers."""

    explainer: Explainer
    settings: Settings

    def show(self, model_id: Any, visitor: gr.OAuthToken | None) -> Iterator[str]:
        """Says first that the Hub is asked, then what it said; a problem is told in its place."""
        if not isinstance(model_id, str) or not model_id.strip():
            yield NO_FACTS
            return
        yield ASKING
        yield self._answer(model_id, visitor)

    def refresh(self, model_id: Any, visitor: gr.OAuthToken | None) -> str:
        """Likewise after the model was loaded, when what was fetched is here."""
        return self._answer(model_id, visitor)

    def _answer(self, model_id: Any, visitor: gr.OAuthToken | None) -> str:
        try:
            with readable(as_html=True):
                return self._facts(model_id, visitor)
        except gr.Error as problem:  # one that was not foreseen
            return trouble_html("Nothing is known about it", problem.message)

    def _facts(self, model_id: Any, visitor: gr.OAuthToken | None) -> str:
        try:
            id = read_model_id(model_id, self.settings.limits)
            facts = self.explainer.describe(id, token_of(visitor))
        except CamHubError as error:
            return trouble_html(title_of(error), error.message)
        return facts_html(facts, random_weights=self.settings.random_weights)
