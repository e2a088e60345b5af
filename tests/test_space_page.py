"""The page as a browser uses it: what it holds, and its events within one session."""

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
from cam_hub.passes import RECENT
from tests.browser import Browser
from tests.space_app import encoded


@pytest.fixture
def browser(url: str) -> Browser:
    return Browser(url)


# What happens


def test_the_button_shows_predictions_the_overlay_and_a_map_per_layer_with_the_fusion(
    browser: Browser, lion: Image.Image, lite0: cam_hub.LoadedModel
):
    RECENT.clear()  # the last digits of a kept pass are those of what was in its batch
    done, shown = browser.explain(
        browser.upload(encoded(lion, "PNG")), target_layers=["blocks.4", "bn2"]
    )
    direct = cam_hub.explain(lite0, lion, method="layercam", target_layers=["blocks.4", "bn2"])
    assert done
    assert shown["predictions"]["label"].startswith("lion")
    before, after = shown["comparison"]
    assert np.array_equal(browser.picture(before), np.asarray(lion))
    assert np.array_equal(browser.picture(after), np.asarray(direct.overlay()))
    captions = [item["caption"] for item in shown["gallery"]]
    assert captions == ["blocks.4 · lion", "bn2 · lion", "fusion of 2 layers · lion"]
    third = browser.picture(shown["gallery"][2]["image"])
    assert np.array_equal(third, np.asarray(direct.overlay()))
    assert shown["manifest"] == dict(direct.manifest)
    assert shown["results"]["visible"] is True
    assert ["lion, king of beasts, Panthera leo · 89.7%", "291"] in shown["classes"]["choices"]
    assert "blocks.4" in [value for _, value in shown["target_layers"]["choices"]]


def test_another_class_and_look_are_drawn_from_the_kept_result(
    browser: Browser, lion: Image.Image, lite0: cam_hub.LoadedModel
):
    _, shown = browser.explain(browser.upload(encoded(lion, "PNG")), classes=["291", "293"])
    assert [value for _, value in shown["shown_class"]["choices"]] == [291, 293]
    redraw = browser.event("shown_class", "input", "comparison")
    look = {"shown_class": 293, "alpha": 0.8, "colormap": "magma"}
    done, drawn = browser.fire(redraw, look)
    direct = cam_hub.explain(lite0, lion, method="layercam", classes=[293])
    expected = np.asarray(direct.overlay(alpha=0.8, colormap="magma"))
    assert done
    assert np.array_equal(browser.picture(drawn["comparison"][1]), expected)
    assert "cheetah" in drawn["summary"]
    assert "result.overlay(293, alpha=0.8, colormap='magma')" in drawn["python"]
    assert "alpha=0.8" in drawn["client"]


@pytest.mark.parametrize(
    "look",
    [{"alpha": 2, "colormap": "jet"}, {"alpha": 0.5, "colormap": "../../elsewhere"}],
    ids=["opacity", "colour map"],
)
def test_a_look_that_does_not_work_gets_a_message(
    browser: Browser, lion: Image.Image, look: dict[str, Any]
):
    browser.explain(browser.upload(encoded(lion, "PNG")))
    done, refused = browser.fire(browser.event("colormap", "input", "comparison"), look)
    assert not done
    assert "does not work" in refused["error"]


def test_a_result_belongs_to_its_session(browser: Browser, url: str, lion: Image.Image):
    browser.explain(browser.upload(encoded(lion, "PNG")))
    stranger = Browser(url)
    redraw = stranger.event("colormap", "input", "comparison")
    done, drawn = stranger.fire(redraw, {"alpha": 0.5, "colormap": "jet"})
    assert done
    assert "overlay" not in json.dumps(drawn)


def test_a_new_photo_takes_the_old_result_away(browser: Browser, lion: Image.Image):
    browser.explain(browser.upload(encoded(lion, "PNG")))
    done, cleared = browser.fire(browser.event("photo", "change", "comparison"), {})
    assert done
    assert cleared["results"]["visible"] is False
    assert cleared["comparison"] is None
    assert cleared["classes"]["value"] == []
    redraw = browser.event("colormap", "input", "comparison")
    _, drawn = browser.fire(redraw, {"alpha": 0.5, "colormap": "jet"})
    assert "overlay" not in json.dumps(drawn)


@pytest.mark.parametrize(
    ("content", "part"),
    [(b"", "0 bytes"), (b"no picture at all", "no image"), (b"\x89PNG\r\n\x1a\n", "damaged")],
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


def test_noise_can_be_set_only_where_the_method_uses_it(browser: Browser):
    event = browser.event("method", "change", "std")
    for name, method in cam_hub.METHODS.items():
        _, switched = browser.fire(event, {"method": name})
        assert {field["interactive"] for field in switched.values()} == {method.needs_noise}
        assert set(switched) == {"num_samples", "std", "seed"}


def test_example_photos_are_served_by_the_app_itself(browser: Browser):
    (dataset,) = [part for part in browser.config["components"] if part["type"] == "dataset"]
    samples = [sample[0] for sample in dataset["props"]["samples"]]
    assert len(samples) >= 2
    for sample in samples:
        assert httpx.get(sample["url"]).headers["content-type"].startswith("image/")
        assert Path(sample["path"]).is_file()


# What the page holds


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
    assert public == ["explain", "layers", "predict", "compare", "search", "describe"]


def test_every_input_of_the_page_has_a_label(url: str):
    config = httpx.get(f"{url}config").json()
    kinds = {"image", "dropdown", "slider", "number", "radio"}
    inputs = [part["props"] for part in config["components"] if part["type"] in kinds]
    assert len(inputs) >= 11
    assert all(props.get("label") and props.get("elem_id") for props in inputs)
