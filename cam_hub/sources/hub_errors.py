"""What can go wrong between here and the Hub, in words, as errors of ours.

None of the messages repeats what a library said: that may hold addresses with signatures, local
paths, or the header with the token.
"""

from __future__ import annotations

import errno
import socket
import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http import HTTPStatus

import httpx2
import huggingface_hub.errors as hub
from huggingface_hub.utils import parse_ratelimit_headers

from cam_hub.errors import CamHubError, HubUnavailable, ModelNotFound, ModelRefused

__all__ = ["Wanted", "plain_errors", "retry_after"]

_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_FORBIDDEN = {errno.EACCES, errno.EPERM, errno.EROFS}


@dataclass(frozen=True)
class Wanted:
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
def plain_errors(wanted: Wanted) -> Iterator[None]:
    """Turns what huggingface_hub, its HTTP client and the disk raise into errors of ours.

    Raises:
        ModelNotFound: If there is no such repo or revision, or not for this caller.
        ModelRefused: If the caller may not have it.
        HubUnavailable: If the Hub, the network or the disk fails.
    """
    try:
        yield
    except CamHubError:
        raise
    except hub.OfflineModeIsEnabled as error:
        raise HubUnavailable(
            wanted.id, "offline mode is on. Unset HF_HUB_OFFLINE to fetch it."
        ) from error
    except hub.HfHubHTTPError as error:
        raise _refusal(wanted, error) from error
    except (httpx2.HTTPError, httpx2.InvalidURL) as error:
        raise HubUnavailable(wanted.id, _network(error)) from error
    except OSError as error:
        raise HubUnavailable(wanted.id, _disk(error)) from error


def retry_after(response: httpx2.Response) -> int | None:
    """Seconds after which the Hub wants to be asked again, if it says so."""
    limit = parse_ratelimit_headers(response.headers)
    if limit is not None and limit.remaining == 0:
        return limit.reset_in_seconds
    text = response.headers.get("Retry-After", "").strip()
    return int(text) if text.isdecimal() and len(text) < 7 else None


def _refusal(wanted: Wanted, error: hub.HfHubHTTPError) -> CamHubError:
    """The error for an answer with a status of 400 or more."""
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
    return HubUnavailable(id, _trouble(error.response))


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


def _trouble(response: httpx2.Response) -> str:
    status = response.status_code
    if status == 429:
        seconds = retry_after(response)
        when = f"in {seconds} seconds" if seconds is not None else "in a few minutes"
        return (
            f"the Hub has had too many requests from here (error 429). Try again {when}; with a "
            "token more are allowed."
        )
    try:
        phrase = f" ({HTTPStatus(status).phrase})"
    except ValueError:
        phrase = ""
    if status >= 500:
        return f"the Hub is in trouble: error {status}{phrase}. Try again later."
    return f"the Hub answered with error {status}{phrase}."


def _network(error: Exception) -> str:
    """What happened on the way there."""
    causes = list(_causes(error))
    if isinstance(error, httpx2.TimeoutException):
        return "the Hub cannot be reached: no answer in time. Try again later."
    if isinstance(error, httpx2.TooManyRedirects):
        return "the Hub redirects in circles. Is HF_ENDPOINT right?"
    if isinstance(error, httpx2.ProxyError):
        return "the Hub cannot be reached: the proxy does not let the request through."
    if any(isinstance(cause, socket.gaierror) for cause in causes):
        return (
            "the Hub cannot be reached: its host name is not known (DNS). Is there a network, and "
            "is HF_ENDPOINT right?"
        )
    if any(isinstance(cause, ssl.SSLError) for cause in causes):
        return "the Hub cannot be reached safely: its certificate is not accepted."
    if any(isinstance(cause, ConnectionRefusedError) for cause in causes):
        return (
            "the Hub cannot be reached: the connection was refused. Is there a network, and is "
            "HF_ENDPOINT right?"
        )
    if isinstance(error, httpx2.ConnectError):
        return "the Hub cannot be reached. Is there a network?"
    if isinstance(error, httpx2.TransportError):
        return "the connection broke off. Try again: a file goes on where it was cut."
    return "the Hub answered with something that is not its protocol."


def _disk(error: OSError) -> str:
    if error.errno in _FULL:
        return (
            "the disk is full, or a limit on file sizes is reached. Make room in the Hub's cache "
            "(`hf cache ls`), or have it elsewhere (HF_HOME)."
        )
    if error.errno in _FORBIDDEN:
        return "the Hub's cache cannot be written. Have it in a folder of your own (HF_HOME)."
    return f"the disk of the Hub's cache failed ({error.strerror or type(error).__name__})."


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        yield error
        error = error.__cause__ or error.__context__
