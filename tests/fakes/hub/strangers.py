"""Servers that are no hub: they say one thing to everybody, or nothing."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress


@contextmanager
def stranger(port: int, says: bytes | None) -> Iterator[list[bytes]]:
    """Listens on a port of loopback.

    Args:
        port: Where.
        says: The body of every answer; None for a server that takes requests and stays silent.

    Yields:
        The first bytes of every request so far.
    """
    heard: list[bytes] = []
    open_ones: list[socket.socket] = []
    listener = socket.create_server(("127.0.0.1", port))

    def listen() -> None:
        with suppress(OSError):  # it was closed
            while True:
                visitor, _ = listener.accept()
                open_ones.append(visitor)
                heard.append(visitor.recv(1000))
                if says is not None:
                    head = f"HTTP/1.1 200 OK\r\nContent-Length: {len(says)}\r\n\r\n"
                    visitor.sendall(head.encode() + says)
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
