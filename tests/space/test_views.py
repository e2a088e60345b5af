"""Explanations as values for the page, as files, and as code; errors as messages."""

from __future__ import annotations

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
from cam_hub.layers.listing import SUGGESTIONS
from cam_hub.results.explanation import Explanation
from space.components import formatting
from space.components.formatting import prediction_list_html
from space.config.settings import Settings, example_photos
from space.service.errors import INTERNAL, readable, title_of
from space.service.exports import Exports, reopen
from space.service.result_files import Workspace


@pytest.fixture(scope="module")
def result(lite0: cam_hub.LoadedModel, lion: Image.Image) -> Explanation:
    """Two classes of the lion at two layers."""
    return cam_hub.explain(
        lite0, lion, method="layercam", classes=[291, 293], target_layers=["blocks.4", "bn2"]
    )


@pytest.fixture
def artifacts(result: Explanation, tmp_path: Path) -> Exports:
    result.save_data(tmp_path)
    return Exports(result, tmp_path, 0.4, "viridis")


def blanked(result: Explanation, index: int) -> Explanation:
    """The same explanation, with a blank map of one class."""
    cams = {key: np.zeros_like(cam) if key[0] == index else cam for key, cam in result.cams.items()}
    return dataclasses.replace(result, cams=cams)


def same(path: Path, picture: Image.Image) -> bool:
    return ImageChops.difference(Image.open(path), picture).getbbox() is None


# Values for components


def test_layers_to_choose_from_start_with_the_words_and_mark_the_recommended_one(
    lite0: cam_hub.LoadedModel,
):
    layers = [layer for layer in cam_hub.list_layers(lite0) if layer.usable]
    choices = formatting.layer_choices(layers)
    assert [value for _, value in choices[: len(SUGGESTIONS)]] == list(SUGGESTIONS)
    assert {value for _, value in choices[len(SUGGESTIONS) :]} == {layer.name for layer in layers}
    (marked,) = [value for label, value in choices if "(recommended: " in label]
    assert [marked] == cam_hub.suggest_layers(lite0)


def test_every_method_can_be_chosen():
    assert {value for _, value in formatting.method_choices()} == {"auto", *cam_hub.METHODS}


def test_what_model_authors_wrote_is_text_and_never_markup(result: Explanation):
    hostile = dataclasses.replace(
        result, labels={291: "<img src=x onerror=alert(1)>", 293: "cheetah"}
    )
    text = formatting.summary(hostile, 291, None, "<b>cheetah</b>")
    assert "<b>" not in text
    assert "<img" not in text
    assert "&lt;img" in text


# Files


def test_the_archive_holds_an_explanation_that_loads_again(artifacts: Exports, tmp_path: Path):
    with zipfile.ZipFile(artifacts.archive()) as file:
        assert file.testzip() is None
        file.extractall(tmp_path / "unpacked")
    names = {path.name for path in (tmp_path / "unpacked").iterdir()}
    overlays = {name for name in names if name.startswith("overlay-")}
    assert len(overlays) == 2 * 3  # two classes: a fusion and two layers each
    again = Explanation.load(tmp_path / "unpacked")
    written = json.loads(artifacts.manifest.read_text("utf-8"))
    assert again.manifest == {key: part for key, part in written.items() if key != "files"}
    for key, cam in artifacts.result.cams.items():
        assert np.array_equal(again.cams[key], cam)


def test_the_archive_names_its_files_as_save_does(
    artifacts: Exports, result: Explanation, tmp_path: Path
):
    saved = {path.name for path in result.save(tmp_path / "saved").iterdir()}
    with zipfile.ZipFile(artifacts.archive()) as file:
        assert set(file.namelist()) == saved


def test_an_unpacked_archive_is_replaced_like_any_folder_of_ours(
    artifacts: Exports, result: Explanation, tmp_path: Path
):
    with zipfile.ZipFile(artifacts.archive()) as file:
        file.extractall(tmp_path / "unpacked")
    (tmp_path / "unpacked" / "notes.txt").write_text("mine")
    result.save_data(tmp_path / "unpacked")
    names = {path.name for path in (tmp_path / "unpacked").iterdir()}
    assert "notes.txt" in names
    assert not [name for name in names if name.startswith("overlay-")]


def test_looks_do_not_overwrite_each_other(artifacts: Exports, result: Explanation):
    folder = artifacts.photo.parent
    other = Exports(result, folder, 0.9, "magma")
    first, second = artifacts.overlay(291), other.overlay(291)
    assert first is not None
    assert second is not None
    assert same(first, result.overlay(291, alpha=0.4, colormap="viridis"))
    assert same(second, result.overlay(291, alpha=0.9, colormap="magma"))


def test_a_single_map_is_the_one_of_its_layer_or_the_fusion(
    artifacts: Exports, result: Explanation
):
    for layer in (None, "blocks.4"):
        found = np.load(artifacts.map(293, layer), allow_pickle=False)
        assert np.array_equal(found, result.cam(293, layer))


def test_a_colour_map_never_becomes_a_path(result: Explanation, tmp_path: Path):
    with pytest.raises(InvalidArgument, match="colormap"):
        Exports(result, tmp_path, 0.5, "../elsewhere")


def test_a_result_that_is_gone_is_reported_in_words(tmp_path: Path):
    with pytest.raises(InvalidArgument, match="explain the photo again"):
        reopen(tmp_path / "gone")


def test_folders_are_new_and_go_when_they_are_old(tmp_path: Path):
    workspace = Workspace(tmp_path / "work", keep_seconds=60)
    with workspace.writing() as old, workspace.writing() as young:
        pass
    assert old != young
    (old / "file").write_text("x")
    hour_ago = time.time() - 3600
    os.utime(old, (hour_ago, hour_ago))
    with workspace.writing():
        pass
    assert not old.exists()
    assert young.exists()


# Messages


def test_errors_of_cam_hub_keep_their_message_and_get_a_code():
    error = ClassNotFound("<b>lyon</b>", ["lion"])
    with pytest.raises(gr.Error) as caught, readable(as_html=False):
        raise error
    assert caught.value.message == f"{error.message} [class_not_found]"
    assert caught.value.title == "class_not_found", "programs look for the code there"
    with (
        pytest.raises(gr.Error, match=r"<strong>Unknown class\.</strong>"),
        readable(as_html=True),
    ):
        raise error
    assert caught.value.print_exception is False


def test_on_the_page_messages_are_escaped():
    with pytest.raises(gr.Error) as caught, readable(as_html=True):
        raise ClassNotFound("<img src=x onerror=alert(1)>")
    assert "<img" not in caught.value.message
    assert "&lt;img" in caught.value.message
    assert caught.value.title == "Unknown class"
    assert "class_not_found" in caught.value.message


def test_unexpected_errors_are_logged_and_not_shown(
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


def test_example_photos_are_small_images_on_this_machine():
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
    assert prediction_list_html(result.predictions, result.classes) == ""
    assert formatting.shown_class_choices(result) == [("similarity to itself", 0)]
    assert "<strong>similarity to itself</strong>" in formatting.summary(result, 0, "0")
