"""What the experiment shows of each output: how it may lie on the image, and how well it does.

An output is read in every way that its shape allows. The reading that follows the disturbed bands
best is its layout; of sequences, the grids that other outputs of the network have come first.
"""

from __future__ import annotations

from collections.abc import Collection, Container, Mapping, Sequence
from dataclasses import dataclass, field, replace
from operator import itemgetter

import torch
from torch import Tensor

from cam_hub.layers.correspondence import (
    BANDS,
    FEW_CELLS,
    NONE,
    SELECTIVE,
    Ends,
    Match,
    fit_extent,
    follows,
    match_all,
    sampled,
    sizes,
)
from cam_hub.layers.layouts import (
    FULL,
    LAYOUTS,
    TURNS,
    Arrangement,
    Extent,
    Frame,
    arrangements,
    single_lines,
    splits,
    to_maps,
    turn_back,
)

__all__ = ["Finding", "Output", "Responses", "judge_outputs", "lost_in_rounding"]

_ROUNDINGS = 64
"""A change below this many rounding errors of the output's greatest value is lost in them."""

_MAX_LOST = 2**-5
"""A change of at least this part of the greatest value is not lost, however coarse the type is. (In
bfloat16 this is four rounding errors; a place's response is the mean of many values.)"""

_CHANNELS, _FEW_CHANNELS, _SMALL = 64, 32, 256
"""Number of channels that suffice to measure the change of a place; fewer on grids of more cells
than a small one has."""

_SPARE = 2
"""Where other outputs show the grids of a network, so many tokens without a place may be left over
of a grid that no other output has. Of some number of hidden units a part always makes a grid."""

_FEW, _FIRST = 8, 4
"""If more tokens than a few lie outside the grid, the first layers determine which these are."""


@dataclass(frozen=True)
class Finding:
    """What the experiment showed of one layer's (last) output.

    Attributes:
        shape: Shape of the output for one image, or None if it is not a tensor.
        readings: The readings that its shape allows, with how well each follows the bands, the
            best first.
        moved: Whether any disturbance changed the output at all.
        below_precision: Whether it changed by hardly more than rounding errors, or not at all, so
            that the place of the change is meaningless (deep networks with random weights).
        batched: Whether one of its dimensions is the batch: the first one or, of a sequence, the
            second one, as two batches of different sizes show.
        finite: Whether it holds no NaN or infinity.
        calls: How often the layer ran in one pass; the last output counts.
        call: Which of these calls it is about, from 0.
        readable: The calls whose output follows the image, where all were examined.
        overwritten: Whether what follows writes to the output (in-place layers, ``+=``).
        extent: The part of the input that the grid covers, as measured or as that of earlier
            layers; None if it cannot be determined.
    """

    shape: tuple[int, ...] | None
    readings: tuple[tuple[Arrangement, Match], ...] = ()
    moved: bool = True
    below_precision: bool = False
    batched: bool = True
    finite: bool = True
    calls: int = 1
    overwritten: bool = False
    call: int = 0
    readable: tuple[int, ...] = ()
    extent: Extent | None = FULL

    @property
    def arrangement(self) -> Arrangement | None:
        """The reading that follows the bands best, or None if there is none to try."""
        return self.readings[0][0] if self.readings else None

    @property
    def match(self) -> Match:
        """How well that reading follows them."""
        return self.readings[0][1] if self.readings else NONE

    @property
    def spatial(self) -> bool:
        """Whether the output lies on the image."""
        return self.match.spatial


@dataclass
class Output:
    """What is gathered about one layer's last output."""

    shape: tuple[int, ...] | None = None
    size: int = 0
    batched: bool = True
    finite: bool = True
    calls: int = 0
    batch_axis: int = 0
    layouts: tuple[str, ...] = ()
    folded: bool = False
    responses: list[Responses] = field(default_factory=list)
    latest: Responses | None = None
    lost: float = 0.0
    overwritten: bool = False

    @property
    def change(self) -> float:
        """The greatest change of a value by a disturbance."""
        return max((found.change for found in self.responses), default=0.0)

    @property
    def below_precision(self) -> bool:
        """Whether the change is hardly more than rounding errors, or less."""
        return bool(self.responses) and self.change < self.lost

    def takes(self, tensor: Tensor, count: int) -> bool:
        """Whether the output for a batch of so many images is of the shape that is expected."""
        shape = list(self.shape or ())
        shape.insert(self.batch_axis, count)
        return list(tensor.shape) == shape

    def keep(self) -> None:
        """Ends a chunk."""
        if self.latest is None:
            # It does not grow with the batch, or changes its shape from image to image (proposals
            # of boxes): it is not a map.
            self.batched &= self.batch_axis == 0
            self.layouts, self.responses = (), []
        else:
            self.responses.append(self.latest)
            self.latest = None

    def finding(self, readings: Sequence[tuple[Arrangement, Match]]) -> Finding:
        """Judges what was gathered.

        Args:
            readings: How it may lie on the image, with how well each reading follows the bands.
        """
        # Stable: of equal readings the earlier one stays in front.
        found = list(readings)
        found.sort(key=lambda pair: pair[1].rank, reverse=True)
        return Finding(
            self.shape,
            tuple(found),
            self.change > 0 or not self.responses,
            self.below_precision,
            self.batched,
            self.finite,
            self.calls,
            self.overwritten,
            max(0, self.calls - 1),
        )


def lost_in_rounding(kind: torch.dtype, greatest: float) -> float:
    """Changes below this are lost in the rounding errors of an output.

    Args:
        kind: Its floating-point type.
        greatest: Its greatest absolute value.
    """
    return min(_ROUNDINGS * torch.finfo(kind).eps, _MAX_LOST) * greatest


class Responses:
    """The responses of the places of one output to the disturbances of one chunk.

    Args:
        output: What the layer returned, batch first, the clean input's before the others.
        layouts: Those that it may have.
    """

    def __init__(self, output: Tensor, layouts: Sequence[str]) -> None:
        # Sums over channels leave the range of half precision soon.
        exact = torch.promote_types(output.dtype, torch.float32)
        self.by_layout: dict[str, Tensor] = {}
        self._change: Tensor | None = None
        for layout in layouts:
            some = _sample(output, layout).to(exact)
            axis = LAYOUTS[layout].channel_axis
            self.by_layout[layout], greatest = sizes(some[1:] - some[:1], axis)
            self._change = greatest if self._change is None else self._change.maximum(greatest)

    @property
    def change(self) -> float:
        """The greatest change of a value."""
        return 0.0 if self._change is None else float(self._change)


def _sample(output: Tensor, name: str) -> Tensor:
    """Evenly spread channels of an output and, of a fine grid, evenly spread rows and columns."""
    layout = LAYOUTS[name]
    index = [slice(None)] * output.ndim
    for axis in layout.grid_axes:
        index[axis] = sampled(output.shape[axis])
    channels = output.shape[layout.channel_axis]
    cells = output[0].numel() // max(1, channels)
    max_channels = _CHANNELS if cells <= _SMALL else _FEW_CHANNELS
    index[layout.channel_axis] = slice(None, None, -(-channels // max_channels))
    return output[tuple(index)]


Readings = list[tuple[Arrangement, Match]]


def judge_outputs(
    seen: Mapping[str, Output],
    frame: Frame,
    recurrent: Collection[str],
    *,
    turned: Container[str] = (),
) -> dict[str, Finding]:
    """Judges all outputs; those of one shape, which have the same readings, at once.

    Outputs with rows and columns of their own come first: sequences are searched for their grids.

    Args:
        seen: What was gathered about each output.
        frame: The input's shape.
        recurrent: The recurrent layers.
        turned: The outputs that may hold the image turned.
    """
    alike: dict[tuple[object, ...], list[str]] = {}
    for name, output in seen.items():
        if output.responses:
            key = output.shape, output.batch_axis, output.layouts, output.folded
            alike.setdefault(key, []).append(name)
    found: dict[str, Readings] = {name: [] for name in seen}
    explicit: list[list[str]] = []
    sequences: list[list[str]] = []
    for names in alike.values():
        output = seen[names[0]]
        has_grid = any(LAYOUTS[layout].grid_axes for layout in output.layouts)
        (explicit if output.folded or has_grid else sequences).append(names)
    groups = [[seen[name] for name in names] for names in explicit]
    for names, readings in zip(explicit, _explicit(groups, frame), strict=True):
        found |= zip(names, readings, strict=True)
    best = [max(readings, key=lambda pair: pair[1].rank) for readings in found.values() if readings]
    known = {reading for reading, match in best if match.spatial}
    order = list(seen)
    first = next((place for place, name in enumerate(order) if name in recurrent), len(order))
    remembering = set(order[first:])
    for names in sequences:
        # What a recurrent layer has read along a line is a memory of it, and lies nowhere.
        lines = remembering.isdisjoint(names)
        allowed = [reading for reading in known if lines or min(reading.grid) > 1]
        outputs = [seen[name] for name in names]
        found |= zip(names, _sequential(outputs, frame, allowed, lines=lines), strict=True)
    _add_turned(found, seen, turned)
    findings = {name: output.finding(found[name]) for name, output in seen.items()}
    return _placed(findings, seen)


def _add_turned(
    found: dict[str, Readings],
    seen: Mapping[str, Output],
    allowed: Container[str],
) -> None:
    """Tries outputs behind the last one that holds the image upright in all other positions.

    A network may turn the image on the way: spectrograms are transposed, scans lie upside down.
    """
    names = list(found)
    upright = [place for place, name in enumerate(names) if _follows([found[name]])]
    rest = names[upright[-1] + 1 if upright else 0 :]
    rest = [name for name in rest if name in allowed and found[name] and not seen[name].folded]
    known: set[Arrangement] = set()
    for name in rest:
        readings = [
            (reading.turned(turn), _turned_match(seen[name], reading, turn))
            for reading, match in found[name]
            if reading.explicit and reading.frames == 1
            if match.selectivity >= SELECTIVE and min(reading.grid) > FEW_CELLS
            for turn in TURNS
        ]
        found[name] += [pair for pair in readings if pair[1].spatial]
        known |= {reading for reading, match in readings if match.spatial}
    for name in rest:
        output = seen[name]
        if known and not any(reading.explicit for reading, _ in found[name]):
            shape = (1, *(output.shape or ()))
            for _, tried in _by_extra(shape, output.layouts, known):
                _add([found[name]], _stacked_responses([output], tried[0].layout), tried)


def _turned_match(output: Output, reading: Arrangement, turn: str) -> Match:
    """How well an output follows the bands if the network has turned the image."""
    maps = _maps(_stacked_responses([output], reading.layout), [reading])
    [match] = match_all(turn_back(maps, turn), borders=True)
    return match


def _placed(findings: Mapping[str, Finding], seen: Mapping[str, Output]) -> dict[str, Finding]:
    """Adds the part of the input that each grid covers.

    The layer that responds most clearly stands for all of its grid. Where none is clear, as in deep
    layers, the grid covers what a finer one does that it is a stride coarser than.
    """
    clearest: dict[tuple[int, int], str] = {}
    for name, finding in findings.items():
        if finding.spatial and finding.arrangement is not None:
            grid = finding.arrangement.grid
            other = clearest.setdefault(grid, name)
            if finding.match.selectivity > findings[other].match.selectivity:
                clearest[grid] = name
    fits: dict[tuple[int, int], Extent | None] = {}
    known: tuple[list[tuple[int, Ends]], list[tuple[int, Ends]]] = ([], [])
    for grid in sorted(clearest, key=lambda grid: -grid[0] * grid[1]):
        name = clearest[grid]
        reading = findings[name].arrangement
        if reading is None:
            continue
        maps = to_maps(_stacked_responses([seen[name]], reading.layout).flatten(0, 2), reading)
        maps = maps.reshape(2 * BANDS, 2, reading.frames, -1, maps.shape[-1])[:, 0].mean(dim=1)
        finer = [
            next((ends for side, ends in known[axis] if follows(grid[axis], side)), None)
            for axis in (0, 1)
        ]
        fit = fit_extent(maps, grid, finer)
        ends = []
        for axis, (start, stop, clear) in enumerate(fit):
            if not clear and finer[axis] is None and known[axis]:
                break
            known[axis].insert(0, (grid[axis], (start, stop)))
            ends.append((start, stop))
        fits[grid] = (ends[0][0], ends[1][0], ends[0][1], ends[1][1]) if len(ends) == 2 else None
    found = dict(findings)
    for name, finding in findings.items():
        reading = finding.arrangement
        if reading is not None and (extent := fits.get(reading.grid, FULL)) != finding.extent:
            found[name] = replace(finding, extent=extent)
    return found


def _explicit(groups: Sequence[Sequence[Output]], frame: Frame) -> list[list[Readings]]:
    """The readings of outputs with rows and columns of their own, which are of one shape a group.

    All that are examined on a grid of one size are matched at once.
    """
    found: list[list[Readings]] = [[[] for _ in group] for group in groups]
    by_size: dict[tuple[int, ...], list[tuple[list[Readings], Arrangement, Tensor]]] = {}
    for group, own in zip(groups, found, strict=True):
        shape, folded = (1, *(group[0].shape or ())), group[0].folded
        for reading in arrangements(shape, frame, folded=folded):
            if reading.cells > 1:
                maps = _maps(_stacked_responses(group, reading.layout), [reading])
                by_size.setdefault(maps.shape[3:], []).append((own, reading, maps))
    for parts in by_size.values():
        matches = iter(match_all(torch.cat([maps for _, _, maps in parts]), borders=True))
        for own, reading, _ in parts:
            for readings, match in zip(own, matches, strict=False):
                readings.append((reading, match))
    return found


def _sequential(
    outputs: Sequence[Output], frame: Frame, known: Collection[Arrangement], *, lines: bool
) -> list[Readings]:
    """The readings of sequences of one shape.

    First the grids that were found elsewhere in the network are looked for, whatever stands before
    or after them; where there is none, grids of the input's shape.

    Args:
        outputs: The sequences.
        frame: The input's shape.
        known: How other outputs lie on the image.
        lines: Whether a grid may have a single row or column.
    """
    found: list[Readings] = [[] for _ in outputs]
    shape, axis = (1, *(outputs[0].shape or ())), outputs[0].batch_axis
    responses = {layout: _stacked_responses(outputs, layout) for layout in outputs[0].layouts}
    for extra, tried in _by_extra(shape, outputs[0].layouts, known):
        own, readings = responses[tried[0].layout], tried
        if extra > _FEW:
            if _follows(found):
                break
            readings = _best(own[:_FIRST], tried)
        if readings:
            _add(found, own, readings)
    if not _follows(found) and not _apart_in_time(known, frame):
        for reading in arrangements(shape, frame, axis):
            single, extra = min(reading.grid) == 1, reading.prefix_tokens + reading.suffix_tokens
            if known and extra > _SPARE:
                continue
            if reading.cells > 1 and (lines or not single):
                _add(found, responses[reading.layout], [reading], lines=single)
    if not _follows(found) and lines and frame.frames == 1:
        for layout, own in responses.items():
            for reading in single_lines(shape, layout):
                if max(reading.grid) <= max(frame.rows, frame.cols):
                    _add(found, own, [reading])
    return found


def _apart_in_time(known: Collection[Arrangement], frame: Frame) -> bool:
    """Whether each frame passes on its own, so that a sequence may be one of frames."""
    folded = any(LAYOUTS[found.layout].folded for found in known)
    return folded or (frame.frames > 1 and {found.frames for found in known} == {1})


def _add(
    found: list[Readings], responses: Tensor, readings: Sequence[Arrangement], *, lines: bool = True
) -> None:
    """Adds to what is found of some outputs how well they follow the bands under some readings."""
    for own, matches in zip(found, _match(responses, readings, lines=lines), strict=True):
        own.extend(zip(readings, matches, strict=True))


def _follows(found: Sequence[Readings]) -> bool:
    return any(match.spatial for readings in found for _, match in readings)


def _by_extra(
    shape: tuple[int, ...], layouts: Sequence[str], known: Collection[Arrangement]
) -> list[tuple[int, list[Arrangement]]]:
    """The ways to split sequences, one list per layout and grid; few tokens left over first."""
    lists: dict[tuple[object, ...], list[Arrangement]] = {}
    for layout in layouts:
        for reading in splits(shape, layout, known):
            lists.setdefault((layout, reading.frames, reading.grid), []).append(reading)
    pairs = [(split[0].prefix_tokens + split[0].suffix_tokens, split) for split in lists.values()]
    return sorted(pairs, key=itemgetter(0))


def _best(responses: Tensor, readings: Sequence[Arrangement]) -> list[Arrangement]:
    """The reading under which some of the outputs follow the bands best; none if none does."""
    pairs = [
        (match, reading)
        for matches in _match(responses, readings)
        for reading, match in zip(readings, matches, strict=True)
    ]
    match, reading = max(pairs, key=lambda pair: pair[0].rank)
    return [reading] if match.spatial else []


def _match(
    responses: Tensor, readings: Sequence[Arrangement], *, lines: bool = True
) -> list[list[Match]]:
    """How well outputs follow the bands under readings of one layout and grid.

    Args:
        responses: From ``_stacked_responses``.
        readings: Which may differ in what stands before and after the grid.
        lines: As for ``match_all``.

    Returns:
        One list per output, with one match per reading.
    """
    count = len(responses)
    # Tokens that respond to nothing are class tokens and prompts, not a border.
    matches = match_all(_maps(responses, readings), lines=lines, borders=readings[0].explicit)
    return [matches[place::count] for place in range(count)]


def _maps(responses: Tensor, readings: Sequence[Arrangement]) -> Tensor:
    """``(readings * outputs, 2 * BANDS, 2, rows, cols)``; over steps of time the mean is taken."""
    maps = torch.stack([to_maps(responses.flatten(0, 2), reading) for reading in readings])
    return maps.reshape(
        len(readings) * len(responses), 2 * BANDS, 2, readings[0].frames, -1, maps.shape[-1]
    ).mean(dim=3)


def _stacked_responses(outputs: Sequence[Output], layout: str) -> Tensor:
    """The ``sizes`` of outputs of one shape: ``(outputs, 2 * BANDS, 2, …)``."""
    return torch.stack(
        [torch.cat([each.by_layout[layout] for each in output.responses]) for output in outputs]
    )
