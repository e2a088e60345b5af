"""A visitor's input becomes a checked request, or an error message."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from gradio.utils import get_upload_folder

from cam_hub.errors import ImageRefused, InvalidArgument, MethodNotFound, TooMuch
from space.config.settings import Limits
from space.service.explain_form import ExplainForm, one_or_all, read_request

LIMITS = Limits(max_samples=8, max_classes=3, max_layers=2, max_text=50)


@pytest.fixture
def upload() -> dict[str, str]:
    """Gradio's data about an uploaded file."""
    folder = Path(get_upload_folder()) / "visitor"
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "photo.jpg"
    path.write_bytes(b"anything")
    return {"path": str(path), "orig_name": "holiday.jpg"}


def read(upload: Any, **changed: Any) -> ExplainForm:
    """A valid request, except for the given changes."""
    values: dict[str, Any] = {
        "image": upload,
        "model_id": "timm/resnet50.a1_in1k",
        "method": "layercam",
        "target_layers": [],
        "classes": [],
        "num_samples": 4,
        "std": 0.3,
        "seed": 0,
        "alpha": 0.5,
        "colormap": "jet",
    }
    return read_request(**{**values, **changed}, limits=LIMITS)


def test_a_request_keeps_the_file_as_it_was_sent_and_its_name(upload: dict[str, str]):
    request = read(upload)
    assert request.photo.path is not None
    assert request.photo.path.read_bytes() == b"anything"
    assert request.photo.name == "holiday.jpg"


def test_the_name_of_a_file_never_carries_folders(upload: dict[str, str]):
    assert read({**upload, "orig_name": "../../etc/passwd"}).photo.name == "passwd"


def test_whole_numbers_that_sliders_send_as_floats_become_whole(upload: dict[str, str]):
    request = read(upload, num_samples=3.0, seed=7.0)
    assert (request.num_samples, request.seed) == (3, 7)
    assert isinstance(request.num_samples, int)


def test_a_method_may_be_spelt_as_in_its_paper(upload: dict[str, str]):
    assert read(upload, method="Grad-CAM++").method == "gradcampp"


def test_entries_are_trimmed_blank_and_repeated_ones_dropped(upload: dict[str, str]):
    request = read(upload, classes=[" lion", "", "lion", 5], target_layers="best")
    assert request.classes == ("lion", "5")
    assert request.target_layers == ("best",)


@pytest.mark.parametrize(
    ("classes", "choice"),
    [([], None), (["291"], "291"), (["top(2)"], "top(2)"), (["1", "lion"], ["1", "lion"])],
)
def test_classes_are_handed_on_as_cam_hub_takes_them(
    upload: dict[str, str], classes: list[str], choice: object
):
    assert one_or_all(read(upload, classes=classes).classes) == choice


@pytest.mark.parametrize(
    ("changed", "part"),
    [
        ({"num_samples": 0}, "num_samples=0"),
        ({"num_samples": 9}, "expected 1 to 8"),
        ({"num_samples": 2.5}, "whole number"),
        ({"num_samples": True}, "whole number"),
        ({"num_samples": None}, "whole number"),
        ({"std": -0.1}, "at least 0"),
        ({"std": float("nan")}, "finite"),
        ({"std": 10**400}, "finite"),
        ({"std": "much"}, "a number"),
        ({"seed": 1.5}, "whole number"),
        ({"alpha": 1.01}, "from 0 to 1"),
        ({"alpha": 10**400}, "from 0 to 1"),
        ({"colormap": "jett"}, "jet"),
        ({"colormap": None}, "colour map"),
        ({"model_id": " "}, "a model ID"),
        ({"model_id": "x" * 51}, "at most 50 characters"),
        ({"classes": ["1", "2", "3", "4"]}, "at most 3"),
        ({"classes": ["top(4)"]}, "at most 3 classes"),
        ({"classes": [1.5]}, "a text"),
        ({"target_layers": ["a", "b", "c"]}, "at most 2"),
        ({"target_layers": ["x" * 51]}, "at most 50 characters"),
    ],
    ids=str,
)
def test_what_cannot_work_is_refused_in_words(
    upload: dict[str, str], changed: dict[str, Any], part: str
):
    with pytest.raises(InvalidArgument, match="does not work") as caught:
        read(upload, **changed)
    assert part in str(caught.value)


@pytest.mark.parametrize(
    "changed",
    [
        {"num_samples": 9},
        {"model_id": "x" * 51},
        {"classes": ["1", "2", "3", "4"]},
        {"classes": ["top(4)"]},
        {"target_layers": ["a", "b", "c"]},
        {"contrast": "x" * 51},
        {"contrast": ["lion", "tiger"]},
    ],
    ids=str,
)
def test_what_would_work_where_more_is_allowed_has_a_code_of_its_own(
    upload: dict[str, str], changed: dict[str, Any]
):
    with pytest.raises(TooMuch):
        read(upload, **changed)


@pytest.mark.parametrize(
    ("given", "contrast"), [(None, ""), ("", ""), (" dog ", "dog"), (282, "282"), ([], "")]
)
def test_a_class_to_contrast_with_is_named_like_any_other(
    upload: dict[str, str], given: object, contrast: str
):
    assert read(upload, contrast=given).contrast == contrast


@pytest.mark.parametrize("wrap", [str, lambda url: {"path": url, "url": url}], ids=["text", "file"])
def test_a_photo_may_lie_at_a_url_and_is_not_fetched_yet(wrap: Any):
    request = read(wrap("https://example.org/photos/cat.jpg?size=2"))
    assert request.photo.path is None
    assert request.photo.url == "https://example.org/photos/cat.jpg?size=2"
    assert request.photo.name == "cat.jpg"


@pytest.mark.parametrize(
    "url", ["ftp://example.org/a", "http://a:b@example.org/", "http://example.org:22/"]
)
def test_a_url_that_must_not_be_fetched_is_refused_at_once(url: str):
    with pytest.raises(ImageRefused):
        read(url)


def test_an_unknown_method_names_the_nearest(upload: dict[str, str]):
    with pytest.raises(MethodNotFound) as caught:
        read(upload, method="layercamm")
    assert "layercam" in caught.value.nearest


@pytest.mark.parametrize(
    "image",
    [
        None,
        "photo.jpg",
        {"path": None},
        {"path": "/etc/hostname"},
        {"path": str(Path(__file__))},
        {"path": "../../../../etc/hostname"},
        {"path": "a\0b"},
        {"path": "x" * 5000},
        ["photo.jpg"],
        7,
    ],
    ids=str,
)
def test_only_uploaded_files_are_ever_opened(image: object):
    with pytest.raises(ImageRefused):
        read(image)


def test_a_link_among_the_uploads_leads_nowhere(upload: dict[str, str]):
    link = Path(upload["path"]).with_name("link.jpg")
    link.unlink(missing_ok=True)
    link.symlink_to(__file__)
    with pytest.raises(ImageRefused):
        read({"path": str(link)})
