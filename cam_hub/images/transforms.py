"""Preprocessing by a function of the user's: what it does to a photo, found out by experiment.

torchvision's presets and the usual ``Compose`` of resize, crop and normalise are read as plain data
(:func:`read_transform`), after their result was compared with ours. Anything else is called as it
is: the normalising is measured on a black and a white picture, and where a photo of some size comes
to lie on two ramps, across and down.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from cam_hub._text import first_line, shortened
from cam_hub._validation import check_sizes
from cam_hub.errors import CamHubError, ImageRefused, InvalidArgument
from cam_hub.images.decoding import open_image
from cam_hub.images.geometry import Placement
from cam_hub.images.preprocessing import OpenedImage, Preprocessing, check_tensor, to_rgb

__all__ = ["TransformPreprocessing", "read_transform"]

_PROBE_SIZES = ((320, 240), (180, 260))
"""Widths and heights of the pictures on which a transform is tried."""

_REPEATS = 6
"""Calls that must agree: a flip with probability 1/2 passes unseen in 1 of 32 cases."""

_MAX_PLACES = 512
"""Photo sizes whose placement is kept."""

_TEXT = 2000
"""Characters of a transform's description in a manifest."""

_LEVEL = 1 / 255


class TransformPreprocessing:
    """A transform with what was measured of it.

    Attributes:
        transform: Takes an RGB picture (``PIL.Image``), or the keyword ``image`` with a uint8 array
            ``(H, W, 3)``; returns the model's input without the batch axis.
        input_size: ``(channels, height, width)`` of its output for a photo of 320 by 240 pixels.
        mean: Per channel, subtracted from values in [0, 1]; None if the transform is not a
            normalisation of pixels.
        std: Per channel, what the difference is divided by; None as ``mean``.

    Raises:
        InvalidArgument: The transform fails on a photo, returns anything but one image of floats,
            or gives different results for the same photo.
    """

    def __init__(self, transform: Callable[..., Any]) -> None:
        self.transform = transform
        self._keyword = _takes_keyword(transform)
        self._places: dict[tuple[int, int], Placement | None] = {}
        tried = self._try(_noise_photo(*_PROBE_SIZES[0]))
        channels, height, width = tried.shape[1:]
        self.input_size: tuple[int, int, int] = (channels, height, width)
        self._normal = self._measure_normalisation()
        self.mean: tuple[float, ...] | None = None
        self.std: tuple[float, ...] | None = None
        if self._normal is not None:
            low, gain = self._normal
            self.mean = tuple((-low / gain + 0.0).tolist())  # not -0.0
            self.std = tuple((1 / gain).tolist())

    def open(self, image: object) -> OpenedImage:
        """Open an image and turn it into the model's input.

        Args:
            image: As for :func:`cam_hub.images.decoding.open_image`.

        Raises:
            ImageRefused: It cannot be opened, or the transform fails on it.
        """
        photo = open_image(image)
        tensor = self(photo)
        return OpenedImage((photo,), None, self.place(photo.size), tensor)

    def __call__(self, image: Image.Image) -> Tensor:
        """Turn a photo into the model's input.

        Args:
            image: A photo in mode "RGB".

        Returns:
            float32 of shape ``(1, channels, height, width)``.

        Raises:
            ImageRefused: The transform fails on this photo, or returns no image of floats.
        """
        try:
            if self._keyword:
                found = self.transform(image=np.asarray(image))
            else:
                found = self.transform(image)
            return _as_input(found)
        except CamHubError:
            raise
        except Exception as error:  # whatever a function of the user's raises
            raise ImageRefused(
                f"the model's transform failed on a photo of {image.size[0]}×{image.size[1]} "
                f"pixels: {first_line(error)}"
            ) from error

    def place(self, photo_size: tuple[int, int]) -> Placement | None:
        """Where a photo of ``(width, height)`` lies in the input.

        Returns:
            The placement, to within a pixel of the input; None if the photo does not lie in it
            upright and unwarped, or that cannot be measured.
        """
        width, height = check_sizes("photo_size", photo_size, 2)
        size = (width, height)
        if size not in self._places:
            if len(self._places) >= _MAX_PLACES:
                self._places.clear()
            self._places[size] = self._measure(size)
        return self._places[size]

    def as_dict(self) -> dict[str, Any]:
        """The transform in words with its measured normalisation, as JSON-able values."""
        text = repr(self.transform)
        if " at 0x" in text:  # an address differs from run to run
            named = getattr(self.transform, "__qualname__", None)
            text = str(named or type(self.transform).__qualname__)
        return {
            "transform": shortened(text, _TEXT),
            "input_size": list(self.input_size),
            "mean": None if self.mean is None else [round(each, 5) for each in self.mean],
            "std": None if self.std is None else [round(each, 5) for each in self.std],
        }

    def denormalise(self, tensor: Tensor) -> Image.Image:
        """Show a preprocessed tensor, in the photo's colours if the normalising is known.

        Args:
            tensor: A float tensor ``(C, H, W)`` or ``(1, C, H, W)``; any height and width.

        Returns:
            An RGB picture of size ``(W, H)``; grey if there are not three channels.

        Raises:
            ImageRefused: As :func:`check_tensor`.
        """
        values = check_tensor(tensor, self.input_size[0])[0].cpu()
        if self._normal is not None:
            low, gain = (torch.from_numpy(each)[:, None, None] for each in self._normal)
            values = (values - low) / gain
        else:
            least, most = values.min(), values.max()
            values = (values - least) / (most - least).clamp_min(1e-12)
        return to_rgb(values)

    def _try(self, photo: Image.Image) -> Tensor:
        """The result for a photo, which must be the same each time."""
        try:
            first = self(photo)
            again = [self(photo) for _ in range(_REPEATS - 1)]
        except ImageRefused as error:
            expected = f"a function from a photo to the model's input; {error.reason}"
            raise InvalidArgument("transform", _named(self.transform), expected) from error
        if not all(torch.equal(first, other) for other in again):
            expected = (
                "the transform of evaluation, and this one gives different results for the same "
                "photo (random crops, flips or colours)"
            )
            raise InvalidArgument("transform", _named(self.transform), expected)
        return first

    def _measure_normalisation(self) -> tuple[NDArray[np.float32], NDArray[np.float32]] | None:
        """Per channel the value of black, and that of white less that of black."""
        size = _PROBE_SIZES[0]
        try:
            black, grey, white = (
                self(Image.new("RGB", size, (level,) * 3))[0].numpy() for level in (0, 102, 255)
            )
        except ImageRefused:
            return None
        if not black.shape == grey.shape == white.shape:
            return None
        change = (white - black).reshape(len(black), -1)
        gain = np.median(change, axis=1).astype(np.float32)  # a border takes less than half
        if not (gain > 0).all():
            return None
        low = np.array(
            [
                np.median(each[moved > 0.9 * most])
                for each, moved, most in zip(
                    black.reshape(len(black), -1), change, gain, strict=True
                )
            ],
            dtype=np.float32,
        )
        seen = np.median(np.abs(grey - low[:, None, None]) / gain[:, None, None])
        return (low, gain) if abs(seen - 0.4) < 2 * _LEVEL else None

    def _measure(self, size: tuple[int, int]) -> Placement | None:
        """The placement of a photo of some size, by pictures of that size."""
        if self._normal is None:
            return None
        low, gain = self._normal
        across, down = _ramp(size), _ramp(size[::-1]).transpose(Image.Transpose.TRANSPOSE)
        probes = [Image.new("RGB", size), Image.new("RGB", size, "white"), across, down]
        try:
            values = [
                ((self(each)[0].numpy() - low[:, None, None]) / gain[:, None, None]).mean(axis=0)
                for each in probes
            ]
        except ImageRefused:
            return None
        if len({each.shape for each in values}) != 1:
            return None
        seen = values[1] - values[0] > 0.9
        rows, cols = seen.any(axis=1), seen.any(axis=0)
        if rows.sum() < 2 or cols.sum() < 2 or not np.array_equal(seen, np.outer(rows, cols)):
            return None
        inside = np.ix_(rows, cols)
        over = _fit(values[2][inside], np.flatnonzero(cols), size[0])
        under = _fit(values[3][inside].T, np.flatnonzero(rows), size[1])
        if over is None or under is None:
            return None
        try:
            return Placement(
                photo_size=size,
                input_size=(seen.shape[0], seen.shape[1]),
                scale=(over[0] / size[0], under[0] / size[1]),
                offset=(over[1], under[1]),
            )
        except InvalidArgument:
            return None


def read_transform(transform: object) -> Preprocessing | TransformPreprocessing:
    """What a transform does, as plain data if possible.

    Args:
        transform: Any function from a photo to a model's input.

    Raises:
        InvalidArgument: It is not a function, or as :class:`TransformPreprocessing`.
    """
    if not callable(transform):
        raise InvalidArgument("transform", transform, "a function from a photo to a tensor")
    measured = TransformPreprocessing(transform)
    try:
        plain: Preprocessing | None = Preprocessing.from_torchvision(transform)
    except InvalidArgument:
        plain = _read_steps(transform)
    if plain is None or plain.input_size != measured.input_size:
        return measured
    for photo in (_noise_photo(*size) for size in _PROBE_SIZES):
        try:
            ours, theirs = plain(photo), measured(photo)
        except ImageRefused:
            return measured
        if ours.shape != theirs.shape or not torch.allclose(ours, theirs, rtol=0, atol=1e-4):
            return measured
    return plain


def _read_steps(transform: object) -> Preprocessing | None:
    """A ``Compose`` of one resize, one crop to the centre, and normalising, of torchvision's."""
    from torchvision.transforms import transforms as v1  # noqa: PLC0415
    from torchvision.transforms import v2  # noqa: PLC0415  (takes a second)

    steps = getattr(transform, "transforms", None)
    if not isinstance(steps, Sequence):
        return None
    found: dict[str, Any] = {"mean": (0.0,) * 3, "std": (1.0,) * 3}
    for step in steps:
        if isinstance(step, (v1.Resize, v2.Resize)):
            size = step.size if isinstance(step.size, Sequence) else [step.size]
            if "crop" in found or "resize" in found or getattr(step, "max_size", None) is not None:
                return None
            word = getattr(step.interpolation, "value", None)
            found["resize"] = list(size)
            found["interpolation"] = "nearest" if word == "nearest-exact" else word
        elif isinstance(step, (v1.CenterCrop, v2.CenterCrop)):
            size = step.size if isinstance(step.size, Sequence) else [step.size]
            found["crop"] = list(size)
        elif isinstance(step, (v1.Normalize, v2.Normalize)):
            found["mean"], found["std"] = tuple(step.mean), tuple(step.std)
        elif not isinstance(
            step,
            (v1.ToTensor, v1.PILToTensor, v1.ConvertImageDtype, v2.ToImage, v2.ToDtype, v2.RGB),
        ):
            return None
    resize: list[int] = found.get("resize", [])
    crop: list[int] = found.get("crop", resize)
    if not resize or (len(resize) == 1 and "crop" not in found):
        return None
    try:
        return Preprocessing(
            input_size=(3, crop[0], crop[-1]),
            mean=found["mean"],
            std=found["std"],
            resize_size=(resize[0], resize[-1]),
            crop_mode="center" if len(resize) == 1 else "squash",
            interpolation=found["interpolation"],
        )
    except (InvalidArgument, TypeError, KeyError):
        return None


def _takes_keyword(transform: Callable[..., Any]) -> bool:
    """Whether a transform takes a photo as ``image=`` only, as albumentations does."""
    photo = _noise_photo(*_PROBE_SIZES[0])
    try:
        transform(photo)
    except Exception as error:  # whatever a function of the user's raises
        if not _has_keyword(transform):
            raise InvalidArgument("transform", _named(transform), _why(error)) from error
        try:
            transform(image=np.asarray(photo))
        except Exception as other:  # as above
            raise InvalidArgument("transform", _named(transform), _why(other)) from other
        return True
    return False


def _has_keyword(transform: Callable[..., Any]) -> bool:
    try:
        parameters = inspect.signature(transform).parameters
    except (TypeError, ValueError):
        return False
    kinds = {each.kind for each in parameters.values()}
    return "image" in parameters or inspect.Parameter.VAR_KEYWORD in kinds


def _why(error: Exception) -> str:
    return (
        "a function that takes an RGB picture (PIL.Image), or image= with a uint8 array "
        f"(H, W, 3), and this one raised {type(error).__name__}: {first_line(error)}"
    )


def _named(transform: object) -> str:
    return str(getattr(transform, "__qualname__", None) or type(transform).__qualname__)


def _as_input(found: Any) -> Tensor:
    """What a transform returned, one image of floats, as ``(1, C, H, W)`` in float32."""
    if isinstance(found, Mapping):
        keys = ("image", "pixel_values")
        named = [found[key] for key in keys if key in found]
        if not named:
            raise ImageRefused(
                f"the model's transform returned a mapping with {', '.join(map(str, found))}, "
                "and an image is expected under 'image' or 'pixel_values'"
            )
        found = named[0]
    if isinstance(found, (list, tuple)) and len(found) == 1:
        found = found[0]
    if isinstance(found, Image.Image):
        raise ImageRefused("the model's transform returned a picture; end it with ToTensor()")
    if isinstance(found, np.ndarray):
        if found.ndim == 3 and found.shape[-1] in (1, 3) and found.shape[0] not in (1, 3):
            found = found.transpose(2, 0, 1)  # albumentations without ToTensorV2
        found = torch.from_numpy(np.ascontiguousarray(found))
    if not isinstance(found, Tensor):
        raise ImageRefused(
            f"the model's transform returned a {type(found).__name__}, and a tensor (C, H, W) is "
            "expected"
        )
    found = found.as_subclass(Tensor)  # of torchvision's Image
    if found.ndim not in (3, 4):
        raise ImageRefused(
            f"the model's transform returned a tensor of shape {tuple(found.shape)}, and "
            "(C, H, W) is expected"
        )
    return check_tensor(found, int(found.shape[-3])).cpu()


def _noise_photo(width: int, height: int) -> Image.Image:
    drawn = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(drawn)


def _ramp(size: tuple[int, int]) -> Image.Image:
    """A picture that brightens from left to right; dithered, so that means are exact."""
    width, height = size
    exact = (np.arange(width, dtype=np.float32) + 0.5) * (255 / width)
    shift = np.random.default_rng(1).random((min(height, 64), width), dtype=np.float32)
    levels = np.floor(exact + shift).clip(0, 255).astype(np.uint8)
    rows = np.resize(levels, (height, width))  # repeated, since drawing millions takes long
    return Image.fromarray(rows).convert("RGB")


def _fit(
    values: NDArray[np.floating[Any]], at: NDArray[np.intp], length: int
) -> tuple[float, float] | None:
    """Resized length and offset of a photo's axis of ``length`` pixels, by a ramp along it.

    ``values``, ``(…, positions)`` in [0, 1], are the ramp ``at`` positions in the input; None if
    they do not rise along these.
    """
    profile = values.mean(axis=0)
    centres = at + 0.5
    # A dithered level, the photo's own pixels, and a few pixels of the filter at its edges.
    tolerance = 3 * _LEVEL + 1.0 / length
    core = (profile > 0.03) & (profile < 0.97)
    if core.sum() < 2:
        core = np.ones_like(core)
    slope, start = np.polyfit(centres[core], profile[core], 1)
    if slope <= 0 or np.abs(profile - (slope * centres + start))[core].max() > tolerance:
        return None
    if np.abs(np.median(values, axis=0) - profile).max() > 2 * tolerance:
        return None
    if float(np.percentile(np.abs(values - profile), 95)) > 2 * tolerance:
        return None
    resized = _snapped(1 / slope)
    return resized, _snapped(float(np.mean(centres[core] - profile[core] * resized)))


def _snapped(value: float) -> float:
    """A whole number of pixels, where the value is one but for errors of measurement."""
    nearest = round(value)
    return float(nearest) if abs(value - nearest) < 0.12 else float(value)
