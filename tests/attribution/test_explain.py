"""``explain`` end to end, with real weights and photos, and without side effects."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

import cam_hub
from cam_hub import explain, top
from cam_hub.errors import (
    ClassNotFound,
    ImageRefused,
    NoMap,
)
from tests.conftest import PHOTOS
from tests.fakes.methods import ONE_PASS
from tests.fakes.module_state import state_of

# The position of the object in the photo: (left, top, right, bottom) as fractions of width and
# height.
PLACES = {
    "lion": (0.25, 0.05, 0.75, 0.55),
    "cheetah": (0.15, 0.1, 0.85, 0.8),
    "espresso": (0.3, 0.05, 0.7, 0.65),
    "tripod": (0.4, 0.35, 0.9, 1.0),
    "moped": (0.1, 0.25, 0.9, 0.9),
}


@pytest.mark.parametrize("method", ONE_PASS)
@pytest.mark.parametrize("photo", PLACES)
def test_the_hottest_pixel_is_on_the_thing(lite0, photos, photo, method):
    result = explain(lite0, photos[photo], method=method)
    assert result.predictions[0].class_index == PHOTOS[photo][0]
    heatmap = result.heatmap()
    y, x = np.unravel_index(heatmap.argmax(), heatmap.shape)
    width, height = photos[photo].size
    left, upper, right, lower = PLACES[photo]
    assert left <= x / width <= right
    assert upper <= y / height <= lower


@pytest.mark.parametrize("method", ONE_PASS)
class TestEveryMethod:
    def test_maps_have_the_layers_grid_and_heatmaps_the_photos_size(self, lite0, photos, method):
        photo = photos["cat"]
        result = explain(lite0, photo, method=method)
        assert result.cam().shape == (7, 7)
        assert result.cam().dtype == np.float32
        assert result.heatmap().shape == (photo.height, photo.width)
        assert result.heatmap().dtype == np.float32
        assert 0 <= result.heatmap().min() <= result.heatmap().max() <= 1
        assert result.overlay().size == photo.size

    def test_the_same_call_gives_the_same_bytes(self, lite0, lion, method):
        one, two = (explain(lite0, lion, method=method, seed=7) for _ in range(2))
        assert one.cam().tobytes() == two.cam().tobytes()
        assert one.overlay().tobytes() == two.overlay().tobytes()

    def test_classes_asked_for_together_equal_those_asked_for_alone(self, lite0, lion, method):
        together = explain(lite0, lion, method=method, classes=[291, 282])
        for index in (291, 282):
            alone = explain(lite0, lion, method=method, classes=index)
            np.testing.assert_allclose(together.cam(index), alone.cam(), rtol=1e-4, atol=1e-6)

    def test_layers_asked_for_together_equal_those_asked_for_alone(self, lite0, lion, method):
        together = explain(lite0, lion, method=method, target_layers=["blocks.4", "bn2"])
        for name in together.layers:
            alone = explain(lite0, lion, method=method, target_layers=name)
            scale = alone.cam().max()
            np.testing.assert_allclose(
                together.cam(layer=name) / scale, alone.cam() / scale, rtol=1e-3, atol=1e-4
            )

    def test_chunks_do_not_change_the_map(self, lite0, lion, method):
        whole = explain(lite0, lion, method=method, num_samples=5, batch_size=6)
        for size in (1, 2, 4):
            parts = explain(lite0, lion, method=method, num_samples=5, batch_size=size)
            np.testing.assert_allclose(parts.cam(), whole.cam(), rtol=1e-4, atol=1e-5)

    def test_the_model_is_left_as_it_was(self, lion, method):
        torch.manual_seed(0)
        module = nn.Sequential(
            nn.Conv2d(3, 8, 5, 4), nn.BatchNorm2d(8), nn.ReLU(inplace=True), nn.Dropout(),
            nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 4),
        ).train()  # fmt: skip
        module[0].weight.requires_grad_(False)
        module(torch.randn(2, 3, 32, 32)).sum().backward()
        weights, before = copy.deepcopy(module.state_dict()), state_of(module)
        model = cam_hub.wrap_model(module, input_size=(3, 64, 64))
        explain(model, lion, method=method)
        assert state_of(module) == before
        with pytest.raises(ClassNotFound):
            explain(model, lion, method=method, classes=99)
        assert state_of(module) == before
        assert all(torch.equal(weights[key], module.state_dict()[key]) for key in weights)


def test_the_mission_in_one_line(photos, tmp_path):
    photos["cat"].save(tmp_path / "cat.png")
    result = explain(cam_hub.DEFAULT_MODEL, tmp_path / "cat.png", method="LayerCAM")
    assert "cat" in result.predictions[0].label


def test_noise_depends_on_the_seed_and_the_first_samples_do_not_depend_on_how_many(lite0, lion):
    def cam(**numbers):
        asked = {"method": "smoothgradcampp", "target_layers": "blocks.2", **numbers}
        return explain(lite0, lion, **asked).cam()

    assert not np.array_equal(cam(seed=0), cam(seed=1))
    from cam_hub.attribution.passes import Noise

    image = lite0.preprocess(lion)
    few, many = (
        list(Noise(count, 0.3, 5).draws(image, torch.contiguous_format)) for count in (2, 4)
    )
    assert all(torch.equal(a, b) for a, b in zip(few, many, strict=False))
    spread = float(torch.cat(many).std())
    assert spread == pytest.approx(0.3, rel=0.01)


def test_without_noise_the_number_of_samples_does_not_matter(lite0, lion):
    one, many = (
        explain(lite0, lion, method="smoothgradcampp", std=0, num_samples=count).cam()
        for count in (1, 3)
    )
    np.testing.assert_allclose(one, many, rtol=1e-5)


class TestImagesOfEveryKind:
    def test_the_same_photo_by_other_ways_gives_the_same_map(self, lite0, lion, tmp_path):
        path = tmp_path / "lion.png"
        lion.save(path)
        expected = explain(lite0, lion).cam()
        for image in (path, str(path), path.read_bytes(), np.asarray(lion)):
            assert np.array_equal(explain(lite0, image).cam(), expected)

    def test_a_preprocessed_tensor_gives_the_map_of_its_photo(self, lite0, lion):
        tensor = lite0.preprocess(lion)
        expected = explain(lite0, lion)
        for image in (tensor, tensor[0]):
            result = explain(lite0, image)
            assert np.array_equal(result.cam(), expected.cam())
            assert result.overlay().size == (224, 224)

    def test_a_tensor_of_another_size_has_a_map_of_another_grid(self, lite0, lion):
        tensor = torch.nn.functional.interpolate(lite0.preprocess(lion), (160, 320))
        result = explain(lite0, tensor, method="layercam")
        assert result.cam().shape == (5, 10)
        assert result.heatmap().shape == (160, 320)

    def test_a_photo_of_one_pixel_is_explained(self, lite0):
        result = explain(lite0, Image.new("RGB", (1, 1), "red"))
        assert result.heatmap().shape == (1, 1)

    @pytest.mark.parametrize(
        ("image", "words"),
        [
            (b"", "empty"),
            (b"hello", "not an image that can be read"),
            ("nowhere.jpg", "no file"),
            (np.full((8, 8, 3), np.nan), "NaN"),
            (torch.full((3, 224, 224), torch.nan), "NaN"),
            (torch.zeros(4, 224, 224), "channels"),
            (torch.zeros(2, 3, 224, 224), "one"),
            (torch.zeros(3, 224, 224, dtype=torch.int64), "uint8"),
            (None, ""),
            (42, ""),
        ],
    )
    def test_an_invalid_image_is_refused_and_the_next_call_works(self, lite0, lion, image, words):
        before = state_of(lite0.module)
        with pytest.raises(ImageRefused, match=f"(?i){words}"):
            explain(lite0, image)
        assert state_of(lite0.module) == before
        assert explain(lite0, lion).predictions[0].class_index == 291


class TestClasses:
    def test_the_predicted_class_is_explained_by_default(self, lite0, lion):
        result = explain(lite0, lion)
        assert result.classes == (291,)
        assert result.labels[291].startswith("lion")

    def test_several_of_several_kinds(self, lite0, lion):
        result = explain(lite0, lion, classes=["cheetah", 282, "lion"])
        assert result.classes == (293, 282, 291)

    def test_the_most_probable_ones(self, lite0, lion):
        result = explain(lite0, lion, classes=top(3))
        assert result.classes == tuple(p.class_index for p in result.predictions[:3])

    def test_predictions_are_the_models_own(self, lite0, lion):
        probabilities = lite0.module(lite0.preprocess(lion))[0].softmax(0)
        for prediction in explain(lite0, lion).predictions:
            expected = float(probabilities[prediction.class_index])
            assert prediction.probability == pytest.approx(expected, abs=1e-6)


class TestLayers:
    def test_a_word_selects_layers(self, lite0, lion):
        assert explain(lite0, lion, target_layers="stages").layers == tuple(
            cam_hub.suggest_layers(lite0, "stages")
        )

    def test_a_word_in_a_list_selects_its_layers(self, lite0, lion):
        assert explain(lite0, lion, target_layers=["stages", "bn1"]).layers == (
            *cam_hub.suggest_layers(lite0, "stages"),
            "bn1",
        )

    def test_a_layer_without_a_map_of_the_class_is_reported_and_the_others_stay(self, lion):
        class Two(nn.Module):
            """Class 0 depends on the first layer only, class 1 on both."""

            def __init__(self) -> None:
                super().__init__()
                torch.manual_seed(0)
                self.one, self.two = nn.Conv2d(3, 4, 8, 8), nn.Conv2d(4, 4, 2, 2)

            def forward(self, x: torch.Tensor) -> torch.Tensor:
                one = self.one(x).relu()
                two = self.two(one).relu()
                return torch.stack([one.mean((1, 2, 3)), two.mean((1, 2, 3))], dim=1)

        model = cam_hub.wrap_model(Two(), input_size=(3, 64, 64))
        result = explain(model, lion, method="layercam", target_layers=["one", "two"], classes=0)
        assert result.cam(layer="one").any()
        with pytest.raises(NoMap, match="two"):
            result.cam(layer="two")
        np.testing.assert_allclose(result.cam().max(), np.tanh(2), rtol=1e-5)
        with pytest.raises(NoMap, match="blank"):
            explain(model, lion, method="layercam", target_layers="two", classes=0)

    def test_activations_are_laid_out_as_the_image_is(self, lite0, lion):
        found = cam_hub.activations(lite0, lion, ["bn2", "blocks.2"])
        assert {name: tuple(a.shape) for name, a in found.items()} == {
            "bn2": (1280, 7, 7),
            "blocks.2": (40, 28, 28),
        }
        assert not found["bn2"].requires_grad


def test_progress_rises_to_the_end_and_can_stop_the_work(lite0, lion):
    seen: list[float] = []
    explain(lite0, lion, num_samples=9, classes=top(2), progress=lambda part, _: seen.append(part))
    assert seen == sorted(seen)
    assert len(seen) >= 4
    assert 0 < seen[0] < seen[-1] <= 1

    def stop(part: float, text: str) -> None:
        raise KeyboardInterrupt

    before = state_of(lite0.module)
    with pytest.raises(KeyboardInterrupt):
        explain(lite0, lion, progress=stop)
    assert state_of(lite0.module) == before
