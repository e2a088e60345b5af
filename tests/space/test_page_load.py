"""The initial page: a result that is computed beforehand, or the view of a link."""

from __future__ import annotations

from dataclasses import replace
from typing import Any
from urllib.parse import parse_qsl

import httpx
import pytest
from PIL import Image

import cam_hub
from cam_hub.errors import InvalidArgument
from space.service.explainer import Explainer
from space.service.views import DisplayOptions, View, is_link, query_of, read_query
from tests.fakes.browser import Browser
from tests.fakes.space_app import SETTINGS, encoded, serve

MODEL = cam_hub.DEFAULT_MODEL
FULL = View(
    model_id="torchvision/resnet50@IMAGENET1K_V2",
    method="layercam",
    target_layers=("layer3", "layer4"),
    classes=("tabby, tabby cat", "281"),
    contrast="lynx & co=?",
    region="1, 2.5, 30, 40",
    num_samples=8,
    std=0.25,
    seed=7,
    photo="https://example.org/a b.jpg?x=1&y=2",
    look=DisplayOptions(291, "layer3", "boxes", 0.35, "viridis", 0.65, "common"),
)


@pytest.fixture
def browser(url: str) -> Browser:
    return Browser(url)


# Links


@pytest.mark.parametrize("view", [FULL, View(MODEL), View(MODEL, photo="cat.jpg", seed=3)])
def test_a_view_survives_the_way_through_a_link(view: View):
    assert read_query(parse_qsl(query_of(view)), "other") == view


def test_a_link_contains_only_values_that_differ_from_the_defaults():
    query = query_of(View(MODEL, photo="cat.jpg"))
    assert parse_qsl(query) == [("model", MODEL), ("photo", "cat.jpg")]
    assert not is_link({"__theme": "dark", "utm_source": "x"})


@pytest.mark.parametrize(
    ("pairs", "part"),
    [
        ({"seed": "x"}, "seed='x' does not work: expected a whole number"),
        ({"noise": "much"}, "noise='much' does not work: expected a number"),
        ({"opacity": "nan"}, "opacity=nan does not work: expected a number from 0 to 1"),
        ({"opacity": "7"}, "opacity=7.0 does not work: expected a number from 0 to 1"),
        ({"view": "all"}, "view='all' does not work: expected one of overlay"),
        ({"colours": "../x"}, "colours='../x' does not work"),
    ],
)
def test_a_value_that_means_nothing_is_refused_in_the_words_of_the_link(
    pairs: dict[str, str], part: str
):
    with pytest.raises(InvalidArgument) as caught:
        read_query(list(pairs.items()), MODEL)
    assert part in str(caught.value)


def test_a_value_that_stands_twice_is_refused():
    with pytest.raises(InvalidArgument, match="there are two"):
        read_query([("seed", "1"), ("seed", "2")], MODEL)


# Initial result


def test_the_page_opens_with_a_result_of_the_embedded_model(
    browser: Browser, url: str, photos: dict[str, Image.Image]
):
    done, shown = browser.open()
    assert done
    assert "Evidence for <strong>tiger cat</strong>" in shown["summary"]
    assert shown["results"]["visible"] is True
    assert shown["downloads"]["query"].endswith("photo=cat.jpg")
    assert browser.picture(shown["viewer"], "before").shape[1::-1] == photos["cat"].size


def test_opening_the_page_again_costs_no_pass_and_no_folder(
    url: str, monkeypatch: pytest.MonkeyPatch
):
    first = Browser(url).open()[1]

    def never(*_: object) -> None:
        raise AssertionError("a model was run")

    monkeypatch.setattr(Explainer, "explain", never)
    again = Browser(url).open()[1]
    assert again["viewer"] == first["viewer"]


def test_the_initial_result_can_be_shown_in_other_views(browser: Browser):
    browser.open()
    done, drawn = browser.fire(browser.event("alpha", "input", "viewer"), {"alpha": 1.0})
    assert done
    assert "data:image" in drawn["viewer"]


def test_where_the_weights_would_have_to_be_fetched_the_page_opens_without_a_result():
    with serve(replace(SETTINGS, default_model="torchvision/resnet18")) as address:
        done, shown = Browser(address).open()
    assert done
    assert "Choose a photo" in shown["summary"]
    assert "viewer" not in shown or "figure" not in str(shown["viewer"])


# Opening a link


def pressed(shown: dict[str, Any]) -> bool:
    """Whether the page will press its button."""
    return "turn" in shown["starter"]["props"]


def linked(browser: Browser, query: str) -> dict[str, Any]:
    done, shown = browser.open(query)
    assert done
    return shown


def test_a_link_sets_every_control_and_presses_the_button(browser: Browser):
    view = replace(
        FULL,
        model_id=MODEL,
        target_layers=("blocks.4", "bn2"),
        photo="lion.jpg",
        contrast="lynx, catamount",
    )
    shown = linked(browser, query_of(view))
    assert shown["model_id"] == MODEL
    assert shown["method"] == "layercam"
    assert shown["target_layers"]["value"] == ["blocks.4", "bn2"]
    assert shown["target_layers"]["visible"] is True
    assert shown["layer_choice"] == "any"
    assert shown["classes"] == ["tabby, tabby cat", "281"]
    assert shown["contrast"] == ["lynx, catamount"]
    assert shown["region"] == "1, 2.5, 30, 40"
    assert [shown[name]["value"] for name in ("num_samples", "std", "seed")] == [8, 0.25, 7]
    look = [shown[name] for name in ("view", "alpha", "colormap", "threshold", "scale")]
    assert look == ["boxes", 0.35, "viridis", 0.65, "common"]
    assert pressed(shown)
    assert httpx.get(shown["photo"]["url"]).is_success


def test_the_view_that_opens_is_the_one_that_was_linked(browser: Browser, url: str):
    view = View(
        MODEL,
        method="layercam",
        target_layers=("blocks.4", "bn2"),
        classes=("291", "293"),
        photo="lion.jpg",
        look=DisplayOptions(293, "blocks.4", "map", scale="common"),
    )
    shown = linked(browser, query_of(view))
    values = {name: shown[name] for name in ("photo", "classes", "view", "scale")}
    values |= {"method": "layercam", "target_layers": ["blocks.4", "bn2"]}
    done, answered = browser.fire(browser.explaining, values)
    assert done
    assert read_query(parse_qsl(answered["downloads"]["query"]), "") == view
    assert answered["shown_class"]["value"] == 293
    assert "at layer <code>blocks.4</code>" in answered["summary"]


def test_an_uploaded_photo_is_in_no_link_and_the_page_states_this(
    browser: Browser, lion: Image.Image
):
    _, shown = browser.explain(browser.upload(encoded(lion, "PNG")))
    assert "photo" not in shown["downloads"]["query"]
    assert "cannot be in a link" in shown["downloads"]["note"]
    opened = linked(Browser(browser.url), shown["downloads"]["query"])
    assert "names no photo" in opened["summary"]
    assert not pressed(opened)


@pytest.mark.parametrize(
    ("query", "part"),
    [
        ("model=no+id+at+all&photo=cat.jpg", "no id at all"),
        ("model=../../etc&photo=cat.jpg", "Unknown model"),
        ("photo=passwd", "an example: cat.jpg"),
        ("photo=../../etc/passwd", "an example"),
        ("photo=https://ann:secret@example.org/x.png", "This photo cannot be used"),
        ("photo=file:///etc/passwd", "an example"),
        ("photo=cat.jpg&method=magic", "Unknown method"),
        ("photo=cat.jpg&view=all", "view="),
        ("photo=cat.jpg&seed=1&seed=2", "there are two"),
        ("photo=%3Cimg+src%3Dx+onerror%3Dalert(1)%3E", "&lt;img"),
        ("photo=cat.jpg&" + "&".join(f"layers=l{i}" for i in range(100)), "100"),
    ],
)
def test_an_invalid_link_is_reported_and_starts_nothing(browser: Browser, query: str, part: str):
    shown = linked(browser, query)
    assert "This link does not work." in shown["summary"]
    assert part in shown["summary"]
    assert "<img" not in shown["summary"]
    assert not pressed(shown)


def test_a_link_whose_layer_was_not_explained_is_refused(browser: Browser):
    shown = linked(browser, "photo=cat.jpg&layer=bn2x&layers=bn2&method=layercam")
    values = {"photo": shown["photo"], "target_layers": ["bn2"], "method": "layercam"}
    done, refused = browser.fire(browser.explaining, values)
    assert not done
    assert "Nearest: bn2" in refused["error"]


def test_a_link_to_a_photo_inside_of_this_machine_is_refused_when_it_is_fetched(browser: Browser):
    shown = linked(browser, "photo=http://127.0.0.1:1/x.png")
    values = {"photo": shown["photo"], "photo_url": shown["photo_url"]}
    done, refused = browser.fire(browser.explaining, values)
    assert not done
    assert "This photo cannot be used" in refused["error"]
