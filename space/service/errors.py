"""A request's errors, progress and notes as its sender gets them, and its access token."""

from __future__ import annotations

import html
import logging
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import gradio as gr
from gradio.context import LocalContext

from cam_hub.errors import CamHubError, DiskUnavailable, SaveFailed
from space.service.request_log import log_unforeseen

__all__ = [
    "CANCELLED",
    "INTERNAL",
    "INTERNAL_CODE",
    "INTERNAL_TITLES",
    "Problem",
    "Progress",
    "cancellable_progress",
    "event_value",
    "readable",
    "searching_as",
    "title_of",
    "token_of",
    "warn",
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
    "worker_died": "A process died",
    "cluster_unavailable": "Ray cannot be used",
    "row_not_found": "Unknown row",
    "package_missing": "A package is missing here",
    "save_failed": "The result could not be stored",
    "hub_unavailable": "The model could not be fetched",
    "source_unavailable": "The dataset cannot be read",
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
    """An error on its way to the sender of the request.

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
        else:
            message = error.message
        return cls(error.code, message, title_of(error), as_html=as_html)

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
        return cls(INTERNAL_CODE, INTERNAL, _INTERNAL_TITLE, as_html=as_html)


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


Progress = Callable[[float, str], None]
"""Called with the part of the work that is done, in [0, 1], and what comes next."""


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
    private Space, and do not allow the app to act in the visitor's name.
    """
    return given.token if given is not None else None


def searching_as(visitor: gr.OAuthToken | None) -> str | bool:
    """The visitor's token, or False: this machine's own token must not open models to visitors."""
    return token_of(visitor) or False


def cancellable_progress(progress: gr.Progress) -> Progress:
    """Passes on the progress of a request, and ends it once its client is gone.

    A thread cannot be stopped from outside: after a visitor has pressed Stop or closed the page,
    Gradio drops the answer, but a download would go on to its end.

    Args:
        progress: The progress of the request that this thread answers.

    Returns:
        To be called again and again; raises a ``Problem`` to end the request.
    """
    blocks, event_id = LocalContext.blocks.get(None), LocalContext.event_id.get(None)

    def report(part: float, what: str) -> None:
        # What did not come through the queue has no event.
        if blocks is not None and event_id is not None:
            event = blocks._queue.event_ids_to_events.get(event_id)
            if event is None or not event.alive or blocks._queue.stopped:
                raise Problem(CANCELLED, "The client is gone.", "Ended", as_html=False)
        progress(part, desc=what)

    return report


def warn(notes: Iterable[str]) -> None:
    """Shows notes to the sender of the request that this thread answers.

    Python's own warnings would not do: they are shown once, and to whichever visitor comes first.
    """
    for note in notes:
        gr.Warning(html.escape(note))
