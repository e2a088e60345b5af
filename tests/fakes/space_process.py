"""The real app in a separate process, with all of its output in one file."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import httpx

ROOT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class RunningApp:
    """A running app.

    Attributes:
        port: Its port on 127.0.0.1.
        process: Its process.
        output: The file with its standard output and standard error.
    """

    port: int
    process: subprocess.Popen[bytes]
    output: Path

    @property
    def url(self) -> str:
        """Its URL, without a slash at the end."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def api(self) -> str:
        """The URL below which Gradio's routes are."""
        return f"{self.url}/gradio_api"

    def log(self) -> str:
        """Everything that it has written."""
        return self.output.read_text("utf-8", errors="replace")

    def grown(self, before: int) -> str:
        """The output after the first characters of the log, once no more is written."""
        size = -1
        while size != len(self.log()):
            size = len(self.log())
            time.sleep(0.1)
        return self.log()[before:]


def free_port() -> int:
    """A free port."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@contextmanager
def run_app(folder: Path, *options: str, **variables: str) -> Iterator[RunningApp]:
    """Starts ``app.py`` in a folder, and ends it."""
    port, output = free_port(), folder / "app.log"
    environment = {
        **os.environ,
        "GRADIO_TEMP_DIR": str(folder / "files"),
        "PYTHONUNBUFFERED": "1",
        **variables,
    }
    command = [sys.executable, str(ROOT / "app.py"), "--port", str(port)]
    with output.open("wb") as file:
        process = subprocess.Popen(
            [*command, "--device", "cpu", "--no-browser", *options],
            stdout=file,
            stderr=subprocess.STDOUT,
            cwd=folder,
            env=environment,
        )
    app = RunningApp(port, process, output)
    try:
        end = time.monotonic() + 120
        while "cam_hub on" not in app.log():
            assert process.poll() is None, app.log()
            assert time.monotonic() < end, app.log()
            time.sleep(0.1)
        with suppress(httpx.HTTPError):  # the app computes its initial result
            httpx.get(app.url, timeout=60, trust_env=False)
        yield app
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
