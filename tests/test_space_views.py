"""Explanations as values for the page, as files, and as code; errors as messages."""

from __future__ import annotations

import ast
import dataclasses
import html
import json
import logging
import os
import time
import zipfile
from pathlib import Path

import gradio as gr
import numpy as np
import pytest
import torch
from PIL import Image, ImageChops

import cam_hub
from cam_hub import errors
from cam_hub.errors import CamHubError, ClassNotFound, InvalidArgument
from cam_hub.introspection.layers import SUGGESTIONS
from cam_hub.results import Explanation
from space import snippets, views
from space.artifacts import Artifacts, reopen, shown
from space.photos import Photo
from space.problems import INTERNAL, readable, title_of
from space.request import Request
from space.settings import Settings, example_photos
from space.workspace import Workspace


@pytest.fixture(scope="module")
def result(lite0: cam_hub.LoadedModel, lion: Image.Image) -> Explanation:
    """Two classes of the lion at two layers."""
    return cam_hub.explain(
        lite0, lion, method="layercam", classes=[291, 293], target_layers=["blocks.4", "bn2"]
    )


@pytest.fixture
def artifacts(result: Explanation, tmp_path: Path) -> Artifacts:
    result.save_data(tmp_path)
    return Artifacts(result, tmp_path, 0.4, "viridis")


def blanked(result: Explanation, index: int) -> Explanation:
    """The same explanation, with nothing that spoke for one class."""
    cams = {key: np.zeros_like(cam) if key[0] == index else cam for key, cam in result.cams.items()}
    return dataclasses.replace(result, cams=cams)


def same(path: Path, picture: Image.Image) -> bool:
    return ImageChops.difference(Image.open(path), picture).getbbox() is None


# Values for components


def test_probabilities_keep_apart_classes_of_the_same_label():
    crane = [cam_hub.Prediction(134, "crane", 0.6), cam_hub.Prediction(517, "crane", 0.3)]
    other = cam_hub.Prediction(1, "goldfish", 0.1)
    assert views.probabilities([*crane, other]) == {
        "crane (134)": 0.6,
        "crane (517)": 0.3,
        "goldfish": 0.1,
    }


def test_classes_to_choose_from_show_probabilities_and_stand_for_indices():
    found = [cam_hub.Prediction(291, "lion", 0.8969), cam_hub.Prediction(3, "shark", 0.0001)]
    assert views.class_choices(found) == [("lion · 89.7%", "291"), ("shark · < 0.1%", "3")]


def test_layers_to_choose_from_start_with_the_words_and_mark_the_recommended_one(
    lite0: cam_hub.LoadedModel,
):
    layers = [layer for layer in cam_hub.list_layers(lite0) if layer.usable]
    choices = views.layer_choices(layers)
    assert [value for _, value in choices[: len(SUGGESTIONS)]] == list(SUGGESTIONS)
    assert {value for _, value in choices[len(SUGGESTIONS) :]} == {layer.name for layer in layers}
    (marked,) = [value for label, value in choices if "(recommended: " in label]
    assert [marked] == cam_hub.suggest_layers(lite0)


def test_every_method_can_be_chosen():
    assert {value for _, value in views.method_choices()} == set(cam_hub.METHODS)


def test_the_gallery_has_one_picture_per_layer_and_the_fusion(
    artifacts: Artifacts, result: Explanation
):
    pictures = views.gallery(artifacts, 291)
    assert [caption for _, caption in pictures] == [
        "blocks.4 · lion",
        "bn2 · lion",
        "fusion of 2 layers · lion",
    ]
    for (path, _), layer in zip(pictures, ("blocks.4", "bn2", None), strict=True):
        assert same(path, result.overlay(291, layer, alpha=0.4, colormap="viridis"))


def test_a_blank_map_is_shown_as_the_bare_photo_and_says_so(result: Explanation, tmp_path: Path):
    blank = blanked(result, 291)
    blank.save_data(tmp_path)
    pictures = views.gallery(Artifacts(blank, tmp_path, 0.5, "jet"), 291)
    assert all(caption.endswith("(blank)") for _, caption in pictures)
    assert same(pictures[0][0], result.photo)
    assert views.first_shown_class(blank) == 293
    assert dict(views.shown_class_choices(blank))[result.labels[291] + " (no map)"] == 291


def test_what_model_authors_wrote_is_text_and_never_markup(result: Explanation):
    hostile = dataclasses.replace(
        result, labels={291: "<img src=x onerror=alert(1)>", 293: "cheetah"}
    )
    text = views.summary(hostile, 291)
    assert "<img" not in text
    assert "&lt;img" in text


# Files


def test_the_archive_holds_an_explanation_that_loads_again(artifacts: Artifacts, tmp_path: Path):
    with zipfile.ZipFile(artifacts.archive()) as file:
        assert file.testzip() is None
        file.extractall(tmp_path / "unpacked")
    names = {path.name for path in (tmp_path / "unpacked").iterdir()}
    overlays = {name for name in names if name.startswith("overlay-")}
    assert len(overlays) == 2 * 3  # two classes: a fusion and two layers each
    again = Explanation.load(tmp_path / "unpacked")
    assert again.manifest == json.loads(artifacts.manifest.read_text("utf-8"))
    for key, cam in artifacts.result.cams.items():
        assert np.array_equal(again.cams[key], cam)


def test_the_archive_names_its_files_as_save_does(
    artifacts: Artifacts, result: Explanation, tmp_path: Path
):
    saved = {path.name for path in result.save(tmp_path / "saved").iterdir()}
    with zipfile.ZipFile(artifacts.archive()) as file:
        assert set(file.namelist()) == saved


def test_looks_do_not_overwrite_each_other(artifacts: Artifacts, result: Explanation):
    folder = artifacts.photo.parent
    other = Artifacts(result, folder, 0.9, "magma")
    first, second = artifacts.overlay(291), other.overlay(291)
    assert first is not None
    assert second is not None
    assert same(first, result.overlay(291, alpha=0.4, colormap="viridis"))
    assert same(second, result.overlay(291, alpha=0.9, colormap="magma"))


def test_a_colour_map_never_becomes_a_path(result: Explanation, tmp_path: Path):
    with pytest.raises(InvalidArgument, match="colormap"):
        Artifacts(result, tmp_path, 0.5, "../elsewhere")


def test_a_picture_larger_than_any_screen_is_shown_reduced(tmp_path: Path):
    large, small = tmp_path / "large.png", tmp_path / "small.png"
    Image.new("RGB", (4096, 1024)).save(large)
    Image.new("RGB", (2048, 512)).save(small)
    assert Image.open(shown(large)).size == (2048, 512)
    assert Image.open(large).size == (4096, 1024)
    assert shown(small) == small


def test_a_result_that_is_gone_is_reported_in_words(tmp_path: Path):
    with pytest.raises(InvalidArgument, match="explain the photo again"):
        reopen(tmp_path / "gone")


def test_folders_are_new_and_go_when_they_are_old(tmp_path: Path):
    workspace = Workspace(tmp_path / "work", keep_seconds=60)
    old, young = workspace.folder(), workspace.folder()
    assert old != young
    (old / "file").write_text("x")
    hour_ago = time.time() - 3600
    os.utime(old, (hour_ago, hour_ago))
    workspace.folder()
    assert not old.exists()
    assert young.exists()


# Code


def request_for(photo_name: str = "it's.jpg", **changed: object) -> Request:
    values: dict[str, object] = {
        "photo": Photo(photo_name, path=Path("unused")),
        "model_id": cam_hub.DEFAULT_MODEL,
        "method": "layercam",
        "target_layers": ("stages", "bn2"),
        "classes": ("291",),
        "num_samples": 2,
        "std": 0.3,
        "seed": 0,
        "alpha": 0.4,
        "colormap": "viridis",
    }
    return Request(**{**values, **changed})  # type: ignore[arg-type]


def test_the_python_shown_makes_the_same_overlay(
    lion: Image.Image, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, result: Explanation
):
    lion.save(tmp_path / "it's.png")
    monkeypatch.chdir(tmp_path)
    request = request_for(
        photo_name="it's.png", target_layers=("blocks.4", "best"), classes=("291", "293")
    )
    exec(snippets.python_code(request, result.layers), {})
    assert same(tmp_path / "overlay.png", result.overlay(291, alpha=0.4, colormap="viridis"))


@pytest.mark.parametrize("name", ['"); import os; ("', "a'b\\", "x\n.jpg"])
def test_names_never_become_code(name: str):
    request = request_for(photo_name=name, model_id=name, classes=(name,))
    for code in (snippets.python_code(request, [name]), snippets.client_code(request, name)):
        imported = [n for n in ast.walk(ast.parse(code)) if isinstance(n, ast.Import)]
        assert all(alias.name == "cam_hub" for node in imported for alias in node.names)
        assert name in {n.value for n in ast.walk(ast.parse(code)) if isinstance(n, ast.Constant)}


# Messages


def test_errors_of_cam_hub_keep_their_message_and_get_a_code():
    error = ClassNotFound("<b>lyon</b>", ["lion"])
    with pytest.raises(gr.Error) as caught, readable(as_html=False):
        raise error
    assert caught.value.message == f"{error.message} [class_not_found]"
    assert caught.value.title == "class_not_found"
    assert caught.value.print_exception is False


def test_on_the_page_messages_are_escaped():
    with pytest.raises(gr.Error) as caught, readable(as_html=True):
        raise ClassNotFound("<img src=x onerror=alert(1)>")
    assert "<img" not in caught.value.message
    assert "&lt;img" in caught.value.message
    assert caught.value.title == "Unknown class"
    assert "class_not_found" in caught.value.message


def test_unforeseen_errors_are_logged_and_nothing_of_them_is_told(
    caplog: pytest.LogCaptureFixture,
):
    caplog.set_level(logging.ERROR)
    with pytest.raises(gr.Error) as caught, readable(as_html=True):
        raise RuntimeError("secret")
    assert html.escape(INTERNAL) in caught.value.message
    assert "secret" not in caught.value.message
    assert "secret" in caplog.text


def test_every_kind_of_error_has_a_title_of_its_own():
    kinds = [getattr(errors, name) for name in errors.__all__ if name != "CamHubError"]
    titles = {title_of(kind.__new__(kind)) for kind in kinds}
    assert len(titles) == len(kinds)
    assert title_of(CamHubError("x")) not in titles


# Settings


def test_the_default_model_is_offered_first_and_every_offered_id_is_known_to_a_source():
    from cam_hub.sources.registry import SOURCES

    choices = Settings().model_choices
    known = {name for source in SOURCES for name in source.known_ids(pretrained=True)}
    assert choices[0] == cam_hub.DEFAULT_MODEL
    assert set(choices) <= known
    assert Settings(default_model="torchvision/vgg16").model_choices[0] == "torchvision/vgg16"


def test_example_photos_are_small_pictures_on_this_machine():
    paths = [Path(path) for path in example_photos()]
    assert {"cat.jpg", "coffee.jpg"} <= {path.name for path in paths}
    for path in paths:
        assert Image.open(path).size[0] >= 200
        assert path.stat().st_size < 200_000


# Models without classes


def test_an_explanation_without_predictions_has_its_views():
    module = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.AdaptiveAvgPool2d(1))
    torch.manual_seed(0)
    torch.nn.init.uniform_(module[0].weight)
    model = cam_hub.wrap_model(module, input_size=(3, 32, 32), task="similarity")
    noise = np.random.default_rng(0).integers(0, 256, (40, 40, 3), np.uint8)
    result = cam_hub.explain(model, noise, target_layers="0")
    assert views.class_choices(result.predictions) == []
    assert gr.Label().postprocess(views.probabilities(result.predictions)) == {}
    assert views.shown_class_choices(result) == [("similarity to itself", 0)]
    assert "<strong>similarity to itself</strong>" in views.summary(result, 0)
