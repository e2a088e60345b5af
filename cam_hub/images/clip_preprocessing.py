"""From a clip to a model's input tensor: every frame as a photo, one after the other."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from cam_hub.errors import ImageRefused
from cam_hub.images.geometry import Placement, sizes
from cam_hub.images.preprocessing import Preprocessing
from cam_hub.images.tensors import check_tensor

__all__ = ["ClipPreprocessing"]


@dataclass(frozen=True)
class ClipPreprocessing:
    """How a clip becomes a model's input.

    Attributes:
        frame: What is done to each frame.
        frames: How many frames the model takes.

    Raises:
        InvalidArgument: ``frames`` is not a positive whole number.
    """

    frame: Preprocessing
    frames: int

    def __post_init__(self) -> None:
        sizes("frames", (self.frames,), 1)

    @classmethod
    def from_torchvision(cls, preset: object, frames: int) -> ClipPreprocessing:
        """Describe what a torchvision video preset does, bit for bit.

        Args:
            preset: What ``weights.transforms()`` returns, a ``VideoClassification``.
            frames: How many frames the model takes; the preset does not say.

        Raises:
            InvalidArgument: The preset is none, or has values that can never work.
        """
        return cls(replace(Preprocessing.from_torchvision(preset), antialias=False), frames)

    @property
    def input_size(self) -> tuple[int, int, int, int]:
        """``(channels, frames, height, width)`` of the input."""
        channels, height, width = self.frame.input_size
        return channels, self.frames, height, width

    def place(self, photo_size: tuple[int, int]) -> Placement:
        """Where frames of ``photo_size`` ``(width, height)`` lie in the input."""
        return self.frame.place(photo_size)

    def as_dict(self) -> dict[str, Any]:
        """The fields of the frames' preprocessing, with the clip's input size, as JSON types."""
        return {**self.frame.as_dict(), "input_size": list(self.input_size)}

    def __call__(self, clip: Sequence[Image.Image]) -> Tensor:
        """Turn a clip into the model's input.

        Args:
            clip: Pictures of one size, as :func:`cam_hub.images.clips.open_clip` returns them.

        Returns:
            float32 of shape ``(1, channels, frames, height, width)``, normalised.

        Raises:
            ImageRefused: There are none, or they differ in size, or as :class:`Preprocessing`.
        """
        if len({picture.size for picture in clip}) != 1:
            raise ImageRefused("a clip takes at least one frame, and all of one size")
        known: dict[int, Tensor] = {}  # a clip in which nothing moves is one picture, repeated
        for picture in clip:
            if id(picture) not in known:
                known[id(picture)] = self.frame(picture)
        return torch.stack([known[id(picture)] for picture in clip], dim=2)

    def denormalise(self, tensor: Tensor) -> list[Image.Image]:
        """Show a preprocessed clip: its frames, as :meth:`Preprocessing.denormalise` shows each.

        Args:
            tensor: A float tensor ``(C, T, H, W)`` or ``(1, C, T, H, W)``.

        Raises:
            ImageRefused: As :func:`check_tensor`.
        """
        values = check_tensor(tensor, self.frame.input_size[0], clip=True)[0].cpu()
        return [self.frame.denormalise(values[:, step]) for step in range(values.shape[1])]
