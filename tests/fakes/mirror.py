"""A mirror of torchvision's checkpoints on loopback, with faults that can be switched on."""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from email.message import Message
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


@dataclass
class Mirror:
    """The content of the mirror, and its faults.

    Attributes:
        files: Content by path.
        status: Another status instead of the file.
        headers: Headers that are added, or, if they are empty, omitted.
        delay: Seconds before the response.
        cuts: For each of the next responses, the bytes after which the connection is closed.
        ranges: Whether range requests are supported.
        odd_range: Whether another range is sent than the requested one.
        drip: Bytes that are sent at a time, a tenth of a second apart; None for all at once.
        requests: Path and ``Range`` of every request so far.
        heads: All headers of every request so far.
    """

    files: dict[str, bytes] = field(default_factory=dict)
    status: int | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    delay: float = 0.0
    cuts: list[int] = field(default_factory=list)
    ranges: bool = True
    odd_range: bool = False
    drip: int | None = None
    requests: list[tuple[str, str | None]] = field(default_factory=list)
    heads: list[Message] = field(default_factory=list)


def _handler(mirror: Mirror) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked = self.headers.get("Range")
            mirror.requests.append((self.path, asked))
            mirror.heads.append(self.headers)
            time.sleep(mirror.delay)
            body = mirror.files.get(self.path, b"")
            status = mirror.status or (200 if self.path in mirror.files else 404)
            headers = dict(mirror.headers)
            if status == 200 and asked and mirror.ranges:
                start = int(re.fullmatch(r"bytes=(\d+)-", asked)[1])
                status = 206 if start < len(body) else 416
                begin = start + mirror.odd_range
                headers["Content-Range"] = f"bytes {begin}-{len(body) - 1}/{len(body)}"
                body = body[start:]
            self.send_response(status)
            for name, value in {"Content-Length": str(len(body)), **headers}.items():
                if value:
                    self.send_header(name, value)
            self.end_headers()
            with suppress(ConnectionError):  # clients close connections that they do not need
                if mirror.drip is not None:
                    for start in range(0, len(body), mirror.drip):
                        self.wfile.write(body[start : start + mirror.drip])
                        time.sleep(0.1)
                    return
                self.wfile.write(body[: mirror.cuts.pop(0)] if mirror.cuts else body)
            self.close_connection = True

        def log_message(self, *_: object) -> None:
            pass

    return Handler


@contextmanager
def serve(mirror: Mirror) -> Iterator[str]:
    """Runs it in a thread; yields its URL."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(mirror))
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
