"""Which of Gradio's own routes stay shut, and how long a request may be.

Gradio has routes that fetch addresses for whoever asks, or start programs on uploaded files. The
app has no use for them.
"""

from __future__ import annotations

import json

from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from cam_hub.errors import TooMuch
from space.failures import FORBIDDEN

__all__ = ["Doors"]

_SHUT = ("/proxy=", "/process_recording", "/run-history", "/vibe-")
_UPLOAD = "/upload"
_MCP = "/mcp"
_REFUSED = "This address is not served here."


class Doors:
    """ASGI middleware in front of the app.

    Args:
        app: What is behind.
        max_body: Most bytes of a request that is no upload; uploads have their own limit.
        max_message: Most bytes of what an agent sends, which may have a photo within.
    """

    def __init__(self, app: ASGIApp, max_body: int, max_message: int) -> None:
        self._app = app
        self._max_body = max_body
        self._max_message = max_message

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Passes a request on, or refuses it."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        path = _behind_prefix(str(scope["path"]))
        if _is_shut(path):
            await _refuse(send, 403, FORBIDDEN, _REFUSED)
            return
        if scope["method"] in ("POST", "PUT") and not path.startswith(_UPLOAD):
            most = self._max_message if path.startswith(_MCP) else self._max_body
            declared = dict(scope["headers"]).get(b"content-length", b"0")
            if not declared.isdigit() or int(declared) > most:
                await _refuse(send, 413, TooMuch.code, _too_long(most))
                return
            receive = _bounded(receive, most)
        await self._app(scope, receive, send)


def _bounded(receive: Receive, most: int) -> Receive:
    """Whoever declares no length, or a wrong one, gets no further than the others."""
    arrived = 0

    async def counted() -> Message:
        nonlocal arrived
        message = await receive()
        arrived += len(message.get("body", b""))
        if arrived > most:
            raise HTTPException(413, _too_long(most))
        return message

    return counted


def _too_long(most: int) -> str:
    return f"The request is longer than {most:,} bytes; photos are uploaded first."


def _behind_prefix(path: str) -> str:
    """The part of a path after Gradio's prefix, whatever the app is mounted under."""
    head, found, tail = path.partition("/gradio_api")
    return tail if found else head


def _is_shut(path: str) -> bool:
    if path.startswith("/file="):
        return "://" in path or path[6:].lower().startswith("http")
    return path.startswith(_SHUT)


async def _refuse(send: Send, status: int, code: str, words: str) -> None:
    body = json.dumps({"error": f"{words} [{code}]", "title": code}).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(body))]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
