"""Small networks of several families, trained on composed images for a minute or two each."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from typing import Any, Final

import timm
from safetensors.torch import load_file
from torch import nn

import cam_hub
from bench.truth.world import CLASSES, SIDE

__all__ = ["NETWORKS", "available", "load", "wrapped"]

NETWORKS: Final[Mapping[str, tuple[str, dict[str, Any]]]] = {
    "resnet10t": ("resnet10t", {"channels": (32, 64, 128, 256)}),
    "mobilenetv3": ("mobilenetv3_small_100", {}),
    "vit_cls": ("vit_tiny_patch16_224", {"depth": 6, "embed_dim": 144, "num_heads": 3}),
    "dinov3_like": (
        "vit_small_patch16_dinov3",
        {"depth": 6, "embed_dim": 144, "num_heads": 3, "img_size": SIDE},
    ),
    "swin": (
        "swin_tiny_patch4_window7_224",
        {"embed_dim": 32, "depths": (2, 2, 2, 2), "num_heads": (2, 4, 8, 16)},
    ),
    "mixer": (
        "timm.models.mlp_mixer.MlpMixer",
        {"img_size": SIDE, "patch_size": 16, "num_blocks": 6, "embed_dim": 160},
    ),
    "xcit": ("xcit_nano_12_p16_224", {"depth": 6}),
}
"""Architecture and arguments by name; a class by its dotted path."""


def available(folder: Path) -> list[str]:
    """The networks whose weights are in a folder."""
    return [name for name in NETWORKS if (folder / f"{name}.safetensors").exists()]


def load(name: str, folder: Path) -> nn.Module:
    """A trained network in float32 and evaluation mode."""
    architecture, arguments = NETWORKS[name]
    module, _, kind = architecture.rpartition(".")
    network: nn.Module
    if module:
        network = getattr(import_module(module), kind)(num_classes=CLASSES, **arguments)
    else:
        network = timm.create_model(
            architecture, pretrained=False, num_classes=CLASSES, **arguments
        )
    weights = load_file(folder / f"{name}.safetensors")
    network.load_state_dict(
        {key: each.float() if each.is_floating_point() else each for key, each in weights.items()}
    )
    return network.eval()


def wrapped(network: nn.Module) -> cam_hub.LoadedModel:
    """The network as cam_hub takes it."""
    half = (0.5, 0.5, 0.5)
    return cam_hub.wrap_model(network, input_size=(3, SIDE, SIDE), mean=half, std=half)
