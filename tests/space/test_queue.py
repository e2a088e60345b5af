"""Many requests: a bounded queue, light endpoints beside slow ones, cancelled work that ends."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import httpx
import pytest
from gradio_client import Client, handle_file
from gradio_client.exceptions import AppError
from PIL import Image

from space.app.create_app import create_app, launch_options
from tests.fakes.browser import Browser
from tests.fakes.space_app import SETTINGS, encoded, serve
from tests.fakes.space_process import free_port

SLOW = replace(
    SETTINGS,
    concurrency=1,
    queue_size=3,
    limits=replace(SETTINGS.limits, max_samples=1000),
)


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with serve(SLOW) as address:
        yield address


@pytest.fixture
def busy(url: str, lion: Image.Image) -> Iterator[Browser]:
    """A client whose request takes long, and is running."""
    browser = Browser(url)
    values = {"photo": browser.upload(encoded(lion, "PNG")), "num_samples": 1000, "std": 0.3}
    values |= {"model_id": SETTINGS.default_model, "method": "smoothgradcampp", "seed": 0}
    values |= {"alpha": 0.5, "colormap": "jet", "target_layers": ["best"], "classes": []}
    messages = browser.messages(browser.explaining, values)
    for message in messages:
        descriptions = [str(part["desc"]) for part in message.get("progress_data") or ()]
        if any(words.startswith("Explaining") for words in descriptions):
            break
    yield browser
    messages.close()  # type: ignore[attr-defined]


def test_what_needs_no_model_does_not_wait_for_one(url: str, busy: Browser):
    begin = time.monotonic()
    client = Client(url, verbose=False)
    assert client.predict(api_name="/describe")["source"] == "embedded"
    assert client.predict("torchvision resnet50", api_name="/search")
    assert time.monotonic() - begin < 5, "a thousand samples take longer"


def test_waiting_clients_get_their_position(url: str, busy: Browser):
    first, second = (Client(url, verbose=False).submit(api_name="/layers") for _ in range(2))
    deadline = time.monotonic() + 10
    ranks: list[int | None] = []
    while 1 not in ranks and time.monotonic() < deadline:
        ranks = [job.status().rank for job in (first, second)]
        time.sleep(0.05)
    assert sorted(rank for rank in ranks if rank is not None) == [0, 1]
    for job in (first, second):
        job.cancel()


def test_no_more_than_so_many_may_wait(url: str, busy: Browser):
    api = f"{url}gradio_api/call/layers"
    events = [httpx.post(api, json={"data": [SETTINGS.default_model, False]}) for _ in range(5)]
    statuses = [event.status_code for event in events]
    assert statuses == [200, 200, 200, 503, 503]
    assert events[-1].json()["title"] == "busy"
    browser = Browser(url)
    session = {"session_hash": browser.session}
    assert httpx.post(f"{url}gradio_api/queue/join", json={
        "data": [], "fn_index": browser.explaining["id"], **session
    }).status_code == 503  # fmt: skip


def test_calls_of_endpoints_leave_no_session_behind_and_pages_keep_theirs(lion: Image.Image):
    app = create_app(SETTINGS)
    app.launch(
        prevent_thread_lock=True,
        quiet=True,
        inbrowser=False,
        server_port=free_port(),
        **launch_options(SETTINGS),
    )
    try:
        page = Browser(app.local_url)
        assert page.explain(page.upload(encoded(lion, "PNG")))[0]
        for _ in range(3):
            Client(app.local_url, verbose=False).predict(api_name="/describe")
        with pytest.raises(AppError):
            Client(app.local_url, verbose=False).predict("a b", api_name="/describe")
        assert list(app.state_holder.session_data) == [page.session]
        redraw = page.event("colormap", "input", "viewer")
        done, drawn = page.fire(redraw, {"alpha": 0.5, "colormap": "jet"})
        assert done and drawn["viewer"]
    finally:
        app.close(verbose=False)


def test_a_cancelled_request_makes_room_soon(url: str, busy: Browser, photo: Path):
    body = {"session_hash": busy.session, "fn_index": busy.explaining["id"]}
    body["event_id"] = busy.last_event
    httpx.post(f"{url}gradio_api/cancel", json=body).raise_for_status()
    begin = time.monotonic()
    rows, _ = Client(url, verbose=False).predict(handle_file(photo), api_name="/predict")
    assert rows[0]["class_index"] == 291
    assert time.monotonic() - begin < 10


def test_a_disconnected_client_also_makes_room(
    url: str, lion: Image.Image, photo: Path, busy: Browser
):
    first = Client(url, verbose=False)
    job = first.submit(
        handle_file(photo), method="smoothgradcampp", num_samples=1000, api_name="/explain"
    )
    while job.status().rank is None:
        time.sleep(0.05)
    job.cancel()
    stop = {"session_hash": busy.session, "fn_index": busy.explaining["id"]}
    httpx.post(f"{url}gradio_api/cancel", json={**stop, "event_id": busy.last_event})
    begin = time.monotonic()
    assert Client(url, verbose=False).predict(api_name="/layers")
    assert time.monotonic() - begin < 10
