"""Runs the hub of the tests on loopback."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from io import BufferedIOBase
from urllib.parse import parse_qs, urlsplit

from tests.fakes.hub import facts, files, listing, uploads
from tests.fakes.hub.state import Call, FakeHub, Reply, Route

ROUTES: Sequence[Route] = (facts.answer, files.answer, listing.answer, uploads.answer)
"""The handlers, in order; the first that returns a response is used."""

_TICK = 0.05
"""Seconds between two pieces of a body that is sent slowly."""

Answer = Callable[[FakeHub, Call, str], Reply]
"""Handles a request, whose path with its query is the last argument."""


def _reply(hub: FakeHub, call: Call) -> Reply:
    if hub.broken:
        return Reply(500, body=b"out of order")
    answers = (reply for route in ROUTES if (reply := route(hub, call)) is not None)
    reply = next(answers, Reply(404, body=b"no such endpoint"))
    for fault in hub.faults:
        reply = fault(call, reply)
    return reply


def _record_and_reply(hub: FakeHub, call: Call, path: str) -> Reply:
    hub.requests.append((call.method, path))
    hub.calls.append(call)
    return _reply(hub, call)


def _handler(hub: FakeHub, answer_with: Answer) -> type[BaseHTTPRequestHandler]:
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
            reply = answer_with(hub, call, self.path)
            time.sleep(reply.delay)
            self.send_response(reply.status)
            for key, value in {"Content-Length": str(len(reply.body)), **reply.headers}.items():
                self.send_header(key, value)
            self.end_headers()
            if self.command != "HEAD":
                _write(self.wfile, reply)

        do_GET = do_HEAD = do_POST = do_PUT = do_DELETE = answer  # noqa: N815

        def log_message(self, *_: object) -> None:
            pass

    return Handler


def _write(out: BufferedIOBase, reply: Reply) -> None:
    body = reply.body[: reply.cut]
    if reply.pace is None:
        out.write(body)
        return
    step = max(1, int(reply.pace * _TICK))
    for start in range(0, len(body), step):
        out.write(body[start : start + step])
        time.sleep(_TICK)


class _Server(ThreadingHTTPServer):
    def handle_error(self, *_: object) -> None:
        """Ignores errors, since clients are meant to close connections."""


@contextmanager
def serve(hub: FakeHub, port: int = 0, answer_with: Answer = _record_and_reply) -> Iterator[str]:
    """Runs the server in a thread; yields its URL."""
    server = _Server(("127.0.0.1", port), _handler(hub, answer_with))
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
