"""The whole pipeline compared with torchcam where it is correct, on real weights and photos."""

from __future__ import annotations

import copy
import dataclasses

import numpy as np
import pytest
import torch
import torchcam.methods
import torchvision.models
from torch import nn

import cam_hub
from cam_hub import explain

PAIRS = {"layercam": "LayerCAM", "gradcam": "GradCAM", "xgradcam": "XGradCAM"}


def torchcam_maps(name: str, module, tensor, layers: list[str], index: int) -> list[np.ndarray]:
    """torchcam's un-normalised maps."""
    tensor = tensor.clone().requires_grad_()
    with getattr(torchcam.methods, name)(module, target_layer=layers) as extractor:
        scores = module(tensor)
        maps = extractor(index, scores, normalized=False)
    return [cam[0].detach().numpy() for cam in maps]


@pytest.mark.parametrize(("ours", "theirs"), PAIRS.items())
@pytest.mark.parametrize("photo", ["lion", "cat", "espresso"])
def test_maps_equal_torchcams(lite0, photos, ours, theirs, photo):
    # XGradCAM: layers that end in a ReLU, since torchcam divides by sums that may cancel elsewhere.
    layers = ["blocks.4.2.bn2" if ours == "xgradcam" else "blocks.4", "bn2"]
    result = explain(lite0, photos[photo], method=ours, target_layers=layers)
    expected = torchcam_maps(
        theirs, lite0.module, lite0.preprocess(photos[photo]), layers, result.classes[0]
    )
    for name, cam in zip(layers, expected, strict=True):
        np.testing.assert_allclose(
            result.cams[result.classes[0], name] / cam.max(), cam / cam.max(), atol=1e-5
        )


@pytest.mark.parametrize(("ours", "theirs"), PAIRS.items())
def test_maps_of_a_torchvision_network_with_in_place_layers_equal_torchcams(lion, ours, theirs):
    torch.manual_seed(0)
    module = torchvision.models.resnet18(num_classes=10).eval()
    model = cam_hub.wrap_model(module, input_size=(3, 96, 96))  # a fifth of the time
    layers = ["layer2", "layer3" if ours == "xgradcam" else "layer3.0.bn1", "layer4"]
    found = explain(model, lion, method=ours, target_layers=layers, classes=3)
    # An in-place ReLU follows a batch norm, and would overwrite the activations that torchcam
    # recorded.
    plain = copy.deepcopy(module)
    for child in plain.modules():
        if isinstance(child, nn.ReLU):
            child.inplace = False
    expected = torchcam_maps(theirs, plain, model.preprocess(lion), layers, 3)
    for name, cam in zip(layers, expected, strict=True):
        np.testing.assert_allclose(found.cams[3, name] / cam.max(), cam / cam.max(), atol=1e-5)


def test_smoothgradcampp_without_noise_equals_torchcams_before_average_pooling(lite0, lion):
    """A case in which both formulas agree (docs/methods.md), and the noise is negligible."""
    module = copy.deepcopy(lite0.module)
    with torch.no_grad():  # torchcam's eps of 1e-8 is not small compared with squares of 1e-3
        module.classifier.weight.mul_(1000)
    model = dataclasses.replace(lite0, module=module, facts={})
    asked = {"method": "smoothgradcampp", "num_samples": 1, "std": 0}
    found = explain(model, lion, target_layers="bn2", classes=291, **asked).cam()
    tensor = model.preprocess(lion)
    with torchcam.methods.SmoothGradCAMpp(
        module, target_layer="bn2", num_samples=1, std=1e-12
    ) as extractor:
        module(tensor.clone().requires_grad_())
        expected = extractor(291, normalized=False)[0][0].detach().numpy()
    np.testing.assert_allclose(found / expected.max(), expected / expected.max(), rtol=0, atol=1e-5)
