"""Images that are drawn on first access."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

import cam_hub
from cam_hub.images.preprocessing import Preprocessing
from cam_hub.results.maps import Pictures


def red(side: int = 4) -> Image.Image:
    return Image.new("RGB", (side, side), "red")


def test_images_are_drawn_once_and_only_on_access():
    calls: list[int] = []

    def paint() -> list[Image.Image]:
        calls.append(1)
        return [red(), red(), red()]

    pictures = Pictures(paint, clip=True)
    assert not calls
    assert pictures.photo is pictures.frames[1]
    assert pictures.facts["frames"] == 3
    assert len(calls) == 1


def test_what_a_clip_repeats_is_digested_like_what_it_shows():
    one, other = red(), red()
    assert Pictures([one, one], clip=True).facts == Pictures([one, other], clip=True).facts


@pytest.fixture(scope="module")
def model() -> cam_hub.LoadedModel:
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3)
    )
    return cam_hub.wrap_model(net, input_size=(3, 16, 16))


def test_a_tensor_is_explained_without_being_painted(model, monkeypatch):
    painted: list[torch.Tensor] = []
    whole = Preprocessing.denormalise
    monkeypatch.setattr(
        Preprocessing, "denormalise", lambda self, x: painted.append(x) or whole(self, x)
    )
    torch.manual_seed(1)
    image = torch.randn(3, 16, 12)
    expected = np.asarray(whole(model.preprocessing, image))
    found = cam_hub.explain(model, image, reuse=False)
    assert found.heatmap().shape == (16, 12)
    assert found.target
    assert not painted
    image.zero_()  # the user's own image: the explained image is shown
    assert (np.asarray(found.photo) == expected).all()
    assert found.manifest["image"]["size"] == [12, 16]
    assert len(painted) == 1


def test_shown_on_another_photo_the_manifest_still_describes_the_explained_one(model):
    torch.manual_seed(1)
    found = cam_hub.explain(model, torch.randn(3, 16, 16))
    other = found.showing(red(8), placement=found.placement.resized((8, 8)))
    assert other.photo.size == (8, 8)
    assert other.heatmap().shape == (8, 8)
    assert other.manifest == found.manifest
