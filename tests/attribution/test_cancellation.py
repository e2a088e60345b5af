"""Grad-CAM++ and XGrad-CAM where activations of both signs cancel in their papers' denominators."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from torch import nn

import cam_hub
from cam_hub import METHODS, LoadedModel, explain, explain_methods, list_layers
from cam_hub.errors import NoMap
from cam_hub.methods import Evidence
from tests.fakes.methods import ONE_PASS

CANCELLING = [name for name, method in ONE_PASS.items() if method.cancellation is not None]
IMAGE = torch.randn((3, 32, 32), generator=torch.Generator().manual_seed(3))
SIGNED, POSITIVE = "2", "3"  # a convolution, and its ReLU


@pytest.fixture(scope="module")
def model() -> LoadedModel:
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(3, 6, 3, 2, 1), nn.ReLU(), nn.Conv2d(6, 8, 3, 2, 1), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 3),
    )  # fmt: skip
    with torch.no_grad():  # large scores: the 2 in Grad-CAM++'s denominator does not decide
        net[-1].weight.mul_(100)
    return cam_hub.wrap_model(net, input_size=(3, 32, 32))


def evidence(model: LoadedModel, index: int) -> Evidence:
    """Activation and gradient of the convolution, by plain autograd."""
    inner = model.module[:3](IMAGE[None]).detach().requires_grad_()
    (gradient,) = torch.autograd.grad(model.module[3:](inner)[0, index], inner)
    return Evidence(inner.detach(), gradient)


def test_the_two_methods_whose_denominators_are_sums_of_activations_have_it() -> None:
    assert CANCELLING == ["gradcampp", "xgradcam"]


@pytest.mark.parametrize("name", CANCELLING)
def test_a_map_whose_formula_relies_on_cancellation_is_noted(model: LoadedModel, name: str) -> None:
    asked = {"method": name, "target_layers": [SIGNED, POSITIVE], "classes": [0, 1]}
    found = explain(model, IMAGE, reuse=False, **asked)
    expected = max(METHODS[name].cancellation(evidence(model, index)).item() for index in (0, 1))
    assert expected > 0.1
    shares = found.manifest["cancellation"]
    assert shares[SIGNED] == pytest.approx(expected, abs=1e-3)
    assert shares[POSITIVE] == 0
    (layer,) = found.manifest["layer_notes"]
    assert layer == SIGNED
    note = found.manifest["layer_notes"][SIGNED]
    assert METHODS[name].title in note
    assert "relies on cancellation" in note
    again = cam_hub.reproduce(json.loads(json.dumps(dict(found.manifest))), IMAGE, model=model)
    assert again.manifest == found.manifest


@pytest.mark.parametrize("name", CANCELLING)
def test_a_cached_pass_has_the_same_share(model: LoadedModel, name: str) -> None:
    asked = {"target_layers": [SIGNED, POSITIVE], "classes": 1}
    fresh = explain(model, IMAGE, method=name, reuse=False, **asked)
    explain_methods(model, IMAGE, ONE_PASS, **asked)
    kept = explain(model, IMAGE, method=name, **asked)
    assert kept.manifest["cancellation"] == fresh.manifest["cancellation"]
    assert kept.manifest.get("layer_notes") == fresh.manifest.get("layer_notes")


@pytest.mark.parametrize("name", [name for name in ONE_PASS if name not in CANCELLING])
def test_other_methods_have_no_such_denominators(model: LoadedModel, name: str) -> None:
    found = explain(model, IMAGE, method=name, target_layers=[SIGNED, POSITIVE], classes=1)
    assert "cancellation" not in found.manifest


@pytest.mark.parametrize("name", CANCELLING)
def test_invisible_noise_does_not_change_maps_of_real_weights(
    lite0: LoadedModel, photos: dict, name: str
) -> None:
    # The ends of stages: projections without activation function, where maps by the formulas of the
    # papers correlate at 0.3 or less for both methods (docs/methods.md).
    tensor = lite0.preprocess(photos["espresso"])[0]
    noise = torch.randn(tensor.shape, generator=torch.Generator().manual_seed(1))
    layers = [layer.name for layer in list_layers(lite0) if layer.name in
              {"blocks.1", "blocks.2", "blocks.3", "blocks.4", "blocks.5", "bn2"}]  # fmt: skip
    index = explain(lite0, tensor).classes[0]
    clean, noisy = (
        explain(lite0, image, method=name, target_layers=layers, classes=index)
        for image in (tensor, tensor + 1e-3 * noise)
    )
    for layer in layers:
        pair = clean.cams[index, layer].ravel(), noisy.cams[index, layer].ravel()
        assert np.corrcoef(*pair)[0, 1] > 0.97, layer
    assert sum("relies on" in each for each in clean.manifest["layer_notes"].values()) >= 4


class Normalised(nn.Module):
    """A convolution that only a norm over the channels follows, as the last block of a ViT."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 32, 4, 4)
        self.norm = nn.LayerNorm(32, eps=1e-6)
        self.head = nn.Linear(32, 3)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.head(self.norm(self.conv(images).movedim(1, -1)).mean((1, 2)))


def test_hirescam_has_no_map_where_gradient_times_activation_is_zero_by_construction() -> None:
    torch.manual_seed(0)
    model = cam_hub.wrap_model(Normalised(), input_size=(3, 32, 32))
    for sign in ("for", "both"):
        with pytest.raises(NoMap, match="a layer that only a norm follows"):
            explain(model, IMAGE, method="hirescam", target_layers="conv", classes=1, sign=sign)
    explain(model, IMAGE, method="hirescam", target_layers="norm", classes=1)
    explain(model, IMAGE, method="gradcam", target_layers="conv", classes=1, sign="both")
