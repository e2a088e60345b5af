"""Layouts: how an activation may lie on the image, the common layout, and that of one layer.

To add a layout, list it in ``LAYOUTS``: the probe then tries it on every output, and maps of such
layers come out by themselves.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import TypedDict

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

__all__ = [
    "FULL",
    "LAYOUTS",
    "TURNS",
    "Arrangement",
    "Extent",
    "Frame",
    "LayerInfo",
    "Layout",
    "arrangements",
    "batch_axes",
    "batch_first",
    "on_input",
    "single_lines",
    "splits",
    "to_maps",
    "turn_back",
]


MIN_EXTRA_TOKENS, MAX_EXTRA_TOKENS = 8, 32
"""A sequence is tried with up to a fifth of its tokens without a place (class token, registers…),
but at least and at most with these."""

LINE = 6
"""So many cells a sequence must have to be read as a single row or column of them: the order of
fewer agrees with the image's by chance."""

OUT_OF_SHAPE = 3.0
"""The greatest factor between the input's aspect and that of a grid inferred from a sequence's
length. Rows and columns that are axes of their own may have any: strides may differ by axis."""

TURNS = {
    "T": "transposed (rows and columns swapped)",
    "H": "mirrored",
    "V": "upside down",
    "VH": "rotated by 180°",
    "TV": "rotated by 90°",
    "TH": "rotated by 90°",
    "TVH": "transposed and rotated by 180°",
}
"""How a network may turn the image before a layer sees it, in words. To turn maps back, rows and
columns are swapped first (T), then rows are reversed (V) and columns (H)."""

MAX_PROMPTS = 128
"""So many tokens without a place are looked for where the grid is known from another output."""


@dataclass(frozen=True)
class Arrangement:
    """One way of reading a tensor as maps over the image.

    Attributes:
        layout: Name of the layout, such as ``"NCHW"``.
        grid: Rows and columns.
        channels: How many maps there are.
        prefix_tokens: How many tokens before the grid's belong to no place.
        suffix_tokens: How many tokens after the grid's belong to no place.
        frames: How many steps of time there are, each with a grid of its own; 1 for an image.
        turn: How the network has turned the image before, one of ``TURNS``; empty if it is upright.
            Maps are turned back, so rows and columns are the image's.
    """

    layout: str
    grid: tuple[int, int]
    channels: int
    prefix_tokens: int = 0
    suffix_tokens: int = 0
    frames: int = 1
    turn: str = ""

    @property
    def cells(self) -> int:
        """Cells of one grid."""
        return self.grid[0] * self.grid[1]

    @property
    def explicit(self) -> bool:
        """Whether rows and columns are axes of their own, not a sequence in unknown order."""
        return bool(LAYOUTS[self.layout].grid_axes)

    @property
    def batch_axis(self) -> int:
        """Which axis of what the layer returns is the batch."""
        return LAYOUTS[self.layout].batch_axis

    def turned(self, turn: str) -> Arrangement:
        """The same, of a tensor that holds the image turned."""
        return replace(self, grid=self.grid[::-1] if "T" in turn else self.grid, turn=turn)


@dataclass(frozen=True)
class Frame:
    """What of the input bounds the readings of an output.

    Attributes:
        rows: Rows of the input.
        cols: Columns of the input.
        frames: Steps of time in the input, 1 for an image.
    """

    rows: int
    cols: int
    frames: int = 1

    @property
    def aspect(self) -> float:
        """Rows by columns."""
        return self.rows / self.cols

    def allows(self, arrangement: Arrangement) -> bool:
        """Whether the grid is at most as fine as the input, and has its shape if that is needed.

        A grid inferred from the length of a sequence must have about the input's aspect, however
        well its few cells happen to respond.
        """
        rows, cols = arrangement.grid
        if rows > self.rows or cols > self.cols:
            return False
        return arrangement.explicit or self.resembles(arrangement.grid)

    def resembles(self, grid: tuple[int, int]) -> bool:
        """Whether a grid has about the input's shape."""
        return 1 / OUT_OF_SHAPE <= grid[0] / grid[1] / self.aspect <= OUT_OF_SHAPE


class Layout:
    """A family of arrangements: which axis of a tensor holds what.

    Args:
        axes: One letter per axis, the batch first: N for images, C for channels, H for rows and W
            for columns, or L for a sequence of places (row by row, in clips grid by grid); T for
            steps of time.
        name: Its name; the axes if it is empty.
        batch_axis: Which axis of what the layer returns is the batch. The other axes, and
            ``to_maps``, are those of the tensor with its batch first (``batch_first``).
        folded: Whether the layer returns the steps of time in the batch.

    Attributes:
        channel_axis: Which axis of the tensor holds the channels.
        grid_axes: Which axes hold rows and columns; none where one axis holds both.
    """

    def __init__(
        self, axes: str, name: str = "", *, batch_axis: int = 0, folded: bool = False
    ) -> None:
        self.name = name or axes
        self.batch_axis = batch_axis
        self.folded = folded
        self.channel_axis = axes.index("C")
        self.grid_axes = tuple(map(axes.index, "HW")) if "L" not in axes else ()
        self._axes = axes
        self._order = [axes.index(axis) for axis in "NCTHWL" if axis in axes]

    def arrangements(self, shape: tuple[int, ...], frame: Frame) -> Iterator[Arrangement]:
        """The ways in which a tensor could be read.

        Args:
            shape: The tensor's, batch first.
            frame: The input's shape; grids that are not written into the tensor's shape are
                tried where they have the input's aspect.
        """
        if len(shape) != len(self._axes):
            return
        sides = dict(zip(self._axes, shape, strict=True))
        channels, steps = sides["C"], sides.get("T", 1)
        if self.grid_axes:
            if self.folded or steps <= frame.frames:
                yield Arrangement(self.name, (sides["H"], sides["W"]), channels, frames=steps)
            return
        frame = replace(frame, frames=1) if self.folded else frame
        for grid, prefix, suffix, frames in _grids(sides["L"], frame):
            yield Arrangement(self.name, grid, channels, prefix, suffix, steps * frames)

    def to_maps(self, tensor: Tensor, arrangement: Arrangement) -> Tensor:
        """The tensor as ``(N, channels, frames * rows, cols)``, laid out as the image is."""
        maps = tensor.permute(self._order) if self._order != sorted(self._order) else tensor
        if self.grid_axes:
            return maps.flatten(2, 3) if "T" in self._axes else maps
        places = maps[..., arrangement.prefix_tokens : maps.shape[-1] - arrangement.suffix_tokens]
        rows, cols = arrangement.grid
        return places.reshape(*maps.shape[:2], arrangement.frames * rows, cols)


LAYOUTS = {
    layout.name: layout
    for layout in (
        Layout("NCHW"),  # convolutions
        Layout("NHWC"),  # Swin and its kin
        Layout("NCTHW"),  # convolutions over clips
        Layout("NTHWC"),  # transformers over clips
        Layout("NLC"),  # transformers and mixers
        Layout("NLC", "LNC", batch_axis=1),  # torch's transformers, CLIP's first tower
        Layout("NCL"),
        # Networks that fold frames into the batch are run on one clip at a time.
        Layout("NTCHW", "(NT)CHW", folded=True),
        Layout("NTHWC", "(NT)HWC", folded=True),
        Layout("NTLC", "(NT)LC", folded=True),
    )
}
"""All layouts by name. Where two readings follow the image alike, the earlier one is taken."""


def arrangements(
    shape: tuple[int, ...], frame: Frame, batch_axis: int = 0, *, folded: bool = False
) -> list[Arrangement]:
    """All ways, over all layouts, in which a tensor of this shape could lie on the image.

    Args:
        shape: The tensor's, with its batch first.
        frame: The input's shape.
        batch_axis: Where the batch is in what the layer returns.
        folded: Whether frames are folded into the batch, and the second axis holds them.
    """
    return [
        arrangement
        for layout in LAYOUTS.values()
        if layout.batch_axis == batch_axis and layout.folded == folded
        for arrangement in layout.arrangements(shape, frame)
        if frame.allows(arrangement)
    ]


def single_lines(shape: tuple[int, ...], layout: str) -> list[Arrangement]:
    """A sequence as a single row and as a single column, where the other axis was folded away.

    Args:
        shape: The tensor's, with its batch first.
        layout: That of a sequence.
    """
    axis = LAYOUTS[layout].channel_axis
    length, channels = shape[3 - axis], shape[axis]
    grids = ((1, length), (length, 1)) if length >= LINE else ()
    return [Arrangement(layout, grid, channels) for grid in grids]


def splits(
    shape: tuple[int, ...], layout: str, known: Collection[Arrangement]
) -> list[Arrangement]:
    """The ways in which a sequence holds one of the grids that were found elsewhere.

    Args:
        shape: The tensor's, with its batch first.
        layout: That of a sequence.
        known: How other outputs of the same network lie on the image.

    Returns:
        For each of these grids, all ways to have the tokens that are left over before or after
        it, or some before and some after it; those that leave the fewest over come first, and of
        these those with the fewest behind.
    """
    axis = LAYOUTS[layout].channel_axis
    length, channels = shape[3 - axis], shape[axis]
    grids = sorted({(found.frames, found.grid, found.turn) for found in known})
    return sorted(
        (
            Arrangement(layout, grid, channels, extra - suffix, suffix, frames, turn)
            for frames, grid, turn in grids
            if 0 <= (extra := length - frames * grid[0] * grid[1]) <= MAX_PROMPTS
            for suffix in range(extra + 1)
        ),
        key=lambda found: (found.prefix_tokens + found.suffix_tokens, found.suffix_tokens),
    )


class BatchAxes(TypedDict):
    """The layers whose batch is not simply the first axis, as ``recording.Taps`` takes them.

    Attributes:
        batch_second: Those that return the batch second.
        folded: Those that fold frames into the batch.
    """

    batch_second: set[str]
    folded: set[str]


def batch_axes(layers: Mapping[str, Arrangement | LayerInfo]) -> BatchAxes:
    """Where the batch is in what layers return, given their layouts."""
    axes = BatchAxes(batch_second=set(), folded=set())
    for name, found in layers.items():
        layout = LAYOUTS.get(found.layout or "")
        if layout is not None and layout.folded:
            axes["folded"].add(name)
        elif layout is not None and layout.batch_axis == 1:
            axes["batch_second"].add(name)
    return axes


def batch_first(tensor: Tensor, arrangement: Arrangement) -> Tensor:
    """What a layer returned, with its batch first."""
    return tensor.transpose(0, arrangement.batch_axis)


def to_maps(tensor: Tensor, arrangement: Arrangement) -> Tensor:
    """Brings an activation, or a gradient, into the common layout.

    Args:
        tensor: As the layer returned it, with its batch first.
        arrangement: How it lies on the image.

    Returns:
        ``(N, channels, rows, cols)``; of a clip ``(N, channels, frames * rows, cols)``, the grids
        of its steps of time one below the other.
    """
    layout = LAYOUTS[arrangement.layout]
    if not arrangement.turn:
        return layout.to_maps(tensor, arrangement)
    maps = layout.to_maps(tensor, replace(arrangement.turned(arrangement.turn), turn=""))
    steps = maps.reshape(*maps.shape[:2], arrangement.frames, -1, maps.shape[-1])
    return turn_back(steps, arrangement.turn).flatten(2, 3)


def turn_back(maps: Tensor, turn: str) -> Tensor:
    """Maps of a turned image, ``(…, rows, cols)``, as those of the image."""
    maps = maps.transpose(-1, -2) if "T" in turn else maps
    return maps.flip([axis for sign, axis in (("V", -2), ("H", -1)) if sign in turn])


def _grids(length: int, frame: Frame) -> Iterator[tuple[tuple[int, int], int, int, int]]:
    """Grids of the input's aspect that a sequence has room for, with the tokens left over.

    Tokens without a place stand all before or all after the grid's; the fewer, the earlier.
    """
    for extra in range(min(MAX_EXTRA_TOKENS, max(MIN_EXTRA_TOKENS, length // 5), length - 1) + 1):
        for frames in range(frame.frames, 0, -1):
            # Time is halved on the way, as space is.
            if frame.frames % frames or (length - extra) % frames:
                continue
            places = (length - extra) // frames
            rows = round((places * frame.aspect) ** 0.5)
            # Where the patch does not divide the input, each side is short by less than a cell.
            if rows < 1 or places % rows or extra > frames * places:
                continue
            if abs(rows - places // rows * frame.aspect) >= max(1.0, frame.aspect):
                continue
            yield (rows, places // rows), extra, 0, frames
            if extra:
                yield (rows, places // rows), 0, extra, frames


Extent = tuple[float, float, float, float]
"""The top, left, bottom and right of what a grid covers, as parts of the input's height and width:
below 0 and above 1 in a border that the network adds."""

FULL: Extent = (0.0, 0.0, 1.0, 1.0)


@dataclass(frozen=True)
class LayerInfo:
    """One layer, as seen from outside.

    Attributes:
        name: Its name in the model, as in ``named_modules``.
        module_type: Its class.
        layout: How its output is laid out (``"NCHW"``), or None if it is not spatial.
        grid: Rows and columns of its output, or None.
        channels: Channels of its output, or None.
        prefix_tokens: Tokens before those of the grid that belong to no place.
        is_conv: Whether it is a convolution.
        stage: Number of its resolution, 0 for the finest; None if it is not usable.
        usable: Whether a map can be made from it.
        recommended: Whether it is the one to explain when nothing else is asked for.
        reason: In plain words, why it is or is not usable.
        suffix_tokens: Tokens after those of the grid that belong to no place.
        frames: Steps of time in its output, each with a grid of its own; 1 for an image.
        faint: Whether a change of the input is lost in this output's rounding errors (deep
            networks with random weights), so that its maps are computed in double precision.
        overwritten: Whether what follows writes to its output (in-place layers, ``+=``), so that
            only a copy of it lasts.
        calls: How often it runs in one pass.
        call: Which of these calls is explained, from 0.
        readable_calls: The calls whose output follows the image, for a layer with weights that
            runs several times (a backbone shared by two views).
        turn: How the network has turned the image before this layer (``"T"`` transposed, ``"H"``
            mirrored, ``"V"`` upside down, or several of these); empty if it is upright. Grid and
            maps are those of the image, turned back.
        extent: The top, left, bottom and right of the part of the input that the grid covers, as
            parts of its height and width: not (0, 0, 1, 1) where the network crops or pads on the
            way. Maps are placed there.
        note: What must be known of every map of this layer, in plain words (it is not deep, since
            later layers could not be read); empty if there is nothing. Manifests and the page
            state it.
        arrangement: How its output is read as maps over the image, or None; derived.
        notes: ``note``, and which of several calls is shown; derived.
    """

    name: str
    module_type: str
    layout: str | None
    grid: tuple[int, int] | None
    channels: int | None
    prefix_tokens: int
    is_conv: bool
    stage: int | None
    usable: bool
    recommended: bool
    reason: str
    suffix_tokens: int = 0
    frames: int = 1
    faint: bool = False
    overwritten: bool = False
    extent: Extent = FULL
    note: str = ""
    calls: int = 1
    call: int = 0
    readable_calls: tuple[int, ...] = ()
    turn: str = ""
    arrangement: Arrangement | None = field(init=False, repr=False, compare=False, default=None)
    notes: str = field(init=False, repr=False, compare=False, default="")

    def __post_init__(self) -> None:
        tokens = self.prefix_tokens, self.suffix_tokens
        if self.layout is not None and self.grid is not None and self.channels is not None:
            found = Arrangement(
                self.layout, self.grid, self.channels, *tokens, self.frames, self.turn
            )
            object.__setattr__(self, "arrangement", found)
        notes = self.note
        if self.readable_calls:
            others = [str(number) for number in self.readable_calls if number != self.call]
            instead = f"; call={' or '.join(others)} selects another" if others else ""
            which = f"it runs {self.calls} times in one pass, and call {self.call} is shown"
            notes = "; ".join(filter(None, (self.note, which + instead)))
        object.__setattr__(self, "notes", notes)


def on_input(cam: NDArray[np.float32], extent: Extent) -> NDArray[np.float32]:
    """Lays a map onto the whole input, in cells of about the same size.

    Args:
        cam: ``(…, rows, cols)``.
        extent: The part of the input that it covers.

    Returns:
        A map of as many rows and columns as the whole input has room for: 0 where the network does
        not look, and without the border that it adds.
    """
    top, left, bottom, right = extent
    return _along(_along(cam, -2, top, bottom), -1, left, right)


def _along(cam: NDArray[np.float32], axis: int, start: float, stop: float) -> NDArray[np.float32]:
    if (start, stop) == (0.0, 1.0):
        return cam
    cells = cam.shape[axis]
    cells_of_input = max(1, round(cells / (stop - start)))
    at = ((np.arange(cells_of_input) + 0.5) / cells_of_input - start) / (stop - start) * cells - 0.5
    covered = (at > -0.5) & (at < cells - 0.5)
    # Between the centres of two cells their values are mixed.
    mixture = np.maximum(0, 1 - np.abs(np.clip(at, 0, cells - 1)[:, None] - np.arange(cells)))
    mixture *= covered[:, None]
    moved = np.tensordot(mixture.astype(cam.dtype), cam, axes=(1, axis))
    return np.ascontiguousarray(np.moveaxis(moved, 0, axis))
