"""The staged folder runs on its own, as on a Space."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from gradio_client import Client, handle_file

from space.publish import main


@pytest.mark.slow  # starts the app in a separate process
def test_the_staged_folder_runs_in_the_environment_of_a_space_without_sign_in(photo, tmp_path):
    folder = tmp_path / "space"
    assert main(["--folder", str(folder)]) == 0
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    kept = {name: value for name, value in os.environ.items() if "OAUTH" not in name}
    kept.pop("PYTHONPATH", None)
    space = {
        "SYSTEM": "spaces", "SPACE_ID": "ann/maps", "SPACE_HOST": "ann-maps.example",
        "GRADIO_SERVER_NAME": "0.0.0.0", "GRADIO_SERVER_PORT": str(port),
    }  # fmt: skip
    server = subprocess.Popen(
        [sys.executable, "app.py", "--device", "cpu"],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        cwd=folder,
        env={**kept, **space, "PYTHONDONTWRITEBYTECODE": "1"},
    )
    try:
        assert server.stdout is not None
        assert any("cam_hub on cpu at" in line for line in server.stdout)
        client = Client(f"http://127.0.0.1:{port}", verbose=False, download_files=str(tmp_path))
        answer = client.predict(handle_file(photo), method="layercam", api_name="/explain")
        assert answer[1][0]["label"].startswith("lion")
        assert Path(answer[0]).stat().st_size > 0
        # On a Space, the app must be reachable from other machines.
        with socket.socket() as other:
            other.bind(("127.0.0.2", 0))
            other.connect(("127.0.0.2", port))
    finally:
        server.send_signal(signal.SIGTERM)
        server.communicate(timeout=60)
    assert server.returncode == 0
    staged = {path.name for path in folder.iterdir()}
    assert staged == {"LICENSE", "README.md", "app.py", "cam_hub", "requirements.txt", "space"}
