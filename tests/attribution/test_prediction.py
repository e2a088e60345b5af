"""``predict``: the predictions of ``explain``, without the maps."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

import cam_hub
from cam_hub.errors import ImageRefused, InvalidArgument, ModelRefused


@pytest.mark.parametrize("top", [1, 5, 7])
def test_it_gives_the_most_probable_classes_of_explain(lite0, lion, top):
    found = cam_hub.predict(lite0, lion, top=top)
    explained = cam_hub.explain(lite0, lion, method="layercam")
    both = min(top, 5)
    assert len(found.predictions) == top
    # Other batches may round differently.
    for mine, other in zip(found.predictions[:both], explained.predictions[:both], strict=True):
        assert (mine.class_index, mine.label) == (other.class_index, other.label)
        assert mine.probability == pytest.approx(other.probability, abs=1e-5)


def test_it_reports_the_part_of_the_photo_that_the_model_saw(lite0, photos):
    found = cam_hub.predict(lite0, photos["cat"])
    explained = cam_hub.explain(lite0, photos["cat"], method="layercam")
    assert found.photo_size == (451, 300)
    assert found.input_size == (3, 224, 224)
    assert found.seen == explained.placement.seen_box


def test_a_model_of_an_id_stays_loaded_for_the_next_call(lion):
    found = [cam_hub.predict(cam_hub.DEFAULT_MODEL, lion, top=1) for _ in range(2)]
    assert found[0] == found[1]
    assert found[0].predictions[0].class_index == 291


def test_more_classes_than_there_are_is_all_of_them(rng):
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    model = cam_hub.wrap_model(net, input_size=(3, 16, 16), class_names=["a", "b", "c", "d"])
    picture = rng.integers(0, 256, (16, 16, 3), dtype=np.uint8)
    found = cam_hub.predict(model, picture, top=9)
    assert sorted(entry.label for entry in found.predictions) == ["a", "b", "c", "d"]
    assert sum(entry.probability for entry in found.predictions) == pytest.approx(1)


@pytest.mark.parametrize("top", [0, -1, 1.5, True, "5"])
def test_top_is_a_count(lite0, lion, top):
    with pytest.raises(InvalidArgument, match="top="):
        cam_hub.predict(lite0, lion, top=top)


def test_anything_other_than_an_image_is_refused(lite0):
    with pytest.raises(ImageRefused):
        cam_hub.predict(lite0, b"no picture")


def test_scores_that_are_not_finite_are_not_predictions(rng):
    class Broken(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(3, 4, 3)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.conv(x).mean((2, 3)) / 0 * 0

    model = cam_hub.wrap_model(Broken(), input_size=(3, 16, 16))
    with pytest.raises(ModelRefused, match="not finite"):
        cam_hub.predict(model, rng.integers(0, 256, (16, 16, 3), dtype=np.uint8))


def test_a_bare_module_is_refused_with_what_would_work(lion):
    with pytest.raises(InvalidArgument, match="wrap_model"):
        cam_hub.predict(nn.Conv2d(3, 4, 3), lion)
