"""A loopback server of photos that misbehaves on request."""

from __future__ import annotations

import socket
import ssl
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


@dataclass
class PhotoServer:
    """The content of the server, and its requests.

    Attributes:
        address: ``http://127.0.0.2:port``.
        photo: The bytes of the good photo.
        asked: Paths, in the order of the requests.
        headers: The headers of the last request.
        elsewhere: The target of the redirect of ``/to``.
    """

    address: str = ""
    photo: bytes = b""
    asked: list[str] = field(default_factory=list)
    headers: dict[str, str] = field(default_factory=dict)
    elsewhere: str = ""

    @property
    def port(self) -> int:
        return int(self.address.rpartition(":")[2])


@contextmanager
def serve_photos(
    photo: bytes, host: str = "127.0.0.2", tls: ssl.SSLContext | None = None
) -> Iterator[PhotoServer]:
    """Serves until the end of the block."""
    state = PhotoServer(photo=photo)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            state.asked.append(self.path)
            state.headers = dict(self.headers)
            with suppress(OSError):  # the client has disconnected
                answer(self, state)

        def log_message(self, format: str, *args: object) -> None:
            pass

    class Server(ThreadingHTTPServer):
        daemon_threads = True
        address_family = socket.AF_INET6 if ":" in host else socket.AF_INET

    server = Server((host, 0), Handler)
    if tls is not None:
        server.socket = tls.wrap_socket(server.socket, server_side=True)
    shown = f"[{host}]" if ":" in host else host
    state.address = f"http://{shown}:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield state
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def answer(handler: BaseHTTPRequestHandler, state: PhotoServer) -> None:
    """The response to one request."""
    path = handler.path.partition("?")[0]
    if path == "/to":
        handler.send_response(302)
        handler.send_header("Location", state.elsewhere)
        handler.send_header("Content-Length", "0")
        handler.end_headers()
    elif path == "/around":
        handler.send_response(307)
        handler.send_header("Location", "/around")
        handler.send_header("Content-Length", "0")
        handler.end_headers()
    elif path == "/nowhere":
        handler.send_error(404)
    elif path == "/endless":
        handler.send_response(200)
        handler.end_headers()
        for _ in range(1000):
            handler.wfile.write(b"\xff\xd8" * 5000)
    elif path == "/drip":
        handler.send_response(200)
        handler.send_header("Content-Length", str(len(state.photo)))
        handler.end_headers()
        for number in range(200):
            handler.wfile.write(state.photo[number : number + 1])
            time.sleep(0.05)
    elif path == "/drip-headers":
        handler.wfile.write(b"HTTP/1.1 200 OK\r\n")
        for number in range(200):
            handler.wfile.write(f"X-{number}: 1\r\n".encode())
            time.sleep(0.05)
    elif path == "/silent":
        time.sleep(5)
    elif path == "/cut":
        handler.send_response(200)
        handler.send_header("Content-Length", "1000000")
        handler.end_headers()
        handler.wfile.write(state.photo[:100])
        handler.close_connection = True
    else:
        body = b"<html>no photo</html>" if path == "/page.jpg" else state.photo
        handler.send_response(200)
        handler.send_header("Content-Type", "text/html")  # which is wrong
        handler.send_header("Content-Length", str(len(body)))
        handler.end_headers()
        handler.wfile.write(body)
