"""The command line: ``python app.py``."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import httpx
import pytest

import app

ROOT = Path(__file__).resolve().parent.parent
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
    for option in ("--host", "--port", "--device", "--model", "--no-browser"):
        assert option in done.stdout
    text = " ".join(done.stdout.split())
    assert "default: 127.0.0.1" in text
    assert "7860" in text
    assert "cuda:<index>" in text
    assert 'api_name="/explain"' in text
    assert "LOADED 0 []" in done.stdout


def test_on_a_space_it_listens_to_the_outside_by_default():
    assert app._parser(on_space=True).parse_args([]).host == "0.0.0.0"
    assert app._parser(on_space=False).parse_args([]).host == "127.0.0.1"


def test_the_port_may_come_from_the_environment(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("GRADIO_SERVER_PORT", "8123")
    assert app._parser(on_space=False).parse_args([]).port == 8123
    assert app._parser(on_space=False).parse_args(["--port", "9000"]).port == 9000


@pytest.mark.parametrize("port", ["0", "65536", "http", "-1", "1.5"])
def test_what_is_no_port_is_refused_in_one_line(port: str, capsys: pytest.CaptureFixture[str]):
    with pytest.raises(SystemExit) as end:
        app.main(["--port", port])
    assert end.value.code == 2
    assert "is no port" in capsys.readouterr().err.splitlines()[-1]


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        (["--device", "toaster"], "device='toaster'"),
        (["--device", "cuda:99"], "device='cuda:99'"),
        (["--model", "no id at all"], "IDs look like"),
    ],
)
def test_an_option_that_cannot_work_ends_with_one_line_and_code_2(
    arguments: list[str], part: str, capsys: pytest.CaptureFixture[str]
):
    assert app.main(arguments) == 2
    written = capsys.readouterr().err
    assert part in written
    assert written.count("\n") == 1


def test_a_browser_is_opened_only_in_front_of_somebody(monkeypatch: pytest.MonkeyPatch):
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


def test_it_serves_until_it_is_told_to_end(tmp_path: Path):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    server = subprocess.Popen(
        [*COMMAND, "--port", str(port), "--device", "cpu", "--no-browser"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=tmp_path,  # it must not matter where it is started
        env={**os.environ, "GRADIO_TEMP_DIR": str(tmp_path / "cache")},
    )
    try:
        assert server.stdout is not None
        line = server.stdout.readline()
        assert re.search(rf"http://127\.0\.0\.1:{port}/", line)
        assert httpx.get(f"http://127.0.0.1:{port}/").status_code == 200
    finally:
        server.send_signal(signal.SIGTERM)
        begin = time.monotonic()
        output, errors = server.communicate(timeout=60)
    assert server.returncode == 0
    assert time.monotonic() - begin < 20
    assert "has ended" in output
    assert "Traceback" not in errors
