"""Facts about a model before it is loaded: below the field for its ID, and by ``/describe``."""

from __future__ import annotations

import time
from typing import Any

import pytest
from gradio_client import Client
from gradio_client.exceptions import AppError

import cam_hub
from cam_hub.models.loading import ModelFacts
from space.components.search_fields import facts_html
from tests.fakes.browser import Browser
from tests.fakes.hub import FakeHub
from tests.fakes.hub.bread import REPO
from tests.fakes.hub.faults import Fault

pytestmark = pytest.mark.usefixtures("fresh_listing")

HOSTILE = "<img src=x onerror=alert(1)>"


@pytest.fixture
def browser(url: str) -> Browser:
    return Browser(url)


def lines(browser: Browser, model_id: object) -> list[str]:
    """The line below the field, in all its states."""
    event = browser.event("model_id", "change", "facts")
    seen = []
    for message in browser.messages(event, {"model_id": model_id}):
        if message["msg"] in ("process_generating", "process_completed"):
            seen += [str(value) for value in message["output"].get("data") or [] if value]
    return seen


# The page


def test_an_id_is_answered_with_what_the_hub_knows_of_it(browser: Browser, hub: FakeHub):
    hub.facts[REPO] = {"downloads": 5_200, "cardData": {"license": "mit"}}
    asked, *_, answered = lines(browser, REPO)
    assert "Asking" in asked
    for part in ("375 k parameters", "1.5 MB to fetch", "mit", "timm", "5.2 k downloads a month"):
        assert part in answered
    assert f'/{REPO}" target="_blank"' in answered
    assert [call.path for call in hub.calls] == [f"/api/models/{REPO}"]


def test_a_cached_model_is_reported_without_a_request(browser: Browser, hub: FakeHub):
    answered = lines(browser, cam_hub.DEFAULT_MODEL)[-1]
    for part in ("4.7 M parameters", "input 224 × 224", "already here", "apache-2.0"):
        assert part in answered
    assert hub.calls == []


@pytest.mark.parametrize("nothing", ["", "   ", None, 3])
def test_without_an_id_no_facts_are_shown(browser: Browser, hub: FakeHub, nothing: object):
    assert lines(browser, nothing) == []
    assert hub.calls == []


def test_problems_are_reported_in_place(browser: Browser, hub: FakeHub):
    assert "Unknown model" in lines(browser, "two words")[-1]
    assert hub.calls == []
    assert "at most 300 characters" in lines(browser, "x" * 400)[-1]
    assert "Nearest: torchvision/resnet50" in lines(browser, "torchvision/resnet5O")[-1]
    hub.gated.add(REPO)
    assert "accept its terms" in lines(browser, REPO)[-1]
    hub.broken = True
    assert "could not be fetched" in lines(browser, "baker/other")[-1]


def test_a_model_beyond_the_limits_is_reported_before_anything_is_fetched(
    browser: Browser, hub: FakeHub
):
    hub.facts[REPO] = {"safetensors": {"parameters": {"F32": 3 * 10**9}, "total": 3 * 10**9}}
    answered = lines(browser, REPO)[-1]
    assert "3.0 B parameters" in answered
    assert "It would not be loaded.</strong> It has 3,000,000,000 parameters" in answered


def test_a_slow_hub_holds_up_nothing_else(browser: Browser, url: str, hub: FakeHub):
    hub.faults.append(Fault("/api/models", delay=2.0))
    messages = browser.messages(browser.event("model_id", "change", "facts"), {"model_id": REPO})
    next(messages)
    begin = time.monotonic()
    assert "already here" in lines(Browser(url), cam_hub.DEFAULT_MODEL)[-1]
    assert time.monotonic() - begin < 1.5


def test_nothing_waits_for_the_facts(browser: Browser):
    # Browsers run the events of a change one after the other.
    changes = [
        dep
        for dep in browser.config["dependencies"]
        if [browser.ids["model_id"], "change"] in map(list, dep["targets"])
    ]
    assert changes[-1]["outputs"] == [browser.ids["facts"]]


def test_untrusted_text_is_never_markup():
    facts = ModelFacts("a/b", "hub", licence=HOSTILE, library=HOSTILE, refusal=HOSTILE)
    shown = facts_html(facts)
    assert "<img" not in shown
    assert "&lt;img" in shown


def test_unknown_facts_are_omitted_and_the_rest_is_in_words():
    assert facts_html(ModelFacts("a", "timm")) == '<p class="facts"></p>'
    shown = facts_html(
        ModelFacts(
            "a/b@v1", "hub", weights_file="pytorch_model.bin", input_size=(3, 16, 112, 112),
            gated=True, private=True, fresh=False,
        )
    )  # fmt: skip
    for part in ("weights as a pickle", "input 16 × 112 × 112", "gated", "private"):
        assert part in shown
    assert '/a/b"' in shown
    assert "The Hub does not answer" in shown
    assert "fetch" not in facts_html(ModelFacts("a", "timm", fetch_bytes=5), random_weights=True)


# The endpoint


def test_the_endpoint_answers_with_the_facts(client: Client, hub: FakeHub):
    row = client.predict(REPO, api_name="/describe")
    known = cam_hub.describe_model(REPO)
    assert row == {name: getattr(known, name) for name in row}
    default = client.predict(api_name="/describe")
    assert (default["id"], default["input_size"]) == (cam_hub.DEFAULT_MODEL, [3, 224, 224])


def test_the_endpoint_returns_the_reason_of_a_refusal(client: Client, hub: FakeHub):
    files = hub.repos[REPO]
    hub.repos[REPO] = {"config.json": files["config.json"], "pytorch_model.bin": b"x"}
    assert "only as a pickle" in client.predict(REPO, api_name="/describe")["refusal"]
    with pytest.raises(AppError, match="only as a pickle"):
        client.predict(REPO, api_name="/layers")


@pytest.mark.parametrize(
    ("model_id", "part"),
    [
        ("two words", "IDs look like"),
        ("", "a model ID such as"),
        ("/etc", "never by the page or its API"),
        ("baker/bred", "Nearest: baker/bread"),
    ],
)
def test_what_does_not_exist_gets_a_message(
    client: Client, hub: FakeHub, model_id: str, part: str, capfd: Any
):
    hub.facts[REPO] = {"library_name": "timm"}
    with pytest.raises(AppError, match=part) as caught:
        client.predict(model_id, api_name="/describe")
    assert "Traceback" not in str(caught.value) + capfd.readouterr().err


def test_the_endpoint_documents_names_types_defaults_and_meanings(client: Client):
    info: Any = client.view_api(return_format="dict", print_info=False)
    endpoint = info["named_endpoints"]["/describe"]
    assert endpoint["description"].startswith("Returns the facts about an image model")
    (parameter,) = endpoint["parameters"]
    assert parameter["parameter_name"] == "model_id"
    assert parameter["parameter_default"] == cam_hub.DEFAULT_MODEL
    (answer,) = endpoint["returns"]
    for part in ("fetch_bytes: None | int", "gated: bool", "refusal: None | str"):
        assert part in answer["python_type"]["type"]
    assert len(answer["python_type"]["description"]) > 10
