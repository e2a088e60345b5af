"""What the fields for models and classes propose and state while somebody types."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import gradio as gr
from gradio.events import Dependency

from cam_hub.errors import CamHubError
from cam_hub.sources.search import find_models
from space.components.class_field import ClassEntry
from space.components.combobox import Proposals
from space.components.formatting import percent
from space.components.model_facts import ASKING, NO_FACTS, facts_html, trouble_html
from space.components.model_field import proposal_of
from space.config.settings import DESCRIBING, SEARCHING, Settings
from space.page.controls import Controls
from space.service.errors import event_value, readable, searching_as, title_of, token_of
from space.service.explain_form import read_model_id
from space.service.explainer import Explainer
from space.service.label_search import Labels, naming
from space.service.session_result import SessionResult

__all__ = ["connect_classes", "connect_facts", "connect_search"]


_MAX_MODELS = 20


def connect_search(controls: Controls) -> None:
    """Wires the field for the model's ID. The event is no endpoint."""
    field = controls.model_id

    def propose(typed: gr.EventData, visitor: gr.OAuthToken | None) -> dict[Any, Any]:
        """Proposes models for what was typed."""
        query = event_value(typed, "query")
        return {field: gr.update(proposals=_proposals(query, visitor).as_prop())}

    field.input(
        propose,
        None,
        field,
        preprocess=False,
        show_progress="hidden",
        # A deferred event would repeat the words before these; answers to old words are dropped.
        trigger_mode="multiple",
        api_visibility="private",
        **SEARCHING,
    )


def _proposals(query: Any, visitor: gr.OAuthToken | None) -> Proposals:
    """The models for a query; a problem is told below them, since any ID may still be typed."""
    text = query if isinstance(query, str) else ""
    try:
        found = find_models(text, limit=_MAX_MODELS, token=searching_as(visitor))
    except CamHubError as error:
        return Proposals(text, note=error.message)
    entries = tuple(map(proposal_of, found.hits))
    if found.trouble:
        note = f"Without the Hub: {found.trouble}"
    else:
        note = "" if entries else "No model with these words. An ID is taken as it is typed."
    return Proposals(text, entries, note)


_MAX_LABELS = 60


def connect_classes(
    explainer: Explainer, settings: Settings, controls: Controls, kept: gr.State
) -> None:
    """Wires both fields. The events are no endpoints, and none uses a model."""
    page = _Proposer(explainer, settings)
    for field in (controls.classes, controls.contrast):
        field.input(
            page.propose,
            [kept, controls.model_id],
            field,
            preprocess=False,
            show_progress="hidden",
            trigger_mode="multiple",
            api_visibility="private",
            **SEARCHING,
        )


@dataclass(frozen=True)
class _Proposer:
    explainer: Explainer
    settings: Settings

    def propose(
        self,
        kept: SessionResult | None,
        model_id: Any,
        typed: gr.EventData,
        visitor: gr.OAuthToken | None,
    ) -> Any:
        """Proposes classes for what was typed."""
        query = event_value(typed, "query")
        found = self.proposals(query, kept, model_id, token_of(visitor))
        return gr.update(proposals=found.as_prop())

    def proposals(
        self, query: Any, kept: SessionResult | None, model_id: Any, token: str | None
    ) -> Proposals:
        """The predicted classes first, then all labels that hold the words."""
        text = query if isinstance(query, str) else ""
        try:
            id = read_model_id(model_id, self.settings.limits)
        except CamHubError as problem:
            return Proposals(text, note=problem.message)
        labels = self.explainer.labels(id, token)
        predicted = _predicted(kept, id, labels) if not text.strip() else ()
        if labels is None:
            note = (
                "The labels of this model are known once it was loaded. Until then, type a label, "
                "an index or top(3), and press Enter."
            )
            return Proposals(text, predicted, note)
        indices, count = labels.find(text, _MAX_LABELS)
        taken = {entry.value for entry in predicted}
        found = (
            ClassEntry(labels.name_of(index), labels.names[index], str(index)) for index in indices
        )
        entries = predicted + tuple(entry for entry in found if entry.value not in taken)
        return Proposals(text, entries, _note(text, count, len(labels)))


def _predicted(
    kept: SessionResult | None, model_id: str, labels: Labels | None
) -> tuple[ClassEntry, ...]:
    """What the model saw in the photo, if it has seen it."""
    if kept is None or kept.request.model_id != model_id:
        return ()
    return tuple(
        ClassEntry(
            labels.name_of(found.class_index)
            if labels is not None and found.class_index < len(labels)
            else naming(found.label, found.class_index),
            found.label,
            percent(found),
        )
        for found in kept.predictions
    )


def _note(text: str, count: int, all_of_them: int) -> str:
    if not count:
        return f"None of the model's {all_of_them:,} labels holds these words."
    if count > _MAX_LABELS:
        more = "labels hold these words" if text.strip() else "classes"
        return f"{count:,} {more}: type to find yours."
    return ""


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
