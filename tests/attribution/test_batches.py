"""``explain_many``: batches of images, in order, each with its own outcome."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

import cam_hub
from cam_hub import explain, explain_many
from cam_hub.attribution.result import explanation_of
from cam_hub.errors import (
    CamHubError,
    ClassNotFound,
    ImageRefused,
    InvalidArgument,
    LayerNotFound,
    MethodNotFound,
)
from cam_hub.targets import TASKS
from tests.attribution.test_caller_modes import Forbidden, ForbiddenBelow
from tests.fakes.law_nets import inputs, layer_of, of_layout, of_task


@pytest.fixture(scope="module")
def model() -> cam_hub.LoadedModel:
    return of_layout("NCHW")


def passes_of(model: cam_hub.LoadedModel) -> list[int]:
    """A list to which the number of images of each pass is appended."""
    seen: list[int] = []
    trunk = model.module if hasattr(model.module, "norm") else model.module.trunk
    trunk.norm.register_forward_hook(lambda _m, _i, output: seen.append(len(output)))
    return seen


class TestPhotos:
    def test_each_has_the_explanation_that_it_has_alone(self, lite0, photos):
        options = {"target_layers": "stages", "classes": cam_hub.top(2), "num_samples": 2,
                   "sampling": "fixed"}  # fmt: skip
        names = ["lion", "cat"]
        outcomes = list(
            explain_many(lite0, [photos[name] for name in names], batch_size=4, **options)
        )
        assert [outcome.picture for outcome in outcomes] == [photos[name] for name in names]
        for outcome in outcomes:
            alone = explain(lite0, outcome.picture, batch_size=4, **options)
            found = outcome.explanation
            assert found.layers == alone.layers
            for key, cam in alone.cams.items():
                np.testing.assert_allclose(found.cams[key], cam, rtol=0, atol=1e-5 * cam.max())
            manifests = [dict(alone.manifest), dict(found.manifest)]
            for rounded in ("predictions", "classes"):
                here, there = (manifest.pop(rounded) for manifest in manifests)
                assert [e["label"] for e in here] == [e["label"] for e in there]
                assert [e["probability"] for e in here] == pytest.approx(
                    [e["probability"] for e in there], rel=1e-4
                )
            assert manifests[0] == manifests[1]
            assert found.photo.tobytes() == alone.photo.tobytes()

    def test_a_folder_is_taken_in_the_order_of_its_names(self, lite0, lion, photos, tmp_path):
        lion.save(tmp_path / "b.JPG")
        photos["cat"].save(tmp_path / "a.png")
        lion.save(tmp_path / ".hidden.png")
        (tmp_path / "notes.txt").write_text("no picture")
        (tmp_path / "more.png").mkdir()
        found = list(explain_many(lite0, str(tmp_path), method="layercam"))
        assert [outcome.picture for outcome in found] == [tmp_path / "a.png", tmp_path / "b.JPG"]
        assert "cat" in found[0].explanation.predictions[0].label
        assert found[1].explanation.classes == (291,)

    def test_one_that_cannot_be_read_has_an_error_and_the_others_continue(
        self, lite0, lion, tmp_path
    ):
        (tmp_path / "bad.png").write_bytes(b"\x89PNG and nothing else")
        images = [lion, tmp_path / "bad.png", tmp_path / "gone.png", lion, None]
        found = list(explain_many(lite0, images, method="layercam", batch_size=2))
        assert [outcome.error is None for outcome in found] == [True, False, False, True, False]
        for outcome in (found[1], found[2], found[4]):
            with pytest.raises(ImageRefused):
                outcome.explanation  # noqa: B018
            with pytest.raises(type(outcome.error)) as alone:
                explain(lite0, outcome.picture)
            assert str(alone.value) == str(outcome.error)


class TestPasses:
    @pytest.mark.parametrize("task", TASKS)
    def test_images_and_their_noisy_copies_fill_every_pass(self, task):
        model = of_task(task)
        cam_hub.list_layers(model)
        images = inputs(model, 5)
        explain(model, images[0], target_layers=layer_of(model))  # computed once
        seen = passes_of(model)
        options = {"target_layers": layer_of(model), "num_samples": 3, "batch_size": 8}
        options["method"] = "smoothgradcampp"
        assert all(outcome.error is None for outcome in explain_many(model, images, **options))
        baseline = [1] if task == "similarity" else []
        assert seen == [*baseline, 8, 8, 4]

    def test_images_of_several_sizes_are_kept_apart_and_in_order(self, lite0, lion):
        square = lite0.preprocess(lion)[0]
        wide = nn.functional.interpolate(square[None], (160, 256))[0]
        images = [square, wide, square.flip(2), wide.flip(2)]
        found = list(explain_many(lite0, images, method="layercam", batch_size=4))
        for image, outcome in zip(images, found, strict=True):
            alone = explain(lite0, image, method="layercam").cam()
            np.testing.assert_allclose(
                outcome.explanation.cam(), alone, rtol=0, atol=1e-5 * alone.max()
            )

    def test_what_mixes_the_images_of_a_batch_is_passed_one_by_one(self):
        torch.manual_seed(0)
        module = nn.Sequential(
            nn.Conv2d(3, 4, 4, 4), nn.BatchNorm2d(4, track_running_stats=False), nn.ReLU(),
            nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3),
        ).eval()  # fmt: skip
        model = cam_hub.wrap_model(module, input_size=(3, 32, 32))
        images = inputs(model, 3)
        options = {"method": "layercam", "target_layers": "0", "classes": [0, 1, 2]}
        for image, outcome in zip(images, explain_many(model, images, **options), strict=True):
            alone = explain(model, image, **options)
            for key, cam in alone.cams.items():
                assert np.array_equal(outcome.explanation.cams[key], cam)

    def test_a_network_that_fails_on_one_image_explains_the_others(self):
        class Picky(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                torch.manual_seed(0)
                self.conv = nn.Conv2d(3, 4, 8, 8)

            def forward(self, x):
                if (x.amax(dim=(1, 2, 3)) > 50).any():
                    raise RuntimeError("too bright")
                return self.conv(x).relu().mean((2, 3))

        model = cam_hub.wrap_model(Picky().eval(), input_size=(3, 32, 32))
        images = inputs(model, 3)
        images[1] = images[1] + 100
        options = {"method": "layercam", "target_layers": "conv"}
        one, two, three = explain_many(model, images, **options)
        assert "too bright" in str(two.error)
        for image, outcome in ((images[0], one), (images[2], three)):
            alone = explain(model, image, **options).cam()
            np.testing.assert_allclose(outcome.explanation.cam(), alone, rtol=1e-5)

    def test_an_image_that_is_blank_at_the_recommended_layer_gets_the_last_layer_that_is_not(self):
        class Half(nn.Module):
            """The last layer is inactive for dark images; the score also depends on the first
            layer."""

            def __init__(self) -> None:
                super().__init__()
                torch.manual_seed(0)
                self.one, self.two = nn.Conv2d(3, 4, 4, 4), nn.Conv2d(4, 4, 1)
                nn.init.constant_(self.one.weight, 0.1)
                nn.init.constant_(self.two.weight, 1.0)
                nn.init.constant_(self.two.bias, -0.5)
                nn.init.zeros_(self.one.bias)

            def forward(self, x):
                one = self.one(x).relu()
                return (self.two(one).relu() + one).mean((2, 3))

        model = cam_hub.wrap_model(Half().eval(), input_size=(3, 32, 32))
        bright, dark = torch.full((3, 32, 32), 2.0), torch.full((3, 32, 32), -2.0)
        dark[:, :8, :8] = 0.02
        images = [bright * torch.linspace(0.5, 1, 32), dark]
        found = list(explain_many(model, images, method="layercam"))
        for image, outcome in zip(images, found, strict=True):
            alone = explain(model, image, method="layercam")
            assert outcome.explanation.layers == alone.layers
            np.testing.assert_allclose(outcome.explanation.cam(), alone.cam(), rtol=1e-5)
        assert found[0].explanation.layers != found[1].explanation.layers


class TestBeforeAnythingIsSpent:
    @pytest.mark.parametrize(
        ("arguments", "error"),
        [
            ({"method": "gradcan"}, MethodNotFound),
            ({"target_layers": "lard"}, LayerNotFound),
            ({"classes": "lino"}, ClassNotFound),
            ({"classes": []}, InvalidArgument),
            ({"batch_size": 0}, InvalidArgument),
            ({"threads": True}, InvalidArgument),
            ({"workers": -1}, InvalidArgument),
            ({"workers": None}, InvalidArgument),
            ({"preprocessing": "fast"}, InvalidArgument),
            ({"num_samples": 0}, InvalidArgument),
            ({"std": float("inf")}, InvalidArgument),
            ({"reference": "cat.png"}, InvalidArgument),
        ],
        ids=str,
    )
    def test_an_error_that_concerns_every_image_is_raised_at_the_call(
        self, model, arguments, error
    ):
        def pictures():
            raise AssertionError("no picture must be asked for")
            yield

        with pytest.raises(error):
            explain_many(model, pictures(), **arguments)

    @pytest.mark.parametrize(
        "images",
        [None, 7, b"\x89PNG", Image.new("RGB", (8, 8)), np.zeros((8, 8, 3), np.uint8),
         torch.zeros(3, 32, 48), "nowhere", __file__],
        ids=lambda value: type(value).__name__,
    )  # fmt: skip
    def test_anything_other_than_several_images_is_refused(self, model, images):
        with pytest.raises(InvalidArgument, match="folder"):
            explain_many(model, images)

    def test_a_folder_without_images_is_refused(self, model, tmp_path):
        with pytest.raises(InvalidArgument, match="pictures in it"):
            explain_many(model, tmp_path)

    def test_a_class_that_only_a_pass_shows_to_be_missing_is_each_images_error(self, model):
        found = list(explain_many(model, inputs(model, 2), classes=99, target_layers="laid"))
        assert [type(outcome.error) for outcome in found] == [ClassNotFound] * 2


def test_an_outcome_is_an_explanation_or_an_error(model):
    good, bad = explain_many(model, [inputs(model, 1)[0], b""], method="layercam")
    assert isinstance(good.explanation, cam_hub.Explanation)
    assert good.error is None
    assert isinstance(bad.error, CamHubError)


class TestResultsThatWait:
    def test_a_result_is_made_when_it_is_first_asked_for(self, model, monkeypatch) -> None:
        made = []

        def counted(*arguments: object) -> object:
            made.append(arguments)
            return explanation_of(*arguments)  # type: ignore[arg-type]

        monkeypatch.setattr("cam_hub.attribution.explain_many.explanation_of", counted)
        outcomes = list(
            explain_many(model, list(inputs(model, 5)), method="layercam", batch_size=2)
        )
        assert [outcome.error for outcome in outcomes] == [None] * 5
        assert not made
        first = outcomes[3].explanation
        assert outcomes[3].result is first
        assert len(made) == 1

    def test_it_is_the_one_of_its_image_after_weights_have_changed(self) -> None:
        own = of_layout("NCHW")
        images = list(inputs(own, 3))
        outcomes = list(explain_many(own, images, method="layercam"))
        expected = [explain(own, image, method="layercam").cam() for image in images]
        with torch.no_grad():
            for weight in own.module.parameters():
                weight.mul_(-2)
        for outcome, cam in zip(outcomes, expected, strict=True):
            np.testing.assert_allclose(outcome.explanation.cam(), cam, atol=1e-5)
        with pytest.raises(InvalidArgument, match="present weights"):
            cam_hub.evidence(outcomes[0].explanation)

    def test_it_is_made_outside_of_the_callers_modes(self, model) -> None:
        (outcome,) = explain_many(model, [inputs(model, 1)[0]], method="layercam")
        with torch.device("meta"), Forbidden(), ForbiddenBelow():
            found = outcome.explanation
        np.testing.assert_array_equal(
            found.cam(), explain(model, inputs(model, 1)[0], method="layercam").cam()
        )

    def test_a_pickle_holds_the_explanation(self, model) -> None:
        (outcome,) = explain_many(model, [inputs(model, 1)[0]], method="layercam")
        copied = pickle.loads(pickle.dumps(outcome))
        np.testing.assert_array_equal(copied.explanation.cam(), outcome.explanation.cam())
        assert (copied.key, copied.error) == (outcome.key, None)


METHODS_OF_ONE_PASS = [
    name
    for name, method in cam_hub.METHODS.items()
    if method.attribute is None and method.combine is None
]


@pytest.mark.parametrize("name", METHODS_OF_ONE_PASS)
@pytest.mark.parametrize("batch_size", [1, 3, 4, 64])
def test_maps_of_a_batch_are_those_of_each_image(model, name, batch_size) -> None:
    # Of 5 images with 2 noisy copies each, chunks of 4 hold parts of jobs, those of 3 and 64 whole.
    options = {"method": name, "target_layers": "stages", "classes": [1, 0], "num_samples": 2}
    together = explain_many(
        model, list(inputs(model, 5)), batch_size=batch_size, sampling="fixed", **options
    )
    for outcome, image in zip(together, inputs(model, 5), strict=True):
        alone = explain(model, image, sampling="fixed", **options)
        for key, cam in alone.cams.items():
            np.testing.assert_allclose(outcome.explanation.cams[key], cam, rtol=1e-4, atol=1e-6)
        for fact in ("agreement", "cancellation"):
            here, there = (found.manifest.get(fact) for found in (outcome.explanation, alone))
            assert here == (there if there is None else pytest.approx(there, abs=2e-3)), fact


@pytest.mark.parametrize("options", [{"contrast": 1, "classes": 0}, {"target": "probability"}])
def test_contrasts_and_probabilities_of_a_batch_are_those_of_each_image(model, options) -> None:
    method = "gradcam" if "contrast" in options else "layercam"
    for outcome, image in zip(
        explain_many(model, list(inputs(model, 4)), method=method, **options),
        inputs(model, 4),
        strict=True,
    ):
        alone = explain(model, image, method=method, **options)
        np.testing.assert_allclose(outcome.explanation.cam(), alone.cam(), rtol=1e-4, atol=1e-6)
