"""The page as a browser uses it: its content, and its events within one session."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from PIL import Image

import cam_hub
from space.app.create_app import create_app
from space.config.settings import example_photos
from tests.fakes.browser import Browser
from tests.fakes.space_app import SETTINGS, encoded


@pytest.fixture
def browser(url: str) -> Browser:
    return Browser(url)


# How events run


def test_an_event_with_data_of_its_own_is_neither_deferred_nor_dropped():
    """With ``always_last``, browsers repeat the data of the earlier event; ``once`` drops it."""
    events = [event for event in create_app(SETTINGS).fns.values() if event.collects_event_data]
    assert {"propose", "pick_layer", "pick_class", "download", "choose_example", "pick"} <= {
        event.name for event in events
    }
    assert {event.name: event.trigger_mode for event in events} == {
        event.name: "multiple" for event in events
    }


def test_the_button_that_stops_a_request_is_taken_away_when_it_fails():
    """After an error, browsers run ``failure`` and not ``then``."""
    app = create_app(SETTINGS)
    (explains, compares) = [event for event in app.fns.values() if event.name == "answer"]
    for run, label in ((explains, "stop"), (compares, "compare_stop")):
        after = [
            {app.blocks[output._id].elem_id for output in event.outputs}
            for event in app.fns.values()
            if event.trigger_after == run._id and event.trigger_only_on_failure
        ]
        assert label in set().union(*after)


# Effects of events


def near(shown: np.ndarray[Any, Any], exact: Image.Image) -> bool:
    """Whether an image is the exact one, up to the losses of its encoding for the screen."""
    expected = np.asarray(exact).astype(int)
    return shown.shape == expected.shape and float(np.abs(shown - expected).mean()) < 3


def test_the_button_shows_the_overlay_the_predictions_and_a_map_per_layer_with_the_fusion(
    browser: Browser, lion: Image.Image, lite0: cam_hub.LoadedModel
):
    done, shown = browser.explain(
        browser.upload(encoded(lion, "PNG")), target_layers=["blocks.4", "bn2"]
    )
    direct = cam_hub.explain(lite0, lion, method="layercam", target_layers=["blocks.4", "bn2"])
    assert done
    assert near(browser.picture(shown["viewer"], "before"), lion)
    assert near(browser.picture(shown["viewer"]), direct.overlay())
    assert "lion, king of beasts" in shown["predictions"]
    assert "89.7%" in shown["predictions"]
    titles = re.findall(r"<strong>(.*?)</strong>", shown["maps"])
    assert titles == ["fusion of 2", "blocks.4", "bn2"]
    assert shown["results"]["visible"] is True
    assert "Evidence for <strong>lion</strong>" in shown["summary"]
    assert "blocks.4" in [value for _, value in shown["target_layers"]["choices"]]


def test_another_class_and_view_are_drawn_from_the_stored_result(
    browser: Browser, lion: Image.Image, lite0: cam_hub.LoadedModel
):
    _, shown = browser.explain(browser.upload(encoded(lion, "PNG")), classes=["291", "cheetah"])
    assert [value for _, value in shown["shown_class"]["choices"]] == [291, 293]
    look = {"shown_class": 293, "alpha": 0.8, "colormap": "magma"}
    done, drawn = browser.fire(browser.event("alpha", "input", "viewer"), look)
    direct = cam_hub.explain(lite0, lion, method="layercam", classes=[293])
    assert done
    assert near(browser.picture(drawn["viewer"]), direct.overlay(alpha=0.8, colormap="magma"))
    assert "cheetah" in drawn["summary"]
    python, client = drawn["downloads"]["codes"].values()
    assert "result.overlay(293, alpha=0.8, colormap='magma')" in python
    assert "alpha=0.8" in client


def test_one_of_the_maps_is_shown_large(
    browser: Browser, lion: Image.Image, lite0: cam_hub.LoadedModel
):
    layers = ["blocks.4", "bn2"]
    browser.explain(browser.upload(encoded(lion, "PNG")), target_layers=layers)
    event = browser.event("maps", "select", "viewer")
    done, drawn = browser.fire(event, {}, data={"layer": "blocks.4"})
    direct = cam_hub.explain(lite0, lion, method="layercam", target_layers=layers)
    assert done
    assert near(browser.picture(drawn["viewer"]), direct.overlay(layer="blocks.4"))
    done, refused = browser.fire(event, {}, data={"layer": "<img src=x>"})
    assert not done
    assert "<img" not in refused["error"]


def test_a_prediction_that_was_not_explained_is_requested_with_those_that_were(
    browser: Browser, lion: Image.Image
):
    browser.explain(browser.upload(encoded(lion, "PNG")), classes=["291", "293"])
    event = browser.event("predictions", "select", "viewer")
    _, there = browser.fire(event, {}, data={"chosen": 293})
    assert there["shown_class"] == 293
    assert "cheetah" in there["summary"]
    _, asked = browser.fire(event, {}, data={"chosen": 244})
    assert asked["classes"][0] == "Tibetan mastiff"
    assert asked["classes"][1].startswith("lion")
    assert asked["starter"]["props"]["turn"]


@pytest.mark.parametrize(
    "look",
    [{"alpha": 2}, {"colormap": "../../elsewhere"}, {"view": "all"}, {"threshold": "hot"},
     {"scale": None}, {"shown_class": 3}],
    ids=lambda look: next(iter(look)),
)  # fmt: skip
def test_invalid_display_options_get_a_message(
    browser: Browser, lion: Image.Image, look: dict[str, Any]
):
    browser.explain(browser.upload(encoded(lion, "PNG")))
    done, refused = browser.fire(browser.event("colormap", "input", "viewer"), look)
    assert not done
    assert "does not work" in refused["error"] or "Unknown class" in refused["error"]


def test_a_result_belongs_to_its_session(browser: Browser, url: str, lion: Image.Image):
    browser.explain(browser.upload(encoded(lion, "PNG")))
    stranger = Browser(url)
    done, drawn = stranger.fire(stranger.event("colormap", "input", "viewer"), {})
    assert done
    assert "data:image" not in json.dumps(drawn)
    done, refused = stranger.fire(
        stranger.event("downloads", "select", "downloads"), {}, data={"kind": "archive"}
    )
    assert not done
    assert "explain a photo first" in refused["error"]


@pytest.mark.parametrize(
    ("elem_id", "kind", "values"),
    [
        ("photo", "input", {}),
        ("photo_url", "blur", {"photo_url": "https://example.org/cat.jpg"}),
        ("model_id", "select", {}),
    ],
)
def test_another_question_takes_the_old_result_away_and_keeps_the_classes(
    browser: Browser, lion: Image.Image, elem_id: str, kind: str, values: dict[str, Any]
):
    browser.explain(browser.upload(encoded(lion, "PNG")))
    done, cleared = browser.fire(browser.event(elem_id, kind, "viewer"), values)
    assert done
    assert cleared["results"]["visible"] is False
    assert cleared["viewer"] == ""
    assert "classes" not in cleared
    _, drawn = browser.fire(browser.event("colormap", "input", "viewer"), {})
    assert "data:image" not in json.dumps(drawn)


def test_photo_and_address_displace_each_other(browser: Browser, lion: Image.Image):
    typed = {"photo_url": "https://example.org/cat.jpg"}
    _, after = browser.fire(browser.event("photo_url", "blur", "photo"), typed)
    assert after["photo"] is None
    put = {"photo": browser.upload(encoded(lion, "PNG"))}
    _, after = browser.fire(browser.event("photo", "input", "photo_url"), put)
    assert after["photo_url"] == ""


def test_the_address_of_a_photo_goes_before_the_photo(browser: Browser, lion: Image.Image):
    done, refused = browser.explain(
        browser.upload(encoded(lion, "PNG")), photo_url="http://127.0.0.1/lion.png"
    )
    assert not done
    assert refused["error"].startswith("<strong>This photo cannot be used.</strong>")


@pytest.mark.parametrize(
    ("content", "part"),
    [(b"", "0 bytes"), (b"no picture at all", "not an image"), (b"\x89PNG\r\n\x1a\n", "damaged")],
    ids=["0 bytes", "no image", "cut off"],
)
def test_a_file_that_cannot_be_used_gets_a_message_and_the_next_one_works(
    browser: Browser, lion: Image.Image, content: bytes, part: str
):
    done, refused = browser.explain(browser.upload(content))
    assert not done
    assert part in refused["error"]
    assert refused["error"].startswith("<strong>This photo cannot be used.</strong>")
    assert "Traceback" not in refused["error"]
    assert browser.explain(browser.upload(encoded(lion, "PNG")))[0]


def test_no_photo_gets_a_message(browser: Browser):
    done, refused = browser.explain(None)
    assert not done
    assert "upload, paste or take a photo" in refused["error"]


@pytest.mark.parametrize("field", ["classes", "target_layers", "method", "model_id"])
def test_what_visitors_type_comes_back_as_text_and_never_as_markup(
    browser: Browser, lion: Image.Image, field: str
):
    hostile = "<img src=x onerror=alert(1)>"
    several = field in ("classes", "target_layers")
    value = [hostile] if several else hostile
    done, refused = browser.explain(browser.upload(encoded(lion, "PNG")), **{field: value})
    assert not done
    assert "<img" not in refused["error"]
    assert "&lt;img" in refused["error"]


def test_the_method_has_a_description_and_only_some_have_noise_settings(browser: Browser):
    event = browser.event("method", "change", "std")
    for name, method in cam_hub.METHODS.items():
        _, switched = browser.fire(event, {"method": name})
        fields = [switched[field] for field in ("num_samples", "std")]
        assert {field["interactive"] for field in fields} == {method.needs_noise}
        assert switched["seed"]["interactive"] == (method.needs_noise or method.seeded)
        assert method.summary
        assert method.summary.split()[0] in switched["method_note"]


def test_examples_are_taken_by_their_names(browser: Browser):
    event = browser.event("examples", "select", "photo")
    for path in map(Path, example_photos()):
        done, taken = browser.fire(event, {}, data={"name": path.name})
        assert done
        served = httpx.get(taken["photo"]["url"])
        assert served.content == path.read_bytes()
    done, refused = browser.fire(event, {}, data={"name": "../../etc/passwd"})
    assert not done
    assert "an example" in refused["error"]


# Content of the page


def test_the_page_names_no_other_host_to_load_from(url: str):
    page = httpx.get(url).text
    loaded = re.findall(r"""<(?:script|link|img|iframe)[^>]*?(?:src|href)=["'](.*?)["']""", page)
    assert loaded
    assert not [
        link for link in loaded if re.match(r"(https?:)?//", link) and "127.0.0.1" not in link
    ]
    config = httpx.get(f"{url}config").json()
    assert not [sheet for sheet in config["stylesheets"] if sheet.startswith(("http", "//"))]
    assert config["analytics_enabled"] is False


def test_no_event_of_the_page_can_be_called_by_name(url: str):
    config = httpx.get(f"{url}config").json()
    public = [d["api_name"] for d in config["dependencies"] if d["api_visibility"] != "private"]
    assert public[:4] == ["explain", "layers", "predict", "compare"]
    assert public[4:] == ["search", "describe", "evidence"]


def test_every_input_of_the_page_has_a_label(url: str):
    config = httpx.get(f"{url}config").json()
    kinds = {"image", "dropdown", "slider", "number", "radio", "textbox"}
    inputs = [part["props"] for part in config["components"] if part["type"] in kinds]
    assert len(inputs) >= 11
    assert all(props.get("label") and props.get("elem_id") for props in inputs)
