"""The outputs of a network, and which are explained: heads, probabilities, values, functions."""

from __future__ import annotations

import warnings
from collections import OrderedDict
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import cam_hub
from cam_hub.errors import InvalidArgument, NoMap
from cam_hub.models.loaded_model import with_output

SIZE = (3, 32, 32)
IMAGE = torch.randn(SIZE, generator=torch.Generator().manual_seed(3))
QUICK: dict[str, Any] = {"method": "gradcam"}


class Net(nn.Module):
    """Two convolutions, pooling, linear heads, and a function of their results."""

    def __init__(self, end, widths=(5,), gain=1.0):
        super().__init__()
        torch.manual_seed(0)
        self.body = nn.Sequential(
            nn.Conv2d(3, 8, 3, 2, 1), nn.ReLU(), nn.Conv2d(8, 16, 3, 2, 1), nn.ReLU()
        )
        self.heads = nn.ModuleList(nn.Linear(16, width) for width in widths)
        self.end, self.gain = end, gain

    def forward(self, x):
        features = self.body(x).mean((2, 3))
        return self.end(*(self.gain * head(features) for head in self.heads))


def wrapped(end, widths=(5,), gain=1.0, **more):
    return cam_hub.wrap_model(Net(end, widths, gain), input_size=SIZE, **more)


def truth(model, image=IMAGE):
    with torch.no_grad():
        return model.module(image[None])


def mixed(z):
    """The mean of two softmax calls: no single call has an input to explain."""
    return (z.softmax(1) + (z / 2).softmax(1)) / 2


class TestProbabilitiesInside:
    @pytest.mark.parametrize("gain", [1.0, 20.0, 400.0])
    @pytest.mark.parametrize(
        "end",
        [
            lambda z: z.softmax(1),
            nn.Softmax(dim=-1),
            lambda z: torch.softmax(z / 2, 1)[..., None, None],
            lambda z: (z.softmax(1), "extra"),
        ],
        ids=["method", "module", "map of one cell", "in a tuple"],
    )
    def test_a_softmax_is_not_applied_again_and_its_input_is_explained(self, end, gain):
        model = wrapped(end, gain=gain)
        found = cam_hub.explain(model, IMAGE, **QUICK)
        raw = truth(model)
        raw = raw[0] if isinstance(raw, tuple) else raw
        assert found.predictions[0].probability == pytest.approx(float(raw.max()), abs=1e-5)
        assert found.cam().max() > 0  # also if the network is certain
        assert "logit" in found.target
        assert found.manifest["target"]["inner"] == "softmax"

    def test_the_map_is_that_of_the_network_without_its_softmax(self):
        own = cam_hub.explain(wrapped(lambda z: z.softmax(1)), IMAGE, **QUICK)
        bare = cam_hub.explain(wrapped(lambda z: z), IMAGE, **QUICK)
        np.testing.assert_allclose(own.cam(), bare.cam(), rtol=1e-5)
        for one, other in zip(own.predictions, bare.predictions, strict=True):
            assert one.probability == pytest.approx(other.probability)
            assert one.score == pytest.approx(other.score)

    def test_where_no_call_of_softmax_is_seen_the_log_probability_is_explained(self):
        model = wrapped(mixed)
        found = cam_hub.explain(model, IMAGE, **QUICK)
        assert found.predictions[0].probability == pytest.approx(float(truth(model).max()))
        assert found.predictions[0].score == pytest.approx(float(truth(model).max().log()))
        assert "log-probability" in found.target

    def test_log_softmax_is_a_score_with_the_networks_own_probabilities(self):
        model = wrapped(lambda z: z.log_softmax(1), gain=10.0)
        found = cam_hub.explain(model, IMAGE, **QUICK)
        assert found.predictions[0].probability == pytest.approx(float(truth(model).exp().max()))

    @pytest.mark.parametrize("widths", [(4,), (1,)])
    def test_a_log_sigmoid_is_the_logarithm_of_the_networks_own_probabilities(self, widths):
        model = wrapped(nn.LogSigmoid(), widths, 10.0)
        found = cam_hub.explain(model, IMAGE, **QUICK)
        bare = cam_hub.explain(wrapped(lambda z: z.sigmoid(), widths, 10.0), IMAGE, **QUICK)
        assert [each.label for each in found.predictions] == [
            each.label for each in bare.predictions
        ]
        for one, other in zip(found.predictions, bare.predictions, strict=True):
            assert one.probability == pytest.approx(other.probability, abs=1e-6)
            assert one.score == pytest.approx(other.score, abs=1e-5)
        np.testing.assert_allclose(found.cam(), bare.cam(), rtol=1e-5)
        assert found.manifest["target"]["inner"] == "log_sigmoid"

    @pytest.mark.parametrize(
        ("end", "widths"),
        [
            (torch.sigmoid, (4,)),
            (nn.Sigmoid(), (1,)),
            (lambda z: 1 / (1 + (-z).exp()), (1,)),
            (lambda z: z.sigmoid().squeeze(1), (1,)),
        ],
        ids=["many labels", "module", "by hand", "one axis"],
    )
    def test_a_sigmoid_is_not_applied_again(self, end, widths):
        model = wrapped(end, widths, 10.0)
        found = cam_hub.explain(model, IMAGE, **QUICK)
        said = {each.class_index: each.probability for each in found.predictions}
        own = truth(model).reshape(-1)
        expected = own.tolist() if widths == (4,) else [1 - float(own), float(own)]
        assert [said[index] for index in range(len(expected))] == pytest.approx(expected, abs=1e-5)

    @pytest.mark.parametrize(
        "end",
        [lambda z: z, lambda z: z.relu(), lambda z: z / 100, lambda z: z.tanh()],
        ids=["logits", "cut off by a ReLU", "small logits", "both signs"],
    )
    def test_scores_are_not_taken_for_probabilities(self, end):
        model = wrapped(end)
        found = cam_hub.explain(model, IMAGE, classes=[0, 1], **QUICK)
        expected = truth(model).softmax(1)[0]
        for each in found.predictions:
            assert each.probability == pytest.approx(float(expected[each.class_index]), rel=1e-5)

    @pytest.mark.parametrize(
        "end",
        [
            lambda z: (z.softmax(1), z),
            lambda z: [z, z.softmax(1)],
            lambda z: {"probabilities": z.softmax(1), "scores": z},
        ],
    )
    def test_logits_beside_their_softmax_are_explained_and_named(self, end):
        model = wrapped(end, gain=30.0)
        found = cam_hub.explain(model, IMAGE, **QUICK)
        bare = wrapped(lambda z: z, gain=30.0)
        expected = float(truth(bare).softmax(1).max())
        assert found.predictions[0].probability == pytest.approx(expected)
        assert "inner" not in found.manifest["target"]
        assert found.manifest["target"]["output"] in {"1", "0", "scores"}
        np.testing.assert_allclose(found.cam(), cam_hub.explain(bare, IMAGE, **QUICK).cam())

    def test_logits_beside_their_sigmoid_have_many_labels(self):
        model = wrapped(lambda z: (z.sigmoid(), z))
        found = cam_hub.explain(model, IMAGE, **QUICK)
        own = truth(model)[0][0]
        for each in found.predictions:
            assert each.probability == pytest.approx(float(own[each.class_index]))

    def test_batches_and_predict_agree(self):
        model = wrapped(lambda z: z.softmax(1), gain=20.0)
        alone = cam_hub.explain(model, IMAGE, **QUICK)
        (one, two) = cam_hub.explain_many(model, [IMAGE, -IMAGE], **QUICK)
        np.testing.assert_allclose(one.explanation.cam(), alone.cam(), rtol=1e-4)
        assert one.explanation.predictions[0].probability == pytest.approx(
            alone.predictions[0].probability
        )
        assert two.error is None
        predicted = cam_hub.predict(model, IMAGE)
        assert predicted.predictions[0].probability == pytest.approx(
            alone.predictions[0].probability
        )
        assert predicted.target == alone.target


class TestOneLogit:
    def model(self, **more):
        return wrapped(lambda z: z, (1,), **more)

    def test_both_classes_have_a_score_and_a_probability(self):
        model = self.model(class_names=["dog"])
        z = float(truth(model))
        found = cam_hub.explain(model, IMAGE, **QUICK)
        said = {each.label: (each.score, each.probability) for each in found.predictions}
        p = 1 / (1 + np.exp(-z))
        assert said["dog"] == pytest.approx((z, p))
        assert said["not dog"] == pytest.approx((-z, 1 - p))
        assert found.classes == ((1,) if z > 0 else (0,))

    def test_the_negative_class_is_explained_by_evidence_against_the_positive_one(self):
        model = self.model(class_names=["cat", "dog"])
        against = cam_hub.explain(model, IMAGE, classes="dog", sign="against", **QUICK)
        negative = cam_hub.explain(model, IMAGE, classes="cat", **QUICK)
        np.testing.assert_array_equal(negative.cam(), against.cam())


class TestRegression:
    def test_a_value_is_not_a_probability(self):
        model = wrapped(lambda z: z + 58, (1,), task="regression")
        found = cam_hub.explain(model, IMAGE, **QUICK)
        (value,) = found.predictions
        assert value.probability is None
        assert value.score == value.value == pytest.approx(float(truth(model)))
        assert found.target == "value"
        up = found.cam()
        down = cam_hub.explain(model, IMAGE, sign="against", **QUICK)
        assert down.target == "value: what lowers it"
        both = cam_hub.explain(model, IMAGE, sign="both", **QUICK)
        np.testing.assert_allclose(both.cam(), up - down.cam(), atol=1e-7)

    def test_several_values_stay_in_their_order(self, tmp_path):
        model = wrapped(lambda z: z, (7,), task="regression", class_names=list("abcdefg"))
        found = cam_hub.explain(model, IMAGE, classes="c", sign="both", **QUICK)
        assert [each.label for each in found.predictions] == list("abcdefg")
        assert [each.score for each in found.predictions] == pytest.approx(truth(model)[0].tolist())
        assert found.classes == (2,)
        loaded = cam_hub.Explanation.load(found.save(tmp_path / "x"))
        assert loaded.predictions == found.predictions
        again = cam_hub.reproduce(found.manifest, IMAGE, model=model)
        np.testing.assert_array_equal(again.cam(), found.cam())
        assert cam_hub.predict(model, IMAGE).predictions == found.predictions

    def test_a_comparison_shows_the_value(self):
        model = wrapped(lambda z: z, (2,), task="regression")
        grid = cam_hub.compare(model, IMAGE, methods="gradcam", sign="both")
        assert grid.rows[0].predictions[0].label == "value 0"
        assert grid.figure().size

    def test_there_is_no_probability_to_explain(self):
        model = wrapped(lambda z: z, (1,), task="regression")
        with pytest.raises(InvalidArgument, match="regression"):
            cam_hub.explain(model, IMAGE, target="probability", **QUICK)
        with pytest.raises(InvalidArgument, match="one label for each of the model's 1 values"):
            cam_hub.explain(
                wrapped(lambda z: z, (1,), task="regression", class_names=["a", "b"]), IMAGE
            )

    def test_a_value_that_cannot_be_a_logit_suggests_the_task(self):
        model = wrapped(lambda z: z + 58, (1,))
        with pytest.warns(UserWarning, match="task='regression'"):
            found = cam_hub.explain(model, IMAGE, **QUICK)
        assert [each.probability for each in found.predictions] == [None, None]
        low, high = found.manifest["target"]["range"]
        assert 50 < low <= high < 66

    def test_a_logit_gives_no_warning(self):
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            cam_hub.explain(wrapped(lambda z: z, (1,)), IMAGE, **QUICK)

    def test_a_loaded_model_can_be_one(self, lion):
        model = cam_hub.load_model("test_vit", pretrained=False, task="regression")
        assert cam_hub.predict(model, lion).predictions[0].label == "value 0"


@dataclass
class Answers:
    age: torch.Tensor
    gender: torch.Tensor


SHAPES = {
    "dict": (lambda a, g: {"age": a, "gender": g}, "age", "gender"),
    "ordered": (lambda a, g: OrderedDict(age=a, gender=g), "age", "gender"),
    "tuple": (lambda a, g: (a, g), 0, 1),
    "list": (lambda a, g: [a, g], 0, 1),
    "dataclass": (Answers, "age", "gender"),
    "nested": (lambda a, g: {"heads": (a, g)}, ("heads", 0), ("heads", 1)),
}


@pytest.mark.parametrize("kind", SHAPES)
class TestHeads:
    def test_the_main_one_is_named(self, kind):
        end, _, gender = SHAPES[kind]
        found = cam_hub.explain(wrapped(end, (1, 3)), IMAGE, **QUICK)
        name = "/".join(map(str, gender)) if isinstance(gender, tuple) else str(gender)
        assert found.manifest["target"]["output"] == name
        assert repr(name) in found.target
        assert len(found.predictions) == 3

    def test_another_one_is_chosen_in_every_call(self, kind):
        end, age, _ = SHAPES[kind]
        model = wrapped(end, (1, 3))
        picked = wrapped(lambda a, g: a, (1, 3))
        asked = {"output": age, **QUICK}
        expected = cam_hub.explain(picked, IMAGE, **QUICK)
        found = cam_hub.explain(model, IMAGE, **asked)
        np.testing.assert_array_equal(found.cam(), expected.cam())
        assert found.predictions == expected.predictions
        (outcome,) = cam_hub.explain_many(model, [IMAGE], **asked)
        np.testing.assert_allclose(outcome.explanation.cam(), expected.cam(), rtol=1e-5)
        assert len(cam_hub.predict(model, IMAGE, output=age).predictions) == 2
        grid = cam_hub.compare(model, IMAGE, methods="gradcam", output=age)
        assert len(grid.rows[0].predictions) == 2
        again = cam_hub.reproduce(found.manifest, IMAGE, model=model)
        np.testing.assert_array_equal(again.cam(), found.cam())
        with_default = wrapped(end, (1, 3), output=age)
        np.testing.assert_array_equal(
            cam_hub.explain(with_default, IMAGE, **QUICK).cam(), expected.cam()
        )

    def test_an_unknown_one_is_refused_with_those_that_there_are(self, kind):
        end, age, _ = SHAPES[kind]
        first = age[0] if isinstance(age, tuple) else age
        with pytest.raises(InvalidArgument, match=rf"output.*{first}"):
            cam_hub.explain(wrapped(end, (1, 3)), IMAGE, output="height", **QUICK)

    def test_a_function_chooses_as_well(self, kind):
        end, age, _ = SHAPES[kind]
        model = wrapped(end, (1, 3))

        def oldest(raw):
            for step in age if isinstance(age, tuple) else (age,):
                raw = getattr(raw, step) if isinstance(raw, Answers) else raw[step]
            return raw

        found = cam_hub.explain(model, IMAGE, output=oldest, **QUICK)
        expected = cam_hub.explain(model, IMAGE, output=age, **QUICK)
        np.testing.assert_array_equal(found.cam(), expected.cam())
        assert found.manifest["target"]["output"] == "oldest"
        again = cam_hub.reproduce(found.manifest, IMAGE, model=model, output=oldest)
        np.testing.assert_array_equal(again.cam(), found.cam())


SQUEEZED = {
    "scores": (lambda z: z, (5,), {}),
    "probabilities": (lambda z: z.softmax(1), (5,), {}),
    "one logit": (lambda z: z, (1,), {}),
    "one probability": (lambda z: z.sigmoid(), (1,), {}),
    "heads": (lambda a, g: {"age": a, "gender": g}, (1, 3), {}),
    "values": (lambda z: z, (3,), {"task": "regression"}),
    "one value": (lambda z: z, (1,), {"task": "regression"}),
    "features": (lambda z: z, (6,), {"task": "similarity"}),
}


def squeezed(found):
    if isinstance(found, dict):
        return {key: squeezed(value) for key, value in found.items()}
    return found.squeeze()


@pytest.mark.parametrize("kind", SQUEEZED)
def test_the_dimension_of_the_batch_may_be_missing_for_a_single_image(kind):
    end, widths, options = SQUEEZED[kind]
    expected = cam_hub.explain(wrapped(end, widths, 3.0, **options), IMAGE, **QUICK)
    model = wrapped(lambda *z: squeezed(end(*z)), widths, 3.0, **options)
    found = cam_hub.explain(model, IMAGE, **QUICK)
    assert found.predictions == expected.predictions
    np.testing.assert_allclose(found.cam(), expected.cam(), rtol=1e-5)
    images = [IMAGE, IMAGE.flip(1)]
    together = [each.explanation for each in cam_hub.explain_many(model, images, **QUICK)]
    for image, one in zip(images, together, strict=True):
        alone = cam_hub.explain(model, image, reuse=False, **QUICK)
        assert one.classes == alone.classes
        np.testing.assert_allclose(one.cam(), alone.cam(), rtol=1e-4)


def test_a_single_tensor_has_no_output_to_choose():
    with pytest.raises(InvalidArgument, match="one tensor"):
        cam_hub.explain(wrapped(lambda z: z), IMAGE, output=0, **QUICK)


def test_an_index_may_be_a_text_as_the_command_line_has_it():
    model = wrapped(lambda a, g: (a, g), (1, 3))
    found = cam_hub.explain(model, IMAGE, output="0", **QUICK)
    assert found.manifest["target"]["output"] == "0"


def test_the_auxiliary_head_of_an_early_layer_is_not_the_main_one():
    class Deep(nn.Module):
        def __init__(self):
            super().__init__()
            torch.manual_seed(0)
            self.early = nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1), nn.ReLU())
            self.late = nn.Sequential(
                *(part for _ in range(3) for part in (nn.Conv2d(8, 8, 3, 1, 1), nn.ReLU()))
            )
            self.aux, self.main = nn.Linear(8, 4), nn.Linear(8, 4)

        def forward(self, x):
            early = self.early(x)
            return self.aux(early.mean((2, 3))), self.main(self.late(early).mean((2, 3)))

    found = cam_hub.explain(cam_hub.wrap_model(Deep(), input_size=SIZE), IMAGE, **QUICK)
    assert found.manifest["target"]["output"] == "1"


def test_features_that_the_logits_are_computed_from_are_not_the_main_output():
    class Both(Net):
        def forward(self, x):
            features = self.body(x).mean((2, 3))
            return {"features": features, "scores": self.heads[0](features)}

    found = cam_hub.explain(cam_hub.wrap_model(Both(None), input_size=SIZE), IMAGE, **QUICK)
    assert found.manifest["target"]["output"] == "scores"


class TestFunctions:
    def test_a_function_of_the_output_is_explained_and_named(self):
        model = wrapped(lambda z: z)

        def margin(output):
            return output[:, 1] - output[:, 2]

        found = cam_hub.explain(model, IMAGE, classes=margin, method="smoothgradcampp")
        expected = cam_hub.explain(
            model, IMAGE, classes=1, contrast=2, method="smoothgradcampp", reuse=False
        )
        np.testing.assert_allclose(found.cam(), expected.cam(), rtol=1e-4)
        assert found.labels == {0: "margin"}
        assert "margin" in found.target
        z = truth(model)[0]
        assert found.manifest["classes"][0]["score"] == pytest.approx(float(z[1] - z[2]))
        assert len(found.predictions) == 5  # the network's own
        (outcome,) = cam_hub.explain_many(model, [IMAGE], classes=margin, method="gradcam")
        assert outcome.explanation.labels == {0: "margin"}
        again = cam_hub.reproduce(found.manifest, IMAGE, model=model, classes=margin)
        np.testing.assert_array_equal(again.cam(), found.cam())
        with pytest.raises(InvalidArgument, match="margin"):
            cam_hub.reproduce(found.manifest, IMAGE, model=model)

    def test_a_number_for_each_image_alone_will_do(self):
        model = wrapped(lambda z: z)
        found = cam_hub.explain(model, IMAGE, classes=lambda output: output[0, 3], num_samples=2)
        expected = cam_hub.explain(model, IMAGE, classes=3, num_samples=2)
        np.testing.assert_allclose(found.cam(), expected.cam(), rtol=1e-4)

    def test_it_is_given_everything_that_the_network_returns(self):
        model = wrapped(lambda a, g: {"age": a, "gender": g}, (1, 3))
        found = cam_hub.explain(model, IMAGE, classes=lambda raw: raw["age"], **QUICK)
        expected = cam_hub.explain(model, IMAGE, output="age", classes=1, **QUICK)
        np.testing.assert_array_equal(found.cam(), expected.cam())

    @pytest.mark.parametrize(
        ("function", "reason"),
        [
            (lambda z: z, "one number per image"),
            (lambda z: z[:, :2], "one number per image"),
            (lambda z: z[:, 0].detach(), "differentiable"),
            (lambda z: (z[:, 0] > 0).float(), "differentiable"),
            (lambda z: z.argmax(1), "floating-point"),
            (lambda z: float(z[0, 0]), "floating-point"),
            (lambda z: z["age"], "it raised"),
        ],
    )
    def test_what_cannot_be_explained_is_refused_with_the_reason(self, function, reason):
        with pytest.raises(InvalidArgument, match=reason):
            cam_hub.explain(wrapped(lambda z: z), IMAGE, classes=function, **QUICK)

    def test_it_does_not_go_with_a_contrast(self):
        with pytest.raises(InvalidArgument, match="contrast"):
            cam_hub.explain(
                wrapped(lambda z: z), IMAGE, classes=lambda z: z[:, 0], contrast=1, **QUICK
            )


class TestProbabilityAsTheTarget:
    def test_its_gradient_is_that_of_the_softmax(self):
        model = wrapped(lambda z: z)
        found = cam_hub.explain(model, IMAGE, classes=1, target="probability", **QUICK)

        def probability(output):
            return output.softmax(1)[:, 1]

        expected = cam_hub.explain(model, IMAGE, classes=probability, **QUICK)
        np.testing.assert_allclose(found.cam(), expected.cam(), rtol=1e-5)
        assert found.target == "probability of the class"
        assert found.manifest["options"]["target"] == "probability"
        again = cam_hub.reproduce(found.manifest, IMAGE, model=model)
        np.testing.assert_array_equal(again.cam(), found.cam())

    def test_a_saturated_probability_is_refused_with_an_alternative(self):
        model = wrapped(lambda z: z, gain=1e5)
        with pytest.raises(NoMap, match="target='logit'"):
            cam_hub.explain(model, IMAGE, target="probability", **QUICK)


class TestContrasts:
    def test_several_classes_share_the_weight(self):
        model = wrapped(lambda z: z)
        found = cam_hub.explain(model, IMAGE, classes=0, contrast=[1, 2], **QUICK)
        expected = cam_hub.explain(
            model, IMAGE, classes=lambda z: z[:, 0] - (z[:, 1] + z[:, 2]) / 2, **QUICK
        )
        np.testing.assert_allclose(found.cam(), expected.cam(), rtol=1e-4)
        assert [(each.class_index, each.weight) for each in found.contrasts] == [(1, 0.5), (2, 0.5)]
        again = cam_hub.reproduce(found.manifest, IMAGE, model=model)
        np.testing.assert_array_equal(again.cam(), found.cam())

    @pytest.mark.parametrize("contrast", [[(1, 0.25), (2, 2)], "0.25*1; 2*2"])
    def test_weights_are_taken_as_given(self, contrast):
        model = wrapped(lambda z: z)
        found = cam_hub.explain(model, IMAGE, classes=0, contrast=contrast, **QUICK)
        expected = cam_hub.explain(
            model, IMAGE, classes=lambda z: z[:, 0] - z[:, 1] / 4 - 2 * z[:, 2], **QUICK
        )
        np.testing.assert_allclose(found.cam(), expected.cam(), rtol=1e-4)
        assert "0.25 × class 1" in found.target

    @pytest.mark.parametrize(
        "contrast", [[], [(1, 0)], [(1, -1)], [(1, float("nan"))], [(1, 1, 1)], [0], [(9, 1)]]
    )
    def test_what_makes_no_sense_is_refused(self, contrast):
        with pytest.raises((InvalidArgument, cam_hub.errors.ClassNotFound)):
            cam_hub.explain(wrapped(lambda z: z), IMAGE, classes=0, contrast=contrast, **QUICK)


def test_the_predicted_and_an_expected_class_together_without_repetition():
    model = wrapped(lambda z: z, class_names=["ant", "bee", "cat", "dog", "eel"])
    best = int(truth(model).argmax())
    names = ["ant", "bee", "cat", "dog", "eel"]
    other = (best + 1) % 5
    both = cam_hub.explain(model, IMAGE, classes=[cam_hub.top(1), names[other]], **QUICK)
    assert both.classes == (best, other)
    same = cam_hub.explain(model, IMAGE, classes=["top(1)", names[best]], **QUICK)
    assert same.classes == (best,)


class TestSegmentation:
    """A network with an output for every pixel, and its own probabilities."""

    class Pixels(nn.Module):
        def __init__(self, end):
            super().__init__()
            torch.manual_seed(0)
            self.body = nn.Sequential(
                nn.Conv2d(3, 8, 3, 2, 1), nn.ReLU(), nn.Conv2d(8, 16, 3, 1, 1)
            )
            self.head, self.end = nn.Conv2d(16, 4, 1), end

        def forward(self, x):
            return self.end(10 * self.head(self.body(x).relu()))

    @pytest.mark.parametrize(
        "end",
        [
            lambda z: z.softmax(1),
            lambda z: z.sigmoid(),
            lambda z: nn.functional.interpolate(z.softmax(1), scale_factor=2, mode="bilinear"),
            lambda z: {"size": torch.ones(1), "masks": z.softmax(1)},
            lambda z: z.softmax(1).squeeze(),
        ],
        ids=["softmax", "sigmoid", "softmax, then upsampled", "in a dict", "squeezed"],
    )
    def test_the_probabilities_are_the_networks_own(self, end):
        model = cam_hub.wrap_model(self.Pixels(end), input_size=SIZE, task="segmentation")
        raw = truth(model)
        raw = raw["masks"] if isinstance(raw, dict) else raw
        expected = raw.mean((-2, -1)).flatten()
        for each in cam_hub.explain(model, IMAGE, **QUICK).predictions:
            assert each.probability == pytest.approx(float(expected[each.class_index]), abs=1e-5)


def test_a_network_is_examined_once_by_four_passes_and_loaded_models_by_none(lite0):
    model = wrapped(lambda z: z)
    images = []
    handle = model.module.register_forward_pre_hook(lambda _, args: images.append(len(args[0])))
    first = with_output(model)
    assert images == [1] * 4
    assert with_output(model) is first is with_output(first)
    assert len(images) == 4
    handle.remove()
    assert with_output(lite0) is lite0
