"""Tasks: the explained score of a model's output. Numbers worked out by hand, and laws."""

from __future__ import annotations

import math

import pytest
import timm
import torch
from torch import nn

import cam_hub
from cam_hub.errors import InvalidArgument, ModelRefused, NoMap
from cam_hub.sources.timm import task_of
from cam_hub.targets import TASKS, make_task
from cam_hub.targets.base import Reference, main_output
from cam_hub.targets.classification import Classification
from cam_hub.targets.similarity import Similarity, pooled


def aimed(task, output, **given):
    """A target of a task that has processed its first output."""
    target = task.target(**given)
    target.scores(output)
    return target


@pytest.mark.parametrize("name", TASKS)
def test_every_task_is_created_by_its_name_and_named_in_the_manifest(name):
    task = make_task(name, class_names=("a", "b"))
    assert task.name == name
    description = task.target().describe()
    assert description["task"] == name
    assert description["text"]


def test_an_unknown_task_names_the_known_ones():
    with pytest.raises(InvalidArgument, match="classification, regression, similarity"):
        make_task("telepathy")


@pytest.mark.parametrize("name", [name for name in TASKS if name != "classification"])
def test_only_classifiers_have_many_labels(name):
    with pytest.raises(InvalidArgument, match="multi_label"):
        make_task(name, multi_label=True)


class TestMainOutput:
    LOGITS = torch.tensor([[1.0, 2.0]])

    @pytest.mark.parametrize(
        "output",
        [
            LOGITS,
            (LOGITS, torch.zeros(1, 9)),
            [LOGITS, None],
            {"logits": LOGITS},
            {"loss": torch.zeros(()), "logits": LOGITS},
            {"aux": torch.zeros(1, 9), "out": LOGITS},
            {"first": LOGITS, "second": torch.zeros(1, 9)},
        ],
        ids=["tensor", "tuple", "list", "logits", "loss first", "out", "first of a dict"],
    )
    def test_the_main_tensor_of_an_answer_is_found(self, output):
        assert main_output(output) is self.LOGITS

    @pytest.mark.parametrize("output", [None, "text", [], {}, {"out": None}])
    def test_an_answer_without_a_tensor_has_none(self, output):
        assert main_output(output) is None


class TestClassification:
    def test_softmax_is_over_all_classes(self):
        output = torch.tensor([[0.0, math.log(3)]])
        standings = aimed(Classification(), output).class_scores(output)
        assert standings.probabilities.tolist() == pytest.approx([0.25, 0.75])
        assert standings.eligible is None

    def test_half_precision_scores_give_probabilities_that_add_up(self):
        output = torch.randn((1, 1000), generator=torch.Generator().manual_seed(0)).half()
        standings = aimed(Classification(), output).class_scores(output)
        assert float(standings.probabilities.sum()) == pytest.approx(1)

    def test_with_many_labels_each_class_has_a_sigmoid_of_its_own(self):
        output = torch.tensor([[0.0, math.log(3)]])
        target = aimed(Classification(multi_label=True), output)
        assert target.class_scores(output).probabilities.tolist() == pytest.approx([0.5, 0.75])
        assert target.describe()["text"] == "class score before sigmoid"

    @pytest.mark.parametrize("shape", [(2,), (2, 1), (2, 1, 1, 1)])
    def test_a_single_score_is_a_logit_of_its_own(self, shape):
        output = torch.full(shape, math.log(3))
        target = aimed(Classification(), output)
        z = math.log(3)
        assert target.scores(output).tolist() == [pytest.approx([-z, z])] * 2
        assert target.class_scores(output).probabilities.tolist() == pytest.approx([0.25, 0.75])
        assert target.describe()["probabilities"] == "sigmoid"

    @pytest.mark.parametrize(
        ("output", "message"),
        [
            (torch.zeros(2, 21, 8, 8), r"\(2, 21, 8, 8\); that looks like segmentation"),
            ({"out": torch.zeros(2, 21, 8, 8)}, "task='segmentation'"),
            (torch.zeros(2, 16, 8), "task='similarity'"),
            (
                [{key: torch.zeros(0) for key in ("boxes", "labels", "scores")}],
                "task='detection'",
            ),
            (None, "no tensor"),
            (torch.zeros(2, 3, dtype=torch.long), r"\(2, 3\)"),
            (torch.zeros(2, 0), r"\(2, 0\)"),
        ],
    )
    def test_another_kind_of_answer_is_refused_with_the_task_that_it_looks_like(
        self, output, message
    ):
        with pytest.raises(ModelRefused, match=message) as caught:
            Classification().target().scores(output)
        assert "as a classification model" in str(caught.value)

    def test_it_has_no_use_for_a_reference(self):
        with pytest.raises(InvalidArgument, match="without a classifier"):
            Classification().check_request(reference="photo.jpg")


class TestPooling:
    def test_tokens_are_averaged_over_places(self):
        tokens = torch.tensor([[[1.0, 10.0], [3.0, 20.0]]])
        assert pooled(tokens).tolist() == [[2.0, 15.0]]

    def test_maps_are_averaged_over_rows_and_columns(self):
        maps = torch.arange(8.0).reshape(1, 2, 2, 2)
        assert pooled(maps).tolist() == [[1.5, 5.5]]

    @pytest.mark.parametrize("axis", [1, 2, 3])
    def test_the_axis_of_features_is_known_by_its_width(self, axis):
        features = torch.arange(5.0).expand(1, 2, 3, 5).movedim(3, axis)
        assert pooled(features, 5).tolist() == [[0.0, 1.0, 2.0, 3.0, 4.0]]

    @pytest.mark.parametrize("output", [torch.zeros(3), None, torch.zeros(2, 3).long()])
    def test_invalid_features_are_refused(self, output):
        with pytest.raises(ModelRefused, match="similarity model"):
            pooled(output)


class TestSimilarity:
    FEATURES = torch.tensor([[3.0, 4.0], [6.0, 8.0], [0.0, 1.0]])

    def test_the_score_is_the_inner_product_with_the_clean_images_direction(self):
        # u = (3, 4) / 5 for the first row, which is the clean image.
        target = Similarity().target(reference=Reference())
        assert target.scores(self.FEATURES).flatten().tolist() == pytest.approx([5, 10, 0.8])

    def test_its_gradient_is_the_unit_vector_where_that_of_the_cosine_is_zero(self):
        features = self.FEATURES[:1].clone().requires_grad_()
        score = Similarity().target(reference=Reference()).scores(features).sum()
        (gradient,) = torch.autograd.grad(score, features)
        assert gradient.tolist() == [pytest.approx([0.6, 0.8])]
        cosine = torch.cosine_similarity(features, features.detach()).sum()
        (flat,) = torch.autograd.grad(cosine, features)
        assert flat.abs().max() < 1e-7

    def test_the_direction_of_the_first_output_holds_for_those_that_follow(self):
        target = Similarity().target(reference=Reference())
        target.scores(self.FEATURES[:1])
        assert target.scores(self.FEATURES[1:]).flatten().tolist() == pytest.approx([10, 0.8])

    def test_features_are_compared_with_those_of_a_reference_beyond_a_baseline(self):
        # r/|r| - b/|b| = (0, 1) - (1, 0), so u = (-1, 1) / sqrt(2); f = (3, 4).
        reference = Reference(
            output=torch.tensor([[0.0, 2.0]]), baseline=torch.tensor([[3.0, 0.0]]), facts={"a": 1}
        )
        target = Similarity().target(reference=reference)
        assert target.scores(self.FEATURES[:1]).item() == pytest.approx(math.sqrt(0.5))
        described = target.describe()
        assert described["cosine"] == pytest.approx(0.8)
        assert described["reference"] == {"a": 1}
        assert "cosine 0.800" in described["text"]

    def test_the_score_of_an_image_with_itself_is_positive(self):
        # Features nearly parallel to those of the baseline, and much shorter.
        reference = Reference(baseline=torch.tensor([[30.0, 41.0]]))
        assert Similarity().target(reference=reference).scores(self.FEATURES[:1]).item() > 0

    def test_a_baseline_gives_normalised_features_a_gradient(self):
        draw = torch.Generator().manual_seed(0)
        x = torch.randn((1, 64), generator=draw).requires_grad_()
        baseline = nn.functional.layer_norm(torch.randn((1, 64), generator=draw), (64,))

        def slope(reference):
            features = nn.functional.layer_norm(x, (64,))
            score = Similarity().target(reference=reference).scores(features).sum()
            return float(torch.autograd.grad(score, x)[0].norm())

        assert slope(Reference()) < 1e-5
        assert slope(Reference(baseline=baseline)) > 0.1

    def test_there_is_no_class_and_no_probability(self):
        target = Similarity().target(reference=Reference())
        assert target.scores(self.FEATURES).shape == (3, 1)
        assert target.class_scores(self.FEATURES).probabilities is None
        assert target.labels == ("similarity to itself",)

    def test_with_nothing_to_refer_to_each_feature_is_a_score(self):
        assert Similarity().target().scores(self.FEATURES) is self.FEATURES

    def test_features_equal_to_the_baseline_have_no_direction(self):
        reference = Reference(baseline=self.FEATURES[:1])
        with pytest.raises(NoMap, match="blank picture"):
            Similarity().target(reference=reference).scores(self.FEATURES)

    def test_features_that_are_not_finite_are_not_a_reference(self):
        reference = Reference(output=torch.tensor([[math.nan, 1.0]]))
        with pytest.raises(NoMap, match="not finite"):
            Similarity().target(reference=reference).scores(self.FEATURES)


class TestTasksOfTimm:
    @pytest.mark.parametrize(
        "name",
        [
            "resnet50_clip.openai",
            "convnext_base.clip_laion2b",
            "vit_xsmall_patch16_clip_224.tinyclip_yfcc15m",  # 512 of 256 features
            "vit_pe_core_tiny_patch16_384.fb",  # 512 of 192 features
            "vitamin_small_224.datacomp1b_clip_ltt",
            "convnext_tiny.dinov3_lvd1689m",  # without a classifier
        ],
    )
    def test_embeddings_are_compared(self, name):
        with torch.device("meta"):
            module = timm.create_model(name)
        assert isinstance(task_of(module, {}), Similarity)

    @pytest.mark.parametrize(
        ("name", "arguments"),
        [
            ("resnet10t.c3_in1k", {}),
            ("mobilenetv3_large_100.miil_in21k", {}),
            ("mvitv2_base_cls.fb_inw21k", {}),  # 19,168 classes without labels
            ("vit_base_patch16_224.bamboo", {}),  # 115,217 classes without labels
            ("vit_xsmall_patch16_clip_224.tinyclip_yfcc15m", {"num_classes": 10}),
            ("convnext_base.clip_laion2b", {"num_classes": 365}),
            ("resnet10t.c3_in1k", {"num_classes": 512}),
        ],
    )
    def test_classifiers_stay_classifiers(self, name, arguments):
        with torch.device("meta"):
            module = timm.create_model(name, **arguments)
        assert task_of(module, {}) == Classification(multi_label=False)

    def test_labels_make_a_classifier_of_an_embedding(self):
        with torch.device("meta"):
            module = timm.create_model("vit_xsmall_patch16_clip_224.tinyclip_yfcc15m")
        module.pretrained_cfg = {**module.pretrained_cfg, "label_names": ["a"] * 512}
        assert isinstance(task_of(module, {}), Classification)

    def test_a_configuration_may_declare_many_labels(self):
        module = timm.create_model("test_resnet", num_classes=3)
        declared = {"problem_type": "multi_label_classification"}
        assert task_of(module, declared) == Classification(multi_label=True)
        single = {"problem_type": "single_label_classification"}
        assert task_of(module, single) == Classification(multi_label=False)

    def test_every_wrapped_module_classifies_by_default(self):
        assert cam_hub.wrap_model(nn.Identity()).task == Classification()
        assert cam_hub.wrap_model(nn.Identity(), task="similarity").task == Similarity()
        assert cam_hub.wrap_model(nn.Identity(), multi_label=True).task.multi_label
