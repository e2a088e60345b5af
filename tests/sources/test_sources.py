"""The sources of models: the embedded default, timm, torchvision, the user's own module."""

from __future__ import annotations

import pytest
import timm
import torch
from torch import nn

import cam_hub
from cam_hub.errors import InvalidArgument, ModelNotFound
from cam_hub.models.loading import LoadRequest
from cam_hub.models.model_id import parse_model_id
from cam_hub.sources.registry import SOURCES
from tests.conftest import PHOTOS


class TestEmbedded:
    @pytest.mark.parametrize("photo", PHOTOS)
    def test_the_default_model_sees_what_is_in_the_photo(self, lite0, photos, photo):
        index, name = PHOTOS[photo]
        scores = lite0.module(lite0.preprocess(photos[photo]))[0]
        assert int(scores.argmax()) == index
        assert name in lite0.class_names[index]

    def test_probabilities_are_those_of_the_reference(self, lite0, photos):
        probability = lite0.module(lite0.preprocess(photos["lion"]))[0].softmax(0)[291]
        assert float(probability) == pytest.approx(0.897, abs=0.001)

    def test_the_default_model_describes_itself(self, lite0):
        assert lite0.id == "timm/tf_efficientnet_lite0.in1k"
        assert lite0.source == "embedded"
        assert lite0.input_size == (3, 224, 224)
        assert lite0.revision.startswith("sha256:57934424")
        assert len(lite0.class_names) == 1000

    @pytest.mark.parametrize(
        "id", ["tf_efficientnet_lite0.in1k", "hf-hub:timm/tf_efficientnet_lite0.in1k"]
    )
    def test_all_its_names_lead_to_it(self, id):
        model = cam_hub.load_model(id, device="cpu")
        assert (model.source, model.id) == ("embedded", cam_hub.DEFAULT_MODEL)

    def test_a_revision_is_a_question_for_the_hub(self):
        request = LoadRequest(
            parse_model_id("timm/tf_efficientnet_lite0.in1k@main"), True, torch.device("cpu")
        )
        assert next(s for s in SOURCES if s.claims(request)).name == "hub"

    def test_it_is_ready_to_be_explained(self, lite0):
        assert not any(module.training for module in lite0.module.modules())
        assert not any(weight.requires_grad for weight in lite0.module.parameters())


class TestRandomWeights:
    @pytest.mark.parametrize("id", ["resnet18", "resnet18.a1_in1k", "timm/resnet18.a1_in1k"])
    def test_a_timm_name_is_built_without_any_network(self, id):
        model = cam_hub.load_model(id, pretrained=False, device="cpu")
        assert (model.id, model.source, model.pretrained) == (id, "timm", False)
        assert len(model.class_names) == 1000

    def test_the_tag_decides_about_preprocessing(self):
        one = cam_hub.load_model("resnet50.a1_in1k", pretrained=False)
        other = cam_hub.load_model("resnet50.tv_in1k", pretrained=False)
        assert one.preprocessing != other.preprocessing

    def test_a_torchvision_name_is_built_without_any_network(self):
        model = cam_hub.load_model("torchvision/resnet18", pretrained=False)
        assert model.class_names[291] == "lion"
        assert model.revision is None

    def test_weights_of_torchvision_decide_about_preprocessing(self):
        one = cam_hub.load_model("torchvision/resnet50@IMAGENET1K_V1", pretrained=False)
        other = cam_hub.load_model("torchvision/resnet50@IMAGENET1K_V2", pretrained=False)
        assert one.preprocessing != other.preprocessing

    def test_the_architecture_of_anothers_repo_cannot_be_known(self):
        with pytest.raises(ModelNotFound, match="contacts no network"):
            cam_hub.load_model("someone/finetuned", pretrained=False)


class TestUnknownIds:
    @pytest.mark.parametrize(
        ("id", "nearest"),
        [
            ("timm/tf_efficientnet_lite0.in1", "timm/tf_efficientnet_lite0.in1k"),
            ("torchvision/resnet5", "torchvision/resnet50"),
            ("torchvision/resnet50@V3", "torchvision/resnet50@IMAGENET1K_V1"),
        ],
    )
    def test_the_nearest_are_named(self, id, nearest):
        with pytest.raises(ModelNotFound) as caught:
            cam_hub.load_model(id, pretrained=False)
        assert nearest in caught.value.nearest

    def test_a_bare_name_with_several_weights_is_ambiguous(self):
        with pytest.raises(ModelNotFound, match="add the tag") as caught:
            cam_hub.load_model("resnet50")
        assert set(caught.value.nearest) >= {"timm/resnet50.a1_in1k", "timm/resnet50.tv_in1k"}

    def test_a_bare_name_that_only_torchvision_has_leads_there(self):
        with pytest.raises(ModelNotFound) as caught:
            cam_hub.load_model("squeezenet1_1")
        assert "torchvision/squeezenet1_1" in caught.value.nearest

    def test_two_revisions_contradict_each_other(self):
        with pytest.raises(InvalidArgument, match="revision"):
            cam_hub.load_model("timm/resnet50.a1_in1k@main", revision="other")


class TestDevices:
    @pytest.mark.parametrize("device", ["cuda:99", "quantum", "", "meta", 3.5])
    def test_a_device_that_is_not_there_is_refused(self, device):
        with pytest.raises(InvalidArgument, match="device"):
            cam_hub.load_model(cam_hub.DEFAULT_MODEL, device=device)


class TestTorchvisionCheckpoints:
    def test_a_checkpoint_in_the_hub_folder_is_used(self, tmp_path, monkeypatch):
        from torchvision.models import ResNet18_Weights, resnet18

        torch.manual_seed(1)
        trained = resnet18()
        monkeypatch.setenv("TORCH_HOME", str(tmp_path))
        folder = tmp_path / "hub" / "checkpoints"
        folder.mkdir(parents=True)
        name = ResNet18_Weights.IMAGENET1K_V1.url.rpartition("/")[2]
        torch.save(trained.state_dict(), folder / name)
        model = cam_hub.load_model("torchvision/resnet18", device="cpu")
        assert torch.equal(model.module.fc.weight, trained.fc.weight)
        assert (model.revision, model.pretrained) == ("IMAGENET1K_V1", True)
        assert model.class_names[291] == "lion"


class TestWrapping:
    def test_the_module_is_not_touched(self):
        module = nn.Sequential(nn.Conv2d(3, 2, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten()).train()
        model = cam_hub.wrap_model(module, class_names=["a", "b"])
        assert model.module is module
        assert module.training
        assert all(weight.requires_grad for weight in module.parameters())
        assert model.class_names == ("a", "b")
        assert model.id == "Sequential"

    @pytest.mark.parametrize(
        "arguments",
        [
            {"input_size": (3, 0, 224)},
            {"input_size": (3, 224)},
            {"mean": (0.5,)},
            {"std": (0, 0, 0)},
            {"std": (float("nan"),) * 3},
            {"crop_mode": "stretch"},
            {"interpolation": "psychic"},
            {"crop_pct": 0},
        ],
        ids=str,
    )
    def test_numbers_that_make_no_sense_are_refused(self, arguments):
        with pytest.raises(InvalidArgument):
            cam_hub.wrap_model(nn.Identity(), **arguments)

    def test_only_modules_are_wrapped(self):
        with pytest.raises(InvalidArgument, match=r"torch\.nn\.Module"):
            cam_hub.wrap_model("resnet18")


def test_preprocessing_is_timms_own(lite0, photos):
    transform = timm.data.create_transform(**timm.data.resolve_model_data_config(lite0.module))
    for photo in photos.values():
        assert torch.equal(lite0.preprocess(photo), transform(photo)[None])
