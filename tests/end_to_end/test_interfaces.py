"""The same cases through every interface: one request has one answer.

To add a case, add a line to ``CASES``: a network (``add_network``), a photo, the arguments of
``explain`` by name, and the layers or the error code that every interface must return.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
from gradio_client import Client, handle_file
from PIL import Image

import cam_hub
from tests.fakes.interfaces import (
    INTERFACES,
    Case,
    Dropping,
    Heads,
    Places,
    Probable,
    Shared,
    Shy,
    Single,
    add_network,
    grey,
    offers,
    striped,
)
from tests.fakes.space_app import SETTINGS, serve

SHY = add_network("cam_hub_test_shy", Shy)
SHARED = add_network("cam_hub_test_shared", Shared)
DROPPING = add_network("cam_hub_test_dropping", Dropping)
HEADS = add_network("cam_hub_test_heads", Heads)
PROBABLE = add_network("cam_hub_test_probable", Probable)
SINGLE = add_network("cam_hub_test_single", Single)
QUIET = {"method": "layercam", "std": 0.0}

CASES = [
    # If the recommended layer is blank for a photo, the last earlier layer that is not.
    Case("recommended", SHY, striped(), QUIET, ("last",)),
    Case("blank", SHY, grey(), QUIET, ("size",)),
    Case("blank with noise", SHY, grey(), {"std": 0.0}, ("size",)),
    Case("blank, the word", SHY, grey(), {**QUIET, "target_layers": ["best"]}, ("size",)),
    # A layer that was requested by name is not replaced.
    Case("blank, named", SHY, grey(), {**QUIET, "target_layers": ["last"]}, error="no_map"),
    Case(
        "blank, one of two",
        SHY,
        grey(),
        {**QUIET, "target_layers": ["size", "last"]},
        ("size", "last"),
    ),
    # Words and names.
    Case("stages", SHY, striped(), {**QUIET, "target_layers": ["stages"]}, ("last",)),
    Case(
        "a word among names",
        SHY,
        striped(),
        {**QUIET, "target_layers": ["embed", "stages"]},
        ("embed", "last"),
    ),
    Case("unknown", SHY, grey(), {**QUIET, "target_layers": ["lats"]}, error="layer_not_found"),
    # Chosen by evidence; by depth here, since the weights are random.
    Case("by evidence", SHARED, striped(), {"method": "auto"}, ("backbone",)),
    Case(
        "a layer by evidence",
        SHARED,
        striped(),
        {"target_layers": ["faithful"]},
        ("backbone",),
    ),
    # Methods that make passes of their own.
    Case(
        "pixels",
        SHARED,
        striped(),
        {"method": "occlusion", "classes": ["top(2)"], "sign": "both"},
        ("input",),
    ),
    Case("pixels, drawn", SHARED, striped(), {"method": "rise", "seed": 3}, ("input",)),
    Case(
        "pixels at a layer",
        SHARED,
        striped(),
        {"method": "occlusion", "target_layers": ["stages"]},
        error="invalid_argument",
    ),
    Case("channels", SHARED, striped(), {"method": "scorecam"}, ("backbone",)),
    Case("pixel gradients", SHARED, striped(), {"method": "integratedgradients"}, ("input",)),
    # Classes.
    Case(
        "two classes",
        SHY,
        striped(),
        {**QUIET, "classes": ["2", "0"]},
        ("last",),
        manifest={"classes": [2, 0]},
    ),
    # Calls of a shared layer; a network that varies.
    Case("first call", SHARED, striped(), {**QUIET, "call": 0}, ("backbone",)),
    Case("last call", SHARED, striped(), {**QUIET, "call": -1}, ("backbone",)),
    Case("no such call", SHARED, striped(), {**QUIET, "call": 2}, error="invalid_argument"),
    Case("dropout", DROPPING, striped(), {"method": "smoothgradcampp"}, ("backbone",)),
    # Evidence of other kinds. (With noise: without it, a map may come from an earlier pass, which
    # rounds differently.)
    Case(
        "both signs",
        SHARED,
        striped(),
        {"std": 0.2, "num_samples": 3, "seed": 7, "sign": "both", "classes": ["top(2)"]},
        ("backbone",),
        look={"alpha": 0.7, "scale": "common", "colorbar": True},
    ),
    Case(
        "weighted contrast of a probability",
        SHARED,
        striped(),
        {"classes": ["0"], "contrast": "1; 0.25*3", "target": "probability"},
        ("backbone",),
        manifest={
            "contrast": [
                {"class_index": 1, "label": "class 1", "weight": 0.5},
                {"class_index": 3, "label": "class 3", "weight": 0.25},
            ]
        },
    ),
    Case(
        "contrast with itself",
        SHY,
        grey(),
        {"classes": ["1"], "contrast": "1"},
        error="invalid_argument",
    ),
    # Outputs.
    Case(
        "nested output",
        HEADS,
        striped(),
        {**QUIET, "output": "species/1", "classes": ["3"]},
        ("backbone",),
        manifest={"output": "species/1"},
    ),
    Case(
        "first part of an output",
        HEADS,
        striped(),
        {**QUIET, "output": "species"},
        ("backbone",),
        manifest={"output": "species/0"},
    ),
    Case("main output", HEADS, striped(), QUIET, ("backbone",), manifest={"output": "age"}),
    Case(
        "probabilities are not turned into probabilities again",
        PROBABLE,
        striped(),
        {"classes": ["1"]},
        ("backbone",),
        manifest={"inner": "softmax"},
    ),
    Case("no such output", HEADS, striped(), {"output": "weight"}, error="invalid_argument"),
    Case("one logit's other side", SINGLE, striped(), {**QUIET, "classes": ["0"]}, ("backbone",)),
    # Computation and display.
    Case(
        "small batches, nothing reused",
        SHARED,
        striped(),
        {"batch_size": 2, "reuse": False, "num_samples": 5},
        ("backbone",),
        manifest={"batch_size": 2},
    ),
    Case(
        "autocast",
        SHARED,
        striped(),
        {"autocast": "bfloat16"},
        ("backbone",),
        manifest={"autocast": "bfloat16"},
    ),
    Case(
        "tests of the map",
        SHARED,
        striped(),
        {"std": 0.2, "seed": 5, "classes": ["1", "2"], "evidence": "cover,class_check,focus"},
        ("backbone",),
        manifest={"evidence": ["cover", "class_check", "focus"]},
    ),
    Case("no such test", SHY, grey(), {"evidence": "covr"}, error="invalid_argument"),
    Case("no such type", SHY, grey(), {"autocast": "int8"}, error="invalid_argument"),
    Case("no images at once", SHY, grey(), {"batch_size": 0}, error="invalid_argument"),
    Case(
        "on a background, in given colours",
        SHARED,
        striped(),
        {"background": Image.new("RGB", (64, 64), (0, 90, 0))},
        ("backbone",),
        look={"colormap": "viridis", "scale": (0.0, 0.5), "colorbar": True},
    ),
    Case(
        "a background of another shape",
        SHY,
        striped(),
        {"background": Image.new("RGB", (64, 32))},
        error="image_refused",
    ),
    Case("no region", SHARED, striped(), {"region": [0, 0, 9, 9]}, error="invalid_argument"),
    Case("no such class", SHY, grey(), {**QUIET, "classes": ["9"]}, error="class_not_found"),
]


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    """The app, which gives all models random weights."""
    with serve(replace(SETTINGS, random_weights=True)) as address:
        yield address


@pytest.fixture(scope="module")
def client(url: str, tmp_path_factory: pytest.TempPathFactory) -> Client:
    return Client(url, verbose=False, download_files=str(tmp_path_factory.mktemp("downloads")))


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
@pytest.mark.parametrize("interface", INTERFACES)
def test_every_interface_gives_the_same_answer(
    interface: str, case: Case, url: str, client: Client, tmp_path: Path
):
    if interface == "mcp" and not find_spec("mcp"):
        pytest.skip("needs gradio[mcp]")
    if not offers(interface, case):
        pytest.skip("does not have one of the arguments")
    places = Places(url, client, tmp_path)
    found = INTERFACES[interface](case, places)
    assert (found.layers, found.error) == (case.layers, case.error)
    if case.error is not None:
        return
    reference = INTERFACES["explain"](case, places)
    if found.manifest is not None:
        assert found.manifest == reference.manifest
        for key, value in case.manifest.items():
            told = {**found.manifest, **found.manifest["target"]}[key]
            if key == "classes":
                told = [entry["class_index"] for entry in told]
            if key == "evidence":
                told = [test["name"] for test in told["tests"]]
            assert told == value
    if found.overlay is not None and reference.overlay is not None:
        assert np.array_equal(found.overlay, reference.overlay)
    if found.maps is not None and reference.maps is not None:
        for one, other in zip(found.maps, reference.maps, strict=True):
            assert np.array_equal(one, other)


@pytest.mark.parametrize(
    ("output", "name"), [("", "age"), ("species", "species/0"), ("species/1", "species/1")]
)
def test_predictions_name_the_output_that_was_read(
    client: Client, tmp_path: Path, output: str, name: str
):
    striped().save(tmp_path / "photo.png")
    rows, facts = client.predict(
        handle_file(tmp_path / "photo.png"), model_id=HEADS, output=output, api_name="/predict"
    )
    model = cam_hub.load_model(HEADS, pretrained=False, device="cpu")
    found = cam_hub.predict(model, striped(), output=output or None)
    assert facts["output"] == found.output == name
    assert name in facts["target"]
    assert [row["class_index"] for row in rows] == [each.class_index for each in found.predictions]
