"""The recommended layer of unusual networks, and of those whose map would be blank."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import cam_hub

TRANSFORMERS = [
    ("vit_tiny_patch16_224", "blocks.11.norm1", "NLC", 1),
    pytest.param("swin_tiny_patch4_window7_224", "norm", "NHWC", 0, marks=pytest.mark.slow),
    ("mixer_s32_224", "norm", "NLC", 0),
]


@pytest.mark.parametrize(("id", "expected", "layout", "prefix"), TRANSFORMERS)
def test_the_last_layer_with_evidence_as_a_whole_is_found_in_unusual_networks(
    id, expected, layout, prefix
):
    torch.manual_seed(0)
    model = cam_hub.load_model(id, pretrained=False, device="cpu")
    best = next(layer for layer in cam_hub.list_layers(model) if layer.recommended)
    assert (best.name, best.layout, best.prefix_tokens) == (expected, layout, prefix)


def test_a_layer_whose_map_would_be_blank_is_not_recommended():
    class Sulky(nn.Module):
        """Its last layer is negative everywhere, and scores increase with it: no evidence."""

        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.first = nn.Conv2d(3, 8, 4, 4)
            self.last = nn.Conv2d(8, 1, 1)
            self.lowered = nn.Identity()

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            below = self.last(self.first(x).sigmoid()).mul(0.01).sub(1)
            return self.lowered(below).mean((2, 3))

    found = {layer.name: layer for layer in cam_hub.list_layers(cam_hub.wrap_model(Sulky()))}
    assert found["lowered"].usable
    assert not found["lowered"].recommended
    assert found["first"].recommended or found["last"].recommended


def test_layers_whose_class_token_alone_counts_are_not_targets():
    model = cam_hub.load_model("test_vit", pretrained=False, device="cpu")
    found = {layer.name: layer for layer in cam_hub.list_layers(model)}
    last = f"blocks.{len(model.module.blocks) - 1}"
    assert found[f"{last}.norm1"].recommended
    assert not found[last].usable
    assert not found["norm"].usable
    assert "no class score depends on it" in found["norm"].reason
    cam_hub.explain(model, torch.rand(model.input_size), target_layers="stages", method="layercam")


def test_a_branch_counts_alone_if_the_following_layers_have_no_evidence():
    """Two concatenated branches are not keys and values: no part of the block is ignored."""

    class Join(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.main = nn.Conv2d(8, 8, 1)
            self.side = nn.Conv2d(8, 8, 1)
            self.join = nn.Conv2d(16, 8, 1)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.join(torch.cat([self.main(x), self.side(x)], 1))

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed = nn.Conv2d(3, 8, 8, 8)
            self.body = Join()
            self.body.join.bias.data.fill_(-100)  # no positive evidence for any class

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.body(self.embed(x)).mean((2, 3))

    torch.manual_seed(0)
    model = cam_hub.wrap_model(Net(), input_size=(3, 64, 64))
    assert cam_hub.suggest_layers(model) == ["body.side"]
