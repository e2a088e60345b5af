"""Errors of file transfers, in words: network, server, disk.

None of the messages repeats that of a library: it may hold addresses with signatures, local
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
from huggingface_hub.errors import HfHubHTTPError, OfflineModeIsEnabled
from huggingface_hub.utils import parse_ratelimit_headers

from cam_hub.errors import CamHubError, HubUnavailable

__all__ = ["FileServer", "TooSlow", "network_error", "retry_after", "translated_errors"]

_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_PROXY = (
    "the proxy that the environment names cannot be used: its URL is malformed, or it is a SOCKS "
    "proxy and the package socksio is missing. Correct or unset HTTP_PROXY, HTTPS_PROXY, ALL_PROXY."
)
_FORBIDDEN = {errno.EACCES, errno.EPERM, errno.EROFS}


class TooSlow(httpx2.ReadTimeout):
    """A server keeps sending, but too little to ever finish."""


@dataclass(frozen=True)
class FileServer:
    """The server of files and the place where they are stored, as messages name them.

    Attributes:
        name: What to call it.
        folder: What to call the place of its files.
        setting: The environment variable that has that place elsewhere.
        space_hint: How to make room there, in brackets; empty if no tool does it.
        unreachable_hint: What to look at when it cannot be reached, in full sentences.
        advice: How to do without it, in full sentences; may be empty.
        rate_limit_hint: How to be allowed more requests, in a full sentence; may be empty.
    """

    name: str
    folder: str
    setting: str
    space_hint: str = ""
    unreachable_hint: str = ""
    advice: str = ""
    rate_limit_hint: str = ""


@contextmanager
def translated_errors(id: str, server: FileServer) -> Iterator[None]:
    """Translates errors of the HTTP client and the disk into ours.

    Args:
        id: The model's ID.
        server: The server of the files.

    Raises:
        HubUnavailable: If the network, the server or the disk fails.
    """
    try:
        yield
    except CamHubError:  # of which some are OSErrors
        raise
    except OfflineModeIsEnabled as error:
        reason = "offline mode is on. Unset HF_HUB_OFFLINE to fetch it."
        raise HubUnavailable(id, _sentences(reason, server.advice)) from error
    except (httpx2.HTTPStatusError, HfHubHTTPError) as error:
        raise HubUnavailable(id, _status_error(error.response, server)) from error
    except (httpx2.HTTPError, httpx2.InvalidURL) as error:
        raise HubUnavailable(id, network_error(error, server)) from error
    except OSError as error:
        raise HubUnavailable(id, _disk_error(error, server)) from error
    except (ImportError, ValueError) as error:  # what the client makes of a proxy's URL
        if "proxy" not in str(error).lower():
            raise
        raise HubUnavailable(id, _PROXY) from error


def retry_after(response: httpx2.Response) -> int | None:
    """Seconds to wait before the next request, if the server states them."""
    limit = parse_ratelimit_headers(response.headers)
    if limit is not None and limit.remaining == 0:
        return limit.reset_in_seconds
    text = response.headers.get("Retry-After", "").strip()
    return int(text) if text.isdecimal() and len(text) < 7 else None


def network_error(error: Exception, server: FileServer) -> str:
    """The reason for a request without a response, or a response that does not end."""
    name, causes = server.name, list(_causes(error))
    if isinstance(error, TooSlow):
        return _sentences(f"{name} sends next to nothing. Try again later.", server.advice)
    if isinstance(error, httpx2.TimeoutException):
        reason = f"{name} cannot be reached: no answer in time. Try again later."
        return _sentences(reason, server.advice)
    if isinstance(error, httpx2.TooManyRedirects):
        return _sentences(f"{name} redirects in circles.", server.unreachable_hint)
    if isinstance(error, httpx2.ProxyError):
        return f"{name} cannot be reached: the proxy does not let the request through."
    if any(isinstance(cause, socket.gaierror) for cause in causes):
        return _unreachable(": its host name is not known (DNS)", server)
    if any(isinstance(cause, ssl.SSLError) for cause in causes):
        reason = f"{name} cannot be reached safely: its certificate is not accepted."
        return _sentences(reason, server.advice)
    if any(isinstance(cause, ConnectionRefusedError) for cause in causes):
        return _unreachable(": the connection was refused", server)
    if isinstance(error, httpx2.ConnectError):
        return _unreachable("", server)
    if isinstance(error, httpx2.TransportError):
        return "the connection broke off. Try again."
    return f"{name} answered with something that is not its protocol."


def _unreachable(why: str, server: FileServer) -> str:
    return _sentences(
        f"{server.name} cannot be reached{why}. Is there a network?", server.unreachable_hint
    )


def _status_error(response: httpx2.Response, server: FileServer) -> str:
    """The reason for a response with an error status."""
    name, status = server.name, response.status_code
    try:
        shown = f"error {status} ({HTTPStatus(status).phrase})"
    except ValueError:
        shown = f"error {status}"
    if status == HTTPStatus.TOO_MANY_REQUESTS:
        seconds = retry_after(response)
        when = f"in {seconds} seconds" if seconds is not None else "in a few minutes"
        reason = f"{name} has had too many requests from here (error 429). Try again {when}."
        return _sentences(reason, server.rate_limit_hint)
    if status in (HTTPStatus.NOT_FOUND, HTTPStatus.GONE):
        return _sentences(f"{name} does not have the file: {shown}.", server.advice)
    if status in (HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN):
        return _sentences(f"{name} does not hand out the file: {shown}.", server.advice)
    if status >= 500:
        return _sentences(f"{name} is in trouble: {shown}. Try again later.", server.advice)
    return _sentences(f"{name} answered with {shown}.", server.advice)


def _disk_error(error: OSError, server: FileServer) -> str:
    """The reason where the disk is full or not writable."""
    if error.errno in _FULL:
        hint = f" {server.space_hint}" if server.space_hint else ""
        return (
            "the disk is full, or a limit on file sizes is reached. Make room in "
            f"{server.folder}{hint}, or have it elsewhere ({server.setting})."
        )
    if error.errno in _FORBIDDEN:
        return (
            f"{server.folder} cannot be written. Have it in a folder of your own "
            f"({server.setting})."
        )
    return f"the disk of {server.folder} failed ({error.strerror or type(error).__name__})."


def _sentences(*parts: str) -> str:
    return " ".join(filter(None, parts))


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        yield error
        error = error.__cause__ or error.__context__
