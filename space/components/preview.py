"""Pictures for the screen: an explanation at no more pixels than a browser shows.

Maps are laid over a reduced photo, so that another look costs milliseconds whatever the size of
the photo that was sent. Files that are taken away are drawn at that size, by ``artifacts``.
"""

from __future__ import annotations

import base64
import io
import threading
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from cam_hub.images.geometry import Placement
from cam_hub.results import overlay, regions
from cam_hub.results.explanation import Explanation
from cam_hub.results.overlay import fitting
from space.service.display_options import Look

__all__ = ["Screen", "Screens", "Span", "data_uri", "reduced"]

_SHOWN_SIDE = 1024  # pixels of the longer side
_THUMB_SIDE = 144
_THUMB_ALPHA = 0.6
_SPECK = 0.001  # of the photo's pixels; fine maps have many smaller places, which hide the others


@dataclass(frozen=True)
class Span:
    """The values at both ends of the colours, in the map's own units."""

    low: float
    high: float


class Screen:
    """One explanation, ready to be looked at.

    Args:
        result: The explanation, at any size.
    """

    def __init__(self, result: Explanation) -> None:
        self.result = reduced(result, _SHOWN_SIDE)
        self._spans: dict[tuple[int, str | None, str], Span] = {}

    def span(self, look: Look) -> Span:
        """Between which values the colours run.

        Raises:
            NoMap: If the map is blank, flat or not finite.
        """
        key = (*look.at(self.result), look.scale)
        if key not in self._spans:
            self._spans[key] = self._measured(*key)
        return self._spans[key]

    def picture(self, look: Look) -> Image.Image:
        """What is shown, RGB.

        Raises:
            NoMap: As ``span``.
        """
        result = self.result
        heat = self._heat(result, look, nearest=look.view == "map")
        if look.view == "cutout":
            return overlay.cutout(result.photo, regions.mask(self._for(heat), look.threshold))
        alpha = 1.0 if look.view == "map" else look.alpha
        colormap = fitting(look.colormap, signed=result.signed)
        painted = overlay.overlay(
            result.photo, heat, alpha=alpha, colormap=colormap, seen=result.seen
        )
        if look.view == "boxes":
            return overlay.draw_boxes(painted, _boxes(self._for(heat), look.threshold))
        return painted

    def thumbnail(self, look: Look) -> Image.Image:
        """The map over a small copy of the photo, at an opacity of its own.

        Raises:
            NoMap: As ``span``.
        """
        small = self._small
        return overlay.overlay(
            small.photo,
            self._heat(small, look),
            alpha=_THUMB_ALPHA,
            colormap=fitting(look.colormap, signed=small.signed),
            seen=small.seen,
        )

    def regions(self, look: Look) -> tuple[int, float]:
        """How many places reach the threshold, but for specks, and which part of the photo does."""
        heat = self._for(self._heat(self.result, look))
        mask = regions.mask(heat, look.threshold)
        return len(_boxes(heat, look.threshold)), float(mask.mean())

    def hottest(self, look: Look) -> tuple[float, float]:
        """Where the map is hottest: across and down the photo, in [0, 1]."""
        heat = self._heat(self._small, look)
        row, column = np.unravel_index(int(heat.argmax()), heat.shape)
        return (column + 0.5) / heat.shape[1], (row + 0.5) / heat.shape[0]

    def _for(self, heat: NDArray[np.float32]) -> NDArray[np.float32]:
        """What speaks for the class, from 0 to 1: of a signed map the half above its middle."""
        return np.maximum(2 * heat - 1, 0) if self.result.signed else heat

    def _heat(
        self, result: Explanation, look: Look, *, nearest: bool = False
    ) -> NDArray[np.float32]:
        index, layer = look.at(result)
        span = self.span(look)
        cam = (result.cam(index, layer) - span.low) / (span.high - span.low)
        return result.placement.warp(cam, interpolation="nearest" if nearest else "bilinear")

    def _measured(self, index: int, layer: str | None, scale: str) -> Span:
        own = self.result.limits(index, layer)  # raises if the map is blank
        return Span(*(own if scale == "own" else self.result.common_limits(layer)))

    @cached_property
    def _small(self) -> Explanation:
        return reduced(self.result, _THUMB_SIDE)


class Screens:
    """Screens by the folder of their result; the least recently used are read again when needed.

    Args:
        read: Reads the explanation in a folder.
        most: How many are held, each of some 3 MB.
    """

    def __init__(self, read: Callable[[Path], Explanation], most: int = 24) -> None:
        self._read = read
        self._most = most
        self._held: OrderedDict[Path, Screen] = OrderedDict()
        self._lock = threading.Lock()

    def put(self, folder: Path, result: Explanation) -> Screen:
        """Holds the screen of a result that has just been made."""
        screen = Screen(result)
        with self._lock:
            self._held[folder] = screen
            self._held.move_to_end(folder)
            while len(self._held) > self._most:
                self._held.popitem(last=False)
        return screen

    def get(self, folder: Path) -> Screen:
        """The screen of the result in a folder.

        Raises:
            InvalidArgument: As ``read``, if the folder is gone.
        """
        with self._lock:
            screen = self._held.get(folder)
            if screen is not None:
                self._held.move_to_end(folder)
        return screen if screen is not None else self.put(folder, self._read(folder))


def reduced(result: Explanation, side: int) -> Explanation:
    """The same explanation of a smaller copy of the photo: maps lie where they lay.

    Args:
        result: The explanation.
        side: Pixels that the longer side may have; a smaller photo stays as it is.
    """
    width, height = result.photo.size
    if max(width, height) <= side:
        return result.showing(result.photo)
    size = (
        max(1, round(width * side / max(width, height))),
        max(1, round(height * side / max(width, height))),
    )
    photo = result.photo.resize(size, Image.Resampling.BICUBIC, reducing_gap=3.0)
    placement = result.placement
    scale = (placement.scale[0] * width / size[0], placement.scale[1] * height / size[1])
    return result.showing(
        photo, placement=Placement(size, placement.input_size, scale, placement.offset)
    )


def _boxes(heat: NDArray[np.float32], threshold: float) -> list[regions.Box]:
    return regions.boxes(heat, threshold, min_area=_SPECK)


def data_uri(picture: Image.Image, quality: int = 90) -> str:
    """A picture inside of a page: JPEG, since what is taken away is made anew and exact."""
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=quality, subsampling=0)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode()
