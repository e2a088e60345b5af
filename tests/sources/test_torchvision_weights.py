"""Every classification weight of torchvision: its own transforms, categories and sizes."""

from __future__ import annotations

import pytest
import torch
import torchvision.models as zoo
from torchvision.models import SqueezeNet1_1_Weights, VGG16_Weights, squeezenet1_1

import cam_hub
from cam_hub.errors import ModelRefused
from cam_hub.images.preprocessing import Preprocessing
from cam_hub.sources.torchvision import KINDS, weights_bytes, weights_file
from cam_hub.targets.similarity import Similarity

WEIGHTS = [
    weights for name in zoo.list_models(module=zoo) for weights in zoo.get_model_weights(name)
]


def preprocessing(weights: zoo.Weights) -> Preprocessing:
    found = KINDS[zoo].preprocessing(weights, torch.nn.Identity())
    assert isinstance(found, Preprocessing)
    return found


def test_there_are_as_many_as_torchvision_documents():
    assert len(WEIGHTS) == 115


@pytest.mark.parametrize("weights", WEIGHTS, ids=str)
def test_preprocessing_is_the_presets_own(weights):
    preset, found = weights.transforms(), preprocessing(weights)
    assert found.input_size == (3, *(preset.crop_size * 2)[:2])
    assert found.resize_size == tuple((preset.resize_size * 2)[:2])
    assert (found.mean, found.std) == (tuple(preset.mean), tuple(preset.std))
    assert found.interpolation == preset.interpolation.value
    assert found.antialias is bool(preset.antialias)
    assert found.crop_mode == "center"


@pytest.mark.parametrize("weights", WEIGHTS, ids=str)
def test_categories_and_sizes_are_what_the_preset_takes(weights):
    least = weights.meta["min_size"]
    assert all(a >= b for a, b in zip(preprocessing(weights).input_size[1:], least, strict=True))
    names = weights.meta["categories"]
    assert names is None or len(names) == 1000
    # Three are stored in half precision; GoogLeNet's file has heads for training only.
    assert 1.9 < weights_bytes(weights) / weights.meta["num_params"] < 8.5
    assert weights_file(weights).name == weights.url.rpartition("/")[2]


def checkpoints(tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    folder = tmp_path / "hub" / "checkpoints"
    folder.mkdir(parents=True)
    return folder


def test_outputs_are_those_of_torchvisions_own_builder(tmp_path, monkeypatch, lion):
    folder = checkpoints(tmp_path, monkeypatch)
    torch.manual_seed(1)
    weights = SqueezeNet1_1_Weights.IMAGENET1K_V1
    torch.save(squeezenet1_1().state_dict(), folder / weights_file(weights).name)
    wanted = squeezenet1_1(weights=weights).eval()
    model = cam_hub.load_model("torchvision/squeezenet1_1@IMAGENET1K_V1", device="cpu")
    batch = model.preprocess(lion)
    assert torch.equal(batch, weights.transforms()(lion)[None])
    assert torch.equal(model.module(batch), wanted(batch))
    assert model.class_names == tuple(weights.meta["categories"])
    assert (model.id, model.revision) == (
        "torchvision/squeezenet1_1@IMAGENET1K_V1",
        "IMAGENET1K_V1",
    )


def test_weights_without_a_classifier_give_features(lion):
    model = cam_hub.load_model("torchvision/vgg16@IMAGENET1K_FEATURES", pretrained=False)
    assert model.class_names is None
    assert isinstance(model.task, Similarity)
    assert model.module(model.preprocess(lion)).shape == (1, 512 * 7 * 7)
    assert VGG16_Weights.IMAGENET1K_FEATURES.meta["categories"] is None


def test_a_damaged_checkpoint_is_refused(tmp_path, monkeypatch):
    folder = checkpoints(tmp_path, monkeypatch)
    name = weights_file(SqueezeNet1_1_Weights.IMAGENET1K_V1).name
    (folder / name).write_bytes(b"half of")
    with pytest.raises(ModelRefused, match=r"damaged.*fetched again") as caught:
        cam_hub.load_model("torchvision/squeezenet1_1", device="cpu")
    assert str(folder) not in str(caught.value)
    assert (folder / name).exists(), "it is not ours to remove"
