"""One small network per layout and per task, for laws that hold for every network."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

import cam_hub

ROWS, COLS, FRAMES, CHANNELS = 32, 48, 4, 8
LAYER = "laid"
"""The layer of each network whose output has its layout."""

Turn = Callable[[Tensor], Tensor]

TURNS: dict[str, tuple[Turn, Turn]] = {
    "NCHW": (lambda x: x.clone(), lambda x: x),
    "NHWC": (lambda x: x.permute(0, 2, 3, 1), lambda x: x.permute(0, 3, 1, 2)),
    "NLC": (
        lambda x: x.flatten(2).transpose(1, 2),
        lambda x: x.transpose(1, 2).unflatten(2, (ROWS // 4, COLS // 4)),
    ),
    "LNC": (
        lambda x: x.flatten(2).permute(2, 0, 1),
        lambda x: x.permute(1, 2, 0).unflatten(2, (ROWS // 4, COLS // 4)),
    ),
    "NCL": (lambda x: x.flatten(2), lambda x: x.unflatten(2, (ROWS // 4, COLS // 4))),
    "NCTHW": (lambda x: x.clone(), lambda x: x),
    "NTHWC": (lambda x: x.permute(0, 2, 3, 4, 1), lambda x: x.permute(0, 4, 1, 2, 3)),
}
"""Conversions from channels first to each layout, and back."""

FOLDED = {"(NT)CHW": "NCHW", "(NT)HWC": "NHWC", "(NT)LC": "NLC"}
"""The layouts of clips whose frames pass as images, and the layout of each image."""


class Turned(nn.Module):
    def __init__(self, turn: Turn) -> None:
        super().__init__()
        self.turn = turn

    def forward(self, x: Tensor) -> Tensor:
        return self.turn(x)


class Trunk(nn.Module):
    """Convolutions with an activation between them that has the given layout."""

    def __init__(self, layout: str, head: nn.Module) -> None:
        super().__init__()
        torch.manual_seed(3)
        self.folded = layout in FOLDED
        solid = is_of_clips(layout) and not self.folded
        conv = nn.Conv3d if solid else nn.Conv2d
        stride = (1, 4, 4) if solid else 4
        into, back = TURNS[FOLDED.get(layout, layout)]
        self.stem = conv(3, CHANNELS, stride, stride)
        self.norm = nn.BatchNorm3d(CHANNELS) if solid else nn.BatchNorm2d(CHANNELS)
        self.act = nn.ReLU(inplace=True)
        self.laid, self.back = Turned(into), Turned(back)
        self.conv = conv(CHANNELS, CHANNELS, 3, padding=1)
        self.head = head
        for weight in head.parameters():
            nn.init.normal_(weight)

    def forward(self, x: Tensor) -> object:
        if self.folded:
            x = x.transpose(1, 2).flatten(0, 1)
        x = self.back(self.laid(self.act(self.norm(self.stem(x)))))
        x = x + torch.tanh(self.conv(x))
        return self.head(x.unflatten(0, (-1, FRAMES)).transpose(1, 2) if self.folded else x)


def is_of_clips(layout: str) -> bool:
    return "T" in layout


class Pooled(nn.Module):
    def __init__(self, classes: int) -> None:
        super().__init__()
        self.fc = nn.Linear(CHANNELS, classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(x.flatten(2).mean(2))


class PerPixel(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(CHANNELS, 4, 1)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        return {"out": nn.functional.interpolate(self.conv(x), scale_factor=4.0)}


class LeftAndRight(nn.Module):
    """Detects class 1 in one half and class 2 in the other."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(CHANNELS, 1, 1)

    def forward(self, x: Tensor) -> list[dict[str, Tensor]]:
        half = x.shape[3] // 2
        found = self.conv(x)
        boxes = torch.tensor([[0.0, 0.0, COLS / 2, ROWS], [COLS / 2, 0.0, COLS, ROWS]])
        return [
            {
                "boxes": boxes,
                "labels": torch.tensor([1, 2]),
                "scores": torch.stack([one[..., :half].mean(), one[..., half:].mean()]).sigmoid(),
            }
            for one in found
        ]


class Listed(nn.Module):
    """An interface like torchvision's detectors: the input is a list of images."""

    def __init__(self, trunk: Trunk) -> None:
        super().__init__()
        self.trunk = trunk

    def forward(self, images: list[Tensor]) -> object:
        return self.trunk(torch.stack(images))


def of_layout(layout: str) -> cam_hub.LoadedModel:
    """A classifier with an activation in this layout."""
    frames = (FRAMES,) if is_of_clips(layout) else ()
    module = Trunk(layout, Pooled(5))
    return cam_hub.wrap_model(module.eval(), input_size=(3, *frames, ROWS, COLS))


def of_task(task: str) -> cam_hub.LoadedModel:
    """A network for this task."""
    module: nn.Module
    if task == "detection":
        module = Listed(Trunk("NCHW", LeftAndRight()))
    elif task == "segmentation":
        module = Trunk("NCHW", PerPixel())
    else:
        module = Trunk("NCHW", Pooled(5))
    return cam_hub.wrap_model(module.eval(), input_size=(3, ROWS, COLS), task=task)


def layer_of(model: cam_hub.LoadedModel) -> str:
    """The name of the layer with the network's layout."""
    return f"trunk.{LAYER}" if isinstance(model.module, Listed) else LAYER


def inputs(model: cam_hub.LoadedModel, count: int) -> list[Tensor]:
    """Preprocessed images or clips, the same in every run."""
    generator = torch.Generator().manual_seed(11)
    return [torch.randn(model.input_size, generator=generator) for _ in range(count)]
