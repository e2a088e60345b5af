"""``contrast``: why this class rather than that one."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
import torchcam.methods
from torch import nn

import cam_hub
from cam_hub import explain, explain_many, explain_methods, reproduce
from cam_hub.attribution.passes import RECENT
from cam_hub.cli import main
from cam_hub.errors import ClassNotFound, InvalidArgument, NoMap
from cam_hub.targets import TASKS
from tests.fakes.law_nets import inputs, layer_of, of_task
from tests.fakes.methods import ONE_PASS

A, B = 1, 2


class Linear(nn.Module):
    """Four channels, their means, and a linear head without a bias."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv = nn.Conv2d(3, 4, 4, 4)
        self.fc = nn.Linear(4, 5, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc(self.conv(x).mean((2, 3)))


@pytest.fixture(scope="module")
def linear() -> cam_hub.LoadedModel:
    names = ["ant", "bee, honey bee", "cat", "dog", "eel"]
    return cam_hub.wrap_model(Linear().eval(), input_size=(3, 16, 24), class_names=names)


@pytest.fixture(autouse=True)
def nothing_kept():
    RECENT.clear()


def test_the_weights_of_a_linear_head_are_subtracted_from_each_other(linear):
    (image,) = inputs(linear, 1)
    found = explain_methods(
        linear, image, ["gradcam", "layercam"], target_layers="conv", classes=A, contrast=B
    )
    with torch.no_grad():
        activation = linear.module.conv(image[None])[0]
        weights = (linear.module.fc.weight[A] - linear.module.fc.weight[B]) / 24  # of 4 x 6 places
    weighted = weights[:, None, None] * activation
    grad_cam = weighted.sum(0).relu()
    layer_cam = (weights.relu()[:, None, None] * activation).sum(0).relu()
    np.testing.assert_allclose(found["gradcam"].cams[A, "conv"], grad_cam, rtol=1e-5, atol=1e-7)
    np.testing.assert_allclose(found["layercam"].cams[A, "conv"], layer_cam, rtol=1e-5, atol=1e-7)


def test_it_is_the_map_of_a_network_whose_score_is_the_difference():
    model = of_task("classification")
    other = of_task("classification")
    with torch.no_grad():
        weight, bias = other.module.head.fc.weight, other.module.head.fc.bias
        weight[A] -= weight[B]
        bias[A] -= bias[B]
    (image,) = inputs(model, 1)
    asked = {"target_layers": layer_of(model), "classes": A, "num_samples": 3}
    specific = [name for name, method in ONE_PASS.items() if method.class_specific]
    held = explain_methods(model, image, specific, contrast=B, **asked)
    changed = explain_methods(other, image, specific, **asked)
    for method in specific:
        one, two = (results[method].cams[A, layer_of(model)] for results in (held, changed))
        np.testing.assert_allclose(one, two, rtol=0, atol=1e-5 * two.max())


@pytest.mark.parametrize("task", [task for task in TASKS if task != "similarity"])
def test_kept_passes_and_batches_give_the_map_of_a_fresh_one(task):
    model = of_task(task)
    image, other = inputs(model, 2)
    asked = {"target_layers": layer_of(model), "classes": A, "num_samples": 2}
    asked["method"] = "smoothgradcampp"
    fresh = explain(model, image, contrast=B, reuse=False, **asked)
    explain(model, image, **asked)
    many = list(explain_many(model, [image, other], contrast=B, **asked))
    for found in (explain(model, image, contrast=B, **asked), many[0].explanation):
        for key, cam in fresh.cams.items():
            np.testing.assert_allclose(found.cams[key], cam, rtol=0, atol=1e-5 * cam.max())
        assert found.contrast == fresh.contrast
    alone = explain(model, image, **asked)
    assert not np.allclose(alone.cam(), fresh.cam(), rtol=0.01)
    assert alone.contrast is None


def test_the_result_names_the_contrast_and_is_reproduced_from_its_manifest(linear):
    (image,) = inputs(linear, 1)
    asked = {"target_layers": "conv", "classes": ["ant", "dog"]}
    found = explain(linear, image, contrast="honey bee", **asked)
    expected = {"class_index": 1, "label": "bee, honey bee"}
    assert json.loads(json.dumps(found.manifest["contrast"])) == expected
    assert vars(found.contrast) == {**expected, "weight": 1.0}
    assert found.target.endswith(", less that of bee, honey bee")
    assert explain(linear, image, **asked).manifest["contrast"] is None
    again = reproduce(found.manifest, image, model=linear)
    for key, cam in found.cams.items():
        assert np.array_equal(again.cams[key], cam)
    assert again.manifest["contrast"] == expected


@pytest.mark.parametrize(
    ("given", "error", "said"),
    [
        ("honey", ClassNotFound, "bee"),
        (5, ClassNotFound, "classes 0 to 4"),
        (2.5, InvalidArgument, "a class index or label"),
        (True, InvalidArgument, "a class index or label"),
        (0, InvalidArgument, "another class than the explained one .ant."),
        ("Dog", InvalidArgument, "another class than the explained one .dog."),
    ],
)
def test_what_cannot_be_a_contrast_is_refused(linear, given, error, said):
    (image,) = inputs(linear, 1)
    with pytest.raises(error, match=said):
        explain(linear, image, classes=["ant", "dog"], target_layers="conv", contrast=given)


def test_among_many_images_those_of_the_contrast_itself_have_an_error(linear):
    images = inputs(linear, 6)
    predicted = [explain(linear, image, target_layers="conv").classes[0] for image in images]
    assert len(set(predicted)) > 1
    found = explain_many(linear, images, target_layers="conv", contrast=predicted[0])
    for index, outcome in zip(predicted, found, strict=True):
        assert isinstance(outcome.error, InvalidArgument) == (index == predicted[0])


def test_labels_and_models_without_a_contrast_are_refused_before_images_are_read(linear):
    for model, error in ((linear, ClassNotFound), (of_task("similarity"), InvalidArgument)):
        with pytest.raises(error):
            explain_many(model, ["never read"], contrast="horse")


def test_a_model_without_classes_has_no_contrast():
    model = of_task("similarity")
    with pytest.raises(InvalidArgument, match="does not choose between classes"):
        explain(model, inputs(model, 1)[0], target_layers=layer_of(model), contrast=1)


def test_of_a_detector_the_contrast_must_have_been_found():
    model = of_task("detection")
    with pytest.raises(NoMap, match="no box of class 0"):
        explain(model, inputs(model, 1)[0], target_layers=layer_of(model), classes=A, contrast=0)


def test_the_command_line_takes_one(tmp_path, lion, capsys):
    lion.save(tmp_path / "lion.png")
    out = tmp_path / "out"
    line = ["explain", str(tmp_path / "lion.png"), "--out", str(out), "--contrast", "tiger"]
    assert main(line) == 0
    assert "less that of tiger" in capsys.readouterr().out
    assert cam_hub.Explanation.load(out).contrast.label.startswith("tiger")


# --- The classes of the nearest scores, as in Finer-CAM -------------------------------------------


class Scores(nn.Module):
    """Fixed scores of five classes, plus those of the linear network times a millionth."""

    def __init__(self, *scores: float) -> None:
        super().__init__()
        self.inner = Linear()
        self.register_buffer("scores", torch.tensor(scores))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.scores + 1e-6 * self.inner(x)


@pytest.mark.parametrize(
    ("given", "explained", "expected"),
    [
        # Distances from class 2 (3.0): 2.5, 0.5, -, 0.25, 7.0.
        (cam_hub.nearest(2), 2, {3: 0.3, 1: 0.3}),
        ("nearest(2)", 2, {3: 0.3, 1: 0.3}),
        ("Nearest( 1 , 0.8 )", 2, {3: 0.8}),
        (cam_hub.nearest(1, weight=2), 2, {3: 2.0}),
        # From class 0 (0.5): -, 2.0, 2.5, 2.75, 4.5: above as well as below.
        (cam_hub.nearest(), 0, {1: 0.2, 2: 0.2, 3: 0.2}),
        ("nearest()", 0, {1: 0.2, 2: 0.2, 3: 0.2}),
        (cam_hub.nearest(9), 4, {0: 0.15, 1: 0.15, 2: 0.15, 3: 0.15}),
    ],
)
def test_the_classes_of_the_nearest_scores_share_the_weight(given, explained, expected):
    model = cam_hub.wrap_model(Scores(0.5, 2.5, 3.0, 3.25, -4.0), input_size=(3, 16, 24))
    image = torch.randn(3, 16, 24, generator=torch.Generator().manual_seed(2))
    asked = {"classes": explained, "method": "gradcam", "sign": "both"}
    asked["target_layers"] = "inner.conv"
    found = explain(model, image, contrast=given, **asked)
    entries = found.manifest["contrast"]
    entries = entries if isinstance(entries, list) else [entries]
    weights = {each["class_index"]: each.get("weight", 1.0) for each in entries}
    assert weights == pytest.approx(expected)
    named = explain(model, image, contrast=list(expected.items()), **asked)
    np.testing.assert_allclose(found.cam(), named.cam(), rtol=1e-5)
    again = reproduce(json.loads(json.dumps(dict(found.manifest))), image, model=model)
    assert again.cam().tobytes() == found.cam().tobytes()
    (outcome,) = explain_many(model, [image], contrast=given, **asked)
    np.testing.assert_allclose(outcome.explanation.cam(), found.cam(), rtol=1e-5)


def test_finer_cam_of_torchcam_is_grad_cam_with_the_nearest_classes(linear):
    (image,) = inputs(linear, 1)
    found = explain(
        linear, image, method="gradcam", target_layers="conv", classes=A,
        contrast=cam_hub.nearest(3),
    )  # fmt: skip
    with torchcam.methods.FinerCAM(linear.module, "conv", input_shape=(3, 16, 24)) as extractor:
        scores = linear.module(image[None].clone().requires_grad_())
        (theirs,) = extractor(A, scores, normalized=False)
    expected = theirs[0].detach().numpy()
    assert expected.max() > 0
    np.testing.assert_allclose(found.cam() / expected.max(), expected / expected.max(), atol=1e-5)


def test_nearest_classes_are_refused_where_they_make_no_sense(linear):
    (image,) = inputs(linear, 1)
    for classes in (["ant", "dog"], "top(2)"):
        with pytest.raises(InvalidArgument, match="one explained class"):
            explain(linear, image, classes=classes, target_layers="conv", contrast="nearest(3)")
    for given in ("nearest(0)", "nearest(2, 0)"):
        with pytest.raises(InvalidArgument):
            explain(linear, image, target_layers="conv", contrast=given)
    for count, weight in ((0, 1), (2.5, 1), (3, -1), (3, float("nan"))):
        with pytest.raises(InvalidArgument):
            cam_hub.nearest(count, weight)
    with pytest.raises(ClassNotFound):
        explain(linear, image, target_layers="conv", contrast="nearest(many)")


def test_a_label_that_reads_like_it_is_the_class(linear):
    names = ["ant", "nearest(2)", "cat", "dog", "eel"]
    model = cam_hub.wrap_model(linear.module, input_size=(3, 16, 24), class_names=names)
    (image,) = inputs(linear, 1)
    found = explain(model, image, classes=0, target_layers="conv", contrast="nearest(2)")
    assert found.manifest["contrast"]["class_index"] == 1
