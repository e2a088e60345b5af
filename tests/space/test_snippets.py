"""The code that the page shows reproduces the result of the page."""

from __future__ import annotations

import ast
import dataclasses
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import cam_hub
from cam_hub.results.explanation import Explanation
from space.service import views
from space.service.explain_form import ExplainForm
from space.service.photos import Photo


@pytest.fixture(scope="module")
def result(lite0: cam_hub.LoadedModel, lion: Image.Image) -> Explanation:
    """Two classes of the lion at two layers."""
    return cam_hub.explain(
        lite0, lion, method="layercam", classes=[291, 293], target_layers=["blocks.4", "bn2"]
    )


def request_for(**changed: object) -> ExplainForm:
    plain = ExplainForm(
        photo=Photo("it's.png", path=Path("unused")),
        model_id=cam_hub.DEFAULT_MODEL,
        method="layercam",
        target_layers=("blocks.4", "best"),
        classes=("lion, king of beasts, Panthera leo", "293"),
        num_samples=2,
        std=0.3,
        seed=0,
        alpha=0.4,
        colormap="viridis",
    )
    return dataclasses.replace(plain, **changed)  # type: ignore[arg-type]


@pytest.mark.parametrize("index", [None, 293])
@pytest.mark.parametrize("layer", [None, "blocks.4"])
def test_the_python_shown_makes_the_overlay_that_is_shown(
    lion: Image.Image,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    result: Explanation,
    index: int | None,
    layer: str | None,
):
    lion.save(tmp_path / "it's.png")
    monkeypatch.chdir(tmp_path)
    exec(views.python_code(request_for(), result.layers, index, layer), {})
    expected = result.overlay(index or 291, layer, alpha=0.4, colormap="viridis")
    assert np.array_equal(np.asarray(Image.open("overlay.png")), np.asarray(expected))


def test_a_photo_at_an_address_is_fetched_from_there():
    url = "https://example.org/it's a cat.jpg"
    request = request_for(photo=Photo("cat.jpg", url=url))
    python = views.python_code(request, ["bn2"])
    assert ast.literal_eval(python.partition("urlopen(")[2].partition(").read()")[0]) == url
    assert f"handle_file({url!r})" in views.client_code(request, "owner/name")


def test_a_contrast_is_in_the_code_only_where_there_is_one():
    for code in (views.python_code, views.client_code):
        assert "contrast" not in code(request_for(), "x")
        assert "contrast='lynx, catamount'" in code(request_for(contrast="lynx, catamount"), "x")


@pytest.mark.parametrize("name", ['"); import os; ("', "a'b\\", "x\n.jpg"])
def test_names_never_become_code(name: str):
    request = request_for(
        photo=Photo(name, path=Path("unused")), model_id=name, classes=(name,), contrast=name
    )
    for code in (
        views.python_code(request, [name], None, name),
        views.client_code(request, name),
    ):
        imported = [n for n in ast.walk(ast.parse(code)) if isinstance(n, ast.Import)]
        assert all(alias.name == "cam_hub" for node in imported for alias in node.names)
        assert name in {n.value for n in ast.walk(ast.parse(code)) if isinstance(n, ast.Constant)}
