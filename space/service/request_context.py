"""Who sent a request: their access token, and what they hear while it is answered."""

from __future__ import annotations

import html
from collections.abc import Iterable, Mapping
from typing import Any

import gradio as gr
from gradio.context import LocalContext

from space.service.errors import CANCELLED, Problem
from space.service.explainer import Progress

__all__ = ["event_value", "searching_as", "teller", "token_of", "warn"]


def event_value(event: gr.EventData, name: str) -> Any:
    """A value that came with an event; None where a stranger's request has none.

    Gradio's own attributes fail unless the data of the event are an object.
    """
    data = event._data
    return data.get(name) if isinstance(data, Mapping) else None


def token_of(given: gr.OAuthToken | None) -> str | None:
    """The access token that came with a request; None if none did.

    Gradio takes it from the visitor's session, or from what a program sends as ``oauth_token``.
    Headers (``Authorization``, ``x-hf-authorization``) are not looked at: they open the door of a
    private Space, and whoever sends them has not allowed the app to act in their name.
    """
    return given.token if given is not None else None


def searching_as(visitor: gr.OAuthToken | None) -> str | bool:
    """The visitor's token, or nobody's: what this machine may read is not for all to find."""
    return token_of(visitor) or False


def teller(progress: gr.Progress) -> Progress:
    """Passes on how far a request is, and ends it as soon as nobody waits for the answer.

    A thread cannot be stopped from outside: after a visitor has pressed Stop or closed the page,
    Gradio drops the answer, but a download would go on to its end.

    Args:
        progress: Of the request that is being answered by this thread.

    Returns:
        To be called again and again; raises a ``Problem``, which nobody reads, to end the request.
    """
    blocks, event_id = LocalContext.blocks.get(None), LocalContext.event_id.get(None)

    def tell(part: float, what: str) -> None:
        # What did not come through the queue has no event.
        if blocks is not None and event_id is not None:
            event = blocks._queue.event_ids_to_events.get(event_id)
            if event is None or not event.alive or blocks._queue.stopped:
                raise Problem(CANCELLED, "Nobody waits for the answer.", "Ended", as_html=False)
        progress(part, desc=what)

    return tell


def warn(notes: Iterable[str]) -> None:
    """Shows notes to whoever sent the request that is being answered by this thread.

    Python's own warnings would not do: they are shown once, and to whichever visitor comes first.
    """
    for note in notes:
        gr.Warning(html.escape(note))
