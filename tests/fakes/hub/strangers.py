"""Servers that are not a hub: they give the same response to every request, or none."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress


@contextmanager
def stranger(port: int, body: bytes | None) -> Iterator[list[bytes]]:
    """Runs a server on a port of loopback.

    Args:
        port: The port.
        body: The body of every response; None for a server that accepts requests and does not
            respond.

    Yields:
        The first bytes of every request so far.
    """
    heard: list[bytes] = []
    open_ones: list[socket.socket] = []
    listener = socket.create_server(("127.0.0.1", port))

    def listen() -> None:
        with suppress(OSError):  # the socket was closed
            while True:
                visitor, _ = listener.accept()
                open_ones.append(visitor)
                heard.append(visitor.recv(1000))
                if body is not None:
                    head = f"HTTP/1.1 200 OK\r\nContent-Length: {len(body)}\r\n\r\n"
                    visitor.sendall(head.encode() + body)
                    visitor.close()

    thread = threading.Thread(target=listen, daemon=True)
    thread.start()
    try:
        yield heard
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        for visitor in open_ones:
            visitor.close()
        thread.join()
