"""Errors as messages that people can read, each with a code for programs."""

from __future__ import annotations

import html
import logging
from collections.abc import Iterator
from contextlib import contextmanager

import gradio as gr

from cam_hub.errors import CamHubError, DiskUnavailable, SaveFailed
from space.service.request_log import log_unforeseen

__all__ = [
    "CANCELLED",
    "INTERNAL",
    "INTERNAL_CODE",
    "INTERNAL_TITLES",
    "Problem",
    "readable",
    "title_of",
]

_LOG = logging.getLogger(__name__)

_TITLES = {
    "invalid_argument": "A value does not work",
    "too_much": "More than this app allows",
    "model_not_found": "Unknown model",
    "layer_not_found": "Unknown layer",
    "class_not_found": "Unknown class",
    "method_not_found": "Unknown method",
    "model_refused": "This model cannot be explained",
    "image_refused": "This photo cannot be used",
    "no_map": "There is no map to show",
    "out_of_memory": "There is not enough memory",
    "save_failed": "The result could not be stored",
    "hub_unavailable": "The model could not be fetched",
    "hub_refused": "The Hub does not allow this",
    "disk_unavailable": "The disk cannot be written to",
}

INTERNAL = (
    "Something went wrong inside cam_hub. It is not your input's fault, and the details are in "
    "the server's log. The next request works as usual."
)
"""What visitors read when an error was not foreseen."""

INTERNAL_CODE = "internal"
_INTERNAL_TITLE = "Internal error"
INTERNAL_TITLES = (INTERNAL_CODE, _INTERNAL_TITLE)
"""The titles of such an error, for programs and on the page."""
CANCELLED = "cancelled"
"""The code of a request whose visitor has left; only the log sees it."""


class Problem(gr.Error):
    """An error on its way to whoever sent the request.

    Gradio passes on a message and a title, and clients refuse fields that they do not know. So for
    programs the title is the code. It also ends the message in brackets, since MCP clients get
    nothing else.

    Args:
        code: A stable word.
        message: The sentence, as plain text.
        title: A headline for people.
        as_html: Whether the message is going to be read as HTML: the page does that, so what
            visitors and model authors wrote is escaped.
    """

    def __init__(self, code: str, message: str, title: str, *, as_html: bool) -> None:
        self.code = code
        if as_html:
            # Gradio's own heading of all messages is "Error", whatever their title.
            message = (
                f'<strong>{title}.</strong> {html.escape(message)} <code class="code">{code}</code>'
            )
        else:
            message, title = f"{message} [{code}]", code
        super().__init__(message, title=title, print_exception=False)

    @classmethod
    def of(cls, error: CamHubError, *, as_html: bool) -> Problem:
        """An error that was raised on purpose, in its own words, without folders of the server."""
        if isinstance(error, SaveFailed):
            known = DiskUnavailable.of(error)
            cause = error.__cause__ if isinstance(error.__cause__, OSError) else None
            reason = (cause and cause.strerror) or "the system refuses to write it"
            message = known.message if known else f"The result could not be stored: {reason}."
            return cls(error.code, message, title_of(error), as_html=as_html)
        return cls(error.code, error.message, title_of(error), as_html=as_html)

    @classmethod
    def unforeseen(cls, *, as_html: bool) -> Problem:
        """Any other error, in general words."""
        return cls(INTERNAL_CODE, INTERNAL, _INTERNAL_TITLE, as_html=as_html)

    @classmethod
    def around(cls, error: Exception, place: str, *, as_html: bool) -> Problem:
        """An error that is not one of ours: of the disk in true words, any other is logged.

        Args:
            error: What was raised.
            place: Where, for the log.
            as_html: As for ``Problem``.
        """
        if (known := DiskUnavailable.of(error)) is not None:
            return cls.of(known, as_html=as_html)
        log_unforeseen(_LOG, place, error)
        return cls.unforeseen(as_html=as_html)


def title_of(error: CamHubError) -> str:
    """A headline for an error."""
    return _TITLES.get(error.code, "That did not work")


@contextmanager
def readable(*, as_html: bool) -> Iterator[None]:
    """Turns every error of its block into one that Gradio shows in words.

    Args:
        as_html: As for ``Problem``.

    Raises:
        Problem: With the message of a ``CamHubError``; with a general one for anything else,
            which is logged in full.
    """
    try:
        yield
    except gr.Error:
        raise
    except CamHubError as error:
        raise Problem.of(error, as_html=as_html) from error
    except Exception as error:
        raise Problem.around(error, "a request", as_html=as_html) from error
