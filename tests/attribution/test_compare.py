"""``compare``: models side by side; each cell is the map of ``explain``, or a reason."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

import cam_hub
from cam_hub import compare, explain
from cam_hub.attribution.compare_columns import own_class
from cam_hub.attribution.compare_work import Done, ProgressReport, answers
from cam_hub.errors import (
    CamHubError,
    ClassNotFound,
    ImageRefused,
    InvalidArgument,
    LayerNotFound,
    MethodNotFound,
    NoMap,
)
from tests.fakes.law_nets import inputs, of_layout


@pytest.fixture(scope="module")
def random() -> cam_hub.LoadedModel:
    torch.manual_seed(0)
    return cam_hub.load_model("resnet10t", pretrained=False, device="cpu")


class Refusing(nn.Module):
    """Runs forward, and raises in the backward pass."""

    class Step(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: Tensor) -> Tensor:
            return x.clone()

        @staticmethod
        def backward(ctx: Any, grad: Tensor) -> Tensor:
            raise RuntimeError("no way back")

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.armed = nn.Conv2d(3, 4, 3, padding=1), False

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(x)
        if self.armed:
            x = self.Step.apply(x)
        return x.mean(dim=(2, 3))


def same(cell: Any, alone: cam_hub.Explanation) -> bool:
    """Equality up to rounding: the number of images in a pass changes the last digits."""
    expected = alone.cam(cell.class_index, cell.layer)
    return np.allclose(cell.cam, expected, rtol=0, atol=1e-5 * np.abs(expected).max())


class TestColumns:
    def test_methods_give_each_the_map_that_they_give_alone(self, lite0, random, lion):
        methods = ["layercam", "Grad-CAM", "smoothgradcampp"]
        grid = compare([lite0, random], lion, methods=methods, num_samples=2)
        assert grid.kind == "methods"
        assert grid.titles == ("LayerCAM", "Grad-CAM", "Smooth Grad-CAM++")
        assert [row.model for row in grid.rows] == [lite0.id, random.id]
        for model, row in zip([lite0, random], grid.rows, strict=True):
            for method, cell in zip(methods, row.cells, strict=True):
                assert same(cell, explain(model, lion, method=method, num_samples=2))

    def test_layers_of_one_pass_are_those_of_passes_of_their_own(self, lite0, lion):
        names = ["blocks.1", "blocks.4", "bn2"]
        (row,) = compare(lite0, lion, methods="layercam", target_layers=names).rows
        assert [cell.layer for cell in row.cells] == names
        for cell in row.cells:
            assert same(cell, explain(lite0, lion, method="layercam", target_layers=cell.layer))
        assert {cell.cost for cell in row.cells} == {row.cells[0].cost}
        assert row.cells[0].cost.maps == 3

    def test_classes_by_index_and_label_are_those_that_explain_gives_alone(self, lite0, photos):
        grid = compare(lite0, photos["cat"], methods="layercam", classes=["tiger cat", 285])
        assert [cell.class_index for cell in grid.cells] == [282, 285]
        for cell in grid.cells:
            assert same(
                cell,
                explain(lite0, photos["cat"], method="layercam", classes=cell.class_index),
            )
            assert 0.3 < cell.probability < 0.5

    def test_a_word_selects_each_models_layers_of_the_kind(self, lite0, lion):
        small = of_layout("NCHW")
        grid = compare([lite0, small], lion, methods="layercam", target_layers="stages")
        stages = [cam_hub.suggest_layers(model, "stages") for model in (lite0, small)]
        assert len(stages[0]) != len(stages[1])
        assert grid.titles == tuple(f"layer {n}" for n in range(1, max(map(len, stages)) + 1))
        for names, row in zip(stages, grid.rows, strict=True):
            assert [cell.layer for cell in row.cells if not cell.error] == names
            assert all("has only 1" in cell.reason for cell in row.cells[len(names) :])

    def test_the_best_classes_are_each_models_own(self, lite0, random, lion):
        grid = compare([lite0, random], lion, methods="layercam", classes=cam_hub.top(2))
        assert grid.titles == ("class 1", "class 2")
        for row in grid.rows:
            best = [found.class_index for found in row.predictions[:2]]
            assert [cell.class_index for cell in row.cells] == best

    def test_without_several_values_there_is_one_column_of_each_models_own_answer(
        self, lite0, random, lion
    ):
        grid = compare([lite0, random], lion)
        assert grid.titles == ("Auto",)
        assert same(grid.rows[0].cells[0], explain(lite0, lion))

    @pytest.mark.parametrize(
        "several",
        [
            {"methods": ["layercam", "gradcam"], "classes": [1, 2]},
            {"methods": ["layercam", "gradcam"], "target_layers": "stages"},
            {"target_layers": ["a", "b"], "classes": "top(2)"},
        ],
    )
    def test_only_one_of_the_three_may_have_several_values(self, lite0, lion, several):
        with pytest.raises(InvalidArgument, match="one of the three"):
            compare(lite0, lion, **several)


class TestWhatFails:
    def test_a_model_that_cannot_be_had_leaves_the_others_their_maps(self, lite0, random, lion):
        grid = compare([lite0, "torchvision/resnet5O", random], lion, methods="layercam")
        assert [cell.explanation is not None for cell in grid.cells] == [True, False, True]
        bad = grid.cells[1]
        assert bad.error.code == "model_not_found"
        assert "torchvision/resnet50" in bad.reason
        assert bad.cam is None
        assert same(grid.cells[2], explain(random, lion, method="layercam"))

    def test_a_network_that_raises_in_its_backward_pass_fails_alone(self, lite0, lion):
        net = Refusing()
        model = cam_hub.wrap_model(net, input_size=(3, 16, 16))
        cam_hub.list_layers(model)
        net.armed = True
        grid = compare([model, lite0], lion, methods=["layercam", "gradcam"])
        assert [cell.explanation is not None for cell in grid.cells] == [False] * 2 + [True] * 2
        assert grid.cells[0].error.code == "no_map"
        assert "no way back" in grid.cells[0].reason

    def test_a_class_that_one_model_lacks_is_a_cell_with_the_reason(self, lite0, lion):
        small = cam_hub.wrap_model(
            nn.Sequential(nn.Conv2d(3, 2, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten()),
            input_size=(3, 32, 32),
            class_names=("lion", "unicorn"),
        )
        wanted = ["lion, king of beasts, Panthera leo", "unicorn"]
        grid = compare([lite0, small], lion, methods="gradcam", classes=wanted)
        assert [cell.class_index for cell in grid.cells] == [291, None, 0, 1]
        assert grid.cells[1].error.code == "class_not_found"
        assert grid.cells[1].label == "unicorn"

    def test_an_index_out_of_one_models_range_is_a_cell_with_the_reason(self, lite0, lion):
        bare = cam_hub.wrap_model(
            nn.Sequential(nn.Conv2d(3, 5, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten()),
            input_size=(3, 32, 32),
        )
        grid = compare([lite0, bare], lion, methods="gradcam", classes=[2, 291, "3"])
        assert [cell.class_index for cell in grid.cells] == [2, 291, 3, 2, None, 3]
        assert "classes 0 to 4" in grid.cells[4].reason

    def test_a_layer_that_a_model_lacks_or_that_gives_no_map_is_a_cell_with_the_reason(
        self, lite0, lion
    ):
        names = ["blocks.4", "blocks.44", "classifier", "bn2"]
        grid = compare(lite0, lion, methods="layercam", target_layers=names)
        assert [cell.explanation is not None for cell in grid.cells] == [True, False, False, True]
        assert isinstance(grid.cells[1].error, LayerNotFound)
        assert isinstance(grid.cells[2].error, NoMap)
        assert [cell.layer for cell in grid.cells] == names

    def test_a_blank_map_has_its_reason_and_its_cost_and_no_image(self, lite0, photos):
        names = ["blocks.0.0.conv_pw", "bn2"]
        grid = compare(lite0, photos["moped"], methods="smoothgradcampp", target_layers=names)
        blank = grid.cells[0]  # its weighted sum is negative everywhere
        assert "map is zero" in blank.reason
        assert blank.cost is not None
        assert blank.cam is None
        assert grid.first_error is None
        assert grid.pictures()[0][0] is None

    def test_a_grid_without_any_map_reports_its_first_reason(self, lion):
        grid = compare(["nonsense1", "nonsense2"], lion, target_layers="all")
        assert grid.first_error.code == "model_not_found"
        assert len(grid.cells) == 2
        assert grid.figure().mode == "RGB"

    def test_one_culprit_among_many_is_found_by_halving(self):
        calls = []

        def work(items: list[int]) -> Done:
            calls.append(items)
            if 5 in items:
                raise NoMap("five")
            return Done(None, None)

        found = answers(range(16), work, ProgressReport(None))
        assert [item for item, done in found.items() if isinstance(done, CamHubError)] == [5]
        assert len(calls) == 9


class TestBadInput:
    @pytest.mark.parametrize(
        ("options", "error"),
        [
            ({"methods": []}, InvalidArgument),
            ({"methods": ["layercam", "nope"]}, MethodNotFound),
            ({"classes": [True]}, InvalidArgument),
            ({"classes": []}, InvalidArgument),
            ({"target_layers": [3]}, InvalidArgument),
            ({"num_samples": 0}, InvalidArgument),
            ({"seed": -1}, InvalidArgument),
            ({"batch_size": 0}, InvalidArgument),
        ],
    )
    def test_it_is_refused_before_any_model_is_loaded(self, lion, options, error):
        with pytest.raises(error):
            compare("nonsense", lion, **options)

    @pytest.mark.parametrize("models", [[], [None], nn.Identity(), 3])
    def test_an_object_that_is_not_a_model_is_refused(self, lion, models):
        with pytest.raises(InvalidArgument, match="models"):
            compare(models, lion)

    def test_a_photo_that_cannot_be_read_is_refused(self):
        with pytest.raises(ImageRefused):
            compare("nonsense", b"no picture")


class TestRows:
    def test_a_model_that_is_named_twice_has_one_row(self, lite0, lion):
        assert len(compare([lite0, lite0], lion, methods="gradcam").rows) == 1

    def test_each_cell_reports_its_cost_and_the_models_input(self, lite0, lion):
        (row,) = compare(lite0, lion, methods="smoothgradcampp", num_samples=4).rows
        assert row.predictions[0].label.startswith("lion")
        assert row.forward_seconds > 0
        assert row.loading_seconds > 0
        cost = row.cells[0].cost
        assert cost.forward_passes == pytest.approx(cost.seconds / row.forward_seconds)
        assert cost.forward_passes > 2  # of five images, forward and backward
        assert not row.has_random_weights

    def test_random_weights_are_reported(self, random, lion):
        assert compare(random, lion, methods="gradcam").rows[0].has_random_weights

    def test_all_maps_share_one_copy_of_the_photo(self, lite0, random, lion):
        grid = compare([lite0, random], lion, methods=["layercam", "gradcam"])
        assert all(found.photo is grid.photo for found in grid.explanations())
        assert len(grid.explanations()) == 4

    def test_models_of_clips_see_the_frames_and_others_the_first(self, tmp_path):
        frames = [Image.new("RGB", (48, 32), (40 * n, 90, 200)) for n in range(4)]
        path = tmp_path / "clip.gif"
        frames[0].save(path, save_all=True, append_images=frames[1:])
        clip, still = of_layout("NCTHW"), of_layout("NCHW")
        grid = compare([clip, still], path, methods="gradcam")
        assert [len(found.frames) for found in grid.explanations()] == [4, 1]
        assert same(grid.cells[0], explain(clip, path, method="gradcam"))

    def test_a_preprocessed_tensor_is_shown_as_each_model_would_have_it(self):
        model = of_layout("NCHW")
        grid = compare(model, inputs(model, 1)[0], methods="gradcam")
        assert grid.photo is None
        assert grid.cells[0].explanation.photo.size == (48, 32)


class TestProgress:
    def test_it_rises_to_the_end_and_names_the_models(self, lite0, random, lion):
        told: list[tuple[float, str]] = []
        compare(
            [lite0, random],
            lion,
            methods="gradcam",
            progress=lambda part, what: told.append((part, what)),
        )
        parts = [part for part, _ in told]
        assert parts == sorted(parts)
        assert parts[-1] == pytest.approx(1)
        assert told[0][1].startswith(f"{lite0.id} (1 of 2): ")

    @pytest.mark.parametrize("error", [KeyboardInterrupt(), RuntimeError("stop"), NoMap("stop")])
    def test_what_it_raises_stops_everything(self, lite0, random, lion, error):
        seen = []

        def stop(part: float, what: str) -> None:
            seen.append(what)
            if "class" in what:
                raise error

        with pytest.raises(type(error)):
            compare([lite0, random], lion, methods="gradcam", progress=stop)
        assert not any(random.id in what for what in seen)


class TestLabels:
    NAMES = ("lion", "tabby cat", "crane", "crane, bird")

    @pytest.mark.parametrize(
        ("wanted", "index"),
        [("LION", 0), ("lion, king of beasts", 0), ("tabby, tabby cat", 1), ("1", 1), (7, 7)],
    )
    def test_a_label_is_found_by_any_of_its_names(self, wanted, index):
        assert own_class(wanted, self.NAMES) == index

    @pytest.mark.parametrize("wanted", ["tiger", "tiger, felid", "9"])
    def test_a_label_that_is_not_there_is_not_found(self, wanted):
        with pytest.raises(ClassNotFound):
            own_class(wanted, self.NAMES)

    def test_without_labels_a_text_of_digits_is_an_index(self):
        assert own_class(" 12 ", None) == 12


def test_what_was_predicted_stands_beside_what_is_true(random, lion):
    grid = compare(random, lion, methods="layercam", classes=[cam_hub.top(2), 7, "top(1)"])
    assert grid.kind == "classes"
    assert grid.titles == ("predicted 1", "predicted 2", "7", "predicted")
    best = [found.class_index for found in cam_hub.predict(random, lion, top=2).predictions]
    assert [cell.class_index for cell in grid.cells] == [*best, 7, best[0]]
    alone = explain(random, lion, method="layercam", classes=[best[0], 7])
    assert same(grid.cells[0], alone)
    assert same(grid.cells[2], alone)


def test_a_class_that_a_model_lacks_leaves_the_predicted_one_its_map(random, lion):
    grid = compare(random, lion, methods="layercam", classes=[cam_hub.top(1), 5000])
    predicted, lacking = grid.cells
    assert predicted.error is None
    assert isinstance(lacking.error, ClassNotFound)
    with pytest.raises(InvalidArgument, match=r"top\(count\)"):
        compare(random, lion, classes=[cam_hub.top(1), 1.5])


def test_a_function_of_the_output_is_one_score_for_all_methods(random, lion):
    def margin(output):
        return output[:, 3] - output[:, 4]

    grid = compare(random, lion, methods=["layercam", "gradcam"], classes=margin)
    assert {cell.label for cell in grid.cells} == {"margin"}
    assert same(grid.cells[0], explain(random, lion, method="layercam", classes=margin))


def test_a_contrast_that_can_be_read_only_once_holds_for_every_cell(lite0, photos):
    methods = ["layercam", "gradcam"]
    once, several = (
        compare(lite0, photos["cat"], methods=methods, classes=285, contrast=contrast)
        for contrast in (iter([(281, 0.5), (282, 0.5)]), [(281, 0.5), (282, 0.5)])
    )
    for one, other in zip(once.cells, several.cells, strict=True):
        assert one.error is None
        assert np.array_equal(one.explanation.cam(), other.explanation.cam())
