"""The word ``stages``: the end of each resolution, in networks of all kinds."""

from __future__ import annotations

import pytest
import torch

import cam_hub

ENDS = {
    "resnet18": ["act1", "layer1", "layer2", "layer3", "layer4"],
    "convnext_atto": ["stages.0", "stages.1", "stages.2", "norm_pre"],
    "mobilenetv3_small_050": ["bn1", "blocks.0", "blocks.1", "blocks.3", "blocks"],
    "swin_tiny_patch4_window7_224": ["layers.0", "layers.1", "layers.2", "norm"],
    "vit_tiny_patch16_224": ["blocks.11.norm1"],
    "pvt_v2_b0": ["stages.0", "stages.1", "stages.2", "stages"],
}


@pytest.mark.parametrize("id", ENDS)
def test_a_stage_ends_with_its_last_block(id: str):
    torch.manual_seed(0)
    model = cam_hub.load_model(id, pretrained=False, device="cpu")
    found = cam_hub.suggest_layers(model, "stages")
    layers = {layer.name: layer for layer in cam_hub.list_layers(model)}
    stages = [layers[name].stage for name in found]
    assert stages == sorted(set(stages)), "one each, from fine to coarse"
    assert layers[found[-1]].recommended
    assert found == ENDS[id]
