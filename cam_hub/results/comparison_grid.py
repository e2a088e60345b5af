"""The grid of a comparison: its rows and cells, and their sheet on one scale or several."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Literal

import numpy as np
import torch
from PIL import Image

from cam_hub.errors import CamHubError, InvalidArgument, NoMap
from cam_hub.methods import normalise
from cam_hub.results import overlay
from cam_hub.results.explanation import Explanation
from cam_hub.results.maps import Map
from cam_hub.results.montage import colorbar, label_text, montage, note, stack
from cam_hub.results.overlay import fitting
from cam_hub.targets.classes import Prediction, prediction_text

__all__ = [
    "FULL_HEAT",
    "SCALES",
    "Cell",
    "Cost",
    "Kind",
    "Row",
    "Scale",
    "check_scale",
    "cost_in_words",
    "ends_of",
    "film",
    "heat_of",
    "is_signed",
    "overlay_of",
    "percent",
    "percent_or_score",
    "reduced",
    "sheet",
    "short_label",
    "title_of",
]


Kind = Literal["methods", "layers", "classes"]
"""The kind of the columns of a comparison."""


@dataclass(frozen=True)
class Cost:
    """The cost of a map.

    Attributes:
        seconds: From the photo to the map, without loading the model and looking for its layers.
        forward_passes: The same, in plain forward passes of this model on this photo.
        maps: How many maps came out of this work together; the cost is that of all of them.
    """

    seconds: float
    forward_passes: float
    maps: int


@dataclass(frozen=True, eq=False)
class Cell:
    """One cell of the grid.

    Attributes:
        method: Name of the method.
        layer: The layer, as far as it is known.
        class_index: The class, as far as it is known.
        label: Its label.
        probability: In [0, 1]; None where the model gives none.
        explanation: The explanation with the map; None without a map. Cells of one row may share
            it.
        cost: What the map took; None where nothing was done.
        error: The reason for a missing map; None if there is one.
    """

    method: str
    layer: str | None = None
    class_index: int | None = None
    label: str | None = None
    probability: float | None = None
    explanation: Explanation | None = None
    cost: Cost | None = None
    error: CamHubError | None = None

    @cached_property
    def cam(self) -> Map | None:
        """The un-normalised map, float32 ``(rows, cols)``; of a clip the fusion of its steps."""
        if self.explanation is None:
            return None
        return self.explanation.cam(self.class_index, self.layer)

    @property
    def reason(self) -> str:
        """The reason for a missing map; empty if there is one."""
        if isinstance(self.error, NoMap):
            return self.error.reason  # its message repeats the facts in the cell
        return self.error.message if self.error is not None else ""


@dataclass(frozen=True, eq=False)
class Row:
    """One model of the grid.

    Attributes:
        model: Its ID; of a wrapped module its class name.
        cells: One per column.
        predictions: Its most probable classes; empty for a model without classes, and where
            nothing was explained.
        notes: Warnings about the model, for its users.
        has_random_weights: Whether its weights were drawn rather than trained: what its maps show
            means nothing then.
        loading_seconds: How long it took to have the model, and to know its layers.
        forward_seconds: How long one plain forward pass takes on this photo; None if it failed.
    """

    model: str
    cells: tuple[Cell, ...]
    predictions: tuple[Prediction, ...] = ()
    notes: tuple[str, ...] = ()
    has_random_weights: bool = False
    loading_seconds: float | None = None
    forward_seconds: float | None = None


Scale = Literal["shares", "values", "own"]

SCALES: dict[Scale, str] = {
    "shares": "one scale for all: how many times an even spread of the map's total",
    "values": "un-normalised values, one scale per model, method and layer",
    "own": "each map on its own scale: colours of two maps cannot be compared",
}
"""The scales, in words.

Un-normalised maps have units: those of an activation times a gradient, or of something else,
at one layer of one model. So values can be compared between classes, and not between methods,
layers or models. What can be compared everywhere is how a map shares out its own total: divided by
its mean, 1 is what an even spread would give each place, and 3 three times as much. That does not
depend on how fine the grid is.
"""

FULL_HEAT = 4.0
"""Times an even spread at which ``"shares"`` is hottest; all above looks the same.

A constant, so that colours mean the same on all sheets. Maps of coarse grids (7 by 7) reach 2 to
4, and the hottest twentieth of finer ones 3 to 6; their peaks, of 10 to 40, would leave everything
else cold.
"""


def check_scale(scale: object) -> Scale:
    """The scale of this name.

    Raises:
        InvalidArgument: If there is none.
    """
    if not isinstance(scale, str) or scale not in SCALES:
        raise InvalidArgument("scale", scale, f"one of {', '.join(SCALES)}")
    return scale


def heat_of(
    cams: Sequence[Map | None], units: Sequence[Hashable], scale: Scale
) -> list[Map | None]:
    """Brings maps to [0, 1], those with evidence of both signs to [-1, 1].

    Args:
        cams: Un-normalised maps ``(rows, cols)``, none of them blank; None for none.
        units: What each map's values are measured in; equal where they can be compared.
        scale: Name of the scale.

    Returns:
        Float32 ``(rows, cols)`` each, None for None. For a signed map, the shares are those of its
        total magnitude, and zero stays zero.
    """
    peaks: dict[Hashable, float] = {}
    for cam, unit in zip(cams, units, strict=True):
        if cam is not None:
            peaks[unit] = max(peaks.get(unit, 0.0), float(np.abs(cam).max()))
    return [
        None if cam is None else _heat(cam, peaks[unit], scale)
        for cam, unit in zip(cams, units, strict=True)
    ]


def ends_of(scale: Scale, *, signed: bool = False) -> tuple[str, str]:
    """What the cold and the hot end of a scale mean, for its colour bar.

    Args:
        scale: Name of the scale.
        signed: Whether maps hold evidence of both signs, so that nothing lies in the middle.
    """
    if signed:
        return {
            "shares": ("against the class", f"for it: {FULL_HEAT:g} times an even spread, or more"),
            "values": ("against the class", "for it: the largest magnitude"),
            "own": ("against the class", "for it: the map's largest magnitude"),
        }[scale]
    return {
        "shares": ("0", f"{FULL_HEAT:g} times an even spread, or more"),
        "values": ("0", "the greatest value"),
        "own": ("minimum of the map", "its maximum"),
    }[scale]


def _heat(cam: Map, peak: float, scale: Scale) -> Map:
    signed = bool((cam < 0).any())
    if scale == "own" and not signed:
        own: Map = normalise(torch.from_numpy(cam.copy())[None])[0].numpy()
        return own
    # In double precision: tiny gradients of deep networks would underflow.
    wide = cam.astype(np.float64)
    tops = {"shares": FULL_HEAT * np.abs(wide).mean(), "values": peak, "own": np.abs(wide).max()}
    heat: Map = np.clip(wide / tops[scale], -1.0, 1.0).astype(np.float32)
    return heat


_MAX_ABREAST = 8
_LINES = 3

Pictures = Sequence[Image.Image | None]
Tile = tuple[Sequence[str], Image.Image]


def overlay_of(explanation: Explanation, heat: Map, alpha: float, colormap: str) -> Image.Image:
    """The photo of an explanation with some heat of ``heat_of``, ``(rows, cols)``, over it."""
    return overlay.overlay(
        explanation.photo,
        explanation.placement.warp((heat + 1) / 2 if explanation.signed else heat),
        alpha=alpha,
        colormap=fitting(colormap, signed=explanation.signed),
        seen=explanation.seen,
    )


def reduced(
    photo: Image.Image | None, rows: Sequence[Row], max_side: int
) -> tuple[Image.Image | None, tuple[Row, ...]]:
    """The same on photos of which no side is longer than ``max_side`` pixels."""
    photos: dict[int, Image.Image] = {}
    explanations: dict[int, Explanation] = {}

    def small(picture: Image.Image) -> Image.Image:
        if id(picture) not in photos:
            photos[id(picture)] = _shrunk(picture, max_side)
        return photos[id(picture)]

    def of(cell: Cell) -> Cell:
        whole = cell.explanation
        if whole is None:
            return cell
        if id(whole) not in explanations:
            ground = small(whole.photo)
            place = whole.placement.resized(ground.size)
            said = {key: value for key, value in whole.manifest.items() if key != "frames"}
            explanations[id(whole)] = replace(
                whole.showing(ground, placement=place),
                described={**said, "placement": place.as_dict()},
            )
        return replace(cell, explanation=explanations[id(whole)])

    fewer = tuple(replace(row, cells=tuple(map(of, row.cells))) for row in rows)
    return None if photo is None else small(photo), fewer


def sheet(
    photo: Image.Image | None,
    titles: Sequence[str],
    rows: Sequence[Row],
    pictures: Sequence[Pictures],
    scale: Scale,
    colormap: str,
    tile_width: int,
) -> Image.Image:
    """All rows with their captions, and what the colours mean; for ``Comparison.figure``.

    ``photo`` stands before each row, or the row's own where it is None; ``pictures`` are those of
    the cells, row by row, and None for a cell without one.
    """
    tiles: list[Tile] = []
    flowing = len(rows) == 1 and len(titles) > _MAX_ABREAST
    abreast = min(len(titles), _MAX_ABREAST) + 1
    for row, overlays in zip(rows, pictures, strict=True):
        ground = photo or _photo_of(row) or note("no photo", (tile_width, tile_width))
        tiles.append((_of_row(row), ground))
        for title, cell, picture in zip(titles, row.cells, overlays, strict=True):
            height = min(2 * tile_width, round(tile_width * ground.height / ground.width))
            shown = picture or note(cell.reason, (tile_width, max(height, tile_width // 2)))
            tiles.append((_of_cell(title, cell), shown))
        blank = Image.new("RGB", (1, 1), "white")
        if not flowing:
            tiles += [((), blank)] * (-(1 + len(titles)) % abreast)
    grid = montage(
        tiles,
        columns=None if flowing else abreast,
        tile_width=tile_width,
        title=f"Colours: {SCALES[scale]}",
    )
    signed = is_signed(rows)
    cold, hot = ends_of(scale, signed=signed)
    width = min(grid.width, max(480, 3 * tile_width))
    bar = colorbar(fitting(colormap, signed=signed), width, max(40, tile_width // 6), cold, hot)
    return stack([grid, bar])


def is_signed(rows: Sequence[Row]) -> bool:
    """Whether the maps hold evidence of both signs."""
    cells = (cell.explanation for row in rows for cell in row.cells)
    return any(explanation is not None and explanation.signed for explanation in cells)


def film(row: Row, titles: Sequence[str], pictures: Pictures, tile_width: int) -> list[Image.Image]:
    """The cells of a row one after the other, in pictures of one size."""
    ground = _photo_of(row)
    frames = []
    for number, (title, cell, picture) in enumerate(
        zip(titles, row.cells, pictures, strict=True), start=1
    ):
        first = f"{number}/{len(row.cells)}  {title_of(title, cell)}"
        lines = [first, *(_of_cell(title, cell)[1:] if picture else (cell.reason,))]
        shown = picture or ground
        if shown is None:
            raise AssertionError("the caller has made sure that a cell has a map")
        frames.append(montage([(_padded(lines), shown)], tile_width=tile_width))
    return frames


def cost_in_words(cost: Cost) -> str:
    """Time of the work that a map came out of."""
    passes = f"{cost.forward_passes:.1f} passes"
    together = f" for {cost.maps} maps" if cost.maps > 1 else ""
    return f"{cost.seconds:.2f} s = {passes}{together}"


def percent(probability: float) -> str:
    """A probability in words; small ones are not nothing."""
    return f"{probability:.0%}" if probability >= 0.01 else "< 1%"


def percent_or_score(found: Prediction) -> str:
    """The probability of a prediction in words; its score if it has none."""
    if found.probability is None:
        return prediction_text(found)
    return percent(found.probability)


def short_label(label: str) -> str:
    """The first of a label's comma-separated names."""
    return label.split(",", maxsplit=1)[0].strip() or label


def _drawn(label: str, class_index: int | None) -> str:
    """A label's first name, or the index where letters of it cannot be drawn."""
    return label_text(short_label(label), class_index)


def _of_row(row: Row) -> list[str]:
    lines = [row.model + (" (random weights)" if row.has_random_weights else "")]
    if row.predictions:
        best = row.predictions[0]
        lines.append(
            f"sees {_drawn(best.label, best.class_index)} {percent_or_score(best)}".rstrip()
        )
    if row.forward_seconds is not None:
        lines.append(f"1 pass = {row.forward_seconds:.3f} s")
    return _padded(lines)


def _of_cell(title: str, cell: Cell) -> list[str]:
    lines = [title_of(title, cell)]
    cam = cell.cam
    where = "" if cam is None or cell.layer is None else f"{cam.shape[0]}×{cam.shape[1]}"
    what = [cell.layer, where]
    if cell.label is not None:
        probability = "" if cell.probability is None else f" {percent(cell.probability)}"
        label = label_text(short_label(cell.label), cell.class_index, codes=False)
        what.append(f"{label}{probability}")
    lines.append(", ".join(part for part in what if part and part != lines[0]))
    lines.append(cost_in_words(cell.cost) if cell.cost is not None else "")
    return _padded(lines)


def title_of(title: str, cell: Cell) -> str:
    """What stands below a picture first; where columns are numbers, what they number."""
    if title.startswith("layer ") and cell.layer is not None:
        return cell.layer
    if (title.isdecimal() or title.startswith("class ")) and cell.label is not None:
        return _drawn(cell.label, cell.class_index)
    return label_text(title, cell.class_index)


def _padded(lines: Sequence[str]) -> list[str]:
    return [*lines, *[""] * (_LINES - len(lines))][:_LINES]


def _photo_of(row: Row) -> Image.Image | None:
    found = (cell.explanation for cell in row.cells)
    return next((explanation.photo for explanation in found if explanation is not None), None)


def _shrunk(picture: Image.Image, max_side: int) -> Image.Image:
    if max_side >= max(picture.size):
        return picture
    scale = max_side / max(picture.size)
    width, height = (max(1, round(side * scale)) for side in picture.size)
    return picture.resize((width, height), Image.Resampling.BICUBIC, reducing_gap=3.0)
