"""The app under load, in a separate process, and its memory."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

__all__ = ["Server", "serve"]

_ROOT = Path(__file__).resolve().parent.parent.parent
_OPTIONS = ("--no-browser", "--device", "cpu")


class Server:
    """A running app.

    Attributes:
        url: Its URL.
        memory: Seconds since its start, and the MiB in use at that time.
        code: Its exit code, once it has ended.
        ending: Seconds that it took to end.
    """

    def __init__(self, process: subprocess.Popen[bytes], url: str, log: Path) -> None:
        self.url = url
        self.memory: list[tuple[float, float]] = []
        self.code: int | None = None
        self.ending = 0.0
        self._process = process
        self._log = log
        self._begin = time.monotonic()
        self._done = threading.Event()
        self._watch = threading.Thread(target=self._measure, daemon=True)
        self._watch.start()

    @property
    def tracebacks(self) -> int:
        """Number of tracebacks written so far."""
        return self._log.read_text("utf-8", "replace").count("Traceback (most recent call last)")

    def end(self) -> None:
        """Ends the app as a Space does."""
        self._done.set()
        self._watch.join()
        begin = time.monotonic()
        self._process.send_signal(signal.SIGTERM)
        try:
            self.code = self._process.wait(60)
        except subprocess.TimeoutExpired:
            self._process.kill()
        self.ending = time.monotonic() - begin

    def _measure(self) -> None:
        status = Path(f"/proc/{self._process.pid}/status")
        while True:
            try:
                found = re.search(r"VmRSS:\s+(\d+)", status.read_text("ascii"))
            except OSError:
                return
            if found:
                self.memory.append((time.monotonic() - self._begin, int(found[1]) / 1024))
            if self._done.wait(1.0):
                return


@contextmanager
def serve(folder: Path) -> Iterator[Server]:
    """Starts the app, and ends it after the block.

    Raises:
        RuntimeError: If it does not start.
    """
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    log = folder / "server.log"
    with log.open("wb") as sink:
        process = subprocess.Popen(
            [sys.executable, str(_ROOT / "app.py"), *_OPTIONS, "--port", str(port)],
            stdout=sink,
            stderr=subprocess.STDOUT,
            cwd=folder,
            env={**os.environ, "GRADIO_TEMP_DIR": str(folder / "files"), "HF_HUB_OFFLINE": "1"},
        )
    deadline = time.monotonic() + 180
    while "cam_hub on" not in log.read_text("utf-8", "replace"):
        if process.poll() is not None or time.monotonic() > deadline:
            process.kill()
            raise RuntimeError(f"the app did not start:\n{log.read_text('utf-8', 'replace')}")
        time.sleep(0.2)
    server = Server(process, f"http://127.0.0.1:{port}/gradio_api", log)
    try:
        yield server
    finally:
        server.end()
