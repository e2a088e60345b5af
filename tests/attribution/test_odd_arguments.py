"""Every argument either works or is refused with one of our own errors."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

import cam_hub
from cam_hub.errors import CamHubError, InvalidArgument

ODD: dict[str, Any] = {
    "a huge number": 10**400,
    "not a number": float("nan"),
    "a mapping": {"a": 1},
    "nested lists": [[]],
    "an array": np.array([0, 1]),
    "an array without dimensions": np.array(0.5),
    "a tensor without dimensions": torch.tensor(0.5),
    "an object": object(),
    "a list of objects": [object()],
    "a lone surrogate": "\ud800",
    "an endless name": "a" * 10_000,
    "top of more than there are": "top(99999999999999999999)",
    "a weight beyond floats": [(0, 10**400)],
}

# Switches are true or false; the user's own functions may raise anything.
SKIPPED = {"reuse", "colorbar", "pretrained", "progress", "self", "limits", "token"}


@pytest.fixture(scope="module")
def model() -> cam_hub.LoadedModel:
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(3, 8, 3, 2, 1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(1), nn.Linear(8, 3)
    )
    return cam_hub.wrap_model(net, input_size=(3, 16, 16), class_names=["a", "b", "c"])


Case = tuple[Callable[..., Any], tuple[Any, ...], str]


@pytest.fixture(scope="module")
def cases(model: cam_hub.LoadedModel) -> list[Case]:
    """Functions, their other arguments, and one argument to vary."""
    photo = Image.new("RGB", (20, 20), "orange")
    found = cam_hub.explain(model, photo, method="layercam")
    grid = cam_hub.compare(model, photo, methods=["layercam", "gradcam"])
    functions: list[tuple[Callable[..., Any], tuple[Any, ...]]] = [
        (cam_hub.explain, (model, photo)),
        (cam_hub.explain_many, (model, [photo])),
        (cam_hub.compare, (model, photo)),
        (cam_hub.predict, (model, photo)),
        (cam_hub.activations, (model, photo)),
        (cam_hub.list_layers, (model,)),
        (cam_hub.suggest_layers, (model,)),
        (cam_hub.wrap_model, (model.module, (3, 16, 16))),
        (found.overlay, ()), (found.heatmap, ()), (found.mask, ()), (found.boxes, ()),
        (found.cutout, ()), (found.colorbar, ()), (found.montage, ()), (found.animation, ()),
        (found.cam, ()), (found.limits, ()), (found.save_animation, ("a.gif",)),
        (grid.pictures, ()), (grid.figure, ()), (grid.animation, ()), (grid.reduced, (64,)),
    ]  # fmt: skip
    return [
        (function, given, name)
        for function, given in functions
        for name in inspect.signature(function).parameters
        if name not in SKIPPED
    ]


@pytest.mark.parametrize("odd", ODD)
def test_odd_arguments_are_refused_in_our_words(
    cases: list[Case], odd: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    wrong, refused = [], 0
    for function, given, name in cases:
        names = [*inspect.signature(function).parameters]
        named = {**dict(zip(names, given, strict=False)), name: ODD[odd]}
        try:
            done = function(**named)
            if isinstance(done, Iterator):
                done = [outcome.explanation for outcome in done]
        except CamHubError as error:
            assert str(error)
            refused += 1
        except Exception as error:  # noqa: BLE001
            wrong.append(f"{function.__qualname__}({name}=…): {error!r}")
    assert wrong == []
    assert refused > len(cases) / 2


def test_a_comparison_of_all_classes_has_a_bound(model: cam_hub.LoadedModel) -> None:
    """Each column costs memory, even if the model has fewer classes."""
    photo = Image.new("RGB", (20, 20))
    for many in (cam_hub.top(10**12), "top(1001)", ["a", cam_hub.top(1000)]):
        with pytest.raises(InvalidArgument, match="1,000 columns"):
            cam_hub.compare(model, photo, classes=many)
    assert len(cam_hub.compare(model, photo, classes="top(3)").titles) == 3


def test_sheets_have_a_bound(model: cam_hub.LoadedModel) -> None:
    grid = cam_hub.compare(model, Image.new("RGB", (20, 20), "orange"), methods="layercam")
    for draw in (grid.figure, grid.animation):
        with pytest.raises(InvalidArgument, match="tile_width"):
            draw(tile_width=10**6)
