"""The command line: ``python app.py``."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

import app
from space.config.options import OPTIONS
from tests.fakes.browser import WORDS, Browser

ROOT = Path(__file__).resolve().parents[2]
COMMAND = [sys.executable, str(ROOT / "app.py")]


def test_help_explains_every_option_with_its_default_and_needs_neither_torch_nor_gradio():
    code = (
        "import sys, app\n"
        "try: app.main(['--help'])\n"
        "except SystemExit as end: code = end.code\n"
        "print('LOADED', code, [m for m in ('torch', 'gradio') if m in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True
    )
    for option in (*(option.flag for option in OPTIONS), "--no-browser"):
        assert option in done.stdout
    text = " ".join(done.stdout.split())
    assert "default: 127.0.0.1" in text
    assert "7860" in text
    assert "cuda:<index>" in text
    assert 'api_name="/explain"' in text
    assert "LOADED 0 []" in done.stdout


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        (["--device", "toaster"], "device='toaster'"),
        (["--device", "cuda:99"], "device='cuda:99'"),
        (["--model", "no-id-at/all/of/it"], "IDs look like"),
        (["--port", "http"], "--port='http' does not work: expected 1 to 65535"),
        (["--max-pixels", "many"], "--max-pixels='many'"),
        (["--owners", "me", "--model", "you/yours"], "owners='me'"),
    ],
)
def test_an_option_that_cannot_work_ends_with_one_line_and_code_2(
    arguments: list[str], part: str, capsys: pytest.CaptureFixture[str]
):
    assert app.main(arguments) == 2
    written = capsys.readouterr().err
    assert part in written
    assert written.count("\n") == 1


def test_a_browser_is_opened_only_in_an_interactive_session(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(sys, "platform", "linux")
    for name in ("SPACE_ID", "SSH_CONNECTION", "DISPLAY", "WAYLAND_DISPLAY"):
        monkeypatch.delenv(name, raising=False)
    assert not app._has_desktop()
    monkeypatch.setenv("DISPLAY", ":0")
    assert app._has_desktop()
    monkeypatch.setenv("SPACE_ID", "owner/space")
    assert not app._has_desktop()


def test_a_port_that_is_taken_ends_with_one_line_and_code_2(capsys: pytest.CaptureFixture[str]):
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        assert app.main(["--port", str(port), "--device", "cpu", "--no-browser"]) == 2
    written = capsys.readouterr().err
    assert written.startswith(f"app.py: error: cannot listen on 127.0.0.1, port {port}")
    assert written.count("\n") == 1


@contextmanager
def serving(folder: Path, *options: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """The app in a separate process, and its URL."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    server = subprocess.Popen(
        [*COMMAND, "--port", str(port), "--device", "cpu", "--no-browser", *options],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=folder,  # the working folder must not matter
        env={**os.environ, "GRADIO_TEMP_DIR": str(folder / "cache")},
    )
    try:
        assert server.stdout is not None
        line = ""
        while "cam_hub on" not in line and server.poll() is None:
            line = server.stdout.readline()
        assert re.search(rf"http://127\.0\.0\.1:{port}/", line)
        yield server, f"http://127.0.0.1:{port}/"
    finally:
        if server.poll() is None:
            server.kill()


def end(server: subprocess.Popen[str], patience: float) -> tuple[str, str]:
    """Ends the app; returns its output."""
    begin = time.monotonic()
    server.send_signal(signal.SIGTERM)
    output, errors = server.communicate(timeout=60)
    assert server.returncode == 0
    assert time.monotonic() - begin < patience
    assert "has ended" in output
    assert "Traceback" not in errors
    return output, errors


@pytest.mark.slow  # the app starts in a separate process
def test_it_ends_soon_after_a_signal_even_while_it_computes(tmp_path: Path, photos):
    photos["cat"].save(tmp_path / "secret-name.png")
    with serving(tmp_path, "--max-samples", "5000") as (server, url):
        browser = Browser(url)
        upload = browser.upload((tmp_path / "secret-name.png").read_bytes(), "secret-name.png")
        assert not browser.explain(upload, num_samples=10_000)[0]
        messages = browser.messages(
            browser.explaining,
            {**WORDS, "photo": upload, "num_samples": 1000, "std": 0.3, "seed": 0, "alpha": 0.5},
        )
        assert next(m for m in messages if m["msg"] == "progress")
        output, errors = end(server, patience=12)
    lines = errors.splitlines()
    assert re.search(r"INFO start: cam_hub .* device cpu; .* 5000 samples", lines[0])
    assert re.search(r"INFO request: page:answer timm/tf_\S+ \d+\.\d\ds too_much", errors)
    assert "secret-name" not in output + errors


@pytest.mark.slow  # the app starts in a separate process
def test_it_serves_until_a_signal(tmp_path: Path):
    with serving(tmp_path) as (server, url):
        assert httpx.get(url).status_code == 200
        end(server, patience=20)
