"""Photo to tensor, as timm and torchvision do it: resized, cropped or padded, with its geometry.

Also the checks of images that are tensors already.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn.functional import interpolate
from torchvision.transforms.functional import crop, normalize, pil_to_tensor, to_pil_image
from torchvision.tv_tensors import TVTensor

from cam_hub._validation import check_finite, check_sizes
from cam_hub.errors import ImageRefused, InvalidArgument
from cam_hub.images.decoding import ReducedPhoto, open_image, open_reduced
from cam_hub.images.geometry import Placement

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

__all__ = [
    "CROP_MODES",
    "INTERPOLATIONS",
    "PLAIN_INTERPOLATIONS",
    "PREPROCESSING_MODES",
    "OpenedImage",
    "Preprocessing",
    "check_tensor",
    "pixels_of",
    "resize_plainly",
    "same",
    "to_rgb",
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

CROP_MODES = ("center", "squash", "border")
INTERPOLATIONS = ("nearest", "box", "bilinear", "hamming", "bicubic", "lanczos")

_PHOTO_MODES = {1: "L", 3: "RGB"}

_MAX_ELEMENTS = 2**28  # of an input tensor: 1 GiB of float32, far beyond any image model
_MAX_RESIZE = 2**16


PREPROCESSING_MODES = ("exact", "draft", "device")
"""How the photos of ``explain_many`` are preprocessed: see :meth:`Preprocessing.open_reduced`."""

_GAP = 2
"""JPEGs are decoded at no less than so many times the size that they are resized to. Pillow's own
value for thumbnails (``reducing_gap``)."""

_DEVICE_INTERPOLATIONS = ("bilinear", "bicubic")  # that torch antialiases
_DEVICE_GAP = 4 * _GAP  # what no reduced JPEG reaches


@dataclass(frozen=True, eq=False)
class OpenedImage:
    """An image, or a clip, as a model takes it.

    Attributes:
        frames: The image, or the frames of the clip; empty for ``bands``, and for what must be
            opened again to be shown.
        bands: ``(H, W, C)`` for an image of other than three channels, else None.
        placement: Where the input lies on the image; None where that is not known.
        tensor: The model's input, ``(1, channels, rows, cols)``, for a clip ``(1, channels, frames,
            rows, cols)``: float32, on the CPU. By "device", uint8 pixels for
            :meth:`Preprocessing.resized`.
        approximation: "draft" or "device" if the input differs from the exact one; else empty.
    """

    frames: tuple[Image.Image, ...]
    bands: NDArray[Any] | None
    placement: Placement | None
    tensor: Tensor
    approximation: str = ""


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
            try:
                resize_size = [math.floor(height / crop_pct), math.floor(width / crop_pct)]
            except (TypeError, ValueError, ArithmeticError):
                resize_size = [0]
            if not 1 <= min(resize_size) <= max(resize_size) <= _MAX_RESIZE:
                raise InvalidArgument("crop_pct", crop_pct, "a positive number near 1")
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
        if np.asarray(self.std, np.float32).min() <= 0:
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
        mean, std = config["mean"], config["std"]
        if isinstance(mean, (list, tuple)) and len(mean) == 1:
            mean = [*mean] * input_size[0]
        if isinstance(std, (list, tuple)) and len(std) == 1:
            std = [*std] * input_size[0]
        return cls(
            input_size=input_size,
            mean=mean,
            std=std,
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

    def as_dict(self) -> dict[str, Any]:
        """The fields as JSON types, which make an equal object again."""
        return {
            "input_size": list(self.input_size),
            "mean": list(self.mean),
            "std": list(self.std),
            "resize_size": list(self.resize_size),
            "crop_mode": self.crop_mode,
            "interpolation": self.interpolation,
            "antialias": self.antialias,
        }

    @lru_cache(maxsize=512)  # noqa: B019 - by value: equal ones share their placements
    def place(self, photo_size: tuple[int, int]) -> Placement:
        """Where a photo of ``photo_size`` ``(width, height)`` lies in the input.

        The rounding is that of timm and torchvision.

        Raises:
            InvalidArgument: The size is not two positive whole numbers.
        """
        width, height = check_sizes("photo_size", photo_size, 2)
        _, input_height, input_width = self.input_size
        goal_height, goal_width = self.resize_size
        # torchvision truncates the longer side; timm's keep-ratio resize rounds half to even. Both
        # at least 1 here, where they would ask Pillow for an empty image.
        if self.crop_mode == "squash":
            resized = goal_width, goal_height
        elif self.crop_mode == "center" and goal_width == goal_height:
            # Integers throughout, so that this truncates like int(goal * long / short).
            short = min(width, height)
            resized = (
                max(1, int(goal_width * width / short)),
                max(1, int(goal_width * height / short)),
            )
        else:
            ratios = height / goal_height, width / goal_width
            ratio = max(ratios) if self.crop_mode == "border" else min(ratios)
            resized = max(1, round(width / ratio)), max(1, round(height / ratio))
        # They cut at round(), half to even, but pad at //.
        across, down = input_width - resized[0], input_height - resized[1]
        return Placement(
            photo_size=(width, height),
            input_size=(input_height, input_width),
            scale=(resized[0] / width, resized[1] / height),
            offset=(
                across // 2 if across > 0 else round(across / 2),
                down // 2 if down > 0 else round(down / 2),
            ),
        )

    def open(self, image: object) -> OpenedImage:
        """Open an image and turn it into the model's input.

        Args:
            image: As for :func:`cam_hub.images.decoding.open_image`; or an array for
                :meth:`bands`.

        Raises:
            ImageRefused: It cannot be opened, or does not fit the model.
        """
        if isinstance(image, np.ndarray) and self.takes_bands(image):
            tensor = self.bands(image)  # which refuses arrays without pixels
            height, width, _ = image.shape
            return OpenedImage((), image, self.place((width, height)), tensor)
        photo = open_image(image)
        return OpenedImage((photo,), None, self.place(photo.size), self(photo))

    def open_reduced(self, source: object, *, device: bool = False) -> OpenedImage:
        """Open an image and turn it into the model's input, faster and less exactly.

        JPEGs are decoded at 1/2, 1/4 or 1/8 of their size if at least twice the size of the resize
        remains. The geometry is that of the full photo.

        Args:
            source: As :func:`cam_hub.images.decoding.encoded` returns it.
            device: Whether only pixels are returned, for :meth:`resized`. Photos that are not
                resized bilinearly or bicubically, that remain more than eight times as large, or
                whose sides are not multiples of the reduction, are resized here.

        Raises:
            ImageRefused: As :meth:`open`.
        """
        if not self.antialias or self.interpolation == "nearest":
            return self.open(source)
        reduced = open_reduced(source, self._least)
        photo, placement = reduced.photo, self.place(reduced.size)
        frames = (photo,) if photo.size == reduced.size else ()
        mode = _PHOTO_MODES.get(self.input_size[0])
        if device and mode is not None and self._is_resized_on_device(reduced, placement):
            pixels = pil_to_tensor(photo if mode == photo.mode else photo.convert(mode))
            return OpenedImage(frames, None, placement, pixels[None], "device")
        tensor = self(photo, placement, reduced.box)
        return OpenedImage(frames, None, placement, tensor, "" if frames else "draft")

    def _least(self, size: tuple[int, int]) -> tuple[int, int]:
        """The smallest size that a photo of a size may be decoded at."""
        width, height = _resized_size(self.place(size))
        whole = width * height <= _WHOLE_PIXELS
        return (_GAP * width, _GAP * height) if whole else size

    def _is_resized_on_device(self, reduced: ReducedPhoto, placement: Placement) -> bool:
        width, height = _resized_size(placement)
        return (
            self.interpolation in _DEVICE_INTERPOLATIONS
            and reduced.is_covered
            and reduced.photo.width <= _DEVICE_GAP * width
            and reduced.photo.height <= _DEVICE_GAP * height
            and width * height <= _WHOLE_PIXELS
        )

    def resized(self, pixels: Tensor, placement: Placement) -> Tensor:
        """Turn the pixels of a photo into the model's input, on the device that they are on.

        Args:
            pixels: uint8 ``(1, channels, H, W)``.
            placement: Where the input lies on the full photo.

        Returns:
            float32 ``(1, channels, height, width)``, normalised. torch resizes in float32, Pillow
            in whole numbers, first across, then down: values differ by up to 4 levels of 255.
        """
        width, height = _resized_size(placement)
        values = pixels.to(torch.float32)
        if values.shape[2:] != (height, width):
            values = interpolate(values, (height, width), mode=self.interpolation, antialias=True)
            values.round_().clamp_(0, 255)
        left, top = map(int, placement.offset)
        fill = torch.zeros(1)
        if self.crop_mode == "border":
            fill = torch.tensor(_colour(self.mean), dtype=torch.float32)[:, None, None]
        fill = fill.to(values.device)
        tensor: Tensor = crop(values - fill, -top, -left, *placement.input_size) + fill
        normalize(tensor.div_(255), self.mean, self.std, inplace=True)
        return tensor

    def __call__(
        self,
        image: Image.Image,
        placement: Placement | None = None,
        box: tuple[float, float, float, float] | None = None,
    ) -> Tensor:
        """Turn a photo into the model's input.

        Args:
            image: A photo in mode "RGB" or "L", as ``open_image`` returns it.
            placement: Where the input lies on the full photo, if this is a reduced one.
            box: The part of the image that the full photo covers; None for all of it.

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
        fill: tuple[int, ...] = (0,) * channels
        if self.crop_mode == "border":
            fill = _colour(self.mean)
        cut = self._crop(image if image.mode == mode else image.convert(mode), fill, placement, box)
        tensor: Tensor = pil_to_tensor(cut).contiguous().to(torch.float32).div_(255)[None]
        normalize(tensor, self.mean, self.std, inplace=True)
        return tensor

    def _crop(
        self,
        photo: Image.Image,
        fill: float | tuple[int, ...],
        placement: Placement | None = None,
        box: tuple[float, float, float, float] | None = None,
    ) -> Image.Image:
        """Resizes a photo, and cuts or pads it to the input's size.

        Args:
            photo: Mode "RGB", "L" or "F".
            fill: The border's colour, in the photo's own values.
            placement: As for a call.
            box: As for a call.
        """
        placement = placement or self.place(photo.size)
        height, width = placement.input_size
        left, top = map(int, placement.offset)
        resized_width = round(placement.scale[0] * placement.photo_size[0])
        resized_height = round(placement.scale[1] * placement.photo_size[1])
        # The part of the resized photo that the crop keeps, in its own coordinates.
        kept = (
            max(0, -left),
            max(0, -top),
            min(resized_width, width - left),
            min(resized_height, height - top),
        )
        filter_ = Image.Resampling[self.interpolation.upper()]
        if resized_width * resized_height <= max(_WHOLE_PIXELS, _WHOLE_CROPS * width * height):
            size = (resized_width, resized_height)
            if photo.size != size and self.antialias:
                photo = photo.resize(size, filter_, box)
            elif photo.size != size:
                photo = resize_plainly(photo, size, self.interpolation)
            part = photo.crop(kept)
        else:
            # Pillow's filters look beyond the box where they need to, so the smooth ones differ
            # from the crop of the whole only by rounding (and by their antialiasing).
            size = (kept[2] - kept[0], kept[3] - kept[1])
            part = photo.resize(size, filter_, box=placement.seen_box)
        if part.size == (width, height):
            return part
        canvas = Image.new(part.mode, (width, height), fill)
        canvas.paste(part, (max(0, left), max(0, top)))
        return canvas

    def takes_bands(self, image: NDArray[Any]) -> bool:
        """Whether an array holds the channels of a model that does not take photos."""
        channels = self.input_size[0]
        return image.ndim == 3 and channels not in _PHOTO_MODES and image.shape[2] == channels

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
            np.asarray(self._crop(Image.fromarray(scaled[..., band]), fill[band]))
            for band in range(channels)
        ]
        tensor: Tensor = torch.from_numpy(np.stack(cut)).to(torch.float32)[None]
        normalize(tensor, self.mean, self.std, inplace=True)
        return tensor

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
        std, mean = (
            torch.tensor(each, dtype=torch.float32)[:, None, None] for each in (self.std, self.mean)
        )
        return to_rgb(values.mul_(std).add_(mean))


def _resized_size(placement: Placement) -> tuple[int, int]:
    """Width and height of the resized photo, before it is cut or padded."""
    (width, height), (across, down) = placement.photo_size, placement.scale
    return round(across * width), round(down * height)


def _colour(mean: Sequence[float]) -> tuple[int, ...]:
    """A mean in [0, 1] as the colour of a border."""
    return tuple(min(max(round(255 * value), 0), 255) for value in mean)


def to_rgb(values: Tensor) -> Image.Image:
    """A picture of values ``(C, H, W)`` in [0, 1]; the channels' average where there are not three.

    Args:
        values: On the CPU; values beyond are clamped.
    """
    if len(values) != 3:
        values = values.mean(dim=0, keepdim=True)
    pixels = values.clamp(0, 1).mul_(255).round_().to(torch.uint8)
    picture: Image.Image = to_pil_image(pixels.expand(3, -1, -1))
    return picture


def check_tensor(tensor: Tensor, channels: int, *, clip: bool = False) -> Tensor:
    """Checks a preprocessed image or clip.

    Args:
        tensor: Floating point, of shape ``(C, H, W)`` or ``(1, C, H, W)``; of a clip
            ``(C, T, H, W)`` or ``(1, C, T, H, W)``.
        channels: The number of channels that the model takes.
        clip: Whether a clip is wanted.

    Returns:
        A float32 copy of shape ``(1, C, H, W)`` or ``(1, C, T, H, W)`` on the same device,
        detached from any graph.

    Raises:
        ImageRefused: Whole numbers (not preprocessed), another shape, several images, the wrong
            number of channels, no pixels, or values that are not finite in float32.
    """
    _refuse_other_kinds(tensor)
    shape = tuple(tensor.shape)
    axes, kind_of, wanted = (4, "clip", "(C, T, H, W)") if clip else (3, "image", "(C, H, W)")
    if not tensor.is_floating_point():
        kind = str(tensor.dtype).removeprefix("torch.")
        raise ImageRefused(
            f"a tensor of {kind} is not preprocessed; pass the pixels as uint8, or normalise "
            "them to float first"
        )
    if len(shape) == axes + 1 and shape[0] > 1:
        raise ImageRefused(
            f"the tensor holds {shape[0]} {kind_of}s; give one {kind_of} at a time, or all of them "
            "to explain_many"
        )
    if len(shape) not in (axes, axes + 1):
        raise ImageRefused(
            f"a tensor of shape {shape} is not a single {kind_of}; it takes {wanted}"
        )
    if 0 in shape:
        raise ImageRefused(f"a tensor of shape {shape} is empty")
    if shape[-axes] != channels:
        hint = ""
        if shape[-1] == channels:
            order = "3, 0, 1, 2" if clip else "2, 0, 1"
            hint = f"; it looks channels-last: move them to the front with permute({order})"
        elif clip and shape[-3] == channels:
            hint = (
                "; it looks like frames of their own: swap the first two axes, permute(1, 0, 2, 3)"
            )
        raise ImageRefused(
            f"a tensor of shape {shape} has {shape[-axes]} channels, and the model takes "
            f"{channels}{hint}"
        )
    checked = tensor.detach().to(torch.float32, copy=True).reshape(1, *shape[-axes:])
    if bad := checked.numel() - int(checked.isfinite().sum()):
        raise ImageRefused(f"{bad} of the tensor's {checked.numel()} values are NaN or infinite")
    return checked


def pixels_of(tensor: Tensor, channels: int, *, clip: bool = False) -> NDArray[Any] | None:
    """The pixels of a tensor that holds an image as it was decoded, not a preprocessed one.

    That is one of uint8, uint16 or bool, such as ``torchvision.io.decode_image`` returns; a
    floating-point one with its channels last and values in [0, 1]; and torchvision's
    ``tv_tensors.Image`` with values in [0, 1].

    Args:
        tensor: ``(C, H, W)``, ``(H, W, C)``, ``(H, W)`` or ``(1, C, H, W)``; for a clip
            ``(T, C, H, W)`` or ``(T, H, W, C)``.
        channels: The number of channels that the model takes.
        clip: Whether the model takes clips.

    Returns:
        An array ``(H, W, C)``, ``(H, W)`` or ``(T, H, W, C)``; None for a preprocessed tensor.

    Raises:
        ImageRefused: If the tensor is sparse, nested, or on the meta device.
    """
    _refuse_other_kinds(tensor)
    shape = tuple(tensor.shape)
    known = {1, 3, 4, channels}
    first = bool(shape) and len(shape) > 2 and shape[-3] in known
    last = bool(shape) and shape[-1] in known
    if tensor.is_floating_point():
        marked = isinstance(tensor, TVTensor)
        if clip or len(shape) != 3 or not (marked or (last and not first)):
            return None
        low, high = (float(extreme) for extreme in torch.aminmax(tensor.detach().float()))
        if not (low >= 0 and high <= 1):
            return None
    elif tensor.dtype not in (torch.uint8, torch.uint16, torch.bool):
        return None
    plain = tensor.detach().as_subclass(Tensor).cpu()
    if plain.dtype in (torch.float16, torch.bfloat16):
        plain = plain.float()
    if plain.ndim == 4 and not clip and len(plain) == 1:
        plain = plain[0]
    if plain.ndim > 2 and first:
        plain = plain.movedim(-3, -1)
    return np.asarray(plain.numpy())


def _refuse_other_kinds(tensor: Tensor) -> None:
    """Refuses a tensor whose values cannot be read one by one."""
    if tensor.is_meta:
        raise ImageRefused("a tensor on the meta device has a shape, but no values")
    if tensor.is_nested:
        raise ImageRefused("a nested tensor holds several images; give one, or all to explain_many")
    if tensor.layout != torch.strided:
        raise ImageRefused(f"a tensor of layout {tensor.layout} is not read; call .to_dense()")


def same(one: Tensor, other: Tensor) -> bool:
    """Whether two tensors are of one type and place, and hold the same values."""
    alike = (one.shape, one.dtype, one.device) == (other.shape, other.dtype, other.device)
    return alike and torch.equal(one, other)
