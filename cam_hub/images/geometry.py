"""The placement of a photo in a model's input, and of a map on the photo.

Resizing, cropping, squashing and padding are one axis-aligned affine transform from photo pixels to
input pixels. :class:`Placement` holds it with its inverse. Coordinates are continuous: pixel ``i``
covers ``[i, i + 1)`` and has its centre at ``i + 0.5``; x runs right, y runs down.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from itertools import pairwise
from typing import TYPE_CHECKING, Any, Literal, TypeVar

import numpy as np
from numpy.typing import ArrayLike, NDArray

from cam_hub._validation import check_finite, check_sizes
from cam_hub.errors import InvalidArgument

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

__all__ = ["Placement"]

Coordinate = TypeVar("Coordinate", float, NDArray[np.float64])


@dataclass(frozen=True)
class Placement:
    """Where one photo lies in a model's input: ``u = x * sx + ox`` and ``v = y * sy + oy``.

    Attributes:
        photo_size: The photo's ``(width, height)`` in pixels, in Pillow's order.
        input_size: The model input's ``(height, width)`` in pixels, in a tensor's order.
        scale: ``(sx, sy)``, input pixels per photo pixel, positive.
        offset: ``(ox, oy)``, where the photo's top left corner falls in the input, in input pixels;
            negative where the photo was cropped, positive where it was padded.
        seen_box: ``(left, top, right, bottom)`` in photo coordinates: what of the photo the model
            saw.

    Raises:
        InvalidArgument: A size is not positive, a number is not finite, or the photo and the input
            do not overlap.
    """

    photo_size: tuple[int, int]
    input_size: tuple[int, int]
    scale: tuple[float, float]
    offset: tuple[float, float]
    seen_box: tuple[float, float, float, float] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        # Whatever sequences came in (lists from JSON, numpy numbers), equal placements compare
        # equal and hash alike.
        object.__setattr__(self, "photo_size", check_sizes("photo_size", self.photo_size, 2))
        object.__setattr__(self, "input_size", check_sizes("input_size", self.input_size, 2))
        object.__setattr__(self, "scale", check_finite("scale", self.scale, 2))
        object.__setattr__(self, "offset", check_finite("offset", self.offset, 2))
        if min(self.scale) <= 0:
            raise InvalidArgument("scale", self.scale, "two positive numbers")
        (width, height), (sx, sy), (ox, oy) = self.photo_size, self.scale, self.offset
        rows, cols = self.input_size
        left, right = max(0.0, -ox / sx), min(float(width), (cols - ox) / sx)
        top, bottom = max(0.0, -oy / sy), min(float(height), (rows - oy) / sy)
        object.__setattr__(self, "seen_box", (left, top, right, bottom))
        if left >= right or top >= bottom:
            raise InvalidArgument("offset", self.offset, "a place where photo and input overlap")

    @classmethod
    def identity(cls, size: tuple[int, int]) -> Placement:
        """The placement of a photo of ``size`` ``(width, height)`` that is itself the input."""
        width, height = check_sizes("size", size, 2)
        return cls((width, height), (height, width), (1.0, 1.0), (0.0, 0.0))

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Placement:
        """Rebuild a placement from :meth:`as_dict`.

        Raises:
            InvalidArgument: A field is missing or has a value that cannot be.
        """
        names = ("photo_size", "input_size", "scale", "offset")
        missing = [name for name in names if name not in data]
        if missing:
            raise InvalidArgument("data", dict(data), f"the fields {', '.join(names)}")
        return cls(**{name: data[name] for name in names})

    def as_dict(self) -> dict[str, list[int] | list[float]]:
        """The fields as JSON-able lists; :meth:`from_dict` gives an equal placement back."""
        return {
            "photo_size": list(self.photo_size),
            "input_size": list(self.input_size),
            "scale": list(self.scale),
            "offset": list(self.offset),
        }

    def resized(self, photo_size: tuple[int, int]) -> Placement:
        """The placement of the same photo, scaled to another ``(width, height)``.

        Raises:
            InvalidArgument: The size is not positive.
        """
        width, height = check_sizes("photo_size", photo_size, 2)
        scale_x, scale_y = self.scale
        old_width, old_height = self.photo_size
        scale = (scale_x * old_width / width, scale_y * old_height / height)
        return Placement((width, height), self.input_size, scale, self.offset)

    def to_input(self, x: Coordinate, y: Coordinate) -> tuple[Coordinate, Coordinate]:
        """Map photo coordinates to input coordinates; numbers or arrays, also outside either."""
        return x * self.scale[0] + self.offset[0], y * self.scale[1] + self.offset[1]

    def to_photo(self, u: Coordinate, v: Coordinate) -> tuple[Coordinate, Coordinate]:
        """Map input coordinates to photo coordinates: the inverse of :meth:`to_input`."""
        return (u - self.offset[0]) / self.scale[0], (v - self.offset[1]) / self.scale[1]

    def seen_mask(self) -> NDArray[np.bool_]:
        """Which photo pixels the model saw, as a bool array ``(height, width)``.

        A pixel counts as seen when its centre lies inside :attr:`seen_box`. Where the box is so
        thin that it holds no centre (a strip of pixels blown up to the input's size), the pixels
        that it touches count instead, so that the mask is never empty.
        """
        width, height = self.photo_size
        mask = np.zeros((height, width), dtype=np.bool_)
        mask[self._down.pixels, self._across.pixels] = True
        return mask

    def warp(
        self,
        cam: ArrayLike,
        fill: float = 0.0,
        interpolation: Literal["bilinear", "nearest"] = "bilinear",
    ) -> NDArray[np.float32]:
        """Lay a model's map over the photo.

        Cell ``(r, c)`` of the map covers the input rows ``[r * h / rows, (r + 1) * h / rows)`` and
        the columns alike. Each photo pixel takes the map's value at its own centre. "bilinear"
        interpolates between cell centres and holds the edge cells' values beyond the outermost
        centres (``align_corners=False`` in the words of ``torch.nn.functional.interpolate``); maps
        finer than the photo are sampled, not averaged. "nearest" takes the cell that the centre
        falls into. Values stay between the map's least and greatest, but for float32 rounding.

        Args:
            cam: The map, real numbers of shape ``(rows, cols)``.
            fill: The value of pixels that the model never saw (outside :meth:`seen_mask`).
            interpolation: "bilinear" or "nearest".

        Returns:
            float32 of shape ``(height, width)`` of the photo. Peak memory is this array and one
            intermediate of at most the size of the larger of it and the map.

        Raises:
            InvalidArgument: The map is empty, not two-dimensional or not of real numbers, or the
                interpolation is unknown.
        """
        if interpolation not in ("bilinear", "nearest"):
            raise InvalidArgument("interpolation", interpolation, '"bilinear" or "nearest"')
        cells = np.asarray(cam)
        if cells.ndim != 2 or cells.size == 0 or cells.dtype.kind not in "fiub":
            seen = f"{cells.dtype} of shape {cells.shape}"
            raise InvalidArgument("cam", seen, "a non-empty map of real numbers, (rows, cols)")
        cells = cells.astype(np.float32, copy=False)
        smooth = interpolation == "bilinear"
        across, down = self._across, self._down

        width, height = self.photo_size
        heat = np.full((height, width), fill, dtype=np.float32)
        seen_part = heat[down.pixels, across.pixels]
        rows, cols = cells.shape
        if rows <= seen_part.shape[0]:
            wide = np.empty((rows, seen_part.shape[1]), dtype=np.float32)
            _stretch(cells.T, across, smooth, wide.T)
            _stretch(wide, down, smooth, seen_part)
        else:  # the other order, or the intermediate of a very wide photo would outgrow it
            tall = np.empty((seen_part.shape[0], cols), dtype=np.float32)
            _stretch(cells, down, smooth, tall)
            _stretch(tall.T, across, smooth, seen_part.T)
        return heat

    @property
    def _across(self) -> _Axis:
        seen = self.seen_box[0], self.seen_box[2]
        return _Axis(seen, self.input_size[1], self.scale[0], self.offset[0])

    @property
    def _down(self) -> _Axis:
        seen = self.seen_box[1], self.seen_box[3]
        return _Axis(seen, self.input_size[0], self.scale[1], self.offset[1])


@dataclass(frozen=True)
class _Axis:
    """One axis of a placement: the ``seen`` part of a photo over an input of ``extent`` pixels."""

    seen: tuple[float, float]
    extent: int
    scale: float
    offset: float

    @property
    def pixels(self) -> slice:
        """The photo pixels that count as seen; never empty."""
        low, high = self.seen
        first, stop = math.ceil(low - 0.5), math.ceil(high - 0.5)
        if first >= stop:
            first, stop = math.floor(low), math.ceil(high)
        return slice(first, stop)

    def runs(
        self, cells: int, smooth: bool
    ) -> Iterator[tuple[slice, int, int, NDArray[np.float32] | None]]:
        """Cut the seen pixels into runs that lie between the same two cells.

        Working run by run needs no array of weights as long as the photo, which is what makes
        :meth:`Placement.warp` fast and frugal.

        Yields:
            ``(run, lower, upper, weights)``: pixels counted from the first seen one, the cells on
            both sides, and the upper cell's weight in [0, 1] for each pixel; None where a single
            cell holds (``lower == upper``).
        """
        seen = self.pixels
        # Pixel p's centre lies at p * step + shift, in units where cell k's centre is at k.
        step = self.scale * cells / self.extent
        shift = (0.5 * self.scale + self.offset) * cells / self.extent - 0.5
        # knots[k] is where cell k begins to take part: at its centre, or at its near edge.
        knots = np.arange(cells) if smooth else np.arange(1, cells) - 0.5
        # Rounding must not push a pixel that lies on a knot behind it.
        cuts = np.clip(np.ceil((knots - shift) / step - 1e-9), seen.start, seen.stop).astype(int)
        edges = [seen.start, *cuts.tolist(), seen.stop]
        for index, (start, stop) in enumerate(pairwise(edges)):
            if start == stop:
                continue
            run = slice(start - seen.start, stop - seen.start)
            if not smooth:
                yield run, index, index, None
                continue
            lower, upper = max(index - 1, 0), min(index, cells - 1)
            weights = None
            if lower != upper:
                exact = np.arange(start, stop) * step + (shift - lower)
                weights = np.clip(exact, 0.0, 1.0).astype(np.float32)
            yield run, lower, upper, weights


def _stretch(
    cells: NDArray[np.float32], axis: _Axis, smooth: bool, out: NDArray[np.float32]
) -> None:
    """Interpolate ``cells`` along their first axis, from cells to the seen pixels, into ``out``."""
    for run, lower, upper, weights in axis.runs(len(cells), smooth):
        if weights is None:
            out[run] = cells[lower]
        else:
            # base + weight * step: exact on a constant map, and without a temporary.
            np.multiply(weights[:, None], cells[upper] - cells[lower], out=out[run])
            out[run] += cells[lower]
