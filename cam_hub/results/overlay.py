"""Heatmap to colours, overlay and cut-out, and to the regions above a threshold."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from functools import lru_cache
from types import MappingProxyType
from typing import Any, Final, Literal, NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt
from numpy.lib.stride_tricks import sliding_window_view
from PIL import Image

from cam_hub._validation import check_fraction
from cam_hub.errors import InvalidArgument, nearest_names

__all__ = [
    "COLORMAPS",
    "Box",
    "Heatmap",
    "boxes",
    "checked_photo",
    "colorize",
    "colormap_table",
    "cutout",
    "draw_boxes",
    "fitting",
    "mask",
    "overlay",
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


_Pixels = npt.NDArray[np.uint8]
"""``(H, W, 4)``: red, green, blue, and a byte that means nothing, as Pillow holds RGB images."""

_ONE = 1 << 16
"""The fixed point's 1: 255 times that fits 32 bits with room for rounding."""


def _pixels_of(image: Image.Image) -> _Pixels:
    """The pixels of an RGB image; not to be written to."""
    data = np.frombuffer(image.tobytes("raw", "RGBX"), np.uint8)
    return data.reshape(image.height, image.width, 4)


def _picture_of(pixels: _Pixels) -> Image.Image:
    """The RGB image of pixels; the inverse of ``_pixels_of``."""
    height, width, _ = pixels.shape
    return Image.frombytes("RGB", (width, height), pixels.tobytes(), "raw", "RGBX")


def _mixed(ground: _Pixels, colours: _Pixels, weight: int) -> _Pixels:
    """Two pictures, the second by ``weight`` of ``_ONE``, rounded to the nearest level."""
    if weight == _ONE:
        return colours
    if 2 * weight == _ONE:  # (ground + colour + 1) // 2 without a carry
        return (ground | colours) - ((ground ^ colours) >> np.uint8(1))
    # With an explicit dtype, the result does not depend on NumPy's rules of promotion.
    total = np.multiply(ground, _ONE - weight, dtype=np.uint32)
    total += np.multiply(colours, weight, dtype=np.uint32)
    total += np.uint32(_ONE // 2)
    total >>= np.uint32(16)
    return total.astype(np.uint8)


def _unseen_mark(ground: _Pixels, first_row: int, period: int) -> _Pixels:
    """The mark for a band of pixels outside the model's input, at full opacity.

    Dark, grey, hatched every ``period`` pixels along a row; ``first_row`` is the band's place in
    the photo, so that the hatching runs on between bands.
    """
    rows, columns = ground.shape[:2]
    # Luma after ITU-R BT.601 as Pillow has it, times 0.6: at most 153.
    red, green, blue = (
        np.multiply(ground[..., channel], share, dtype=np.uint32)
        for channel, share in enumerate((3 * 299, 3 * 587, 3 * 114))
    )
    grey = (red + green + blue) // np.uint32(5000)
    # A place's row and column add up to its diagonal: rows are one line, seen from a place further.
    line = np.arange(first_row, first_row + rows + columns - 1) % period < max(1, period // 5)
    grey += sliding_window_view(np.where(line, np.uint32(40), np.uint32(0)), columns)
    grey *= np.uint32(0x01010101)  # into all four bytes
    return grey.view(np.uint8).reshape(ground.shape)


class Colormap(NamedTuple):
    """A colour map, as shown in a menu.

    Attributes:
        name: Matplotlib's name of it.
        kind: "rainbow" runs through the hues, "sequential" from dark to light, "diverging" from
            one hue over a pale middle to another.
        colour_blind_safe: Its lightness never falls from cold to hot, so it is read rightly
            without seeing hue at all: with any colour vision, and in grey print. Diverging maps
            fail this test, though most viewers distinguish their two ends by hue.
    """

    name: str
    kind: Literal["rainbow", "sequential", "diverging"]
    colour_blind_safe: bool


COLORMAPS: Final[Mapping[str, Colormap]] = MappingProxyType(
    {
        entry.name: entry
        for entry in (
            Colormap("jet", "rainbow", colour_blind_safe=False),
            Colormap("turbo", "rainbow", colour_blind_safe=False),
            Colormap("viridis", "sequential", colour_blind_safe=True),
            Colormap("cividis", "sequential", colour_blind_safe=True),
            Colormap("inferno", "sequential", colour_blind_safe=True),
            Colormap("magma", "sequential", colour_blind_safe=True),
            Colormap("plasma", "sequential", colour_blind_safe=True),
            Colormap("hot", "sequential", colour_blind_safe=True),
            Colormap("gray", "sequential", colour_blind_safe=True),
            Colormap("coolwarm", "diverging", colour_blind_safe=False),
        )
    }
)
"""The curated colour maps by name, in the order a menu should show them."""


DIVERGING: Final = frozenset(
    [
        *("PiYG", "PRGn", "BrBG", "PuOr", "RdGy", "RdBu", "RdYlBu", "RdYlGn", "Spectral"),
        *("coolwarm", "bwr", "seismic", "berlin", "managua", "vanimo"),
    ]
)
"""Matplotlib's diverging colour maps; each also has a reversed form, ``<name>_r``."""


def fitting(name: str, *, signed: bool) -> str:
    """The colour map for a map of evidence.

    Args:
        name: The colour map that was asked for.
        signed: Whether the map holds evidence of both signs. In a rainbow or sequential colour map
            its zero would look like some evidence, so that ``"coolwarm"`` takes its place.
    """
    diverging = isinstance(name, str) and name.removesuffix("_r") in DIVERGING
    return name if diverging or not signed else "coolwarm"


def colormap_table(name: str) -> npt.NDArray[np.uint8]:
    """The 256 colours of a colour map.

    Args:
        name: One of ``COLORMAPS``, or any other name in ``matplotlib.colormaps``.

    Returns:
        Read-only uint8 array ``(256, 3)``: RGB in [0, 255], from the coldest colour to the
        hottest, each channel rounded to the nearest level (matplotlib itself cuts it off).

    Raises:
        InvalidArgument: matplotlib has no colour map of this name.
    """
    if not isinstance(name, str):
        raise InvalidArgument("colormap", name, "the name of a colour map, such as 'jet'")
    return _table(name)


@lru_cache(maxsize=64)
def _table(name: str) -> npt.NDArray[np.uint8]:
    # Imported here because it takes longer than everything else in this module together.
    from matplotlib import colormaps  # noqa: PLC0415

    if name not in colormaps:
        # The curated names come first: of two names equally near, the better map is offered.
        nearest = nearest_names(name, [*COLORMAPS, *colormaps]) or list(COLORMAPS)
        raise InvalidArgument("colormap", name, f"a colour map such as {', '.join(nearest)}")
    colours = np.asarray(colormaps[name](np.linspace(0.0, 1.0, 256)), dtype=np.float64)
    table = np.rint(colours[:, :3] * 255.0).astype(np.uint8)
    table.setflags(write=False)  # one array serves every caller
    return table


_BAND_PIXELS = 1 << 16  # a band's bytes stay within the processor's caches
_FULL_MARK = 0.5  # from this opacity on, unseen parts are marked in full


def colorize(heatmap: Heatmap, colormap: str = "jet") -> Image.Image:
    """A heatmap as a picture of its own.

    Args:
        heatmap: Float array ``(H, W)``, in [0, 1]; values beyond, infinities too, are clipped.
        colormap: A name that ``colormap_table`` knows.

    Returns:
        RGB image of W × H: each pixel takes the nearest of the map's 256 colours.

    Raises:
        InvalidArgument: The heatmap is not a picture or holds NaN, or the colour map is unknown.
    """
    heatmap = _checked_heatmap(heatmap)
    table = colormap_table(colormap)
    height, width = heatmap.shape
    result = Image.new("RGB", (width, height))
    for rows in _bands(height, width):
        result.paste(_picture_of(_coloured(heatmap[rows], table)), (0, rows.start))
    return result


def overlay(
    photo: Image.Image,
    heatmap: Heatmap,
    *,
    alpha: float = 0.5,
    colormap: str = "jet",
    seen: BoolMask | None = None,
) -> Image.Image:
    """A heatmap laid over its photo.

    Each channel is ``photo + alpha * (colour - photo)``, rounded to the nearest level, with alpha
    to the nearest 1/65536. So alpha 0 gives exactly the photo and alpha 1 exactly
    ``colorize(heatmap)``, and of two pixels on the same ground the hotter one never gets the
    colour of a colder one. (torchcam 0.5 squares 8-bit values here; they overflow, and its hottest
    spot turns blue.)

    What the model never saw is not cold, it is unknown: there the photo takes no colour but turns
    grey and dark under diagonal hatching. The mark grows with alpha up to 0.5, from where on it is
    complete, so that alpha 0 remains exactly the photo.

    Args:
        photo: RGB image of W × H.
        heatmap: Float array ``(H, W)``, in [0, 1]; values beyond are clipped.
        alpha: Opacity of the colours, in [0, 1].
        colormap: A name that ``colormap_table`` knows.
        seen: Bool array ``(H, W)``, False where the model saw nothing; None: it saw everything.

    Returns:
        A new RGB image of W × H.

    Raises:
        InvalidArgument: Sizes differ, the photo is not RGB, the heatmap is not a picture or holds
            NaN, alpha is out of range, or the colour map is unknown.
    """
    photo = checked_photo(photo)
    heatmap = _checked_heatmap(heatmap)
    alpha = check_fraction("alpha", alpha, zero=True)
    weight = round(alpha * _ONE)
    mark_weight = round(min(alpha / _FULL_MARK, 1.0) * _ONE)
    table = colormap_table(colormap)
    _check_size("heatmap", heatmap.shape, photo)
    if seen is not None:
        seen = _checked_mask("seen", seen, photo)

    result = Image.new("RGB", photo.size)
    for rows in _bands(photo.height, photo.width):
        ground = _pixels_of(photo.crop((0, rows.start, photo.width, rows.stop)))
        band = _mixed(ground, _coloured(heatmap[rows], table), weight)
        if seen is not None and not seen[rows].all():
            # Some forty lines across the shorter side, never too close.
            mark = _unseen_mark(ground, rows.start, max(6, round(min(photo.size) / 40)))
            unseen = _mixed(ground, mark, mark_weight)
            np.copyto(band.view(np.uint32), unseen.view(np.uint32), where=~seen[rows][..., None])
        result.paste(_picture_of(band), (0, rows.start))
    return result


def cutout(
    photo: Image.Image, mask: BoolMask, *, background: tuple[int, int, int] = (32, 32, 36)
) -> Image.Image:
    """The part of a photo inside a mask, on a plain ground.

    Args:
        photo: RGB image of W × H.
        mask: Bool array ``(H, W)``, True for what is shown.
        background: Colour of the rest, in [0, 255]; a dark grey rather than black, so that black
            parts of the photo keep their outline.

    Returns:
        A new RGB image of W × H.

    Raises:
        InvalidArgument: Sizes differ, the photo is not RGB, or the mask is not boolean.
    """
    photo = checked_photo(photo)
    mask = _checked_mask("mask", mask, photo)
    result = Image.new("RGB", photo.size, background)
    result.paste(photo, (0, 0), Image.fromarray(mask))
    return result


def draw_boxes(image: Image.Image, boxes: Iterable[Box]) -> Image.Image:
    """Boxes drawn on a picture, the first one on top.

    Lines lie inside their boxes: white within black, to stand out from any photo and any colour
    map. Their width follows the image's shorter side; in a small box they are thinner, so that
    they do not fill it.

    Args:
        image: RGB image.
        boxes: Boxes in its pixels, for instance from ``boxes``.

    Returns:
        A new RGB image of the same size.

    Raises:
        InvalidArgument: The image is not RGB, or a box is empty or reaches out of it.
    """
    image = checked_photo(image, "image")
    result = Image.new("RGB", image.size)
    result.paste(image)
    edge = max(1, round(min(image.size) / 300))
    for box in reversed(list(boxes)):
        left, top, right, bottom = box
        if not (0 <= left < right <= image.width and 0 <= top < bottom <= image.height):
            raise InvalidArgument("boxes", box, f"boxes with pixels inside {_size_of(image)}")
        shorter = min(right - left, bottom - top)
        unit = max(1, min(edge, shorter // 16))
        for inset in range(min(4 * unit, (shorter + 1) // 2)):
            ring = Box(left + inset, top + inset, right - inset, bottom - inset)
            _draw_ring(result, ring, "white" if unit <= inset < 3 * unit else "black")
    return result


def checked_photo(photo: Image.Image, argument: str = "photo") -> Image.Image:
    """The image itself, if it is an RGB one with at least one pixel.

    Args:
        photo: What was given.
        argument: Its name in the caller's signature.

    Returns:
        ``photo``.

    Raises:
        InvalidArgument: It is anything else. No mode is converted silently: transparency and
            16-bit greys require a decision of the caller.
    """
    if not isinstance(photo, Image.Image) or photo.mode != "RGB" or 0 in photo.size:
        seen = f"{type(photo).__name__}, mode {getattr(photo, 'mode', None)}"
        raise InvalidArgument(argument, seen, "a PIL image in mode RGB: image.convert('RGB')")
    return photo


def _draw_ring(image: Image.Image, box: Box, colour: str) -> None:
    """The outermost pixels of a box; Pillow's own outlines spill out of the smallest ones."""
    left, top, right, bottom = box
    for side in (
        (left, top, right, top + 1),
        (left, bottom - 1, right, bottom),
        (left, top, left + 1, bottom),
        (right - 1, top, right, bottom),
    ):
        image.paste(colour, side)


def _bands(height: int, width: int) -> Iterator[slice]:
    """Row slices of about ``_BAND_PIXELS`` pixels that cover an image from top to bottom."""
    step = max(1, _BAND_PIXELS // width)
    for start in range(0, height, step):
        yield slice(start, min(start + step, height))


def _coloured(heat: Heatmap, table: npt.NDArray[np.uint8]) -> _Pixels:
    """Heat in a colour map's colours; each colour is looked up in one piece."""
    packed = np.full((len(table), 4), 255, np.uint8)
    packed[:, :3] = table
    colours = np.take(packed.view(np.uint32)[:, 0], _levels(heat))
    return colours.view(np.uint8).reshape(*heat.shape, 4)


def _levels(values: Heatmap) -> npt.NDArray[np.uint8]:
    """Heat as the nearest of 256 levels: 0 for 0 and below, 255 for 1 and above."""
    least, most = values.min(), values.max()
    if np.isnan(least):  # as it is where any value is
        raise _nan_refused()
    heat: npt.NDArray[np.float32] = values.astype(np.float32)
    if least < 0 or most > 1:
        heat.clip(0.0, 1.0, out=heat)
    heat *= np.float32(255)
    return np.rint(heat, out=heat).astype(np.uint8)


def _checked_mask(argument: str, mask: BoolMask, photo: Image.Image) -> BoolMask:
    array = np.asarray(mask)
    if array.dtype != np.bool_:
        raise InvalidArgument(argument, f"{array.dtype} array", "a boolean array")
    _check_size(argument, array.shape, photo)
    return array


def _check_size(argument: str, shape: tuple[int, ...], photo: Image.Image) -> None:
    if shape != (photo.height, photo.width):
        raise InvalidArgument(
            argument,
            f"array of shape {shape}",
            f"shape {(photo.height, photo.width)} for a photo of {_size_of(photo)}",
        )


def _size_of(image: Image.Image) -> str:
    return f"{image.width}×{image.height} pixels"


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
    heatmap = _checked_heatmap(heatmap)
    threshold = check_fraction("threshold", threshold, zero=False)
    if np.isnan(heatmap).any():
        raise _nan_refused()
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
    heatmap = _checked_heatmap(heatmap)
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


def _checked_heatmap(heatmap: Heatmap) -> Heatmap:
    """A heatmap as an array ``(H, W)`` of real numbers with at least one pixel; NaN is not seen."""
    array = np.asarray(heatmap)
    if array.ndim != 2 or array.size == 0 or array.dtype.kind not in "fiub":
        seen = f"{array.dtype} array of shape {array.shape}"
        raise InvalidArgument("heatmap", seen, "real numbers of shape (height, width)")
    return array


def _nan_refused() -> InvalidArgument:
    """The error for a heatmap that holds NaN, which has no place between cold and hot."""
    return InvalidArgument("heatmap", "an array with NaN in it", "finite values from 0 to 1")
