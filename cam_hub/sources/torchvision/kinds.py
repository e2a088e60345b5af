"""What torchvision's packages of models hold: their tasks, their inputs, and what is refused."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from types import ModuleType

import torchvision.models as zoo
from torch import nn

from cam_hub.images.clip_preprocessing import ClipPreprocessing
from cam_hub.images.preprocessing import Preprocessing
from cam_hub.targets.lenience import THRESHOLD

__all__ = ["KINDS", "REFUSED", "Kind", "detect_anything"]

_DETECTOR_SIDE = 640
"""Side of the input of a detector that does not say what size it resizes to."""

_CLIP_FRAMES = 16
"""Frames of a clip, whatever less a model could do with. No weights say how many they were trained
on; most were on clips of 16, and all take them."""


@dataclass(frozen=True)
class Kind:
    """Models of one package.

    Attributes:
        task: Name of their task.
        preprocessing: Makes the preprocessing of the weights (for their preset) and the built
            model.
    """

    task: str
    preprocessing: Callable[[zoo.Weights, nn.Module], Preprocessing | ClipPreprocessing]


def _classifier_input(weights: zoo.Weights, module: nn.Module) -> Preprocessing:
    del module
    return Preprocessing.from_torchvision(weights.transforms())


def _video_input(weights: zoo.Weights, module: nn.Module) -> ClipPreprocessing:
    """As many frames as the weights ask for at least, and no fewer than is usual."""
    del module
    least = weights.meta.get("min_temporal_size") or 1
    return ClipPreprocessing.from_torchvision(weights.transforms(), max(_CLIP_FRAMES, least))


def _segmenter_input(weights: zoo.Weights, module: nn.Module) -> Preprocessing:
    """A square of the preset's size with the whole photo in it.

    The preset scales the shorter side to that size and crops nothing, so that inputs differ in
    shape. Here the longer side is scaled to it, and the border is filled with the mean colour.
    """
    del module
    preset = weights.transforms()
    side = preset.resize_size[0]
    return Preprocessing(
        input_size=(len(preset.mean), side, side),
        mean=preset.mean,
        std=preset.std,
        crop_pct=1.0,
        crop_mode="border",
        interpolation=preset.interpolation.value,
    )


def _detector_input(weights: zoo.Weights, module: nn.Module) -> Preprocessing:
    """A square with the whole photo in it, of the size that the model itself would resize to.

    So its own resizing changes nothing. Values are in [0, 1]: the model normalises them itself.
    """
    del weights
    resizing = getattr(module, "transform", None)
    fixed = getattr(resizing, "fixed_size", None)
    width, height = fixed or (_shortest_side(resizing),) * 2
    return Preprocessing(
        input_size=(3, height, width),
        mean=(0.0, 0.0, 0.0),
        std=(1.0, 1.0, 1.0),
        crop_pct=1.0,
        crop_mode="border",
        interpolation="bilinear",
    )


def _shortest_side(resizing: object) -> int:
    """The side that the model scales the shorter one of a photo to, at its evaluation."""
    sides = getattr(resizing, "min_size", None) or (_DETECTOR_SIDE,)
    return int(min(sides[-1], getattr(resizing, "max_size", sides[-1])))


KINDS: dict[ModuleType, Kind] = {
    zoo: Kind("classification", _classifier_input),
    zoo.segmentation: Kind("segmentation", _segmenter_input),
    zoo.detection: Kind("detection", _detector_input),
    zoo.video: Kind("classification", _video_input),
}
"""The packages whose models can be explained."""

REFUSED: dict[ModuleType, str] = {
    zoo.quantization: "it is quantised: integer weights have no gradient, so no class score can "
    "be differentiated. The same architecture without 'quantized_' in its name works.",
    zoo.optical_flow: "it is made for optical flow: it returns a field of motion between two "
    "pictures, and no class to explain. Models of classes, segments, boxes and clips work.",
}
"""The packages whose models cannot, and why."""


def detect_anything(module: nn.Module) -> None:
    """Lets a detector with random weights find boxes, however low their scores are."""
    for child in module.modules():
        if isinstance(getattr(child, THRESHOLD, None), (int, float)):
            setattr(child, THRESHOLD, 0.0)
