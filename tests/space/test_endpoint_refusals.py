"""The endpoint through gradio_client: its refusals, and the details that it does not reveal."""

from __future__ import annotations

import errno
import os
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
from gradio_client import Client
from gradio_client.exceptions import AppError
from PIL import Image

from cam_hub.results.serialization import save_folder
from space.service.errors import Problem, readable
from tests.fakes.browser import Browser
from tests.fakes.space_app import SETTINGS, encoded, explain

# Photos


def bomb() -> bytes:
    """A PNG of 30 000 by 30 000 black pixels in a few hundred bytes."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        )

    header = struct.pack(">IIBBBBB", 30_000, 30_000, 1, 0, 0, 0, 0)
    rows = zlib.compress(b"\0" * 10_000)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")
    )


UNUSABLE: dict[str, Callable[[Image.Image], tuple[bytes, str]]] = {
    "no image": lambda lion: (b"hello, world\n" * 20, "not an image"),
    "truncated": lambda lion: (encoded(lion, "PNG")[:5000], "cut off"),
    "0 bytes": lambda lion: (b"", "0 bytes"),
    "a decompression bomb": lambda lion: (bomb(), "too large"),
    "more pixels than allowed": lambda lion: (
        encoded(Image.new("L", (2001, 2000)), "PNG"),
        "the limit is 4,000,000",
    ),
}


@pytest.mark.parametrize("kind", UNUSABLE)
def test_a_file_that_cannot_be_used_gets_a_message_and_the_next_call_works(
    client: Client, photo: Path, lion: Image.Image, tmp_path: Path, kind: str, capfd: Any
):
    content, part = UNUSABLE[kind](lion)
    bad = tmp_path / "bad.png"
    bad.write_bytes(content)
    with pytest.raises(AppError) as caught:
        explain(client, bad)
    message = str(caught.value)
    assert message.startswith("The image was refused")
    assert part in message
    assert "Traceback" not in message
    assert "/" not in message.replace("JPEG/", "")  # no folder of the server
    assert explain(client, photo)[1][0]["class_index"] == 291
    assert "Traceback" not in capfd.readouterr().err


# Values


@pytest.mark.parametrize(
    ("changed", "parts"),
    [
        ({"target_layers": ["blocks.44"]}, ["No layer 'blocks.44'", "blocks.4"]),
        ({"target_layers": ["classifier"]}, ["No map at layer 'classifier'"]),
        ({"target_layers": ["all"]}, ["at most 64 layers"]),
        ({"method": "layercamm"}, ["No method 'layercamm'", "layercam"]),
        ({"classes": ["1000"]}, ["No class 1000", "0 to 999"]),
        ({"classes": ["-1"]}, ["No class -1"]),
        ({"classes": ["lyon"]}, ["No class 'lyon'", "lion"]),
        ({"classes": ["top(11)"]}, ["at most 10 classes"]),
        ({"num_samples": 0}, ["num_samples=0", "1 to 64"]),
        ({"num_samples": 65}, ["num_samples=65"]),
        ({"std": -0.1}, ["std=-0.1", "at least 0"]),
        ({"seed": -1}, ["seed=-1"]),
        ({"alpha": 2}, ["alpha=2"]),
        ({"colormap": "jett"}, ["colormap='jett'", "jet"]),
        ({"model_id": "torchvision/resnet5"}, ["torchvision/resnet5", "torchvision/resnet50"]),
        ({"model_id": "../../etc"}, ["IDs look like"]),
        ({"model_id": "<img src=x onerror=alert(1)>"}, ["<img src=x onerror=alert(1)>"]),
    ],
    ids=str,
)
def test_a_value_that_does_not_work_gets_a_message_in_plain_text(
    client: Client, photo: Path, changed: dict[str, Any], parts: list[str], capfd: Any
):
    with pytest.raises(AppError) as caught:
        explain(client, photo, **changed)
    message = str(caught.value)
    assert all(part in message for part in parts)
    assert "Traceback" not in message + capfd.readouterr().err


def test_after_all_refusals_the_next_call_works(client: Client, photo: Path):
    with pytest.raises(AppError):
        explain(client, photo, num_samples=-3)
    assert explain(client, photo)[1][0]["class_index"] == 291


# Safety


@pytest.mark.parametrize("meta", [{}, {"meta": {"_type": "gradio.FileData"}}], ids=["bare", "file"])
@pytest.mark.parametrize("field", ["image", "reference"])
def test_files_of_the_server_cannot_be_named_as_photos(
    url: str, photo: Path, lion: Image.Image, tmp_path: Path, meta: dict[str, Any], field: str
):
    # A photo that would be valid if it were uploaded; gradio_client would do that, so it is not
    # used.
    secret = tmp_path / "secret.png"
    lion.save(secret)
    given = {"image": Browser(url).upload(photo.read_bytes()), "reference": None}
    given[field] = {"path": str(secret), **meta}
    data = [given["image"], SETTINGS.default_model, "layercam", [], []]
    data += [4, 0.3, 0, 0.5, "jet", "", [], given["reference"]]
    call = httpx.post(f"{url}gradio_api/call/explain", json={"data": data}).json()["event_id"]
    answer = httpx.get(f"{url}gradio_api/call/explain/{call}", timeout=60).text
    assert "event: error" in answer
    assert "uploaded" in answer
    assert "file=" not in answer


def test_files_of_the_server_are_not_served(url: str):
    for path in (__file__, Path(__file__).parents[2] / "app.py"):
        assert httpx.get(f"{url}gradio_api/file={path}").status_code in (403, 404)


@pytest.mark.parametrize(
    ("number", "words"),
    [
        (errno.ENOTDIR, "Not a directory"),
        (errno.EACCES, "permission denied"),
        (errno.ENOSPC, "full"),
    ],
)
def test_a_result_that_cannot_be_stored_names_no_folder_of_the_server(
    tmp_path: Path, number: int, words: str
):
    def refuse(path: Path) -> None:
        raise OSError(number, os.strerror(number), str(path))

    with pytest.raises(Problem) as caught, readable(as_html=False):
        save_folder(tmp_path / "result", "manifest.json", {}, {"photo.png": refuse})
    assert caught.value.code == "save_failed"
    assert words in caught.value.message
    assert str(tmp_path) not in caught.value.message
    assert "result" not in caught.value.message.removeprefix("The result")
