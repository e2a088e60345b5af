"""What the fields for classes propose."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import gradio as gr

from cam_hub.errors import CamHubError
from space.components.class_field import ClassEntry, ClassProposals
from space.components.prediction_list import percent
from space.config.settings import SEARCHING, Settings
from space.page.controls import Controls
from space.service.explain_form import read_model_id
from space.service.explainer import Explainer
from space.service.label_search import Labels, naming
from space.service.request_context import event_value, token_of
from space.service.session_result import SessionResult

__all__ = ["connect_classes"]

_MOST = 60


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
            trigger_mode="always_last",
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
    ) -> ClassProposals:
        """The predicted classes first, then all labels that hold the words."""
        text = query if isinstance(query, str) else ""
        try:
            id = read_model_id(model_id, self.settings.limits)
        except CamHubError as problem:
            return ClassProposals(text, note=problem.message)
        labels = self.explainer.labels(id, token)
        predicted = _predicted(kept, id, labels) if not text.strip() else ()
        if labels is None:
            note = (
                "The labels of this model are known once it was loaded. Until then, type a label, "
                "an index or top(3), and press Enter."
            )
            return ClassProposals(text, predicted, note)
        indices, count = labels.find(text, _MOST)
        taken = {entry.value for entry in predicted}
        found = (
            ClassEntry(labels.name_of(index), labels.names[index], str(index)) for index in indices
        )
        entries = predicted + tuple(entry for entry in found if entry.value not in taken)
        return ClassProposals(text, entries, _note(text, count, len(labels)))


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
    if count > _MOST:
        more = "labels hold these words" if text.strip() else "classes"
        return f"{count:,} {more}: type to find yours."
    return ""
