"""What the Hub says no to, in words, as errors of ours; ``faults`` has words for the rest."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import httpx2
import huggingface_hub.errors as hub
from huggingface_hub.utils import hf_raise_for_status

from cam_hub.errors import CamHubError, ModelNotFound, ModelRefused
from cam_hub.models.faults import Sender, plain_faults

__all__ = ["HUB", "RepoRequest", "plain_errors"]

HUB = Sender(
    name="the Hub",
    folder="the Hub's cache",
    setting="HF_HOME",
    room="(`hf cache ls`)",
    lost="Is HF_ENDPOINT right?",
    crowd="With a token more are allowed.",
)
"""The Hub, and its cache on this machine."""


@dataclass(frozen=True)
class RepoRequest:
    """What is asked of the Hub, as far as messages speak of it.

    Attributes:
        id: The model's ID, as it was given.
        repo: ``owner/name``.
        revision: Branch, tag or commit, if one was named.
        signed: Whether a token goes along.
    """

    id: str
    repo: str
    revision: str | None
    signed: bool


@contextmanager
def plain_errors(wanted: RepoRequest) -> Iterator[None]:
    """Turns what huggingface_hub, its HTTP client and the disk raise into errors of ours.

    Raises:
        ModelNotFound: If there is no such repo or revision, or not for this caller.
        ModelRefused: If the caller may not have it.
        HubUnavailable: If the Hub, the network or the disk fails.
    """
    with plain_faults(wanted.id, HUB):
        try:
            try:
                yield
            except httpx2.HTTPStatusError as error:
                # It knows the Hub's own headers. The body stays unread, since it may be endless.
                hf_raise_for_status(error.response)
                raise
        except hub.HfHubHTTPError as error:
            if (refusal := _refusal(wanted, error)) is not None:
                raise refusal from error
            raise


def _refusal(wanted: RepoRequest, error: hub.HfHubHTTPError) -> CamHubError | None:
    """The error for an answer that says no; None for a Hub that fails."""
    id, status = wanted.id, error.response.status_code
    if isinstance(error, hub.GatedRepoError):
        return ModelRefused(id, _gated(wanted.signed))
    if isinstance(error, hub.DisabledRepoError):
        return ModelRefused(id, "the Hub has taken it out of service.")
    if isinstance(error, hub.RevisionNotFoundError):
        return ModelNotFound(id, [wanted.repo], f"The repo has no revision {wanted.revision!r}.")
    if isinstance(error, hub.EntryNotFoundError):
        return ModelRefused(id, "a file that it is said to have is not there.")
    if isinstance(error, hub.RepositoryNotFoundError) or (status == 401 and not wanted.signed):
        return ModelNotFound(id, hint=_hidden(wanted.signed))
    if status == 401:
        return ModelRefused(
            id,
            "the Hub does not accept the token that was sent: it is wrong, expired or revoked. "
            "Make a new one in the Hub's settings; public models need none (token=False).",
        )
    if status == 403:
        return ModelRefused(
            id,
            "the token that was sent may not read it. Let the token read this repo, in the Hub's "
            "settings, or use one that may."
            if wanted.signed
            else "the Hub forbids to read it without a token.",
        )
    return None


def _gated(signed: bool) -> str:
    if signed:
        return (
            "it is gated, and the account of this token has not been let in: accept its terms on "
            "its page on the Hub (some authors answer by hand), and let the token read gated repos."
        )
    return (
        "it is gated: accept its terms on its page on the Hub, then sign in or give a token of "
        "that account."
    )


def _hidden(signed: bool) -> str:
    if signed:
        return "The Hub has no such repo, or it is private and this token may not read it."
    return (
        "The Hub has no such repo, or it is private: then sign in, or give a token that may read "
        "it (token=…, HF_TOKEN or `hf auth login`)."
    )
