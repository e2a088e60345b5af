"""The guard in front of every request: known hosts, open routes, bounded bodies, errors.

A browser sends requests to this machine on behalf of any site that a visitor has open. Two checks
keep such sites out. The ``Host`` header must name this app: a site that has its own name point to
this machine (DNS rebinding) is refused. The ``Origin`` header, where there is one, must be the page
itself. Programs send no ``Origin``, so nothing changes for them.
"""

from __future__ import annotations

import asyncio
import errno
import json
import logging
import re
import socket
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import Any

from fastapi.exceptions import RequestValidationError
from gradio.route_utils import FnIndexInferError
from starlette._utils import get_route_path
from starlette.datastructures import Headers, MutableHeaders, QueryParams
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from cam_hub.errors import DiskUnavailable, InvalidArgument, TooMuch
from space.config.options import HOST
from space.config.settings import Settings
from space.service.errors import INTERNAL, INTERNAL_CODE, INTERNAL_TITLES
from space.service.request_log import error_chain, printable

__all__ = [
    "BUSY",
    "FORBIDDEN",
    "NOT_FOUND",
    "Authority",
    "KnownHosts",
    "RequestGuard",
    "describe",
    "handlers",
    "read_authority",
    "read_origin",
]


_DEFAULT_PORTS = ("80", "443")


@dataclass(frozen=True)
class Authority:
    """A host and perhaps a port.

    Attributes:
        host: In lower case, without brackets and without a dot at the end.
        port: Its digits; empty if there is none, or a default one.
    """

    host: str
    port: str = ""

    @property
    def is_loopback(self) -> bool:
        """Whether it is this machine's own loopback address, or its usual name."""
        return self.host == "localhost" or (self._ip is not None and self._ip.is_loopback)

    @property
    def is_address(self) -> bool:
        """Whether it is an IP address rather than a name."""
        return self._ip is not None

    @property
    def _ip(self) -> IPv4Address | IPv6Address | None:
        try:
            found = ip_address(self.host)
        except ValueError:
            return None
        return getattr(found, "ipv4_mapped", None) or found


def read_authority(text: str) -> Authority | None:
    """Parses the value of a ``Host`` header; None if it is malformed."""
    text = text.strip()
    if not HOST.match(text):
        return None
    host, port = text, ""
    if text.startswith("["):
        host, _, port = text[1:].partition("]")
        port = port.removeprefix(":")
        try:
            IPv6Address(host)
        except ValueError:
            return None
    elif ":" in text:
        host, _, port = text.partition(":")
    host = host.lower().rstrip(".")
    return Authority(host, "" if port in _DEFAULT_PORTS else port) if host else None


class KnownHosts:
    """The hosts under which the app is reached, and the origins that may send it requests.

    Loopback is always known. An app bound to all addresses of its machine is reached by any
    IP address and by the machine's name: an address cannot be rebound, since no lookup is involved.

    Args:
        names: Names and addresses by which the app is reached.
        trusted: Further ones, from whose pages requests are accepted as well. One with a port
            stands for that port only.
        any_address: Whether the app is reached by any IP address.
    """

    def __init__(
        self, names: Iterable[str] = (), trusted: Iterable[str] = (), *, any_address: bool = False
    ) -> None:
        self._trusted = {found for name in trusted if (found := read_authority(name)) is not None}
        self._names = {found.host for name in names if (found := read_authority(name)) is not None}
        self._any_address = any_address

    @classmethod
    def of(cls, settings: Settings) -> KnownHosts:
        """The known hosts of an app."""
        host = settings.host.strip("[]")
        trusted = list(settings.allowed_hosts)
        if settings.space_id:
            trusted.append(settings.space_host or _space_host(settings.space_id))
        if host in ("0.0.0.0", "::"):  # noqa: S104 (a comparison)
            machine = socket.gethostname()
            names = [machine, f"{machine.partition('.')[0]}.local"]
            return cls(names, trusted, any_address=True)
        return cls([f"[{host}]" if ":" in host else host], trusted)

    def serves(self, host: Authority) -> bool:
        """Whether the app may be reached under this host."""
        if host.is_loopback or host.host in self._names or self.trusts(host):
            return True
        return self._any_address and host.is_address

    def trusts(self, origin: Authority) -> bool:
        """Whether pages of this origin may send requests."""
        return bool({origin, Authority(origin.host)} & self._trusted)

    def refusal(self, headers: Headers) -> str:
        """The reason why a request is refused for the host that it names; empty if it is not."""
        if len(headers.getlist("host")) > 1:
            return "The request names more than one host."
        for text in _named_hosts(headers):
            host = read_authority(text)
            if host is None:
                return "The Host header is malformed."
            if not self.serves(host):
                return (
                    f"This app does not answer under the host {host.host!r}. If it is yours, start "
                    f"it with --allowed-hosts {host.host} (or CAM_HUB_ALLOWED_HOSTS)."
                )
        return ""

    def is_foreign(self, headers: Headers, method: str, path: str) -> bool:
        """Whether a request comes from the page of another site.

        Args:
            headers: The request's headers; ``refusal`` has found nothing wrong with them.
            method: The request's method.
            path: Its path, after the prefix of the API.
        """
        if origins := headers.getlist("origin"):
            return not all(self._is_own(read_origin(origin), headers) for origin in origins)
        site = headers.get("sec-fetch-site", "none").strip().lower()
        if site in ("none", "same-origin"):
            return False
        if method not in ("GET", "HEAD"):
            return True
        # A link to the page and a frame with the page are navigations. Pictures may be shown.
        navigates = headers.get("sec-fetch-mode", "navigate").strip().lower() == "navigate"
        return not navigates and not path.startswith("/file=")

    def _is_own(self, origin: Authority | None, headers: Headers) -> bool:
        if origin is None:
            return False
        return self.trusts(origin) or origin in map(read_authority, _named_hosts(headers))


def _named_hosts(headers: Headers) -> list[str]:
    """The host that a request names, and the one that a proxy passes on."""
    forwarded = [text.split(",")[0] for text in headers.getlist("x-forwarded-host")]
    return headers.getlist("host") + forwarded


def read_origin(text: str) -> Authority | None:
    """Parses the value of an ``Origin`` header; None for ``null`` and for other schemes."""
    scheme, found, rest = text.strip().partition("://")
    if not found or scheme.lower() not in ("http", "https"):
        return None
    return read_authority(rest)


def _space_host(space_id: str) -> str:
    """The host of a Space by its ID, as the Hub forms it."""
    return re.sub(r"[^a-z0-9]+", "-", space_id.lower()).strip("-") + ".hf.space"


_NAMED = re.compile(r"/gradio_api/call/v2/([^/]*)/?\Z")
"""The route that takes values by their names."""

_MISREAD: tuple[type[Exception], ...] = (ArithmeticError, AssertionError, AttributeError)
_MISREAD += (LookupError, RecursionError, TypeError, ValueError)
_NO_FILE = (errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.ENAMETOOLONG, errno.ELOOP)

BUSY = "busy"
FORBIDDEN = "forbidden"
NOT_FOUND = "not_found"
_CODES = {401: FORBIDDEN, 403: FORBIDDEN, 404: NOT_FOUND, 405: NOT_FOUND, 413: TooMuch.code}
_CODES |= dict.fromkeys((400, 408, 411, 415, 416, 422), InvalidArgument.code)
_CODES |= {429: BUSY, 503: BUSY}

Handler = Callable[[Request, Any], Awaitable[JSONResponse]]


def handlers() -> dict[Any, Handler]:
    """By kind of error, for the app that Gradio makes."""
    return {
        RequestValidationError: _malformed,
        HTTPException: _refused,
        FnIndexInferError: _no_endpoint,
        KeyError: _no_endpoint,
        TypeError: _wrong_values,
    }


def describe(status: int, detail: object) -> tuple[str, str]:
    """The code and the words for a refusal.

    Args:
        status: Of HTTP.
        detail: What was raised along with it.
    """
    words = str(detail) if isinstance(detail, str) else "The request was refused."
    return _CODES.get(status, INTERNAL_CODE), words


def status_of(error: Exception) -> tuple[int, str, str]:
    """The status, the code and the words for an error that a route raised.

    Gradio's routes check little of what they are sent: a value of the wrong kind fails in the
    middle of them, with one of Python's own errors.
    """
    if (disk := DiskUnavailable.of(error)) is not None:
        return 507, disk.code, disk.message
    if isinstance(error, _MISREAD):
        return 400, InvalidArgument.code, "The request cannot be read."
    if isinstance(error, OSError) and error.errno in _NO_FILE:
        return 404, NOT_FOUND, "There is no such file."
    return 500, INTERNAL_CODE, INTERNAL


async def _malformed(request: Request, error: RequestValidationError) -> JSONResponse:
    """A body that is not JSON of the kind that the route takes."""
    del request
    problems = [f"{'.'.join(map(str, each['loc']))}: {each['msg']}" for each in error.errors()[:3]]
    return _answer(
        422, InvalidArgument.code, f"The request cannot be read. {'; '.join(problems)}.", []
    )


async def _refused(request: Request, error: HTTPException) -> JSONResponse:
    """What Gradio refuses; its clients read ``detail``."""
    del request
    code, words = describe(error.status_code, error.detail)
    return _answer(error.status_code, code, words, error.detail, error.headers)


async def _no_endpoint(request: Request, error: Exception) -> JSONResponse:
    if "/gradio_api/" not in request.url.path:
        raise error
    return _answer(404, NOT_FOUND, "There is no such endpoint.")


async def _wrong_values(request: Request, error: Exception) -> JSONResponse:
    """Values that are missing, or that the endpoint does not have: Gradio names them."""
    if not _NAMED.search(request.url.path):
        raise error
    said = str(error).partition(". ")[0].replace("key-word argument", "value of this endpoint")
    return _answer(422, InvalidArgument.code, f"{said}.")


def _answer(
    status: int, code: str, words: str, detail: Any = None, headers: Any = None
) -> JSONResponse:
    body = {"error": f"{words} [{code}]", "title": code, "detail": words}
    if detail is not None:
        body["detail"] = detail
    return JSONResponse(body, status, headers)


_LOG = logging.getLogger(__name__)

_PAGES = {"", "/", "/config", "/favicon.ico", "/theme.css", "/robots.txt", "/manifest.json"}
_PAGES |= {"/logout", "/login/huggingface", "/login/callback"}
_FILES = ("/static/", "/assets/", "/svelte/")
_API = {"/info", "/openapi.json", "/startup-events", "/theme.css", "/app_id", "/heartbeat"}
_API |= {"/queue/join", "/queue/data", "/queue/status", "/cancel", "/reset"}
_API |= {"/upload", "/upload_progress", "/mcp"}
_API_BELOW = ("/call/", "/run/", "/api/", "/heartbeat/", "/file=", "/file/", "/mcp/")
_DIRECT = ("/run/", "/api/")
"""Calls that are answered at once, without the queue."""

_RANGE = re.compile(r"\s*bytes\s*=\s*(?:\d{1,18}-(?:\d{1,18})?|-\d{1,18})\s*\Z", re.ASCII)
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")
_NOT_SERVED = "This address is not served here."
_FOREIGN = (
    "This request comes from the page of another site. If that site is yours, start the app with "
    "--allowed-hosts and its host (or CAM_HUB_ALLOWED_HOSTS)."
)
_GONE = "There is no such session or event; it has ended, or it never was."
_UNREADABLE = "The request cannot be read; the API page of the app shows what works."


class RequestGuard:
    """ASGI middleware around the app, outside of Gradio's own.

    Args:
        app: What is behind.
        hosts: Under which hosts the app answers.
        has_session: Whether the queue has answers for a session.
        has_event: Whether the queue has, or will have, an answer to an event.
        max_body: Maximum bytes of requests other than uploads, which have their own limit.
        max_message: Maximum bytes of an agent's request, which may contain a photo.
        max_upload: Maximum bytes of an upload, all its files together.
        idle_seconds: How long the next piece of a body is waited for.
        body_seconds: How long a body may take as a whole.
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        hosts: KnownHosts,
        has_session: Callable[[str], bool],
        has_event: Callable[[str], bool],
        max_body: int,
        max_message: int,
        max_upload: int,
        idle_seconds: float = 30.0,
        body_seconds: float = 900.0,
    ) -> None:
        self._app = app
        self._hosts = hosts
        self._has_session, self._has_event = has_session, has_event
        self._max_body = max_body
        self._max_message = max_message
        self._max_upload = max_upload
        self._idle_seconds = idle_seconds
        self._body_seconds = body_seconds

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Passes a request on, or refuses it."""
        if scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1008})
            return
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        answer = _Answer(send)
        try:
            await self._guarded(scope, receive, answer)
        except HTTPException as error:
            await answer.refuse(error.status_code, *describe(error.status_code, error.detail))
        except ClientDisconnect:  # the client is gone
            return
        except Exception as error:  # noqa: BLE001 (the last place where it can be caught)
            status, code, words = status_of(error)
            if not answer.ended:
                _LOG.warning("a request failed: %s, status %d", error_chain(error), status)
            await answer.refuse(status, code, words)

    async def _guarded(self, scope: Scope, receive: Receive, answer: _Answer) -> None:
        headers = Headers(scope=scope)
        method, path = scope["method"], str(scope["path"])
        if _CONTROL.search(path):
            await answer.refuse(400, InvalidArgument.code, _UNREADABLE)
            return
        in_api, path = _split(get_route_path(scope))
        if reason := self._hosts.refusal(headers):
            _LOG.info("refused: host %s", printable(", ".join(headers.getlist("host"))))
            await answer.refuse(403, FORBIDDEN, reason)
            return
        if self._hosts.is_foreign(headers, method, path if in_api else ""):
            _LOG.info("refused: origin %s", printable(", ".join(headers.getlist("origin")) or "-"))
            await answer.refuse(403, FORBIDDEN, _FOREIGN)
            return
        if not _is_open(path, in_api=in_api):
            await answer.refuse(404, NOT_FOUND, _NOT_SERVED)
            return
        ranges = headers.getlist("range")
        if ranges and (len(ranges) > 1 or not _RANGE.match(ranges[0])):
            await answer.refuse(416, InvalidArgument.code, "One range of bytes at a time.")
            return
        if in_api and method == "GET" and not self._is_expected(path, scope):
            await answer.refuse(404, NOT_FOUND, _GONE)
            return
        if in_api and path.startswith(_DIRECT):
            answer.maps_errors = True
        most = self._most(path, in_api=in_api)
        declared = headers.get("content-length", "0").strip()
        if not (declared.isascii() and declared.isdigit()) or int(declared[:19]) > most:
            await answer.refuse(413, TooMuch.code, _too_long(most))
            return
        answer.origin = headers.get("origin", "")
        if answer.origin and method == "OPTIONS":
            await answer.preflight(headers.get("access-control-request-headers", ""))
            return
        await self._app(_cleaned(scope, headers), self._bounded(receive, most), answer)

    def _most(self, path: str, *, in_api: bool) -> int:
        if in_api and path.startswith("/upload"):
            return self._max_upload
        return self._max_message if in_api and path.startswith("/mcp") else self._max_body

    def _is_expected(self, path: str, scope: Scope) -> bool:
        """Whether a stream of answers that is asked for exists."""
        if path.rstrip("/") == "/queue/data":
            session = QueryParams(scope["query_string"]).get("session_hash")
            return session is None or self._has_session(session)
        if path.startswith("/call/"):
            return self._has_event(path.rstrip("/").rpartition("/")[2])
        return True

    def _bounded(self, receive: Receive, most: int) -> Receive:
        """The body, as far as it has the declared length and arrives in time."""
        arrived, complete = 0, False
        loop = asyncio.get_running_loop()
        end = loop.time() + self._body_seconds

        async def counted() -> Message:
            nonlocal arrived, complete
            if complete:  # what follows is the end of the connection, whenever that is
                return await receive()
            patience = min(self._idle_seconds, end - loop.time())
            try:
                message = await asyncio.wait_for(receive(), max(0.0, patience))
            except TimeoutError:
                raise HTTPException(408, "The request did not arrive in time.") from None
            arrived += len(message.get("body", b""))
            complete = message["type"] != "http.request" or not message.get("more_body", False)
            if arrived > most:
                raise HTTPException(413, _too_long(most))
            return message

        return counted


class _Answer:
    """Where the answer goes: it can be sent once only, so what was sent is noted.

    Attributes:
        origin: The origin that may read the answer, where the request names one.
        maps_errors: Whether an error 500 whose body names the caller's mistake gets its status.
        ended: Whether the last piece was sent.
    """

    def __init__(self, send: Send) -> None:
        self._send = send
        self._started = False
        self._held: Message | None = None
        self._is_stream = False
        self.origin = ""
        self.maps_errors = False
        self.ended = False

    async def __call__(self, message: Message) -> None:
        """Passes a message of the app on."""
        if message["type"] == "http.response.start":
            if self.maps_errors and message["status"] == 500:
                self._held = message
                return
            await self._start(message)
            return
        if self._held is not None:
            held, self._held = self._held, None
            held["status"] = _status_of_body(message.get("body", b""))
            await self._start(held)
        self.ended = message["type"] == "http.response.body" and not message.get("more_body", False)
        await self._send(message)

    async def _start(self, message: Message) -> None:
        headers = MutableHeaders(scope=message)
        self._is_stream = headers.get("content-type", "").startswith("text/event-stream")
        if self.origin:
            headers["access-control-allow-origin"] = self.origin
            headers["access-control-allow-credentials"] = "true"
            headers.add_vary_header("Origin")
        self._started = True
        await self._send(message)

    async def preflight(self, wanted: str) -> None:
        """Allows a browser to send the request of a trusted site."""
        headers = {
            "access-control-allow-methods": "GET, HEAD, POST, DELETE",
            "access-control-allow-headers": wanted if re.fullmatch(r"[\w\s,-]*", wanted) else "",
            "access-control-max-age": "600",
            "content-length": "0",
        }
        await self._respond(Response(status_code=204, headers=headers))

    async def refuse(self, status: int, code: str, words: str) -> None:
        """Answers with an error; ends a stream that has begun, and leaves a file cut short."""
        if self._started:
            if self._is_stream and not self.ended:
                await self({"type": "http.response.body", "body": b""})
            return
        self._held = None
        # In these two cases the rest of the body is not read.
        headers = {"connection": "close"} if status in (408, 413) else None
        await self._respond(_answer(status, code, words, headers=headers))

    async def _respond(self, response: Response) -> None:
        start = {"status": response.status_code, "headers": response.raw_headers}
        await self({"type": "http.response.start", **start})
        await self({"type": "http.response.body", "body": response.body})


def _cleaned(scope: Scope, headers: Headers) -> Scope:
    """The request without what Gradio would misread.

    Its own CORS rules let every site read answers unless the host is one of three names; the
    origin was checked already. Of two ways to serve a range it takes one that repeats the request's
    headers in the answer and fails at some digits; a space leads it to the other.
    """
    changed: dict[bytes, bytes | None] = {b"origin": None, b"range": None}
    if found := headers.get("range"):
        changed[b"range"] = b"bytes =" + found.partition("=")[2].strip().encode("ascii")
    raw = []
    for name, value in scope["headers"]:
        kept = changed.get(name, value)
        if kept is not None:
            raw.append((name, kept))
    return {**scope, "headers": raw}


def _status_of_body(body: Any) -> int:
    """The status for an error in the words of ``Problem``: the caller's, if we foresaw it."""
    try:
        title = json.loads(bytes(body)).get("title")
    except (ValueError, AttributeError):
        title = None
    return 500 if title in (None, *INTERNAL_TITLES) else 422


def _too_long(most: int) -> str:
    return f"The request is longer than {most:,} bytes; photos are uploaded first."


def _split(path: str) -> tuple[bool, str]:
    """Whether a path belongs to the API, and its part after the API's prefix."""
    head, found, tail = path.partition("/gradio_api")
    return (True, tail) if found else (False, head)


def _is_open(path: str, *, in_api: bool) -> bool:
    if not in_api:
        return path in _PAGES or path.rstrip("/") in _PAGES or path.startswith(_FILES)
    if path.startswith(("/file=", "/file/")):
        return "://" not in path and not path[6:].lower().startswith("http")
    return path.rstrip("/") in _API or path.startswith(_API_BELOW)
