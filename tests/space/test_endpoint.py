"""The endpoint through gradio_client: its results and its documentation."""

from __future__ import annotations

import json
import re
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gradio_client import Client, handle_file
from PIL import Image

import cam_hub
from cam_hub.options import OPTIONS
from cam_hub.results.explanation import Explanation
from tests.fakes.space_app import encoded, explain


def pixels(path: str | Path) -> np.ndarray[Any, Any]:
    return np.asarray(Image.open(path))


# Results


@pytest.fixture(scope="module")
def direct(lite0: cam_hub.LoadedModel, photo: Path) -> Explanation:
    """The package's result for the same request."""
    return cam_hub.explain(
        lite0,
        photo,
        method="smoothgradcampp",
        classes=["lion", 293],
        target_layers=["blocks.4", "bn2"],
        num_samples=2,
    )


@pytest.fixture(scope="module")
def answer(client: Client, photo: Path) -> tuple[Any, ...]:
    return explain(
        client,
        photo,
        method="smoothgradcampp",
        classes=["lion", "293"],
        target_layers=["blocks.4", "bn2"],
        num_samples=2,
        alpha=0.4,
        colormap="viridis",
    )


def test_the_overlay_arrives_with_exactly_the_pixels_of_the_package(
    answer: tuple[Any, ...], direct: Explanation
):
    expected = np.asarray(direct.overlay(alpha=0.4, colormap="viridis"))
    assert expected.shape == (256, 256, 3)
    assert np.array_equal(pixels(answer[0]), expected)


def test_predictions_arrive_with_index_label_and_probability(
    answer: tuple[Any, ...], direct: Explanation
):
    assert answer[1] == [vars(found) for found in direct.predictions]
    assert answer[1][0]["class_index"] == 291
    assert answer[1][0]["probability"] > 0.8


def test_maps_arrive_per_class_and_layer_in_the_manifests_order(
    answer: tuple[Any, ...], direct: Explanation
):
    entries = answer[3]["maps"]
    assert [Path(path).name for path in answer[2]] == [entry["file"] for entry in entries]
    for path, entry in zip(answer[2], entries, strict=True):
        cam = direct.cam(entry["class_index"], entry["layer"])
        assert np.array_equal(np.load(path), cam)


def test_the_manifest_arrives_and_makes_the_same_explanation_again(
    answer: tuple[Any, ...], direct: Explanation, lite0: cam_hub.LoadedModel, photo: Path
):
    assert answer[3] == dict(direct.manifest)
    again = cam_hub.reproduce(answer[3], photo, model=lite0)
    assert np.array_equal(again.cam(293, "bn2"), direct.cam(293, "bn2"))


def test_the_archive_holds_everything(answer: tuple[Any, ...], tmp_path: Path):
    with zipfile.ZipFile(answer[4]) as file:
        file.extractall(tmp_path)
    written = json.loads((tmp_path / "manifest.json").read_text("utf-8"))
    assert written.pop("files").keys() == {path.name for path in tmp_path.iterdir()}
    assert written == answer[3]
    assert np.array_equal(pixels(tmp_path / "overlay-291.png"), pixels(answer[0]))
    assert Explanation.load(tmp_path).classes == (291, 293)


def test_a_photo_alone_is_enough(client: Client, photo: Path, lite0: cam_hub.LoadedModel):
    overlay, predictions, maps, manifest, _ = client.predict(
        handle_file(photo), api_name="/explain"
    )
    assert predictions[0]["class_index"] == 291
    choice = manifest["choice"]  # by evidence
    assert manifest["method"] == choice["method"]
    assert manifest["layers"] == [choice["layer"] or cam_hub.suggest_layers(lite0)[0]]
    assert len(maps) == 1
    assert Image.open(overlay).format == "PNG"


def test_words_also_select_layers_among_names(
    client: Client, photo: Path, lite0: cam_hub.LoadedModel
):
    manifest = explain(client, photo, target_layers=["blocks.0", "stages"])[3]
    stages = cam_hub.suggest_layers(lite0, "stages")
    assert manifest["layers"] == ["blocks.0", *(name for name in stages if name != "blocks.0")]


def test_the_most_probable_classes_can_be_asked_for(client: Client, photo: Path):
    _, predictions, _, manifest, _ = explain(client, photo, classes=["top(3)"])
    assert [entry["class_index"] for entry in manifest["classes"]] == [
        found["class_index"] for found in predictions[:3]
    ]


# Unusual photos


def turned(lion: Image.Image) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = 6  # shown rotated by 90 degrees clockwise
    return encoded(lion.transpose(Image.Transpose.ROTATE_90), "JPEG", exif=exif, quality=95)


ODD: dict[str, Callable[[Image.Image], bytes]] = {
    "animated GIF": lambda lion: encoded(
        lion, "GIF", save_all=True, append_images=[Image.new("RGB", lion.size)]
    ),
    "CMYK": lambda lion: encoded(lion.convert("CMYK"), "JPEG", quality=95),
    "16-bit": lambda lion: encoded(
        Image.fromarray(np.asarray(lion.convert("L")).astype(np.uint16) * 257), "PNG"
    ),
    "palette with transparency": lambda lion: encoded(lion.quantize(64), "PNG", transparency=0),
    "grey": lambda lion: encoded(lion.convert("L"), "PNG"),
    "turned by its EXIF data": turned,
}


@pytest.mark.parametrize("kind", ODD)
def test_an_odd_file_is_explained_at_its_size(
    client: Client, lion: Image.Image, tmp_path: Path, kind: str
):
    path = tmp_path / "odd.img"
    path.write_bytes(ODD[kind](lion))
    overlay, predictions, *_ = explain(client, path)
    assert predictions[0]["class_index"] == 291
    assert Image.open(overlay).size == (256, 256)


def test_a_photo_of_one_pixel_gets_an_answer(client: Client, tmp_path: Path):
    path = tmp_path / "one.png"
    Image.new("RGB", (1, 1), "red").save(path)
    overlay, predictions, *_ = explain(client, path)
    assert Image.open(overlay).size == (1, 1)
    assert len(predictions) == 5


# Documentation


def test_the_endpoint_documents_names_types_defaults_and_meanings(client: Client):
    info: Any = client.view_api(return_format="dict", print_info=False)
    names = ["/explain", "/layers", "/predict", "/compare", "/search", "/describe", "/evidence"]
    assert list(info["named_endpoints"]) == names
    endpoint = info["named_endpoints"]["/explain"]
    assert endpoint["description"].startswith("Shows which pixels")
    parameters = {p["parameter_name"]: p for p in endpoint["parameters"]}
    assert {name: p["python_type"]["type"] for name, p in parameters.items()} == {
        "image": "filepath",
        "model_id": "str",
        "method": "str",
        "target_layers": "list[str]",
        "classes": "list[str]",
        "num_samples": "int",
        "std": "float",
        "seed": "int",
        "alpha": "float",
        "colormap": "str",
        "contrast": "str",
        "region": "list[float]",
        "reference": "None | filepath",
        "sign": "str",
        "target": "str",
        "output": "str",
        "call": "str",
        "background": "None | filepath",
        "batch_size": "int",
        "autocast": "str",
        "reuse": "bool",
        "scale": "str",
        "colorbar": "bool",
        "sampling": "str",
        "evidence": "str",
    }
    without = [name for name, p in parameters.items() if not p["parameter_has_default"]]
    assert without == ["image"]
    assert parameters["model_id"]["parameter_default"] == cam_hub.DEFAULT_MODEL
    assert {p["label"]: p["python_type"]["type"] for p in endpoint["returns"]} == {
        "overlay": "filepath",
        "predictions": "list[dict(class_index: int, label: str, probability: None | float, "
        "score: None | float)]",
        "maps": "list[filepath]",
        "manifest": "dict(str, Any)",
        "archive": "filepath",
    }
    everything = [*endpoint["parameters"], *endpoint["returns"]]
    assert all(len(value["python_type"]["description"]) > 10 for value in everything)


@pytest.mark.parametrize("endpoint", ["explain", "compare", "predict"])
def test_each_option_is_described_by_its_own_words(client: Client, endpoint: str):
    info: Any = client.view_api(return_format="dict", print_info=False)
    parameters = info["named_endpoints"][f"/{endpoint}"]["parameters"]
    said = {p["parameter_name"]: p["python_type"]["description"] for p in parameters}
    options = {name: option for name, option in OPTIONS.items() if name in said}
    assert "output" in options
    assert {name: said[name] for name in options} == {
        name: option.help for name, option in options.items()
    }
    if endpoint == "explain":
        assert said["colorbar"].startswith("whether the colours and the values")
        assert said["scale"].startswith("of the colours: own")


def test_the_documented_methods_are_the_registered_ones(client: Client):
    info: Any = client.view_api(return_format="dict", print_info=False)
    (method,) = [
        p
        for p in info["named_endpoints"]["/explain"]["parameters"]
        if p["parameter_name"] == "method"
    ]
    words = set(re.findall(r"\w+", method["python_type"]["description"]))
    assert set(cam_hub.METHODS) <= words
