"""Progress while a request is answered, and no further work after a client has left."""

from __future__ import annotations

import io
import time
from collections.abc import Iterator
from dataclasses import replace
from itertools import count
from pathlib import Path
from typing import Any

import httpx
import pytest
import torch
from gradio_client import Client
from PIL import Image
from safetensors.torch import load

from tests.fakes.browser import Browser
from tests.fakes.hub import FakeHub
from tests.fakes.hub.bread import REPO
from tests.fakes.hub.faults import Fault
from tests.fakes.space_app import SETTINGS, encoded, serve

PICKLE = "baker/pickle"
_NUMBERS = count()
PACE = 400_000
"""The speed of slow weights in bytes per second: the download takes four seconds."""


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    limits = replace(SETTINGS.load_limits, pickles=True, free_disk_bytes=0)
    with serve(replace(SETTINGS, load_limits=limits)) as address:
        yield address


@pytest.fixture
def slow(hub: FakeHub) -> str:
    """A repo with slow weights; another one in each test, so that nothing is cached yet."""
    name = f"baker/slow-{next(_NUMBERS)}"
    hub.repos[name] = hub.repos[REPO]
    hub.faults.append(Fault(r"model\.safetensors", pace=PACE))
    return name


def request(browser: Browser, lion: Image.Image, model_id: str) -> dict[str, Any]:
    photo = browser.upload(encoded(lion, "PNG"))
    values = {"photo": photo, "model_id": model_id, "method": "layercam", "colormap": "jet"}
    return {**values, "num_samples": 2, "std": 0.3, "seed": 0, "alpha": 0.5}


def until_it_fetches(messages: Iterator[dict[str, Any]]) -> str:
    """Reads the messages until the weights are being fetched; returns the last one."""
    for message in messages:
        for part in message.get("progress_data") or ():
            if str(part["desc"]).startswith("Fetching"):
                return str(part["desc"])
    raise AssertionError("the request ended before any message about fetching")


def stopped_at(cache: Path) -> int:
    """The number of bytes of the weights on the disk, once it no longer grows."""
    sizes = []
    for _ in range(2):
        time.sleep(0.6)
        (partial,) = cache.rglob("*.incomplete")
        sizes.append(partial.stat().st_size)
    assert sizes[0] == sizes[1], "the download goes on"
    return sizes[1]


def test_the_page_shows_the_progress_of_a_download(
    url: str, hub: FakeHub, slow: str, lion: Image.Image
):
    hub.faults[:] = [Fault(r"model\.safetensors", pace=3 * PACE)]
    browser = Browser(url)
    messages = browser.messages(browser.explaining, request(browser, lion, slow))
    assert until_it_fetches(messages).startswith(f"Fetching {slow}: ")
    shares = [
        (part["progress"], part["desc"])
        for message in messages
        for part in message.get("progress_data") or ()
        if "Fetching" in str(part["desc"])
    ]
    assert all(abs(share - _share(words)) < 0.05 for share, words in shares)
    assert [share for share, _ in shares] == sorted(share for share, _ in shares)


def _share(words: str) -> float:
    here, total = words.rpartition(": ")[2].split(" of ")
    units = {"bytes": 1, "kB": 1e3, "MB": 1e6}
    numbers = [float(text.split()[0]) * units[text.split()[1]] for text in (here, total)]
    return numbers[0] / numbers[1]


def leave(browser: Browser, messages: Iterator[dict[str, Any]]) -> None:
    messages.close()  # type: ignore[attr-defined]


def stop(browser: Browser, messages: Iterator[dict[str, Any]]) -> None:
    """The behaviour of Gradio's own script for the Stop button, and for another model or photo."""
    body = {"session_hash": browser.session, "fn_index": browser.explaining["id"]}
    body["event_id"] = browser.last_event
    httpx.post(f"{browser.url}gradio_api/cancel", json=body).raise_for_status()


@pytest.mark.parametrize("end", [leave, stop])
def test_a_download_ends_with_the_request_and_is_taken_up_by_the_next(
    url: str, hub: FakeHub, slow: str, hub_cache: Path, lion: Image.Image, end: Any, caplog: Any
):
    browser = Browser(url)
    messages = browser.messages(browser.explaining, request(browser, lion, slow))
    until_it_fetches(messages)
    end(browser, messages)
    here = stopped_at(hub_cache)
    assert 0 < here < len(hub.repos[slow]["model.safetensors"])
    assert "unforeseen" not in caplog.text
    hub.faults.clear()
    done, _ = Browser(url).fire(browser.explaining, request(browser, lion, slow))
    assert done
    assert f"bytes={here}-" in [call.headers["Range"] for call in hub.calls]


def test_a_program_that_cancels_its_call_ends_the_download(
    url: str, hub: FakeHub, slow: str, hub_cache: Path
):
    job = Client(url, verbose=False).submit(slow, api_name="/layers")
    while not list(hub_cache.rglob("*.incomplete")):
        time.sleep(0.05)
    job.cancel()
    assert stopped_at(hub_cache) < len(hub.repos[slow]["model.safetensors"])


def test_the_stop_button_is_wired_to_end_the_request_and_shows_only_while_it_runs(url: str):
    browser = Browser(url)
    stops = [dep for dep in browser.config["dependencies"] if dep["cancels"]]
    pressed = [dep for dep in stops if [browser.ids["stop"], "click"] in map(list, dep["targets"])]
    assert browser.explaining["id"] in pressed[0]["cancels"]
    order = [dep["id"] for dep in browser.config["dependencies"]]
    shown = browser.event("explain", "click", "stop")
    # Browsers run the events of a click one after the other.
    assert order.index(shown["id"]) < order.index(browser.explaining["id"])


@pytest.fixture
def pickled(hub: FakeHub) -> FakeHub:
    """The hub, with weights that exist only as a pickle."""
    files = hub.repos[REPO]
    written = io.BytesIO()
    torch.save(load(files["model.safetensors"]), written)
    config = files["config.json"]
    hub.repos[PICKLE] = {"config.json": config, "pytorch_model.bin": written.getvalue()}
    return hub


def test_every_user_of_a_pickle_is_warned_and_no_other_page(
    url: str, pickled: FakeHub, lion: Image.Image
):
    first, second, other = Browser(url), Browser(url), Browser(url)
    for browser in (first, second):  # the second finds the model loaded
        assert browser.fire(browser.explaining, request(browser, lion, PICKLE))[0]
        (note,) = browser.heard
        assert "baker/pickle come as a pickle (pytorch_model.bin)" in note
    assert other.fire(other.explaining, request(other, lion, SETTINGS.default_model))[0]
    assert other.heard == []


def test_programs_get_their_answer_all_the_same(url: str, pickled: FakeHub):
    client = Client(url, verbose=False)
    assert client.predict(PICKLE, api_name="/describe")["weights_file"] == "pytorch_model.bin"
    assert client.predict(PICKLE, api_name="/layers")
