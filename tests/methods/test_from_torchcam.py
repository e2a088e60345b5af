"""torchcam's methods through our layouts, against torchcam run directly on a plain network."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
import torchcam.methods
from torch import Tensor, nn

import cam_hub
from cam_hub import explain
from cam_hub.errors import NoMap
from cam_hub.methods import METHODS, from_torchcam, fuse, refine
from tests.fakes.engine_nets import apart
from tests.fakes.law_nets import inputs
from tests.fakes.module_state import state_of


class Plain(nn.Module):
    """Convolutions, a global average pool and a linear classifier."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(2)
        self.early = nn.Conv2d(3, 5, 3, 2, padding=1)
        self.late = nn.Conv2d(5, 7, 3, 2, padding=1)
        self.fc = nn.Linear(7, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.late(self.early(x).relu()).tanh().mean((2, 3)))


class Swapped(Plain):
    """The same network with its channels last."""

    def __init__(self) -> None:
        super().__init__()
        self.last = nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        late = self.last(self.late(self.early(x).relu()).tanh().permute(0, 2, 3, 1))
        return self.fc(late.mean((1, 2)))


class Tokens(Swapped):
    """The same network with tokens, the first of which belongs to no place."""

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.late(self.early(x).relu()).tanh().flatten(2).mT
        tokens = self.last(torch.cat([tokens.mean(1, keepdim=True), tokens], 1))
        return self.fc(tokens[:, 1:].mean(1))


@pytest.fixture(scope="module")
def model() -> cam_hub.LoadedModel:
    return cam_hub.wrap_model(Plain(), input_size=(3, 24, 32))


@pytest.fixture(scope="module")
def image(model: cam_hub.LoadedModel) -> Tensor:
    return inputs(model, 1)[0]


def directly(kind: Any, layer: str, image: Tensor, index: int, **given: Any) -> np.ndarray:
    """torchcam's own map."""
    with kind(Plain().eval(), layer, **given) as extractor:
        if kind is torchcam.methods.SSCAM:
            torch.manual_seed(0)
        scores = extractor.model(image[None])
        cam = extractor(index, scores, normalized=False)[0]
    return cam[0].detach().relu().numpy()


@pytest.mark.parametrize("layer", ["early", "late"])
@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("scorecam", torchcam.methods.ScoreCAM),
        ("sscam", torchcam.methods.SSCAM),
        ("iscam", torchcam.methods.ISCAM),
    ],
)
def test_maps_of_masked_images_are_torchcams(model, image, name: str, kind: Any, layer) -> None:
    before = state_of(model.module)
    found = explain(model, image, method=name, target_layers=layer, classes=[1, 3], batch_size=3)
    assert state_of(model.module) == before
    for index in (1, 3):
        expected = directly(kind, layer, image, index)
        np.testing.assert_allclose(found.cams[index, layer], expected, rtol=1e-5, atol=1e-6)


def test_cam_is_torchcams_with_the_weights_found_by_experiment(image) -> None:
    module = Swapped()
    wrapped = cam_hub.wrap_model(module, input_size=(3, 24, 32))
    found = explain(wrapped, image, method="cam", target_layers="last", classes=2, sign="both")
    with torch.no_grad():
        late = module.late(module.early(image[None]).relu()).tanh()[0]
        expected = torch.einsum("k,kij->ij", module.fc.weight[2], late)
    np.testing.assert_allclose(found.cam(), expected, rtol=1e-4, atol=1e-6)

    class Headed(Plain):
        def __init__(self) -> None:
            super().__init__()
            self.maps = nn.Tanh()

        def forward(self, x: Tensor) -> Tensor:
            return self.fc(self.maps(self.late(self.early(x).relu())).mean((2, 3)))

    with torchcam.methods.CAM(Headed().eval(), "maps", "fc") as extractor:
        extractor.model(image[None])
        theirs = extractor(2, normalized=False)[0][0]
    np.testing.assert_allclose(found.cam(), theirs, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("method", ["cam", "scorecam", "iscam"])
@pytest.mark.parametrize("kind", [Swapped, Tokens])
def test_other_layouts_give_the_map_of_channels_first(image, kind: Any, method: str) -> None:
    class First(Plain):
        def __init__(self) -> None:
            super().__init__()
            self.last = nn.Tanh()

        def forward(self, x: Tensor) -> Tensor:
            return self.fc(self.last(self.late(self.early(x).relu())).mean((2, 3)))

    maps = [
        explain(
            cam_hub.wrap_model(each(), input_size=(3, 24, 32)),
            image,
            method=method,
            target_layers="last",
            classes=0,
            sign="both",
        ).cam()
        for each in (First, kind)
    ]
    np.testing.assert_allclose(*maps, rtol=1e-3, atol=1e-5)


def test_cam_is_refused_where_no_pool_and_linear_classifier_follow(model, image) -> None:
    for layer in ("early", "late"):  # a tanh follows the latter
        with pytest.raises(NoMap, match="global average pool and a linear classifier"):
            explain(model, image, method="cam", target_layers=layer)


def test_enlarging_too_many_channels_is_refused(model, image, monkeypatch) -> None:
    monkeypatch.setattr(from_torchcam, "_LARGEST", 1000)
    for method in ("sscam", "iscam"):
        with pytest.raises(NoMap, match="Score-CAM needs less"):
            explain(model, image, method=method)


def test_legrad_is_torchcams_on_torchvisions_transformers() -> None:
    from torchvision.models import VisionTransformer

    torch.manual_seed(0)
    module = VisionTransformer(
        image_size=32, patch_size=8, num_layers=2, num_heads=2, hidden_dim=16, mlp_dim=32,
        num_classes=5,
    ).eval()  # fmt: skip
    nn.init.normal_(module.heads.head.weight)
    wrapped = cam_hub.wrap_model(module, input_size=(3, 32, 32))
    picture = inputs(wrapped, 1)[0]
    block = "encoder.layers.encoder_layer_0"
    before = state_of(module)
    found = explain(wrapped, picture, method="legrad", target_layers=block, classes=[1, 3])
    assert state_of(module) == before
    for index in (1, 3):
        with torchcam.methods.LeGrad(module, block) as extractor:
            extractor.model(picture[None])
            theirs = extractor(index, normalized=False)[0][0]
        np.testing.assert_allclose(found.cams[index, block], theirs, rtol=1e-4, atol=1e-9)
    inside = explain(wrapped, picture, method="legrad", target_layers=f"{block}.ln_1", classes=1)
    np.testing.assert_allclose(inside.cam(), found.cam(1), rtol=1e-5)
    assert explain(wrapped, picture, method="legrad").cam().any()
    with pytest.raises(NoMap, match="self_attention"):
        explain(wrapped, picture, method="legrad", target_layers="conv_proj")


def test_legrad_is_refused_elsewhere(model, image) -> None:
    with pytest.raises(NoMap, match="torchvision's vision transformers"):
        explain(model, image, method="legrad")


def test_refinecam_fuses_maps_as_torchcam_does(image) -> None:
    layers = ["early", "late"]
    with torchcam.methods.RefineCAM(
        Plain().eval(), layers, base_method=torchcam.methods.LayerCAM
    ) as extractor:
        scores = extractor.base_cam.model(image[None])
        theirs = extractor(1, scores)[0][0]
    model = cam_hub.wrap_model(Plain(), input_size=(3, 24, 32))
    ours = explain(model, image, method="layercam", target_layers=layers, classes=1)
    maps = [torch.from_numpy(ours.cams[1, name].copy())[None] for name in layers]
    np.testing.assert_allclose(refine(maps)[0], theirs, rtol=1e-4, atol=1e-6)
    signed = [cam - cam.mean() for cam in maps]
    both = fuse(signed, METHODS["refinecam"].signed("both"))
    torch.testing.assert_close(both, -refine([-cam for cam in signed]))
    assert both.min() < 0 < both.max()


def test_refinecam_takes_the_ends_of_stages_and_is_grad_cam_pp_at_each(model, image) -> None:
    found = explain(model, image, method="refinecam", classes=1)
    assert list(found.layers) == cam_hub.suggest_layers(model, "stages")
    plain = explain(model, image, method="gradcampp", classes=1, target_layers=found.layers)
    for key, cam in plain.cams.items():
        assert apart(found.cams[key], cam) < 1e-5
    maps = [torch.from_numpy(found.cams[1, name].copy())[None] for name in found.layers]
    np.testing.assert_allclose(found.cam(), refine(maps)[0], atol=1e-6)
    alone = explain(model, image, method="refinecam", target_layers="late", classes=1)
    assert "several layers" in alone.manifest["layer_notes"]["late"]
