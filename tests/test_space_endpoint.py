"""The real app on a loopback port: the endpoint through gradio_client, and what the page holds."""

from __future__ import annotations

import io
import json
import re
import struct
import zipfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from gradio_client import Client, handle_file
from gradio_client.exceptions import AppError
from PIL import Image

import cam_hub
from cam_hub.results import Explanation
from space.page import create_app, launch_options
from space.settings import Limits, Settings

SETTINGS = Settings(device="cpu", limits=Limits(max_pixels=4_000_000))


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    """Address of a running app."""
    app = create_app(SETTINGS)
    _, address, _ = app.launch(
        prevent_thread_lock=True,
        quiet=True,
        server_name="127.0.0.1",
        inbrowser=False,
        **launch_options(SETTINGS),
    )
    yield address
    app.close(verbose=False)


@pytest.fixture(scope="module")
def client(url: str, tmp_path_factory: pytest.TempPathFactory) -> Client:
    return Client(url, verbose=False, download_files=str(tmp_path_factory.mktemp("downloads")))


@pytest.fixture(scope="module")
def photo(lion: Image.Image, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("photos") / "lion.png"
    lion.save(path)
    return path


def explain(client: Client, path: Path, **changed: Any) -> tuple[Any, ...]:
    """Calls the endpoint with the quickest method."""
    values = {"method": "layercam", **changed}
    return tuple(client.predict(handle_file(path), api_name="/explain", **values))


def pixels(path: str | Path) -> np.ndarray[Any, Any]:
    return np.asarray(Image.open(path))


# What comes out


@pytest.fixture(scope="module")
def direct(lite0: cam_hub.LoadedModel, photo: Path) -> Explanation:
    """What the package says to the same question."""
    return cam_hub.explain(
        lite0, photo, classes=["lion", 293], target_layers=["blocks.4", "bn2"], num_samples=2
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
    assert json.loads((tmp_path / "manifest.json").read_text("utf-8")) == answer[3]
    assert np.array_equal(pixels(tmp_path / "overlay-291.png"), pixels(answer[0]))
    assert Explanation.load(tmp_path).classes == (291, 293)


def test_a_photo_alone_is_enough(client: Client, photo: Path, lite0: cam_hub.LoadedModel):
    overlay, predictions, maps, manifest, _ = client.predict(
        handle_file(photo), api_name="/explain"
    )
    assert predictions[0]["class_index"] == 291
    assert manifest["method"] == "smoothgradcampp"
    assert manifest["layers"] == cam_hub.suggest_layers(lite0)
    assert len(maps) == 1
    assert Image.open(overlay).format == "PNG"


def test_words_stand_for_layers_among_names_too(
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


# What the documentation says


def test_the_endpoint_documents_names_types_defaults_and_meanings(client: Client):
    info: Any = client.view_api(return_format="dict", print_info=False)
    assert list(info["named_endpoints"]) == ["/explain"]
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
    }
    without = [name for name, p in parameters.items() if not p["parameter_has_default"]]
    assert without == ["image"]
    assert parameters["model_id"]["parameter_default"] == cam_hub.DEFAULT_MODEL
    assert {p["label"]: p["python_type"]["type"] for p in endpoint["returns"]} == {
        "overlay": "filepath",
        "predictions": "list[dict(class_index: int, label: str, probability: float)]",
        "maps": "list[filepath]",
        "manifest": "dict(str, Any)",
        "archive": "filepath",
    }
    everything = [*endpoint["parameters"], *endpoint["returns"]]
    assert all(len(value["python_type"]["description"]) > 10 for value in everything)


def test_the_documented_methods_are_the_registered_ones(client: Client):
    info: Any = client.view_api(return_format="dict", print_info=False)
    (method,) = [
        p
        for p in info["named_endpoints"]["/explain"]["parameters"]
        if p["parameter_name"] == "method"
    ]
    words = set(re.findall(r"\w+", method["python_type"]["description"]))
    assert set(cam_hub.METHODS) <= words


# Bad input


def bomb() -> bytes:
    """A PNG of 30 000 by 30 000 black pixels in a few hundred bytes."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        )

    header = struct.pack(">IIBBBBB", 30_000, 30_000, 1, 0, 0, 0, 0)
    rows = zlib.compress(b"\0" * 10_000)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")
    )


def encoded(image: Image.Image, kind: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


UNUSABLE: dict[str, Callable[[Image.Image], tuple[bytes, str]]] = {
    "no image": lambda lion: (b"hello, world\n" * 20, "no image"),
    "truncated": lambda lion: (encoded(lion, "PNG")[:5000], "cut off"),
    "0 bytes": lambda lion: (b"", "0 bytes"),
    "a decompression bomb": lambda lion: (bomb(), "too large"),
    "more pixels than allowed": lambda lion: (
        encoded(Image.new("L", (2001, 2000)), "PNG"),
        "the limit is 4,000,000",
    ),
}


@pytest.mark.parametrize("kind", UNUSABLE)
def test_a_file_that_cannot_be_used_gets_a_message_and_the_next_call_works(
    client: Client, photo: Path, lion: Image.Image, tmp_path: Path, kind: str, capfd: Any
):
    content, part = UNUSABLE[kind](lion)
    bad = tmp_path / "bad.png"
    bad.write_bytes(content)
    with pytest.raises(AppError) as caught:
        explain(client, bad)
    message = str(caught.value)
    assert message.startswith("The image was refused")
    assert part in message
    assert "Traceback" not in message
    assert "/" not in message.replace("JPEG/", "")  # no folder of the server
    assert explain(client, photo)[1][0]["class_index"] == 291
    assert "Traceback" not in capfd.readouterr().err


def turned(lion: Image.Image) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = 6  # shown turned by 90 degrees clockwise
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


@pytest.mark.parametrize(
    ("changed", "parts"),
    [
        ({"target_layers": ["blocks.44"]}, ["No layer 'blocks.44'", "blocks.4"]),
        ({"target_layers": ["classifier"]}, ["No map at layer 'classifier'"]),
        ({"target_layers": ["all"]}, ["at most 64 layers"]),
        ({"method": "layercamm"}, ["No method 'layercamm'", "layercam"]),
        ({"classes": ["1000"]}, ["No class 1000", "0 to 999"]),
        ({"classes": ["-1"]}, ["No class -1"]),
        ({"classes": ["lyon"]}, ["No class 'lyon'", "lion"]),
        ({"classes": ["top(11)"]}, ["at most 10 classes"]),
        ({"num_samples": 0}, ["num_samples=0", "1 to 64"]),
        ({"num_samples": 65}, ["num_samples=65"]),
        ({"std": -0.1}, ["std=-0.1", "at least 0"]),
        ({"seed": -1}, ["seed=-1"]),
        ({"alpha": 2}, ["alpha=2"]),
        ({"colormap": "jett"}, ["colormap='jett'", "jet"]),
        ({"model_id": "torchvision/resnet5"}, ["torchvision/resnet5", "torchvision/resnet50"]),
        ({"model_id": "../../etc"}, ["IDs look like"]),
        ({"model_id": "<img src=x onerror=alert(1)>"}, ["<img src=x onerror=alert(1)>"]),
    ],
    ids=str,
)
def test_a_value_that_does_not_work_gets_a_message_in_plain_text(
    client: Client, photo: Path, changed: dict[str, Any], parts: list[str], capfd: Any
):
    with pytest.raises(AppError) as caught:
        explain(client, photo, **changed)
    message = str(caught.value)
    assert all(part in message for part in parts)
    assert "Traceback" not in message + capfd.readouterr().err


def test_after_all_refusals_the_next_call_works(client: Client, photo: Path):
    with pytest.raises(AppError):
        explain(client, photo, num_samples=-3)
    assert explain(client, photo)[1][0]["class_index"] == 291


# Safety


@pytest.mark.parametrize("meta", [{}, {"meta": {"_type": "gradio.FileData"}}], ids=["bare", "file"])
def test_files_of_the_server_cannot_be_named_as_photos(
    url: str, lion: Image.Image, tmp_path: Path, meta: dict[str, Any]
):
    # A picture that would do if it were uploaded; gradio_client is left out, as it would do that.
    secret = tmp_path / "secret.png"
    lion.save(secret)
    data = [{"path": str(secret), **meta}, SETTINGS.default_model, "layercam", [], []]
    data += [4, 0.3, 0, 0.5, "jet"]
    call = httpx.post(f"{url}gradio_api/call/explain", json={"data": data}).json()["event_id"]
    answer = httpx.get(f"{url}gradio_api/call/explain/{call}", timeout=60).text
    assert "event: error" in answer
    assert "uploaded" in answer
    assert "file=" not in answer


def test_files_of_the_server_are_not_served(url: str):
    for path in (__file__, Path(__file__).parent.parent / "app.py"):
        assert httpx.get(f"{url}gradio_api/file={path}").status_code in (403, 404)


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
    assert public == ["explain"]


def test_every_input_of_the_page_has_a_label(url: str):
    config = httpx.get(f"{url}config").json()
    kinds = {"image", "dropdown", "slider", "number", "radio"}
    inputs = [part["props"] for part in config["components"] if part["type"] in kinds]
    assert len(inputs) >= 11
    assert all(props.get("label") and props.get("elem_id") for props in inputs)
