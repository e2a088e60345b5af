"""Errors as messages that people can read, on the page and over the endpoint."""

from __future__ import annotations

import html
import logging
from collections.abc import Iterator
from contextlib import contextmanager

import gradio as gr

from cam_hub.errors import CamHubError

__all__ = ["INTERNAL", "readable", "title_of"]

_LOG = logging.getLogger(__name__)

_TITLES = {
    "invalid_argument": "A value does not work",
    "model_not_found": "Unknown model",
    "layer_not_found": "Unknown layer",
    "class_not_found": "Unknown class",
    "method_not_found": "Unknown method",
    "model_refused": "This model cannot be explained",
    "image_refused": "This photo cannot be used",
    "no_map": "There is no map to show",
    "out_of_memory": "There is not enough memory",
    "hub_unavailable": "The model could not be fetched",
    "hub_refused": "The Hub does not allow this",
}

INTERNAL = (
    "Something went wrong inside cam_hub. It is not your input's fault, and the details are in "
    "the server's log. The next request works as usual."
)
"""What visitors read when an error was not foreseen."""


def title_of(error: CamHubError) -> str:
    """A headline for an error."""
    return _TITLES.get(error.code, "That did not work")


@contextmanager
def readable(*, as_html: bool) -> Iterator[None]:
    """Turns every error of its block into one that Gradio shows in words.

    Args:
        as_html: Whether the message is going to be read as HTML: the page does that, so what
            visitors and model authors wrote must be escaped. Programs get plain text.

    Raises:
        gr.Error: With the message of a ``CamHubError``; with a general one for anything else,
            which is logged in full.
    """
    try:
        yield
    except gr.Error:
        raise
    except CamHubError as error:
        title, message = title_of(error), error.message
        if as_html:
            # Gradio's own heading of all messages is "Error", whatever their title.
            message = f"<strong>{title}.</strong> {html.escape(message)}"
        raise gr.Error(message, title=title, print_exception=False) from error
    except Exception as error:
        _LOG.exception("unforeseen error while answering a request")
        raise gr.Error(INTERNAL, title="Internal error", print_exception=False) from error
