"""The same cases through every interface: one question has one answer, whoever passes it on.

To add a case, add a line to ``CASES``: a network (``add_network``), a photo, the arguments of
``explain`` by name, and the layers or the error code that every interface must answer with.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
from gradio_client import Client

from tests.interfaces import (
    INTERFACES,
    Case,
    Dropping,
    Places,
    Shared,
    Shy,
    add_network,
    grey,
    striped,
)
from tests.space_app import SETTINGS, serve

SHY = add_network("cam_hub_test_shy", Shy)
SHARED = add_network("cam_hub_test_shared", Shared)
DROPPING = add_network("cam_hub_test_dropping", Dropping)
QUIET = {"method": "layercam", "std": 0.0}

CASES = [
    # Where the recommended layer is blank for a photo, the last one before it that is not.
    Case("recommended", SHY, striped(), QUIET, ("last",)),
    Case("blank", SHY, grey(), QUIET, ("size",)),
    Case("blank with noise", SHY, grey(), {"std": 0.0}, ("size",)),
    Case("blank, the word", SHY, grey(), {**QUIET, "target_layers": ["best"]}, ("size",)),
    # A layer that was named is not replaced.
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
    places = Places(url, client, tmp_path)
    found = INTERFACES[interface](case, places)
    assert (found.layers, found.error) == (case.layers, case.error)
    if case.error is not None:
        return
    reference = INTERFACES["explain"](case, places)
    if found.manifest is not None:
        assert found.manifest == reference.manifest
        for key, value in case.manifest.items():
            told = found.manifest[key]
            if key == "classes":
                told = [entry["class_index"] for entry in told]
            assert told == value
    if found.maps is not None and reference.maps is not None:
        for one, other in zip(found.maps, reference.maps, strict=True):
            assert np.array_equal(one, other)
