"""Every task from photo to map: planted networks, and real ones with random weights."""

from __future__ import annotations

import json

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from torch import nn

import cam_hub
from cam_hub.cli import main
from cam_hub.errors import ImageRefused, InvalidArgument, ModelRefused, NoMap
from cam_hub.targets.similarity import Similarity

PLAIN = {"mean": (0.0, 0.0, 0.0), "std": (1.0, 1.0, 1.0), "crop_pct": 1.0, "crop_mode": "squash"}
"""Preprocessing that leaves pixels in [0, 1]."""


def half_and_half(left="red", right="lime") -> Image.Image:
    """A photo of 64 by 32: one colour on the left, another on the right."""
    photo = Image.new("RGB", (64, 32), left)
    photo.paste(Image.new("RGB", (32, 32), right), (32, 0))
    return photo


def share_of_left(heat) -> float:
    """The fraction of a heatmap's sum in the left half."""
    return float(heat[:, : heat.shape[1] // 2].sum() / heat.sum())


class Colours(nn.Module):
    """Colour planes reduced four-fold, and a head on them."""

    def __init__(self, head) -> None:
        super().__init__()
        self.planes = nn.AvgPool2d(4)
        self.act = nn.Identity()
        self.head = head

    def forward(self, x):
        return self.head(self.act(self.planes(x)))


class MeanOf(nn.Module):
    def forward(self, planes):
        return planes.mean(dim=(2, 3))


class Upsampled(nn.Module):
    def forward(self, planes):
        return {"out": nn.functional.interpolate(planes, scale_factor=2.0)}


class TwoBoxes(nn.Module):
    """Detects class 1 in the left and in the right half of a 32 by 32 input, by its green."""

    def forward(self, planes):
        half = planes.shape[3] // 2
        boxes = torch.tensor([[0.0, 0.0, 16.0, 32.0], [16.0, 0.0, 32.0, 32.0]])
        return [
            {
                "boxes": boxes,
                "labels": torch.tensor([1, 1]),
                "scores": torch.stack([one[1, :, :half].mean(), one[1, :, half:].mean()]),
            }
            for one in planes
        ]


class Detector(nn.Module):
    """An interface like torchvision's detectors: the input is a list of images."""

    def __init__(self) -> None:
        super().__init__()
        self.colours = Colours(TwoBoxes())

    def forward(self, images):
        return self.colours(torch.stack(images))


def wrapped(module, **given):
    return cam_hub.wrap_model(module, input_size=(3, 32, 32), **PLAIN, **given)


class TestSimilarity:
    @pytest.fixture
    def model(self):
        return wrapped(Colours(MeanOf()), task="similarity")

    def test_a_reference_shows_which_side_resembles_it(self, model):
        photo = half_and_half()
        red = cam_hub.explain(
            model, photo, reference=Image.new("RGB", (9, 9), "red"), target_layers="act"
        )
        green = cam_hub.explain(
            model, photo, reference=Image.new("RGB", (9, 9), "lime"), target_layers="act"
        )
        assert share_of_left(red.heatmap()) > 0.9
        assert share_of_left(green.heatmap()) < 0.1
        # Half red and half green: the angle with each is 45 degrees.
        assert red.manifest["target"]["cosine"] == pytest.approx(0.5**0.5)
        assert red.labels == {0: "similarity to the reference"}
        assert "cosine 0.707" in red.target

    def test_without_a_reference_it_is_the_image_itself(self, model):
        result = cam_hub.explain(model, half_and_half(), classes=0, target_layers="act")
        assert result.labels == {0: "similarity to itself"}
        assert result.predictions == ()
        assert result.manifest["classes"] == [{"class_index": 0, "label": "similarity to itself"}]
        assert result.manifest["target"]["reference"] is None

    def test_there_is_only_the_index_0(self, model):
        with pytest.raises(cam_hub.errors.ClassNotFound, match="only class 0"):
            cam_hub.explain(model, half_and_half(), classes=1, target_layers="act")

    def test_it_is_saved_loaded_and_made_again_with_the_same_reference_only(self, model, tmp_path):
        photo, reference = half_and_half(), Image.new("RGB", (9, 9), "red")
        result = cam_hub.explain(model, photo, reference=reference, target_layers="act")
        loaded = cam_hub.Explanation.load(result.save(tmp_path / "out"))
        assert loaded.target == result.target
        again = cam_hub.reproduce(loaded.manifest, photo, model=model, reference=reference)
        assert again.cam().tobytes() == result.cam().tobytes()
        with pytest.raises(InvalidArgument, match="expected the reference"):
            cam_hub.reproduce(loaded.manifest, photo, model=model)
        with pytest.raises(ImageRefused, match="the reference is not"):
            cam_hub.reproduce(loaded.manifest, photo, model=model, reference=photo)

    def test_it_needs_no_image_of_the_photos_size(self, model, lion):
        assert cam_hub.explain(model, half_and_half(), reference=lion).target

    def test_it_has_no_use_for_a_region(self, model):
        with pytest.raises(InvalidArgument, match="segmentation and detection"):
            cam_hub.explain(model, half_and_half(), region=(0, 0, 9, 9))

    @pytest.mark.parametrize(
        "name", ["convnextv2_atto.fcmae", "vit_xsmall_patch16_clip_224.tinyclip_yfcc15m"]
    )
    def test_models_of_timm_without_classes_have_maps(self, name, lion):
        torch.manual_seed(0)
        model = cam_hub.load_model(name, pretrained=False, device="cpu")
        assert isinstance(model.task, Similarity)
        result = cam_hub.explain(model, lion, method="layercam")
        assert result.cam().max() > 1e-4 * result.cam().size ** -1
        assert result.manifest["target"]["task"] == "similarity"


class TestClassifiers:
    def test_many_labels_have_a_sigmoid_each(self, lion):
        torch.manual_seed(0)
        module = timm.create_model("test_resnet", num_classes=4)
        model = cam_hub.wrap_model(module, input_size=(3, 64, 64), multi_label=True)
        result = cam_hub.explain(model, lion, method="layercam")
        with torch.no_grad():
            expected = module.eval()(model.preprocess(lion))[0].sigmoid()
        for found in result.predictions:
            assert found.probability == pytest.approx(float(expected[found.class_index]))
        assert result.target == "class score before sigmoid"

    def test_one_logit_for_a_whole_batch_is_read(self, lion):
        torch.manual_seed(0)
        body = timm.create_model("test_resnet", num_classes=1)
        model = cam_hub.wrap_model(nn.Sequential(body, nn.Flatten(0)), input_size=(3, 64, 64))
        result = cam_hub.explain(model, lion, num_samples=2, classes=0)
        assert len(result.predictions) == 2
        assert result.target == "class score before sigmoid"

    def test_a_distilled_model_answers_with_both_heads(self, lion):
        torch.manual_seed(0)
        model = cam_hub.load_model("deit_tiny_distilled_patch16_224", pretrained=False)
        result = cam_hub.explain(model, lion, method="layercam")
        assert result.cam().shape == (14, 14)
        assert result.target == "class score before softmax"

    def test_a_segmenter_without_its_task_is_refused_with_the_remedy(self):
        with pytest.raises(ModelRefused, match=r"'Colours' .*task='segmentation'"):
            cam_hub.explain(wrapped(Colours(Upsampled())), half_and_half())

    def test_a_class_score_has_no_region_and_no_reference(self, lite0, lion):
        with pytest.raises(InvalidArgument, match="region"):
            cam_hub.explain(lite0, lion, region=(0, 0, 9, 9))
        with pytest.raises(InvalidArgument, match="reference"):
            cam_hub.explain(lite0, lion, reference=lion)


class TestSegmentation:
    @pytest.fixture
    def model(self):
        names = ["red", "green", "blue"]
        return wrapped(Colours(Upsampled()), task="segmentation", class_names=names)

    def test_a_region_asks_about_its_pixels_only(self, model):
        photo = Image.new("RGB", (64, 32), "lime")
        with pytest.raises(NoMap, match="all 64 positions are equal evidence"):
            cam_hub.explain(model, photo, target_layers="act", method="layercam").cam()
        left = cam_hub.explain(
            model, photo, target_layers="act", method="layercam", region=(0, 0, 32, 32)
        )
        assert left.predictions[0].label == "green"
        assert left.cam().shape == (8, 8)
        assert (left.cam()[:, :4] > 0).all()
        assert (left.cam()[:, 4:] == 0).all()

    def test_a_mask_is_reproduced_from_the_manifest_alone(self, model):
        photo = half_and_half()
        mask = np.zeros((32, 64), dtype=bool)
        mask[8:24, 40:60] = True
        result = cam_hub.explain(model, photo, region=mask, classes="green", target_layers="act")
        manifest = json.loads(json.dumps(dict(result.manifest)))
        again = cam_hub.reproduce(manifest, photo, model=model)
        assert again.cam().tobytes() == result.cam().tobytes()
        assert share_of_left(result.heatmap()) < 0.1

    def test_torchvisions_are_loaded_with_their_labels_and_the_whole_photo_in_view(self, lion):
        torch.manual_seed(0)
        model = cam_hub.load_model("torchvision/lraspp_mobilenet_v3_large", pretrained=False)
        assert model.input_size == (3, 520, 520)
        assert model.class_names[8] == "cat"
        assert model.preprocessing.place((400, 300)).seen_mask().all()
        small = cam_hub.wrap_model(
            model.module,
            input_size=(3, 96, 96),
            class_names=model.class_names,
            task="segmentation",
        )
        result = cam_hub.explain(small, lion, classes="cat", method="gradcam")
        assert result.classes == (8,)
        assert result.heatmap().shape == (256, 256)
        assert cam_hub.explain(small, lion, method="layercam").classes != (0,)


class TestDetection:
    @pytest.fixture
    def model(self):
        return wrapped(Detector(), task="detection", class_names=["nothing", "green thing"])

    def test_the_region_selects_the_box(self, model):
        photo = half_and_half("green", "lime")
        best = cam_hub.explain(model, photo, target_layers="colours.act", method="layercam")
        left = cam_hub.explain(
            model, photo, target_layers="colours.act", method="layercam", region=(2, 2, 30, 30)
        )
        assert best.labels == left.labels == {1: "green thing"}
        assert best.manifest["target"]["boxes"] == {"1": [32, 0, 64, 32]}
        assert left.manifest["target"]["boxes"] == {"1": [0, 0, 32, 32]}
        assert share_of_left(best.heatmap()) < 0.1
        assert share_of_left(left.heatmap()) > 0.9
        assert best.predictions[0].probability == pytest.approx(1.0, abs=0.01)

    def test_it_is_reproduced_with_its_region(self, model):
        photo = half_and_half("green", "lime")
        result = cam_hub.explain(model, photo, region=(0, 0, 32, 32), target_layers="colours.act")
        again = cam_hub.reproduce(result.manifest, photo, model=model)
        assert again.cam().tobytes() == result.cam().tobytes()

    def test_a_class_that_was_not_found_has_no_map(self, model):
        with pytest.raises(NoMap, match="no box of class 0 was found"):
            cam_hub.explain(model, half_and_half(), classes="nothing", target_layers="colours.act")

    @pytest.mark.parametrize(
        ("name", "trunk"),
        [
            ("ssdlite320_mobilenet_v3_large", "backbone.features.0"),
            pytest.param(
                "fasterrcnn_mobilenet_v3_large_320_fpn", "backbone.body", marks=pytest.mark.slow
            ),
        ],
    )
    def test_torchvisions_find_something_with_random_weights_and_lay_it_on_the_photo(
        self, name, trunk, lion
    ):
        torch.manual_seed(0)
        model = cam_hub.load_model(f"torchvision/{name}", pretrained=False, device="cpu")
        assert model.input_size == (3, 320, 320)
        assert model.class_names[17] == "cat"
        photo = lion.resize((320, 240))
        # A layer that boxes of every scale come from: with random weights, any scale may win.
        result = cam_hub.explain(
            model,
            photo,
            target_layers=trunk,
            classes=cam_hub.top(2),
            region=(0, 0, 160, 240),
            num_samples=1,
            sampling="fixed",
        )
        assert result.seen.all(), "nothing is cropped away"
        assert result.heatmap().shape == (240, 320)
        assert any(cam.any() for cam in result.cams.values())
        left, top, right, bottom = result.manifest["target"]["boxes"][str(result.classes[0])]
        assert left < 160, "the box overlaps the region"
        assert right > left
        assert bottom > top


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("quantized_resnet18", "integer weights have no gradient"),
        ("raft_small", "no class to explain"),
    ],
)
@pytest.mark.parametrize("pretrained", [True, False])
def test_what_cannot_be_explained_is_refused_before_it_is_built(name, reason, pretrained):
    with pytest.raises(ModelRefused, match=reason):
        cam_hub.load_model(f"torchvision/{name}", pretrained=pretrained)


class TestCommandLine:
    def test_a_region_of_a_classifier_is_an_error_that_names_what_works(
        self, lion, tmp_path, capsys
    ):
        lion.save(tmp_path / "lion.png")
        arguments = ["--region", "0,0,9,9", "--out", str(tmp_path / "out")]
        assert main(["explain", str(tmp_path / "lion.png"), *arguments]) == 1
        assert "segmentation and detection" in capsys.readouterr().err

    def test_a_region_is_four_numbers(self, capsys):
        with pytest.raises(SystemExit) as caught:
            main(["explain", "photo.png", "--region", "here"])
        assert caught.value.code == 2
        assert "--region" in capsys.readouterr().err

    def test_a_reference_is_compared_and_recorded(self, photos, tmp_path, capsys):
        for name in ("lion", "cat"):
            photos[name].save(tmp_path / f"{name}.png")
        model = ["--model", "convnextv2_atto.fcmae", "--random", "--device", "cpu"]
        code = main(
            [
                "explain", str(tmp_path / "lion.png"), *model, "--method", "layercam",
                "--reference", str(tmp_path / "cat.png"), "--out", str(tmp_path / "out"),
            ]
        )  # fmt: skip
        assert code == 0
        assert "explained: similarity of the features to those of the reference" in (
            capsys.readouterr().out
        )
