"""Unusual environments: the app starts, or reports the reason in one line without a traceback."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import httpx
import pytest

from tests.fakes.space_process import ROOT, free_port

APP = [sys.executable, str(ROOT / "app.py"), "--device", "cpu", "--no-browser"]


def environment(folder: Path, **variables: str | None) -> dict[str, str]:
    """The environment of a process, with some variables set and others removed."""
    given = {**os.environ, "GRADIO_TEMP_DIR": str(folder / "files"), "PYTHONPATH": str(ROOT)}
    given |= {"PYTHONDONTWRITEBYTECODE": "1"}
    for name, value in variables.items():
        if value is None:
            given.pop(name, None)
        else:
            given[name] = value
    return given


# Impossible starts: each ends immediately, since nothing heavy is imported before.

REFUSED: dict[str, tuple[list[str], dict[str, str | None], str]] = {
    "port of Gradio": ([], {"GRADIO_SERVER_PORT": "abc", "CAM_HUB_PORT": None},
                       "GRADIO_SERVER_PORT='abc'"),
    "our own port": ([], {"CAM_HUB_PORT": "70000"}, "CAM_HUB_PORT='70000'"),
    "our own switch": ([], {"CAM_HUB_URLS": "perhaps"}, "CAM_HUB_URLS='perhaps'"),
    "number of Gradio": ([], {"GRADIO_NUM_PORTS": "many"}, "GRADIO_NUM_PORTS='many'"),
    "folder for files": ([], {"GRADIO_TEMP_DIR": "/dev/null/files"},
                         "GRADIO_TEMP_DIR='/dev/null/files'"),
    "unknown host": (["--host", "no-such-host.invalid", "--port", "7999"], {},
                       "no-such-host.invalid"),
    "address elsewhere": (["--host", "192.0.2.1", "--port", "7999"], {}, "192.0.2.1, port 7999"),
    "malformed host": (["--allowed-hosts", "http://a/b"], {}, "--allowed-hosts="),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
@pytest.mark.parametrize("encoding", ["utf-8", "ascii"])
def test_what_cannot_work_ends_at_once_with_one_line(tmp_path: Path, case: str, encoding: str):
    options, variables, words = REFUSED[case]
    done = subprocess.run(
        [*APP, *options],
        env=environment(tmp_path, PYTHONIOENCODING=encoding, **variables),
        capture_output=True,
        cwd=tmp_path,
        timeout=120,
        check=False,
    )
    text = done.stderr.decode()
    assert done.returncode == 2, text
    assert text.count("\n") == 1, text
    assert text.startswith("app.py: error: ")
    assert words in text


def test_a_port_in_use_is_named_at_once(tmp_path: Path):
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = str(other.getsockname()[1])
        done = subprocess.run(
            [*APP, "--port", port], env=environment(tmp_path), capture_output=True, text=True,
            cwd=tmp_path, timeout=120, check=False,
        )  # fmt: skip
    assert done.returncode == 2
    assert done.stderr == f"app.py: error: cannot listen on 127.0.0.1, port {port}: " + (
        os.strerror(98) + "\n"
    )


@pytest.mark.slow  # torch is imported before the package is found missing
@pytest.mark.parametrize("package", ["gradio", "timm"])
def test_a_package_that_is_missing_is_named(tmp_path: Path, package: str):
    (tmp_path / "hidden").mkdir()
    (tmp_path / "hidden" / f"{package}.py").write_text(
        f'raise ModuleNotFoundError("No module named {package}", name="{package}")', "utf-8"
    )
    path = os.pathsep.join([str(tmp_path / "hidden"), str(ROOT)])
    done = subprocess.run(
        [*APP, "--port", str(free_port())], env=environment(tmp_path, PYTHONPATH=path),
        capture_output=True, text=True, cwd=tmp_path, timeout=300, check=False,
    )  # fmt: skip
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1, done.stderr
    assert f"the package '{package}' cannot be imported" in done.stderr


# Possible starts: each starts the app.

STARTS: dict[str, tuple[dict[str, str | None], list[str], Callable[[Path], Path]]] = {
    "all at once": (
        {
            "LC_ALL": "C",
            "PYTHONUTF8": "0",
            "PYTHONCOERCECLOCALE": "0",
            "PYTHONIOENCODING": None,
            "HTTP_PROXY": "http://127.0.0.1:1",
            "HTTPS_PROXY": "http://127.0.0.1:1",
            "ALL_PROXY": "socks5://127.0.0.1:1",
            "NO_PROXY": None,
            "no_proxy": None,
            "MPLBACKEND": "no_such_backend",
            "HOME": "/dev/null/home",
            "XDG_CACHE_HOME": None,
            "GRADIO_SERVER_NAME": "nonsense.invalid",
            "GRADIO_SERVER_PORT": "",
            "GRADIO_ANALYTICS_MAX_EVENTS": " ",
        },
        [],
        lambda folder: folder,
    ),
    "closed output, deleted folder, no home": (
        {
            "HOME": None,
            "TMPDIR": "/dev/null/x",
            "GRADIO_TEMP_DIR": None,
            "http_proxy": "nonsense://[",
            "PYTHONIOENCODING": "latin-1",
        },
        ["closed"],
        lambda folder: folder / "deleted",
    ),
}


@pytest.mark.slow  # the app starts in a separate process
@pytest.mark.parametrize("case", STARTS)
def test_it_starts(tmp_path: Path, case: str):
    variables, flags, place = STARTS[case]
    port, folder = free_port(), place(tmp_path)
    folder.mkdir(exist_ok=True)
    errors = tmp_path / "errors"
    command = [*APP, "--port", str(port)]
    shell = f"exec {' '.join(command)}"
    if "closed" in flags:
        shell = f"rmdir {folder}; {shell} >&- <&-"
    with errors.open("wb") as file:
        process = subprocess.Popen(
            ["sh", "-c", shell],
            stdout=file,
            stderr=file,
            cwd=folder,
            env=environment(tmp_path, **variables),
        )
    try:
        end = time.monotonic() + 200
        status = 0
        while status != 200 and process.poll() is None and time.monotonic() < end:
            with suppress(httpx.HTTPError):
                status = httpx.get(f"http://127.0.0.1:{port}/", trust_env=False).status_code
            time.sleep(0.2)
        assert status == 200, errors.read_text("utf-8", errors="replace")
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 0
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()
    assert "Traceback" not in errors.read_text("utf-8", errors="replace")


# The command line


def cam_hub(folder: Path, arguments: str, **variables: str | None) -> tuple[int, str, str]:
    """Runs ``python -m cam_hub`` in a shell: its exit code, output and errors."""
    done = subprocess.run(
        ["sh", "-c", f"{sys.executable} -m cam_hub {arguments}"],
        env=environment(folder, **variables), capture_output=True, cwd=folder, timeout=300,
        check=False,
    )  # fmt: skip
    errors = done.stderr.decode()
    assert "Traceback" not in errors, errors
    return done.returncode, done.stdout.decode("latin-1"), errors


@pytest.mark.slow  # torch is imported
def test_the_command_line_explains_in_an_odd_environment(tmp_path: Path):
    photo = ROOT / "space" / "examples" / "cat.jpg"
    odd = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "PYTHONIOENCODING": None}
    odd |= {"HOME": "/dev/null/home", "MPLBACKEND": "no_such_backend"}
    code, _, errors = cam_hub(tmp_path, f"explain {photo} --method layercam --out found", **odd)
    assert code == 0, errors
    assert (tmp_path / "found" / "manifest.json").exists()


@pytest.mark.slow  # torch is imported
@pytest.mark.parametrize(
    ("arguments", "variables", "code", "words"),
    [
        ("layers --all", {"PYTHONIOENCODING": "ascii"}, 0, ""),
        ("layers --all | head -1", {}, 0, ""),
        ("layers > /dev/full", {}, 1, "error (disk_unavailable): Files could not be written"),
        (
            "layers nobody/nothing",
            {"ALL_PROXY": "socks5://127.0.0.1:1", "HF_ENDPOINT": None},
            1,
            "the proxy that the environment names cannot be used",
        ),
    ],
)
def test_the_command_line_reports_an_error_in_one_line(
    tmp_path: Path, arguments: str, variables: dict[str, str | None], code: int, words: str
):
    found, _, errors = cam_hub(tmp_path, arguments, **variables)
    assert found == code
    assert words in errors
    assert errors.count("\n") == bool(words)
