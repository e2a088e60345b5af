"""Photos by URL through every route, and Gradio's own routes that stay closed."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from gradio_client import Client, handle_file
from gradio_client.exceptions import AppError
from PIL import Image

from space.config.settings import PhotoRules
from tests.fakes.browser import Browser
from tests.fakes.photo_server import PhotoServer, serve_photos
from tests.fakes.space_app import SETTINGS, encoded, explain, serve

OPEN = replace(
    SETTINGS,
    limits=replace(
        SETTINGS.limits,
        max_file_bytes=1_000_000,
        urls=PhotoRules(loopback=True, total_seconds=2.0),
    ),
)


@pytest.fixture(scope="module")
def server(lion: Image.Image) -> Iterator[PhotoServer]:
    with serve_photos(encoded(lion, "PNG")) as running:
        yield running


@pytest.fixture(scope="module")
def open_url() -> Iterator[str]:
    """An app that may fetch from this machine."""
    with serve(OPEN) as address:
        yield address


@pytest.fixture
def fetched(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The URLs that Gradio itself fetches."""
    urls: list[str] = []

    async def note(url: str, *rest: Any, **named: Any) -> None:
        urls.append(url)
        raise OSError("Gradio would have fetched it")

    for name in ("async_ssrf_protected_get", "async_ssrf_protected_download"):
        monkeypatch.setattr(f"gradio.processing_utils.{name}", note)
    monkeypatch.setattr("gradio.routes.secure_url_stream_response", note)
    return urls


def call(url: str, data: list[Any], api: str = "explain") -> tuple[str, Any]:
    """Plain HTTP: the event that ends the response, and its data."""
    posted = httpx.post(f"{url}gradio_api/call/{api}", json={"data": data})
    event = posted.raise_for_status().json()["event_id"]
    text = httpx.get(f"{url}gradio_api/call/{api}/{event}", timeout=60).text
    kind, _, rest = text.strip().rpartition("event: ")[2].partition("\n")
    return kind, json.loads(rest.removeprefix("data: "))


def values(image: object, **changed: Any) -> list[Any]:
    """All values of /explain, in order."""
    given = {"model_id": SETTINGS.default_model, "method": "layercam", "layers": [], "classes": []}
    given |= {"num_samples": 4, "std": 0.3, "seed": 0, "alpha": 0.5, "colormap": "jet"}
    rest = {"contrast": "", "region": [], "reference": None}
    return [image, *{**given, **rest, **changed}.values()]


# Photos by URL


@pytest.mark.parametrize("wrap", [str, handle_file], ids=["text", "handle_file"])
def test_a_photo_at_a_url_gives_the_same_result_as_an_upload(
    open_url: str, server: PhotoServer, photo: Path, fetched: list[str], tmp_path: Path, wrap: Any
):
    client = Client(open_url, verbose=False, download_files=str(tmp_path))
    url = wrap(f"{server.address}/lion.png")
    by_url = client.predict(url, method="layercam", api_name="/explain")
    uploaded = explain(client, photo)
    assert by_url[3] == uploaded[3]
    for one, other in zip(by_url[2], uploaded[2], strict=True):
        assert np.array_equal(np.load(one), np.load(other))
    assert fetched == []


@pytest.mark.parametrize(
    ("path", "words"),
    [
        ("/page.jpg", "web page"),
        ("/nowhere", "status 404"),
        ("/endless", "bytes"),
        ("/drip", "in time"),
    ],
)
def test_an_invalid_photo_is_refused_with_a_message(
    open_url: str, server: PhotoServer, path: str, words: str
):
    kind, said = call(open_url, values(server.address + path))
    assert kind == "error"
    assert words in said["error"]
    assert said["title"] == "image_refused"


LINKS = {
    "text": lambda url: url,
    "mapping": lambda url: {"path": url},
    "file": lambda url: {"path": url, "url": url, "meta": {"_type": "gradio.FileData"}},
    "client": handle_file,
}


@pytest.mark.parametrize("wrap", LINKS)
@pytest.mark.parametrize("field", ["image", "reference"])
def test_a_private_address_is_never_fetched(
    url: str, server: PhotoServer, photo: Path, fetched: list[str], wrap: str, field: str
):
    given = {"image": Browser(url).upload(photo.read_bytes())}
    before = len(server.asked)
    for address in (server.address, "http://127.0.0.2", "http://localhost", "http://[::1]"):
        link = LINKS[wrap](f"{address}/lion.png")
        kind, said = call(url, values(**{**given, field: link}))
        assert (kind, said["title"]) == ("error", "image_refused")
    assert len(server.asked) == before
    assert fetched == []


@pytest.mark.parametrize("field", ["model_id", "target_layers", "contrast", "region"])
def test_a_url_in_any_other_field_is_not_fetched_either(
    url: str, server: PhotoServer, fetched: list[str], field: str
):
    link = LINKS["file"](f"{server.address}/lion.png")
    names = {"target_layers": "layers"}
    kind, _ = call(url, values(None, **{names.get(field, field): link}))
    assert kind == "error"
    assert fetched == []


@pytest.mark.parametrize("field", ["photo", "reference"])
def test_the_pages_own_fields_do_not_make_gradio_fetch(
    url: str, server: PhotoServer, photo: Path, fetched: list[str], field: str
):
    browser = Browser(url)
    given = {"photo": browser.upload(photo.read_bytes())}
    before = len(server.asked)
    done, _ = browser.explain(**{**given, field: LINKS["file"](f"{server.address}/lion.png")})
    assert not done
    assert len(server.asked) == before
    assert fetched == []


# Gradio's own routes


@pytest.mark.parametrize(
    "route",
    [
        "file=http://127.0.0.2:1/a",
        "file=https://example.org/a",
        "file=HTTP://example.org/a",
        "proxy=http://127.0.0.2:1/a",
        "process_recording",
        "monitoring/summary",
    ],
)
def test_routes_that_would_fetch_or_reveal_are_closed(url: str, fetched: list[str], route: str):
    for address in (f"{url}gradio_api/{route}", f"{url}{route}"):
        for answer in (httpx.get(address), httpx.post(address)):
            assert answer.status_code in (403, 404, 405)
    assert fetched == []


def test_no_request_bypasses_the_queue(url: str):
    answer = httpx.post(f"{url}gradio_api/api/layers", json={"data": [SETTINGS.default_model]})
    assert answer.status_code == 404


def test_a_request_of_megabytes_is_refused(url: str):
    address = f"{url}gradio_api/call/layers"
    long = json.dumps({"data": ["x" * 5_000_000, False]}).encode()
    declared = httpx.post(address, content=long)
    assert declared.status_code == 413
    assert declared.json()["title"] == "too_much"
    undeclared = httpx.post(address, content=iter([long]))
    assert undeclared.status_code == 413


def test_an_upload_has_the_limit_of_photos(url: str):
    files = {"files": ("big.png", b"x" * (SETTINGS.limits.max_file_bytes + 1))}
    assert httpx.post(f"{url}gradio_api/upload", files=files, timeout=60).status_code == 413


# Requests that are incomplete, or contain too much


@pytest.mark.parametrize(
    ("data", "words"),
    [
        ([], "'0 values'"),
        ([*values(None), *[1] * 87], "'100 values'"),
    ],
)
def test_missing_and_extra_values_are_named(url: str, data: list[Any], words: str):
    kind, said = call(url, data)
    assert (kind, said["title"]) == ("error", "invalid_argument")
    assert words in said["error"]
    assert "image, model_id, method" in said["error"]


def test_values_that_are_not_sent_have_their_defaults(url: str, photo: Path):
    upload = Browser(url).upload(photo.read_bytes())
    answers = [call(url, values(upload)[:count])[1] for count in (3, 11, 13)]
    assert answers[0][1] == answers[1][1] == answers[2][1]
    assert answers[0][3] == answers[1][3] == answers[2][3]


@pytest.mark.parametrize(
    "changed",
    [
        {"model_id": 5},
        {"model_id": None},
        {"model_id": {"path": "a"}},
        {"method": ["layercam"]},
        {"layers": {"a": 1}},
        {"classes": [[1]]},
        {"classes": [True]},
        {"num_samples": "four"},
        {"std": [0.3]},
        {"seed": "0"},
        {"alpha": None},
        {"colormap": 3},
        {"contrast": {"a": "b"}},
        {"region": [1, 2, 3]},
        {"region": {"a": "b"}},
    ],
    ids=str,
)
def test_wrongly_typed_values_get_a_sentence_and_a_code(
    url: str, photo: Path, changed: dict[str, Any]
):
    upload = Browser(url).upload(photo.read_bytes())
    kind, said = call(url, values(upload, **changed))
    assert kind == "error"
    assert said["title"] in ("invalid_argument", "method_not_found")
    assert said["error"].endswith(f"[{said['title']}]")
    assert "Traceback" not in said["error"]


def test_a_client_gets_the_code_as_the_title_of_the_error(client: Client, photo: Path):
    with pytest.raises(AppError) as caught:
        explain(client, photo, num_samples=10_000)
    assert caught.value.title == "too_much"
    assert str(caught.value).endswith("[too_much]")


def test_an_unexpected_error_reveals_nothing_about_the_server(
    url: str, photo: Path, monkeypatch: pytest.MonkeyPatch
):
    def broken(*_: Any, **__: Any) -> None:
        raise RuntimeError(f"secret in {__file__}")

    monkeypatch.setattr("cam_hub.explain", broken)
    upload = Browser(url).upload(photo.read_bytes())
    kind, said = call(url, values(upload))
    assert (kind, said["title"]) == ("error", "internal")
    assert "secret" not in said["error"]
    assert "/" not in said["error"]


# Requests that do not reach an endpoint


@pytest.mark.parametrize(
    ("route", "sent", "status", "code"),
    [
        ("call/v2/predict", {"json": {"top": 1}}, 422, "invalid_argument"),
        ("call/v2/predict", {"json": {"image": "x", "more": 1}}, 422, "invalid_argument"),
        ("call/v2/predict", {"json": [1]}, 422, "invalid_argument"),
        ("call/v2/predict", {"content": b"\xff\xfe"}, 422, "invalid_argument"),
        ("call/predict", {"json": {"date": []}}, 422, "invalid_argument"),
        ("call/predict", {"content": b"{"}, 422, "invalid_argument"),
        ("call/v2/nowhere", {"json": {"image": "x"}}, 404, "not_found"),
        ("call/nowhere", {"json": {"data": []}}, 404, "not_found"),
        (
            "queue/join",
            {"json": {"data": [], "fn_index": 999, "session_hash": "a"}},
            404,
            "not_found",
        ),
        ("upload", {"content": b"x"}, 400, "invalid_argument"),
        ("nowhere", {"json": {}}, 404, "not_found"),
    ],
    ids=str,
)  # fmt: skip
def test_plain_http_gets_a_status_a_sentence_and_a_code(
    url: str, route: str, sent: dict[str, Any], status: int, code: str, capfd: Any
):
    answer = httpx.post(f"{url}gradio_api/{route}", **sent)
    assert answer.status_code == status
    said = answer.json()
    assert said["title"] == code
    assert said["error"].endswith(f"[{code}]")
    assert "Traceback" not in capfd.readouterr().err


def test_values_may_be_sent_by_their_names(url: str, photo: Path):
    upload = Browser(url).upload(photo.read_bytes())
    body = {"image": {"path": upload["path"]}, "top": 1}
    event = httpx.post(f"{url}gradio_api/call/v2/predict", json=body).json()["event_id"]
    text = httpx.get(f"{url}gradio_api/call/v2/predict/{event}", timeout=60).text
    assert text.startswith("event: complete")
    assert "lion" in text
