"""The measured networks."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor, nn

import cam_hub
from cam_hub.layers.layouts import Arrangement

__all__ = ["NAMES", "QUICK", "Subject", "load"]

NAMES = {
    "resnet18": "ResNet-18",
    "resnet50": "ResNet-50",
    "vgg19": "VGG-19",
    "mobilenetv3_large_100": "MobileNetV3-L",
    "efficientnet_b0": "EfficientNet-B0",
    "convnext_tiny": "ConvNeXt-T",
    "regnety_040": "RegNetY-4GF",
    "vit_small_patch16_224": "ViT-S/16",
    "swin_tiny_patch4_window7_224": "Swin-T",
    "maxvit_tiny_tf_224": "MaxViT-T",
}
"""Names in timm to names in the report."""

QUICK = ("resnet18", "mobilenetv3_large_100", "vit_small_patch16_224")


@dataclass(frozen=True, eq=False)
class Subject:
    """A network with random weights, in the variants in which it is run.

    Attributes:
        name: Its name in timm.
        model: The model as loaded by cam_hub, with frozen weights.
    """

    name: str
    model: cam_hub.LoadedModel

    @cached_property
    def trainable(self) -> nn.Module:
        """A copy as built by timm, whose weights require gradients, for the other libraries."""
        return copy.deepcopy(self.model.module).requires_grad_(True)

    @cached_property
    def channels_last(self) -> nn.Module:
        """A copy whose weights are in the channels-last format."""
        module = copy.deepcopy(self.model.module)
        return module.to(memory_format=torch.channels_last)

    @cached_property
    def recommended(self) -> str:
        """The layer that is explained by default."""
        return cam_hub.suggest_layers(self.model)[0]

    @cached_property
    def stages(self) -> list[str]:
        """The end of each stage."""
        return cam_hub.suggest_layers(self.model, "stages")

    @cached_property
    def features(self) -> list[str]:
        """Every single layer of a VGG's ``features``."""
        usable = cam_hub.suggest_layers(self.model, "all")
        return [name for name in usable if name.startswith("features.")]

    def arrangement(self, layer: str) -> Arrangement:
        """The layout of a layer."""
        found = {each.name: each.arrangement for each in cam_hub.list_layers(self.model)}[layer]
        assert found is not None
        return found

    def image(self, seed: int) -> Tensor:
        """Noise as a preprocessed image, ``(1, channels, rows, cols)``."""
        generator = torch.Generator().manual_seed(seed)
        return torch.randn(1, *self.model.input_size, generator=generator)


def load(name: str, size: int | None = None) -> Subject:
    """A subject on the CPU.

    Args:
        name: Its name in timm.
        size: Rows and columns of its input, if it accepts others than its own.
    """
    torch.manual_seed(0)
    model = cam_hub.load_model(name, pretrained=False, device="cpu")
    if size is not None and model.input_size[1:] != (size, size):
        settings = model.preprocessing.as_dict()
        model = cam_hub.wrap_model(
            model.module, input_size=(3, size, size), mean=settings["mean"], std=settings["std"]
        )
    return Subject(name, model)
