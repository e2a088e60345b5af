"""Search on the page and over the endpoint ``/search``."""

from __future__ import annotations

from typing import Any

import pytest
from gradio_client import Client
from gradio_client.exceptions import AppError

import cam_hub
from space.components.search_fields import Proposal, proposal_of
from tests.fakes.browser import Browser
from tests.fakes.hub import FakeHub
from tests.fakes.space_app import SETTINGS

pytestmark = pytest.mark.usefixtures("fresh_listing")

HOSTILE = "<img src=x onerror=alert(1)>"


@pytest.fixture
def browser(url: str) -> Browser:
    return Browser(url)


# The page


def propose(browser: Browser, query: object) -> dict[str, Any]:
    """The field's suggestions for a typed text."""
    event = browser.event("model_id", "input", "model_id")
    done, shown = browser.fire(event, {"model_id": "timm/any"}, data={"query": query})
    assert done
    assert "value" not in shown["model_id"], "only choosing changes the value"
    proposals: dict[str, Any] = shown["model_id"]["props"]["proposals"]
    return proposals


def field(browser: Browser) -> dict[str, Any]:
    """The initial state of the field."""
    (found,) = [
        part["props"]
        for part in browser.config["components"]
        if part["props"].get("elem_id") == "model_id"
    ]
    return found


def test_repos_are_proposed_with_downloads_and_size(browser: Browser, bakery_hub: FakeHub):
    proposed = propose(browser, "convnext food")
    assert proposed == {
        "query": "convnext food",
        "entries": [
            {"value": "baker/convnext_food", "facts": "900 downloads · 113 MB"},
            {"value": "cook/food-101_convnext_tiny", "facts": "5.2 k downloads · 113 MB"},
        ],
        "note": "",
    }


def test_models_of_torchvision_and_timm_are_proposed_without_a_hub(browser: Browser):
    proposed = propose(browser, "resnet50")
    ids = [entry["value"] for entry in proposed["entries"]]
    assert ids[0] == "torchvision/resnet50"
    assert "timm/resnet50.a1_in1k" in ids
    assert proposed["note"].startswith("Without the Hub: ")


def test_words_without_a_match_are_reported_as_an_id(browser: Browser, bakery_hub: FakeHub):
    proposed = propose(browser, "zzqq")
    assert proposed["entries"] == []
    assert "taken as it is typed" in proposed["note"]


@pytest.mark.parametrize(
    ("query", "note"),
    [
        ("https://huggingface.co/spaces/a/b", "a Space"),
        ("x" * 500, "at most 200"),
        (None, "Without the Hub"),
        ({"a": [1]}, "Without the Hub"),
    ],
)
def test_what_cannot_be_searched_for_gets_a_note_and_no_error(
    browser: Browser, query: object, note: str
):
    assert note in propose(browser, query)["note"]


def test_what_visitors_search_for_is_asked_without_the_servers_own_token(
    browser: Browser, bakery_hub: FakeHub, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("HF_TOKEN", "hf_cook")
    assert propose(browser, "convnext secret")["entries"] == []
    assert [call.token for call in bakery_hub.calls] == [None] * len(bakery_hub.calls)
    assert bakery_hub.calls


def test_the_field_starts_with_the_default_and_proposes_models_at_once(browser: Browser):
    built = field(browser)
    assert built["value"] == SETTINGS.default_model
    assert [entry["value"] for entry in built["props"]["choices"]] == SETTINGS.model_choices


def test_the_field_is_a_combobox_with_a_label(browser: Browser):
    template = field(browser)["html_template"]
    assert '<label class="title" for="model_id_text">Model ID</label>' in template
    assert 'role="combobox"' in template
    assert 'aria-controls="model_id_list"' in template
    assert 'id="model_id_list" role="listbox"' in template


def test_names_of_repos_never_become_markup(browser: Browser):
    script = field(browser)["js_on_load"]
    assert "innerHTML" not in script
    assert "insertAdjacentHTML" not in script


@pytest.mark.parametrize(
    ("hit", "facts"),
    [
        (cam_hub.ModelHit("a/b", "hub", downloads=950, bytes=22_600_000), "950 downloads · 23 MB"),
        (cam_hub.ModelHit("a/b", "hub", downloads=0, bytes=1_200_000_000), "0 downloads · 1.2 GB"),
        (cam_hub.ModelHit("a/b", "hub", gated=True, private=True), "gated · private"),
        (cam_hub.ModelHit("timm/b", "timm"), ""),
    ],
)
def test_an_entry_shows_the_known_facts_and_nothing_else(hit: cam_hub.ModelHit, facts: str):
    assert proposal_of(hit) == Proposal(hit.id, facts)


# The endpoint


def test_the_endpoint_answers_with_the_facts_of_every_hit(client: Client, bakery_hub: FakeHub):
    rows = client.predict("convnext food", api_name="/search")
    hits = cam_hub.search_models("convnext food")
    assert [row["id"] for row in rows] == [hit.id for hit in hits]
    assert rows == [{name: getattr(hit, name) for name in rows[0]} for hit in hits]


def test_the_endpoint_answers_without_a_hub(client: Client):
    rows = client.predict("resnet50", 3, api_name="/search")
    assert rows[0]["id"] == "torchvision/resnet50"
    assert len(rows) == 3


@pytest.mark.parametrize(
    ("query", "limit", "part"),
    [
        ("x" * 500, 20, "at most 200 characters"),
        ("bread", 0, "from 1 to 100"),
        ("https://example.org/" + HOSTILE, 20, "outside the Hub"),
    ],
)
def test_a_search_that_cannot_work_gets_a_message(
    client: Client, query: str, limit: int, part: str, capfd: Any
):
    with pytest.raises(AppError, match=part) as caught:
        client.predict(query, limit, api_name="/search")
    assert "Traceback" not in str(caught.value) + capfd.readouterr().err


def test_the_endpoint_documents_names_types_defaults_and_meanings(client: Client):
    info: Any = client.view_api(return_format="dict", print_info=False)
    endpoint = info["named_endpoints"]["/search"]
    assert endpoint["description"].startswith("Finds image models")
    parameters = {p["parameter_name"]: p for p in endpoint["parameters"]}
    assert {name: p["python_type"]["type"] for name, p in parameters.items()} == {
        "query": "str",
        "limit": "int",
    }
    assert parameters["limit"]["parameter_default"] == 20
    (answer,) = endpoint["returns"]
    assert answer["label"] == "models"
    for part in ("id: str", "downloads: None | int", "gated: bool", "licence: None | str"):
        assert part in answer["python_type"]["type"]
    everything = [*endpoint["parameters"], answer]
    assert all(len(value["python_type"]["description"]) > 10 for value in everything)


# IDs of visitors


@pytest.mark.parametrize(
    ("typed", "loaded"),
    [
        ("https://huggingface.co/timm/tf_efficientnet_lite0.in1k", cam_hub.DEFAULT_MODEL),
        ("hf-hub:timm/tf_efficientnet_lite0.in1k", cam_hub.DEFAULT_MODEL),
    ],
)
def test_a_pasted_url_is_as_good_as_an_id(client: Client, typed: str, loaded: str):
    by_url = client.predict(typed, api_name="/layers")
    assert by_url == client.predict(loaded, api_name="/layers")


@pytest.mark.parametrize("folder", ["/etc", "./x", "../x", "~/x", "local-dir:x", "file:///etc"])
def test_folders_are_never_read_for_a_visitor(client: Client, folder: str):
    with pytest.raises(AppError, match=r"never by the page or its API|scheme is file"):
        client.predict(folder, api_name="/layers")
