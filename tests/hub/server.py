"""Runs the hub of the tests on loopback."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlsplit

from tests.hub import files, uploads
from tests.hub.state import Call, FakeHub, Reply, Route

ROUTES: Sequence[Route] = (files.answer, uploads.answer)
"""Asked in turn; the first that knows an answer gives it."""


def _reply(hub: FakeHub, call: Call) -> Reply:
    if hub.broken:
        return Reply(500, body=b"out of order")
    for route in ROUTES:
        if (reply := route(hub, call)) is not None:
            return reply
    return Reply(404, body=b"no such endpoint")


def _handler(hub: FakeHub) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def answer(self) -> None:
            target = urlsplit(self.path)
            length = int(self.headers.get("Content-Length") or 0)
            host, port = self.server.server_address[:2]
            call = Call(
                self.command,
                target.path,
                parse_qs(target.query, keep_blank_values=True),
                self.headers,
                self.rfile.read(length),
                f"http://{host!s}:{port}",
            )
            hub.requests.append((self.command, self.path))
            hub.calls.append(call)
            reply = _reply(hub, call)
            self.send_response(reply.status)
            for key, value in {"Content-Length": str(len(reply.body)), **reply.headers}.items():
                self.send_header(key, value)
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(reply.body)

        do_GET = do_HEAD = do_POST = do_PUT = do_DELETE = answer  # noqa: N815

        def log_message(self, *_: object) -> None:
            pass

    return Handler


@contextmanager
def serve(hub: FakeHub, port: int = 0) -> Iterator[str]:
    """Runs the server in a thread; gives its address."""
    server = ThreadingHTTPServer(("127.0.0.1", port), _handler(hub))
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
