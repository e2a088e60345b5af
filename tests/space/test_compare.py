"""``/compare`` through gradio_client, and its tab as a browser uses it."""

from __future__ import annotations

import html
import re
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gradio_client import Client, handle_file
from PIL import Image

import cam_hub
from cam_hub import Comparison
from cam_hub.options import options_for
from space.components.comparison import grid_html, tile_side
from space.service.exports import write_compare_files
from tests.fakes.browser import Browser
from tests.fakes.space_app import SETTINGS, encoded

LITE0 = cam_hub.DEFAULT_MODEL


def ask(client: Client, photo: Path, **values: Any) -> tuple[str, list[dict[str, Any]], str]:
    sheet, cells, archive = client.predict(handle_file(photo), api_name="/compare", **values)
    return sheet, cells, archive


# The endpoint


def test_the_answer_is_the_packages_result_for_the_same_request(
    client: Client, photo: Path, lite0: cam_hub.LoadedModel, tmp_path: Path
):
    options: dict[str, Any] = {"methods": ["layercam", "gradcam"], "classes": ["lion"]}
    sheet, cells, archive = ask(client, photo, models=[LITE0], **options)
    direct = cam_hub.compare(lite0, photo, **options)
    assert [cell["method"] for cell in cells] == ["layercam", "gradcam"]
    known = ("row", "column", "model", "title", "layer", "grid", "class_index", "label", "reason")
    for told, meant in zip(cells, direct.table(), strict=True):
        assert {name: told[name] for name in known} == {name: meant[name] for name in known}
        assert told["seconds"] > 0
    assert Image.open(sheet).size == direct.figure().size
    with zipfile.ZipFile(archive) as file:
        file.extractall(tmp_path)
    again = Comparison.load(tmp_path)
    for here, there in zip(again.cells, direct.cells, strict=True):
        assert np.array_equal(here.cam, there.cam)


def test_a_photo_alone_is_compared_with_the_default_model(client: Client, photo: Path):
    _, cells, _ = ask(client, photo)
    (cell,) = cells
    assert cell["model"] == LITE0
    assert cell["method"] in cam_hub.METHODS  # chosen by evidence


def test_a_word_selects_layers_and_adds_an_animation(
    client: Client, photo: Path, lite0: cam_hub.LoadedModel
):
    _, cells, archive = ask(client, photo, methods=["layercam"], target_layers=["stages"])
    assert [cell["layer"] for cell in cells] == cam_hub.suggest_layers(lite0, "stages")
    assert {cell["maps"] for cell in cells} == {5}
    with zipfile.ZipFile(archive) as file:
        assert [name for name in file.namelist() if name.startswith("strip-")]


@pytest.mark.parametrize("bad", ["torchvision/resnet5O", "no/thing/here", "../../etc"])
def test_a_bad_model_in_the_middle_leaves_the_others_their_maps(
    client: Client, photo: Path, bad: str
):
    _, cells, _ = ask(client, photo, models=[LITE0, bad], methods=["gradcam"])
    assert [cell["error"] for cell in cells] == [None, "model_not_found"]
    assert cells[1]["reason"]
    assert cells[1]["grid"] is None


@pytest.mark.parametrize(
    ("values", "code"),
    [
        ({"models": ["no-such-model"]}, "model_not_found"),
        ({"methods": ["nope"]}, "method_not_found"),
        ({"methods": ["layercam", "gradcam"], "classes": ["1", "2"]}, "invalid_argument"),
        ({"target_layers": ["stages", "bn2"]}, "invalid_argument"),
        ({"scale": "log"}, "invalid_argument"),
        ({"alpha": 3}, "invalid_argument"),
        ({"models": [f"m{n}" for n in range(7)]}, "too_much"),
        ({"target_layers": [f"l{n}" for n in range(33)], "models": ["a", "b"]}, "too_much"),
        ({"target_layers": ["all"], "methods": ["gradcam"]}, "too_much"),
        ({"classes": ["no such thing"]}, "class_not_found"),
        ({"contrast": "no such thing"}, "class_not_found"),
        ({"region": [0, 0, 9, 9]}, "invalid_argument"),
        ({"autocast": "int8"}, "invalid_argument"),
        ({"batch_size": 65}, "too_much"),
        ({"methods": ["iscam"]}, "too_much"),
    ],
)
def test_what_cannot_be_answered_gets_a_sentence_with_its_code(
    client: Client, photo: Path, values: dict[str, Any], code: str
):
    with pytest.raises(Exception, match=rf"\[{code}\]") as caught:
        ask(client, photo, **values)
    assert "Traceback" not in str(caught.value)


def test_the_endpoint_documents_its_values(client: Client):
    info: Any = client.view_api(return_format="dict", print_info=False)
    endpoint = info["named_endpoints"]["/compare"]
    defaults = {p["parameter_name"]: p["parameter_has_default"] for p in endpoint["parameters"]}
    assert [name for name, has in defaults.items() if not has] == ["image"]
    assert [p["label"] for p in endpoint["returns"]] == ["sheet", "cells", "archive"]
    everything = [*endpoint["parameters"], *endpoint["returns"]]
    assert all(len(value["python_type"]["description"]) > 10 for value in everything)
    (methods,) = [p for p in endpoint["parameters"] if p["parameter_name"] == "methods"]
    assert all(name in methods["python_type"]["description"] for name in cam_hub.METHODS)


# The tab

FORM = {
    "compare_models": [LITE0],
    "compare_kind": "methods",
    "compare_methods": ["layercam", "gradcam"],
    "compare_layers": "stages",
    "compare_names": [],
    "compare_classes": ["top(3)"],
    "compare_scale": "shares",
    "compare_alpha": 0.5,
    "compare_colormap": "jet",
    "method": "layercam",
    "classes": [],
    "num_samples": 2,
    "std": 0.3,
    "seed": 0,
}


@pytest.fixture
def browser(url: str) -> Browser:
    return Browser(url)


def press(browser: Browser, photo: Any, **changed: Any) -> tuple[bool, dict[str, Any]]:
    event = browser.event("compare_run", "click", "compare_grid")
    return browser.fire(event, {**FORM, "photo": photo, **changed})


def test_the_tab_shows_a_figure_per_cell_and_the_reason_where_there_is_none(
    browser: Browser, lion: Image.Image
):
    photo = browser.upload(encoded(lion, "PNG"))
    done, shown = press(browser, photo, compare_models=[LITE0, "<b>no</b>"])
    grid = shown["compare_grid"]
    assert done
    assert grid.count("<img") == 3  # including the colour bar
    assert grid.count("No map.") == 1  # for a whole row, the reason is shown once
    assert "<b>no</b>" not in grid
    assert "&lt;b&gt;no&lt;/b&gt;" in grid
    assert f'alt="LayerCAM of {LITE0} at bn2 for lion"' in grid
    assert "one scale for all" in grid


@pytest.mark.parametrize(
    ("kind", "changed", "count"),
    [
        ("layers", {}, 5),
        ("layers", {"compare_layers": "any", "compare_names": ["blocks.4", "bn2"]}, 2),
        ("classes", {}, 3),
        ("classes", {"compare_classes": [], "classes": ["lion", "293"]}, 2),
        ("methods", {"classes": ["293", "lion"]}, 2),
    ],
)
def test_columns_are_what_was_chosen_and_the_form_fills_in_the_rest(
    browser: Browser, lion: Image.Image, kind: str, changed: dict[str, Any], count: int
):
    photo = browser.upload(encoded(lion, "PNG"))
    done, shown = press(browser, photo, compare_kind=kind, **changed)
    assert done
    assert shown["compare_grid"].count("<figure>") == count
    if kind == "methods":
        assert "for cheetah" in shown["compare_grid"]


def test_the_form_selects_the_target_as_for_one_image(
    browser: Browser, lion: Image.Image, lite0: cam_hub.LoadedModel
):
    photo = browser.upload(encoded(lion, "PNG"))
    event = browser.event("compare_run", "click", "compare_grid")
    inputs = {name for name, id in browser.ids.items() if id in event["inputs"]}
    form = {"photo", "photo_url", "method", "classes", "contrast", "region", "reference",
            "num_samples", "std", "seed"}  # fmt: skip
    assert form | {f"option_{name}" for name in options_for("page")} <= inputs
    asked = {"contrast": ["cheetah"], "option_sign": "both", "option_target": "probability"}
    done, shown = press(browser, photo, compare_methods=["gradcam"], **asked)
    assert done
    meant = cam_hub.compare(
        lite0, lion, methods="gradcam", contrast="cheetah", sign="both", target="probability"
    )
    side = tile_side(meant)
    expected = grid_html(meant.reduced(side), "shares", 0.5, "jet")
    assert re.findall('data:image[^"]*', shown["compare_grid"]) == re.findall(
        'data:image[^"]*', expected
    )
    done, refused = press(browser, photo, contrast=["no such thing"])
    assert not done
    assert "no such thing" in refused["error"]
    done, refused = press(browser, photo, region="0, 0, 9, 9")
    assert not done
    assert "region" in refused["error"]


def test_another_view_is_drawn_without_the_model(browser: Browser, lion: Image.Image):
    redraw = browser.event("compare_scale", "input", "compare_grid")
    look = {"compare_scale": "own", "compare_alpha": 0.9, "compare_colormap": "viridis"}
    before = browser.fire(redraw, look)[1]
    assert "figure" not in str(before)
    _, first = press(browser, browser.upload(encoded(lion, "PNG")))
    done, drawn = browser.fire(redraw, look)
    assert done
    assert drawn["compare_grid"] != first["compare_grid"]
    assert "each map on its own scale" in html.unescape(drawn["compare_grid"])
    done, refused = browser.fire(redraw, {**look, "compare_colormap": "../x"})
    assert not done
    assert "does not work" in refused["error"]


def test_a_request_that_cannot_be_answered_gets_a_message(browser: Browser, lion: Image.Image):
    photo = browser.upload(encoded(lion, "PNG"))
    for changed, words in (
        ({"photo": None}, "upload, paste or take"),
        ({"compare_models": []}, "at least one model"),
        ({"compare_methods": []}, "at least one method"),
        ({"compare_models": ["<i>x</i>"]}, "&lt;i&gt;"),
    ):
        done, refused = press(browser, **{"photo": photo, **changed})
        assert not done
        assert words in refused["error"]


def test_another_photo_takes_the_grid_away(browser: Browser, lion: Image.Image):
    press(browser, browser.upload(encoded(lion, "PNG")))
    done, cleared = browser.fire(browser.event("photo", "change", "compare_grid"), {})
    assert done
    assert "<figure>" not in cleared["compare_grid"]
    assert cleared["compare_files"]["visible"] is False


def test_the_field_for_the_columns_is_the_one_in_view(browser: Browser):
    event = browser.event("compare_kind", "input", "compare_layers")
    for layers, expected in (
        ("stages", ["compare_layers"]),
        ("any", ["compare_layers", "compare_names"]),
    ):
        _, shown = browser.fire(event, {"compare_kind": "layers", "compare_layers": layers})
        assert [name for name, field in shown.items() if field["visible"]] == expected


def test_the_limits_are_shown(url: str):
    limits = SETTINGS.limits
    parts = {
        part["props"].get("elem_id"): part["props"] for part in Browser(url).config["components"]
    }
    assert f"at most {limits.max_models}" in parts["compare_models"]["info"]
    assert f"At most {limits.max_cells}" in parts["compare_layers"]["info"]


def test_the_files_of_one_view_are_written_once_and_do_not_contain_themselves(
    lite0: cam_hub.LoadedModel, lion: Image.Image, tmp_path: Path
):
    grid = cam_hub.compare(lite0, lion, methods="gradcam", target_layers="stages")
    first = write_compare_files(grid, tmp_path, "own", 0.4, "magma")
    written = first.archive.stat().st_mtime_ns
    assert write_compare_files(grid, tmp_path, "own", 0.4, "magma") == first
    assert first.archive.stat().st_mtime_ns == written
    assert len(first.strips) == 1
    names = zipfile.ZipFile(first.archive).namelist()
    assert {"sheet.png", "photo.png", "comparison.json"} <= set(names)
    assert not [name for name in names if name.endswith(".zip")]
