"""Regions of a photo and reference photos, through the app."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from gradio_client import Client, handle_file
from gradio_client.exceptions import AppError
from PIL import Image

from cam_hub.errors import InvalidArgument, TooMuch
from space.components.downloads import downloads_value
from space.config.settings import Settings
from space.service.explain_form import box_text, read_box
from tests.fakes.browser import Browser
from tests.fakes.space_app import explain, serve

SEGMENTER = "torchvision/lraspp_mobilenet_v3_large"
EMBEDDER = "convnextv2_atto.fcmae"


@pytest.fixture(scope="module")
def cat_file(photos: dict[str, Image.Image], tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("references") / "cat.png"
    photos["cat"].save(path)
    return path


@pytest.mark.parametrize("value", [None, "", "  ", ",", [], ()])
def test_nothing_is_all_of_the_photo(value: Any):
    assert read_box("region", value, 50) is None


@pytest.mark.parametrize(
    "value", ["1, 2.5, 30, 40", "1 2.5 30 40", [1, 2.5, 30, 40], ("1", "2.5", 30.0, "40")]
)
def test_a_box_is_four_numbers_typed_or_listed(value: Any):
    box = read_box("region", value, 50)
    assert box == (1, 2.5, 30, 40)
    assert read_box("region", box_text(box), 50) == box


def test_a_box_is_written_as_it_was_typed():
    assert box_text((1.0, 2.5, 1234.5678, 40.0)) == "1, 2.5, 1234.5678, 40"
    assert box_text(None) == ""


@pytest.mark.parametrize(
    "value",
    [
        "1, 2, 3",
        [1, 2, 3, 4, 5],
        "a, b, c, d",
        [1, 2, 3, "nan"],
        [0, 0, 1, True],
        [0, 0, 1, 10**400],
        7,
        {},
    ],
)
def test_an_invalid_box_is_refused_with_a_message(value: Any):
    with pytest.raises(InvalidArgument, match="four numbers: left, top, right, bottom"):
        read_box("region", value, 50)


def test_a_text_that_is_too_long_is_refused():
    with pytest.raises(TooMuch):
        read_box("region", "1" * 51, 50)


def test_a_classifier_explains_the_whole_photo_and_a_note_states_this(client: Client, photo: Path):
    with pytest.raises(AppError, match="answers for the whole picture"):
        explain(client, photo, region=[0, 0, 8, 8])
    assert explain(client, photo, region=[])[3]["target"]["task"] == "classification"


@pytest.fixture(scope="module")
def random_url() -> Iterator[str]:
    with serve(Settings(device="cpu", random_weights=True)) as url:
        yield url


def test_a_segmenter_explains_a_region_through_every_interface(random_url: str, photo: Path):
    box = [16, 32, 200.5, 220]
    client = Client(random_url, verbose=False)
    asked = {"model_id": SEGMENTER, "method": "layercam", "api_name": "/explain"}
    *_, whole, _ = client.predict(handle_file(photo), **asked)
    *_, part, _ = client.predict(handle_file(photo), **asked, region=box)
    assert whole["target"]["region"] is None
    assert part["target"]["region"] == {"box": box}
    assert whole["predictions"] != part["predictions"]
    with pytest.raises(AppError, match="a part of the photo that the model saw"):
        client.predict(handle_file(photo), **asked, region=[-9, -9, 0, 0])

    browser = Browser(random_url)
    upload = browser.upload(photo.read_bytes())
    done, shown = browser.explain(upload, model_id=SEGMENTER, region="16, 32, 200.5, 220")
    assert done
    codes = shown["downloads"]["codes"]
    assert "region=(16.0, 32.0, 200.5, 220.0)" in codes["The same in Python"]
    assert "region=[16.0, 32.0, 200.5, 220.0]" in codes["The same with gradio_client"]
    assert "part=16%2C+32%2C+200.5%2C+220" in shown["downloads"]["query"]
    done, cleared = browser.fire(browser.event("photo", "input", "viewer"), {"photo": upload})
    assert done
    assert cleared["region"] == "", "it was meant in another photo's pixels"


def test_a_model_without_classes_compares_with_a_reference_through_every_interface(
    random_url: str, photo: Path, cat_file: Path
):
    client = Client(random_url, verbose=False)
    asked = {"model_id": EMBEDDER, "method": "layercam", "api_name": "/explain"}
    *_, alone, _ = client.predict(handle_file(photo), **asked)
    *_, compared, _ = client.predict(handle_file(photo), **asked, reference=handle_file(cat_file))
    assert alone["classes"][0]["label"] == "similarity to itself"
    assert compared["classes"][0]["label"] == "similarity to the reference"

    browser = Browser(random_url)
    files = [browser.upload(path.read_bytes(), path.name) for path in (photo, cat_file)]
    done, shown = browser.explain(files[0], model_id=EMBEDDER, reference=files[1])
    assert done
    assert "similarity to the reference" in shown["summary"]
    codes = shown["downloads"]["codes"]
    assert "reference='cat.png'" in codes["The same in Python"]
    assert "reference=handle_file('cat.png')" in codes["The same with gradio_client"]


def test_a_classifier_has_no_use_for_a_reference(client: Client, photo: Path, cat_file: Path):
    with pytest.raises(AppError, match="models without a classifier"):
        explain(client, photo, reference=handle_file(cat_file))


def test_an_uploaded_reference_is_not_in_a_link_and_the_page_states_this():
    def note(**given: bool) -> object:
        return downloads_value("model=x", codes={}, **given)["note"]

    assert "compared with itself" in str(note(has_photo=True, has_reference=False))
    assert "compared" not in str(note(has_photo=True, has_reference=True))
    assert "chooses a photo" in str(note(has_photo=False, has_reference=False))
