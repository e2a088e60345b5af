"""Photo to tensor, as timm and torchvision do it: resized, cropped or padded, with its geometry."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Any, TypeGuard

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn.functional import interpolate

from cam_hub._validation import check_finite, check_sizes
from cam_hub.errors import ImageRefused, InvalidArgument
from cam_hub.images.geometry import Placement
from cam_hub.images.tensors import check_tensor

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

__all__ = [
    "CROP_MODES",
    "INTERPOLATIONS",
    "PLAIN_INTERPOLATIONS",
    "Crop",
    "Preprocessing",
    "resize_plainly",
]


PLAIN_INTERPOLATIONS = ("nearest", "bilinear", "bicubic")

# Pillow's nearest filter is what torch calls "nearest-exact".
_TORCH_NAMES = {"nearest": "nearest-exact"}


def resize_plainly(photo: Image.Image, size: tuple[int, int], interpolation: str) -> Image.Image:
    """Resize a photo by interpolating between the pixels next to each sample, and no others.

    It is bit for bit what torchvision's ``resize(…, antialias=False)`` does to a uint8 tensor: in
    float32, rounded half to even.

    Args:
        photo: Mode "RGB" or "L".
        size: ``(width, height)`` wanted.
        interpolation: One of :data:`PLAIN_INTERPOLATIONS`.

    Returns:
        A photo of the same mode.
    """
    mode = _TORCH_NAMES.get(interpolation, interpolation)
    corners = None if interpolation == "nearest" else False
    # All channels at once and channels first: torch's other kernels round differently.
    planes = np.stack([np.asarray(band) for band in photo.split()])
    values = torch.from_numpy(planes).to(torch.float32)[None]
    resized = interpolate(values, size[::-1], mode=mode, align_corners=corners)[0]
    bands = resized.round_().clamp_(0, 255).to(torch.uint8).numpy()
    return Image.merge(photo.mode, [Image.fromarray(band) for band in bands])


# The resized image is built whole, as the references do, up to this many pixels or this many
# times the crop's area, whichever is more.
_WHOLE_PIXELS = 16_000_000
_WHOLE_CROPS = 4


@dataclass(frozen=True)
class Crop:
    """The geometric part of a preprocessing.

    Attributes:
        height: Height of the input.
        width: Width of the input.
        resize_size: As in ``Preprocessing``, and so are the others.
        crop_mode: How the photo's proportions are treated.
        interpolation: Filter of the resize.
        antialias: Whether it averages over all pixels that it shrinks.
        fill: The border's colour per channel, in the photo's own values.
    """

    height: int
    width: int
    resize_size: tuple[int, int]
    crop_mode: str
    interpolation: str
    antialias: bool
    fill: tuple[float, ...]

    def place(self, photo_size: tuple[int, int]) -> Placement:
        """Where a photo of ``(width, height)`` lies in the input."""
        width, height = photo_size
        resized_width, resized_height = self._resized(width, height)
        return Placement(
            photo_size=(width, height),
            input_size=(self.height, self.width),
            scale=(resized_width / width, resized_height / height),
            offset=(_centred(resized_width, self.width), _centred(resized_height, self.height)),
        )

    def __call__(self, photo: Image.Image) -> Image.Image:
        """Resizes a photo, mode "RGB", "L" or "F", and cuts or pads it to the input's size."""
        placement = self.place(photo.size)
        left, top = (int(start) for start in placement.offset)
        resized_width, resized_height = self._resized(*photo.size)
        # The part of the resized photo that the crop keeps, in its own coordinates.
        kept = (
            max(0, -left),
            max(0, -top),
            min(resized_width, self.width - left),
            min(resized_height, self.height - top),
        )
        filter_ = Image.Resampling[self.interpolation.upper()]
        area = self.width * self.height
        if resized_width * resized_height <= max(_WHOLE_PIXELS, _WHOLE_CROPS * area):
            if photo.size != (resized_width, resized_height):
                size = (resized_width, resized_height)
                if self.antialias:
                    photo = photo.resize(size, filter_)
                else:
                    photo = resize_plainly(photo, size, self.interpolation)
            part = photo.crop(kept)
        else:
            # Pillow's filters look beyond the box where they need to, so the smooth ones differ
            # from the crop of the whole only by rounding (and by their antialiasing).
            size = (kept[2] - kept[0], kept[3] - kept[1])
            part = photo.resize(size, filter_, box=placement.seen_box)
        if part.size == (self.width, self.height):
            return part
        fill = self.fill[0] if part.mode == "F" else self.fill
        canvas = Image.new(part.mode, (self.width, self.height), fill)
        canvas.paste(part, (max(0, left), max(0, top)))
        return canvas

    def _resized(self, width: int, height: int) -> tuple[int, int]:
        """``(width, height)`` of the whole photo after the resize, with the references' rounding.

        torchvision truncates the longer side; timm's keep-ratio resize rounds half to even. Both
        at least 1 here, where they would ask Pillow for an empty image.
        """
        goal_height, goal_width = self.resize_size
        if self.crop_mode == "squash":
            return goal_width, goal_height
        if self.crop_mode == "center" and goal_width == goal_height:
            # Integers throughout, so that this truncates like int(goal * long / short).
            if width <= height:
                return goal_width, max(1, int(goal_width * height / width))
            return max(1, int(goal_width * width / height)), goal_width
        ratios = height / goal_height, width / goal_width
        ratio = max(ratios) if self.crop_mode == "border" else min(ratios)
        return max(1, round(width / ratio)), max(1, round(height / ratio))


def _centred(resized: int, wanted: int) -> int:
    """Where a resized side starts in the input: negative when cropped, positive when padded."""
    # The references cut at round(), half to even, but pad at //.
    if resized < wanted:
        return (wanted - resized) // 2
    return -round((resized - wanted) / 2)


CROP_MODES = ("center", "squash", "border")
INTERPOLATIONS = ("nearest", "box", "bilinear", "hamming", "bicubic", "lanczos")

_PHOTO_MODES = {1: "L", 3: "RGB"}

_MAX_ELEMENTS = 2**28  # of an input tensor: 1 GiB of float32, far beyond any image model
_MAX_RESIZE = 2**16


@dataclass(frozen=True, init=False)
class Preprocessing:
    """How a photo becomes a model's input.

    Attributes:
        input_size: ``(channels, height, width)`` of the input.
        mean: Per channel, subtracted from values in [0, 1].
        std: Per channel, positive, what the difference is divided by.
        resize_size: ``(height, width)`` that the resize aims at before the crop. Where it is not
            given, it is the input's sides divided by the argument ``crop_pct``, rounded down, as
            in timm; above 1 leaves a border.
        crop_mode: "center" keeps the photo's proportions and resizes until ``resize_size`` is
            covered; "squash" resizes to exactly ``resize_size``; "border" keeps the proportions
            and resizes until the photo fits inside ``resize_size``. Then the centre is cut out,
            with a border where the resized photo is smaller than the input.
        interpolation: Pillow's filter for the resize, one of :data:`INTERPOLATIONS`.
        antialias: False for a resize that samples the photo between its nearest pixels and
            averages over no more of them, however much it shrinks (torchvision's video presets).

    Raises:
        InvalidArgument: A value can never work: sizes not positive or absurdly large, ``mean`` or
            ``std`` not one finite number per channel, ``std`` not positive, an unknown word.
    """

    input_size: tuple[int, int, int]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    resize_size: tuple[int, int]
    crop_mode: str
    interpolation: str
    antialias: bool

    def __init__(
        self,
        *,
        input_size: Sequence[int],
        mean: Sequence[float],
        std: Sequence[float],
        crop_pct: float = 0.875,
        crop_mode: str = "center",
        interpolation: str = "bilinear",
        resize_size: Sequence[int] | None = None,
        antialias: bool = True,
    ) -> None:
        channels, height, width = check_sizes("input_size", input_size, 3)
        if channels * height * width > _MAX_ELEMENTS:
            raise InvalidArgument("input_size", input_size, f"at most {_MAX_ELEMENTS} values")
        if resize_size is None:
            resize_size = _enlarged((height, width), crop_pct)
        facts = {
            "input_size": (channels, height, width),
            "mean": check_finite("mean", mean, channels),
            "std": check_finite("std", std, channels),
            "resize_size": check_sizes("resize_size", resize_size, 2),
            "crop_mode": crop_mode,
            "interpolation": interpolation,
            "antialias": antialias,
        }
        for name, value in facts.items():
            object.__setattr__(self, name, value)
        # Normalising happens in float32, where a tiny float64 is already zero.
        if not all(np.float32(value) > 0 for value in self.std):
            raise InvalidArgument("std", std, "positive numbers")
        if max(self.resize_size) > _MAX_RESIZE:
            raise InvalidArgument("resize_size", resize_size, f"sides up to {_MAX_RESIZE}")
        if not isinstance(crop_mode, str) or crop_mode not in CROP_MODES:
            raise InvalidArgument("crop_mode", crop_mode, f"one of {CROP_MODES}")
        if not isinstance(interpolation, str) or interpolation not in INTERPOLATIONS:
            raise InvalidArgument("interpolation", interpolation, f"one of {INTERPOLATIONS}")
        if not antialias and interpolation not in PLAIN_INTERPOLATIONS:
            expected = f"one of {PLAIN_INTERPOLATIONS} where antialias is False"
            raise InvalidArgument("interpolation", interpolation, expected)

    @classmethod
    def from_timm(cls, config: Mapping[str, Any]) -> Preprocessing:
        """Describe what timm's evaluation transform does.

        Args:
            config: What ``timm.data.resolve_model_data_config(model)`` returns. As in timm, a
                missing ``crop_pct`` means 0.875, a missing ``crop_mode`` "center", and a single
                mean or std stands for all channels.

        Raises:
            InvalidArgument: A field is missing, or has a value that can never work.
        """
        needed = ("input_size", "interpolation", "mean", "std")
        if missing := [name for name in needed if config.get(name) is None]:
            raise InvalidArgument("config", dict(config), f"timm's data config with {missing}")
        input_size = check_sizes("input_size", config["input_size"], 3)
        return cls(
            input_size=input_size,
            mean=_each(config["mean"], input_size[0]),
            std=_each(config["std"], input_size[0]),
            crop_pct=config.get("crop_pct") or 0.875,
            crop_mode=config.get("crop_mode") or "center",
            interpolation=config["interpolation"],
        )

    @classmethod
    def from_torchvision(cls, preset: object) -> Preprocessing:
        """Describe what a torchvision classification preset does.

        Args:
            preset: What ``weights.transforms()`` returns, an ``ImageClassification``.

        Raises:
            InvalidArgument: The preset has no fixed input size (segmentation, detection), or
                values that can never work.
        """
        try:
            values: Any = preset
            crop, resize = list(values.crop_size), list(values.resize_size)
            mean, std = tuple(values.mean), tuple(values.std)
            word = values.interpolation.value
        except (AttributeError, TypeError):
            expected = "torchvision's ImageClassification preset: weights.transforms()"
            raise InvalidArgument("preset", preset, expected) from None
        return cls(
            input_size=(len(mean), crop[0], crop[-1]),
            mean=mean,
            std=std,
            resize_size=(resize[0], resize[-1]),
            # One number is the shorter side's length; two are the exact size.
            crop_mode="center" if len(resize) == 1 else "squash",
            # Pillow's nearest filter is what torchvision calls "nearest-exact".
            interpolation="nearest" if word == "nearest-exact" else word,
        )

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Preprocessing:
        """Rebuild a preprocessing from :meth:`as_dict`.

        Raises:
            InvalidArgument: A field is missing, unknown or has a value that cannot be.
        """
        try:
            return cls(**data)
        except TypeError:
            names = ", ".join(field.name for field in fields(cls))
            raise InvalidArgument("data", dict(data), f"the fields {names}") from None

    def as_dict(self) -> dict[str, Any]:
        """The fields as JSON-able values; :meth:`from_dict` gives an equal object back."""
        values = {each.name: getattr(self, each.name) for each in fields(self)}
        return {name: list(v) if isinstance(v, tuple) else v for name, v in values.items()}

    @property
    def fill(self) -> tuple[int, ...]:
        """The border's colour per channel, 0 to 255: the mean in "border" mode, else black."""
        if self.crop_mode != "border":
            return (0,) * len(self.mean)
        return tuple(min(max(round(255 * value), 0), 255) for value in self.mean)

    @property
    def _crop(self) -> Crop:
        _, height, width = self.input_size
        return Crop(
            height,
            width,
            self.resize_size,
            self.crop_mode,
            self.interpolation,
            self.antialias,
            self.fill,
        )

    def place(self, photo_size: tuple[int, int]) -> Placement:
        """Where a photo of ``photo_size`` ``(width, height)`` lies in the input.

        Raises:
            InvalidArgument: The size is not two positive whole numbers.
        """
        width, height = check_sizes("photo_size", photo_size, 2)
        return self._crop.place((width, height))

    def __call__(self, image: Image.Image) -> Tensor:
        """Turn a photo into the model's input.

        Args:
            image: A photo in mode "RGB" or "L", as ``open_image`` returns it.

        Returns:
            float32 of shape ``(1, channels, height, width)``, normalised.

        Raises:
            ImageRefused: The photo has another mode or no pixels, or the model does not take one
                or three channels.
        """
        channels = self.input_size[0]
        if channels not in _PHOTO_MODES:
            raise ImageRefused(
                f"the model takes {channels} channels and a photo has 3 (or 1); give an array "
                f"(H, W, {channels}), or an already preprocessed float tensor of shape "
                f"{self.input_size}"
            )
        if image.mode not in _PHOTO_MODES.values() or 0 in image.size:
            raise ImageRefused(
                f"a picture of mode {image.mode!r} and size {image.size} cannot be preprocessed; "
                "open it with cam_hub.images.decoding.open_image, which gives RGB"
            )
        mode = _PHOTO_MODES[channels]
        cut = self._crop(image if image.mode == mode else image.convert(mode))
        pixels = np.array(cut, dtype=np.uint8).reshape(*cut.size[::-1], channels)
        tensor = torch.from_numpy(pixels).permute(2, 0, 1).contiguous().to(torch.float32)
        return tensor.div_(255).sub_(_column(self.mean)).div_(_column(self.std)).unsqueeze(0)

    def takes_bands(self, image: object) -> TypeGuard[NDArray[Any]]:
        """Whether an image is an array of the channels of a model that does not take photos."""
        channels = self.input_size[0]
        if not isinstance(image, np.ndarray) or image.ndim != 3:
            return False
        return channels not in _PHOTO_MODES and image.shape[2] == channels

    def bands(self, values: NDArray[Any]) -> Tensor:
        """Turn an image of any number of channels, such as a satellite's bands, into the input.

        Args:
            values: ``(H, W, channels)``. uint8 is divided by 255, uint16 by 65535 (by 4095 where
                none is larger); floating-point values are taken as they are, in the units of
                ``mean`` and ``std``.

        Returns:
            float32 of shape ``(1, channels, height, width)``, normalised.

        Raises:
            ImageRefused: The array has another shape or type, or values that are not finite.
        """
        channels = self.input_size[0]
        if values.ndim != 3 or values.shape[2] != channels or 0 in values.shape:
            raise ImageRefused(
                f"an array of shape {values.shape} does not fit the model, which takes "
                f"(H, W, {channels})"
            )
        if values.dtype.kind != "f" and values.dtype not in (np.uint8, np.uint16):
            raise ImageRefused(
                f"an array of {values.dtype} is not read; give uint8, uint16 or floating point"
            )
        if bad := values.size - int(np.isfinite(values).sum()):
            raise ImageRefused(f"{bad} of the array's {values.size} values are NaN or infinite")
        white = 255 if values.dtype == np.uint8 else 1
        if values.dtype == np.uint16:
            white = 4095 if int(values.max()) <= 4095 else 65535
        scaled = values.astype(np.float32) / np.float32(white)
        fill = self.mean if self.crop_mode == "border" else (0.0,) * channels
        cut = [
            np.asarray(replace(self._crop, fill=(fill[band],))(Image.fromarray(scaled[..., band])))
            for band in range(channels)
        ]
        tensor = torch.from_numpy(np.stack(cut)).to(torch.float32)
        return tensor.sub_(_column(self.mean)).div_(_column(self.std)).unsqueeze(0)

    def denormalise(self, tensor: Tensor) -> Image.Image:
        """Show a preprocessed tensor: undo the normalising, clamp to [0, 1], round to 8 bits.

        Args:
            tensor: A float tensor ``(C, H, W)`` or ``(1, C, H, W)``; any height and width.

        Returns:
            An RGB picture of size ``(W, H)``. With other than three channels it is grey, and shows
            the channels' average.

        Raises:
            ImageRefused: As :func:`check_tensor`.
        """
        values = check_tensor(tensor, self.input_size[0])[0].cpu()
        values = values.mul_(_column(self.std)).add_(_column(self.mean))
        if len(values) != 3:
            values = values.mean(dim=0, keepdim=True)
        pixels = values.clamp_(0, 1).mul_(255).round_().to(torch.uint8)
        pixels = pixels.expand(3, -1, -1).permute(1, 2, 0).contiguous()
        return Image.fromarray(pixels.numpy())


def _enlarged(sides: tuple[int, ...], crop_pct: float) -> tuple[int, ...]:
    """The resized sides of which the crop keeps the share ``crop_pct``."""
    try:
        enlarged = tuple(math.floor(side / crop_pct) for side in sides)
    except (TypeError, ValueError, ArithmeticError):
        enlarged = (0,)
    if min(enlarged) < 1 or max(enlarged) > _MAX_RESIZE:
        raise InvalidArgument("crop_pct", crop_pct, "a positive number near 1")
    return enlarged


def _column(values: tuple[float, ...]) -> Tensor:
    """Per-channel numbers as float32 of shape ``(C, 1, 1)``."""
    return torch.tensor(values, dtype=torch.float32).view(-1, 1, 1)


def _each(values: Any, channels: int) -> Any:
    """One number per channel, where a single one stands for all."""
    if isinstance(values, (list, tuple)) and len(values) == 1:
        return tuple(values) * channels
    return values
