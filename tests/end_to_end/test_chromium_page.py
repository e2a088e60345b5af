"""The page in Chromium, in a desktop and a phone layout, used as by a person."""

from __future__ import annotations

import io
import json
import re
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import cam_hub
from cam_hub.results.explanation import Explanation
from space.config.settings import example_photos
from space.service.explainer import Explainer
from tests.fakes.chromium import DARK, DESKTOP, PHONE, Visitor

pytestmark = [pytest.mark.browser, pytest.mark.timeout(180)]

HOSTILE = "<img src=x onerror=alert(1)>"
Open = Callable[..., Visitor]


sizes = pytest.mark.parametrize("options", [DESKTOP, PHONE], ids=["desktop", "phone"])


# The initial page


@pytest.mark.parametrize("options", [DESKTOP, PHONE, DARK], ids=["desktop", "phone", "dark"])
def test_a_result_is_in_view_on_the_first_screen(visit: Open, options: dict[str, Any]):
    visitor = visit(options)
    visitor.sees("Evidence for tiger cat")
    box = visitor.page.locator("#viewer .stage").bounding_box()
    view = options["viewport"]
    assert box["y"] + 0.8 * box["height"] < view["height"], "the image is mostly on the screen"
    assert box["width"] > 0.5 * min(view["width"], 700)
    width = visitor.page.evaluate("document.documentElement.scrollWidth")
    assert width <= view["width"], "nothing sticks out"
    assert visitor.page.get_attribute("html", "lang") == "en"


# Evidence


@sizes
def test_the_map_is_tested_below_the_picture_and_further_on_request(
    visit: Open, options: dict[str, Any]
):
    visitor = visit(options)
    visitor.sees("tiger cat")
    page = visitor.page
    assert "tiger cat" in page.inner_text("#evidence")
    visitor.take_example("coffee.jpg")
    assert not page.is_visible("#evidence"), "the evidence for the photo before is gone"
    visitor.explain()
    visitor.sees("Evidence for espresso")
    page.wait_for_selector("#evidence [data-map]")
    assert "Cover the hottest 15% of the image: espresso" in page.inner_text("#evidence")
    picture, evidence = (page.locator(name).bounding_box() for name in ("#viewer", "#evidence"))
    assert evidence["y"] >= picture["y"] + picture["height"]
    page.click("#evidence summary")
    page.click("#evidence button")
    rows = page.locator("#evidence tbody tr")
    page.wait_for_function("document.querySelectorAll('#evidence tbody tr').length === 3")
    assert rows.nth(1).is_visible(), "the table stays open"
    width = page.evaluate("document.documentElement.scrollWidth")
    assert width <= options["viewport"]["width"], "nothing sticks out"
    page.click("#look label:has-text('Boxes')")
    visitor.sees("Evidence for espresso")
    page.wait_for_timeout(500)
    assert rows.nth(1).is_visible(), "and as the display changes"


# Input


@sizes
def test_an_example_is_explained_for_several_classes_at_several_layers(
    visit: Open, options: dict[str, Any]
):
    visitor = visit(options)
    visitor.sees("tiger cat")
    visitor.take_example("lion.jpg")
    visitor.choose_class("classes", "cheetah")
    visitor.choose_class("classes", "lion king")
    visitor.page.click('#layer_choice label:has-text("Stages")')
    visitor.explain()
    visitor.sees("Evidence for cheetah")
    assert "the fusion of 5 layers" in visitor.summary
    assert visitor.page.locator("#maps li").count() == 6
    before = visitor.picture()
    visitor.page.click('#shown_class label:has-text("lion")')
    visitor.sees("Evidence for lion")
    visitor.other_picture(before)
    if options is PHONE:
        top = visitor.page.locator("#summary").bounding_box()["y"]
        assert top < options["viewport"]["height"], "the answer was brought into view"


def test_a_photo_is_uploaded_pasted_and_taken(visit: Open, lion: Image.Image, tmp_path: Path):
    visitor = visit()
    visitor.sees("tiger cat")
    page = visitor.page
    lion.save(tmp_path / f"{HOSTILE[:10]}.png")

    page.click('#photo [aria-label="Clear"], #photo [aria-label="Remove Image"]')
    page.set_input_files("#photo input[type=file]", tmp_path / f"{HOSTILE[:10]}.png")
    page.wait_for_selector("#photo img")
    visitor.explain()
    visitor.sees("Evidence for lion")
    assert "cannot be in a link" in page.inner_text("#link_note")

    page.evaluate("""async () => {
      const canvas = new OffscreenCanvas(64, 64);
      canvas.getContext("2d").fillRect(8, 8, 30, 30);
      const blob = await canvas.convertToBlob({ type: "image/png" });
      await navigator.clipboard.write([new ClipboardItem({ "image/png": blob })]);
    }""")
    page.click('#photo [aria-label="Paste from clipboard"]')
    page.wait_for_function("() => document.querySelector('#summary').innerText.includes('Choose')")

    page.click('#photo [aria-label="Capture from camera"]')
    page.click('#photo button:has-text("Click to Access Webcam"), #photo .access-webcam')
    page.wait_for_function("() => document.querySelector('#photo video')?.readyState >= 2")
    page.click('#photo [aria-label="capture photo"]')
    page.wait_for_selector("#photo img")
    visitor.explain()
    visitor.sees("Evidence for")


def test_an_address_of_this_machine_is_refused_and_the_page_continues(visit: Open, url: str):
    visitor = visit()
    visitor.sees("tiger cat")
    visitor.page.fill("#photo_url textarea, #photo_url input", f"{url}favicon.ico")
    visitor.page.press("#photo_url textarea, #photo_url input", "Enter")
    visitor.page.wait_for_selector("text=This photo cannot be used")
    visitor.page.focus("#classes_text")
    visitor.page.wait_for_function(
        "() => document.querySelector('#summary').innerText.includes('Choose a photo')"
    )
    visitor.page.click(".toast-close")
    visitor.take_example("coffee.jpg")
    visitor.explain()
    visitor.sees("Evidence for espresso")


@sizes
def test_a_model_is_searched_and_its_facts_and_labels_are_there_at_once(
    visit: Open, options: dict[str, Any]
):
    visitor = visit(options)
    visitor.sees("tiger cat")
    page = visitor.page
    page.fill("#model_id_text", "mobilenet v3 small torchvision")
    page.click('#model_id_list li:has-text("torchvision/mobilenet_v3_small")')
    page.wait_for_selector("#facts :text('2.5 M parameters')")
    assert "1,000 classes" in page.inner_text("#facts")
    visitor.choose_class("classes", "goldfish")
    visitor.choose_class("contrast", "tench")
    assert page.inner_text("#classes .chips").startswith("goldfish")
    assert page.inner_text("#contrast .chips").startswith("tench")


def test_why_this_rather_than_that(visit: Open):
    visitor = visit()
    visitor.sees("tiger cat")
    alone = visitor.picture()
    visitor.choose_class("contrast", "egyptian cat")
    visitor.explain()
    visitor.sees("Evidence for tiger cat rather than Egyptian cat")
    assert visitor.picture() != alone


def test_what_is_typed_is_text_and_never_markup(visit: Open):
    visitor = visit()
    visitor.sees("tiger cat")
    visitor.page.fill("#classes_text", HOSTILE)
    visitor.page.press("#classes_text", "Enter")
    assert visitor.page.inner_text("#classes .chips").startswith(HOSTILE)
    visitor.explain()
    visitor.page.wait_for_selector("text=Unknown class")
    visitor.page.wait_for_selector("#stop", state="hidden")
    assert visitor.page.locator("img[onerror]").count() == 0


# Display


@sizes
def test_every_change_of_the_display_is_another_image_and_no_run_of_the_model(
    visit: Open, options: dict[str, Any], monkeypatch: pytest.MonkeyPatch
):
    visitor = visit(options, "?photo=lion.jpg&classes=lion&classes=cheetah&layers=stages")
    visitor.sees("Evidence for lion")

    def never(*_: object) -> None:
        raise AssertionError("a model was run")

    monkeypatch.setattr(Explainer, "explain", never)
    page = visitor.page
    steps: list[Callable[[], None]] = [
        lambda: page.click('#maps button[data-layer="blocks.4"]'),
        lambda: page.click('#view label:has-text("Raw map")'),
        lambda: page.click('#view label:has-text("Boxes")'),
        lambda: page.click('#view label:has-text("Cut-out")'),
        lambda: page.fill('#threshold input[type="number"]', "0.05"),
        lambda: page.click('#view label:has-text("Overlay")'),
        lambda: page.click('#scale label:has-text("One scale")'),
        lambda: page.fill('#alpha input[type="number"]', "0.9"),
        lambda: page.click('#shown_class label:has-text("cheetah")'),
        lambda: page.click('#predictions button:has-text("lion")'),
    ]
    for step in steps:
        before = visitor.picture()
        step()
        visitor.other_picture(before)
    before = visitor.picture()
    page.click("#colormap input")
    assert page.locator('ul [role="option"]:has-text("colour-blind safe")').count() >= 3
    page.click('ul [role="option"]:has-text("viridis")')
    visitor.other_picture(before)
    assert "0 to the greatest value of all maps" in page.inner_text("#viewer figcaption")


@sizes
def test_the_slider_uncovers_the_photo_by_pointer_and_by_keys(visit: Open, options: dict[str, Any]):
    visitor = visit(options)
    visitor.sees("tiger cat")
    page = visitor.page
    cut = "() => document.querySelector('#viewer .stage').style.getPropertyValue('--cut')"
    page.focus("#viewer input[type=range]")
    for _ in range(5):
        page.keyboard.press("ArrowRight")
    assert page.evaluate(cut) == "5%"
    box = page.locator("#viewer .stage").bounding_box()
    page.mouse.click(box["x"] + 0.6 * box["width"], box["y"] + 0.5 * box["height"])
    assert 50 < float(page.evaluate(cut).rstrip("%")) < 70


def test_a_prediction_that_is_chosen_is_explained(visit: Open):
    visitor = visit()
    visitor.sees("tiger cat")
    visitor.page.click('#predictions button:has-text("Egyptian cat")')
    visitor.sees("Evidence for Egyptian cat")
    assert "tiger cat" in visitor.page.inner_text("#classes .chips")


# Export


@sizes
def test_files_hold_the_exact_pixels_and_numbers(
    visit: Open,
    options: dict[str, Any],
    lite0: cam_hub.LoadedModel,
    tmp_path: Path,
):
    visitor = visit(options)
    visitor.sees("tiger cat")
    found: dict[str, bytes] = {}
    for kind in ("overlay", "map", "manifest", "archive"):
        with visitor.page.expect_download() as download:
            visitor.page.click(f'#downloads [data-kind="{kind}"]')
        found[kind] = Path(download.value.path()).read_bytes()
    manifest = json.loads(found["manifest"])
    (photo,) = [path for path in example_photos() if path.endswith("cat.jpg")]
    direct = cam_hub.reproduce(manifest, photo, model=lite0)
    overlay = np.asarray(Image.open(io.BytesIO(found["overlay"])))
    assert np.abs(overlay.astype(int) - np.asarray(direct.overlay())).max() <= 2
    assert np.allclose(np.load(io.BytesIO(found["map"])), direct.cam(), rtol=1e-3)
    with zipfile.ZipFile(io.BytesIO(found["archive"])) as file:
        file.extractall(tmp_path)
    again = Explanation.load(tmp_path)
    assert again.overlay().tobytes() == Image.fromarray(overlay).tobytes()


@sizes
def test_a_link_opens_the_same_view(visit: Open, options: dict[str, Any]):
    query = "?photo=lion.jpg&method=layercam&layers=stages&classes=lion&classes=cheetah"
    visitor = visit(options, f"{query}&class=293&layer=blocks.4&view=boxes&threshold=0.3")
    visitor.sees("Evidence for cheetah")
    visitor.page.click('#downloads button[aria-label="Copy the link"]')
    link = visitor.page.evaluate("navigator.clipboard.readText()")
    assert link == visitor.page.input_value("#link_text")
    other = visit(options, "?" + link.partition("?")[2])
    other.sees("Evidence for cheetah")
    assert other.summary == visitor.summary
    assert other.picture() == visitor.picture()
    assert other.page.input_value("#link_text") == link


def test_the_code_is_there_to_be_copied(visit: Open):
    visitor = visit()
    visitor.sees("tiger cat")
    visitor.page.click("#downloads summary:has-text('The same in Python')")
    visitor.page.click('#downloads [aria-label="Copy: The same in Python"]')
    code = visitor.page.evaluate("navigator.clipboard.readText()")
    assert re.search(r"cam_hub\.explain\(\s*'timm/tf_efficientnet_lite0.in1k',\s*'cat.jpg'", code)
    compile(code, "code", "exec")
