"""What the page and programs get when models are searched for."""

from __future__ import annotations

from typing import Any

import gradio as gr

from cam_hub.errors import CamHubError
from cam_hub.sources.search import find_models
from space.components.model_field import Proposals, proposal_of
from space.config.settings import SEARCHING
from space.page.controls import Controls
from space.service.request_context import event_value, searching_as

__all__ = ["connect_search"]

_MOST = 20


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
        trigger_mode="always_last",
        api_visibility="private",
        **SEARCHING,
    )


def _proposals(query: Any, visitor: gr.OAuthToken | None) -> Proposals:
    """The models for a query; a problem is told below them, since any ID may still be typed."""
    text = query if isinstance(query, str) else ""
    try:
        found = find_models(text, limit=_MOST, token=searching_as(visitor))
    except CamHubError as error:
        return Proposals(text, note=error.message)
    entries = tuple(map(proposal_of, found.hits))
    if found.trouble:
        note = f"Without the Hub: {found.trouble}"
    else:
        note = "" if entries else "No model with these words. An ID is taken as it is typed."
    return Proposals(text, entries, note)
