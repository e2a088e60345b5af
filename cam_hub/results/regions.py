"""From a heatmap to places: the mask above a threshold, and the boxes around its regions."""

from __future__ import annotations

from typing import Any, NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt

from cam_hub._validation import check_fraction
from cam_hub.errors import InvalidArgument

__all__ = [
    "BoolMask",
    "Box",
    "Heatmap",
    "boxes",
    "checked_heatmap",
    "mask",
    "nan_refused",
]

Heatmap: TypeAlias = npt.NDArray[np.floating[Any]]
"""Float array ``(H, W)``, 0 for cold to 1 for hot."""

BoolMask: TypeAlias = npt.NDArray[np.bool_]
"""Bool array ``(H, W)``."""

_TOUCHING = np.ones((3, 3), dtype=np.bool_)  # 8-connectivity: corners touch too


class Box(NamedTuple):
    """A rectangle of pixels; ``image.crop(box)`` cuts it out.

    Attributes:
        left: First column inside.
        top: First row inside.
        right: First column outside.
        bottom: First row outside.
    """

    left: int
    top: int
    right: int
    bottom: int


def mask(heatmap: Heatmap, threshold: float) -> BoolMask:
    """The pixels that are at least as hot as a threshold.

    Args:
        heatmap: Float array ``(H, W)``, in [0, 1].
        threshold: In (0, 1]. At 0 every pixel would belong.

    Returns:
        Bool array ``(H, W)``: ``heatmap >= threshold``.

    Raises:
        InvalidArgument: The heatmap is not a finite picture, or the threshold is out of range.
    """
    heatmap = checked_heatmap(heatmap)
    threshold = check_fraction("threshold", threshold, zero=False)
    if np.isnan(heatmap).any():
        raise nan_refused()
    # As a Python float the threshold takes the heatmap's precision, so that a pixel of
    # float32(0.7) reaches 0.7; as float64 it would fall short of it.
    selected: BoolMask = np.greater_equal(heatmap, threshold)
    return selected


def boxes(heatmap: Heatmap, threshold: float, *, min_area: float = 0.0) -> list[Box]:
    """The smallest box around each connected region above a threshold.

    Pixels that touch by an edge or a corner belong to one region. Boxes of two regions may
    overlap, since a region need not fill its box.

    Args:
        heatmap: Float array ``(H, W)``, in [0, 1].
        threshold: In (0, 1].
        min_area: Regions with fewer pixels than this fraction of the image, in [0, 1], are left
            out. By default none is; 0.001 removes the specks of a fine-grained map.

    Returns:
        One box for each region, hottest first: by peak value, then by pixels in the region, then
        from top to bottom and left to right. Empty where nothing reaches the threshold.

    Raises:
        InvalidArgument: The heatmap is not a finite picture, or a number is out of range.
    """
    heatmap = checked_heatmap(heatmap)
    selected = mask(heatmap, threshold)
    min_pixels = check_fraction("min_area", min_area, zero=True) * selected.size
    from scipy import ndimage  # noqa: PLC0415 - half a second, and no map needs it

    labels, count = ndimage.label(selected, structure=_TOUCHING)
    if count == 0:
        return []
    region_of_pixel = labels[selected]
    areas = np.bincount(region_of_pixel)
    peaks = np.zeros(count + 1, heatmap.dtype)  # every selected pixel is above 0
    np.maximum.at(peaks, region_of_pixel, heatmap[selected])  # ten times slower between dtypes
    found = []
    for region, place in enumerate(ndimage.find_objects(labels), start=1):
        if place is None or areas[region] < min_pixels:
            continue
        rows, columns = place
        box = Box(columns.start, rows.start, columns.stop, rows.stop)
        found.append((-float(peaks[region]), -int(areas[region]), box.top, box.left, box))
    return [entry[-1] for entry in sorted(found)]


def checked_heatmap(heatmap: Heatmap, argument: str = "heatmap") -> Heatmap:
    """A heatmap as a real array ``(H, W)`` with at least one pixel.

    Values are not checked: functions that read them refuse NaN.

    Args:
        heatmap: What was given.
        argument: Its name in the caller's signature.

    Returns:
        The same array, uncopied where it was one.

    Raises:
        InvalidArgument: It is not a two-dimensional array of real numbers, or is empty.
    """
    array = np.asarray(heatmap)
    if array.ndim != 2 or array.size == 0 or array.dtype.kind not in "fiub":
        seen = f"{array.dtype} array of shape {array.shape}"
        raise InvalidArgument(argument, seen, "real numbers of shape (height, width)")
    return array


def nan_refused(argument: str = "heatmap") -> InvalidArgument:
    """The error for a heatmap that holds NaN, which has no place between cold and hot."""
    return InvalidArgument(argument, "an array with NaN in it", "finite values from 0 to 1")
