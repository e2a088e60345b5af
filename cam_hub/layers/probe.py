"""The experiment: disturb a part of the input and see which positions of each output move.

The input is cut into horizontal bands and, once more, into vertical ones; each disturbed copy
differs from the clean input in one band only. Where an output lies on the image, its rows respond
to the horizontal bands and its columns to the vertical ones. So the reading of an output (which
axes are rows and columns) that follows the bands best is its layout, and an output that follows
them under no reading is not spatial.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Container, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import chain, pairwise
from math import isfinite
from operator import itemgetter
from typing import Any

import torch
from torch import Tensor, nn

from cam_hub.hooks.frozen_eval import frozen_eval
from cam_hub.hooks.memory import copies_at_once, is_out_of_memory
from cam_hub.hooks.recording import main_tensor, observe, same_values, watch_writes
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
from cam_hub.layers.model_runner import Run, run_observed
from cam_hub.models.loaded_model import double_pair

__all__ = ["Finding", "disturb", "frames_in_batch"]

_ROUNDINGS = 64
"""A change below this many rounding errors of the output's greatest value is lost in them."""

_CHANNELS, _FEW_CHANNELS, _SMALL = 64, 32, 256
"""Number of channels that suffice to measure the change of a place; fewer on grids of more cells
than a small one has."""


_MAX_CALLS = 8
"""For a layer that runs more often than this in one pass, only the last call is examined."""

_RECURRENT = (nn.RNNBase, nn.RNNCellBase)

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


def disturb(
    module: nn.Module, clean: Tensor, run: Run, *, budget: int | None = None, seed: int = 0
) -> dict[str, Finding]:
    """Runs the experiment on all submodules, without gradients.

    One pass of the clean input shows the shapes; then come the disturbed copies, ``2 * BANDS``
    of them, at once or in a few chunks if they would not fit, each chunk with the clean input
    again (so that both see the same arithmetic).

    Args:
        module: The model.
        clean: One input, ``(1, channels, rows, cols)``; of a clip ``(1, channels, frames, rows,
            cols)``.
        run: How to run the model on a batch of them.
        budget: Bytes that the activations of one chunk may take, roughly; None for a part of
            what the device has free.
        seed: Seed of the noise.

    Returns:
        One finding per submodule that ran, in the order in which they finished (last calls).
    """
    *_, rows, cols = clean.shape
    frame = Frame(rows, cols, clean.shape[2] if clean.ndim == 5 else 1)
    with frozen_eval(module), torch.no_grad():
        parts = frames_in_batch(clean) if getattr(run, "folded", False) else ()
        calls = _shapes(module, clean, run, frame, parts)
        seen = {name: outputs[-1] for name, outputs in calls.items()}
        largest = max((output.size for output in seen.values()), default=0)
        max_copies = copies_at_once(largest, clean.device, budget)
        # All at once, one axis', or fewer if need be.
        fitting = [size for size in (2 * BANDS, BANDS, BANDS // 2, 1) if size <= max_copies]
        copies = list(_disturbed(clean, seed))
        _run_all(module, clean, copies, run, calls, fitting)
    recurrent = {name for name, child in module.named_modules() if isinstance(child, _RECURRENT)}
    once = {name for name, outputs in calls.items() if len(outputs) == 1}
    findings = _findings(seen, frame, recurrent, turned=once)
    _choose_calls(findings, calls, frame)
    finer = double_pair(module, clean) if _unclear(list(findings.values())) else None
    if finer is None:
        return findings
    try:
        finest = disturb(*finer, run, budget=budget, seed=seed)
    except (RuntimeError, TypeError, ValueError) as error:
        if is_out_of_memory(error):
            raise
        # Its code insists on single precision: there is nothing finer to be had.
        return {name: replace(found, below_precision=False) for name, found in findings.items()}
    return {
        name: replace(found, below_precision=findings[name].below_precision)
        for name, found in finest.items()
        if name in findings
    }


def _unclear(findings: Sequence[Finding]) -> bool:
    """Whether rounding errors leave in doubt where an output lies.

    What does not change at all while later layers do depends on no input (position embeddings).
    """
    moving = [place for place, found in enumerate(findings) if found.readings and found.moved]
    last = moving[-1] if moving else -1
    return any(
        found.below_precision and not found.spatial and (found.moved or place > last)
        for place, found in enumerate(findings)
    )


@dataclass
class _Output:
    """What is gathered about one layer's last output."""

    shape: tuple[int, ...] | None = None
    size: int = 0
    batched: bool = True
    finite: bool = True
    calls: int = 0
    batch_axis: int = 0
    layouts: tuple[str, ...] = ()
    folded: bool = False
    responses: list[_Responses] = field(default_factory=list)
    latest: _Responses | None = None
    rounding: float = 0.0
    overwritten: bool = False

    @property
    def change(self) -> float:
        """The greatest change of a value by a disturbance."""
        return max((found.change for found in self.responses), default=0.0)

    @property
    def below_precision(self) -> bool:
        """Whether the change is hardly more than rounding errors, or less."""
        return bool(self.responses) and self.change < _ROUNDINGS * self.rounding

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


Calls = Mapping[str, Sequence[_Output]]
"""By layer, the outputs of its calls in one pass; of most layers the last one only."""


class _Responses:
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


def _findings(
    seen: Mapping[str, _Output],
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
    seen: Mapping[str, _Output],
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


def _turned_match(output: _Output, reading: Arrangement, turn: str) -> Match:
    """How well an output follows the bands if the network has turned the image."""
    maps = _maps(_stacked_responses([output], reading.layout), [reading])
    [match] = match_all(turn_back(maps, turn), borders=True)
    return match


def _placed(findings: Mapping[str, Finding], seen: Mapping[str, _Output]) -> dict[str, Finding]:
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


def _explicit(groups: Sequence[Sequence[_Output]], frame: Frame) -> list[list[Readings]]:
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
    outputs: Sequence[_Output], frame: Frame, known: Collection[Arrangement], *, lines: bool
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


def _stacked_responses(outputs: Sequence[_Output], layout: str) -> Tensor:
    """The ``sizes`` of outputs of one shape: ``(outputs, 2 * BANDS, 2, …)``."""
    return torch.stack(
        [torch.cat([each.by_layout[layout] for each in output.responses]) for output in outputs]
    )


def frames_in_batch(clean: Tensor) -> tuple[int, ...]:
    """How many frames of one input a network may fold into the batch.

    They are the frames of a clip, or pictures one behind the other in an image's channels.
    """
    max_frames = clean.shape[2] if clean.ndim == 5 else clean.shape[1]
    return tuple(count for count in range(2, max_frames + 1) if max_frames % count == 0)


def _shapes(
    module: nn.Module, clean: Tensor, run: Run, frame: Frame, parts: Collection[int]
) -> Calls:
    """Runs the clean input alone: what comes out of each layer, and how it could be read.

    Args:
        module: The model.
        clean: The input.
        run: How to run the model.
        frame: The input's shape.
        parts: How many frames an output may have in place of the batch.

    Returns:
        In the order of the last calls; several of layers with parameters that run several times.
    """
    found: dict[str, list[_Output]] = {}
    written: dict[str, Callable[[], bool]] = {}

    def visit(name: str, output: Any) -> None:
        tensor = main_tensor(output)
        outputs = found[name] = found.pop(name, [])
        calls = len(outputs) + 1
        written.pop(name, None)
        if tensor is None:
            outputs.append(_Output(calls=calls))
            return
        # A batch of one is the first dimension or, of a sequence, the second one; whether it is
        # becomes clear as the batch grows.
        second = tensor.ndim == 3 and tensor.shape[0] > 1 and tensor.shape[1] == 1
        batched, axis = second or tensor.shape[:1] == (1,), int(second)
        shape = tuple(tensor.shape)
        folded = not batched and tensor.ndim > 2 and shape[0] in parts
        if batched:
            shape = shape[:axis] + shape[axis + 1 :]
        size = tensor.numel() * tensor.element_size()
        layouts: tuple[str, ...] = ()
        if (batched or folded) and tensor.is_floating_point():
            layouts = _layouts((1, *shape), frame, axis, folded=folded)
        greatest = _greatest(tensor)
        seen = _Output(
            shape, size, batched or folded, isfinite(greatest), calls, axis, layouts, folded
        )
        outputs.append(seen)
        if tensor.is_floating_point():
            seen.rounding = torch.finfo(tensor.dtype).eps * greatest
        if layouts:
            written[name] = watch_writes(tensor)

    with observe(module, visit):
        run(module, clean)
    for name, is_written in written.items():
        found[name][-1].overwritten = is_written()
    shared = _shared(module, {name: len(outputs) for name, outputs in found.items()})
    return {name: found[name] if name in shared else found[name][-1:] for name in found}


def _shared(module: nn.Module, counts: Mapping[str, int]) -> set[str]:
    """The layers that run several times with weights, and all in them: a backbone for two views.

    A ReLU that is used in several places is none of them.
    """
    parts = dict(module.named_modules())
    roots = {
        name
        for name, count in counts.items()
        if 1 < count <= _MAX_CALLS and next(parts[name].parameters(), None) is not None
    }
    within = {
        name
        for name in counts
        if any(name[:place] in roots for place, sign in enumerate(name) if sign == ".")
    }
    return {name for name in roots | within if 1 < counts[name] <= _MAX_CALLS}


def _choose_calls(findings: dict[str, Finding], calls: Calls, frame: Frame) -> None:
    """Of layers that run several times, the last call that follows the image counts."""
    for name, (*earlier, _) in calls.items():
        if not earlier:
            continue
        last = findings[name]
        numbered = {str(number): output for number, output in enumerate(earlier)}
        found = [*_findings(numbered, frame, ()).values(), last]
        readable = tuple(number for number, each in enumerate(found) if each.spatial)
        call = readable[-1] if readable else last.calls - 1
        findings[name] = replace(
            found[call],
            calls=last.calls,
            call=call,
            readable=readable,
            overwritten=last.overwritten or call < last.calls - 1,
        )


def _layouts(
    shape: tuple[int, ...], frame: Frame, batch_axis: int, *, folded: bool = False
) -> tuple[str, ...]:
    """The layouts that an output may have, by its shape with the batch first."""
    if sum(side > 1 for side in shape[1:]) < 2:
        return ()  # one number per channel
    if not folded and len(shape) == 3 and min(shape[1:]) > 1:
        return ("LNC",) if batch_axis else ("NLC", "NCL")
    found = arrangements(shape, frame, batch_axis, folded=folded)
    return tuple(dict.fromkeys(reading.layout for reading in found if reading.cells > 1))


def _greatest(tensor: Tensor) -> float:
    """The greatest absolute value; not finite if any value is not."""
    if tensor.numel() == 0:
        return 0.0
    if tensor.is_quantized:
        tensor = tensor.dequantize()
    if tensor.is_complex() or tensor.dtype == torch.bool:
        tensor = tensor.abs().float()
    minimum, maximum = torch.aminmax(tensor)
    return max(abs(float(minimum)), abs(float(maximum)))


def _run_all(
    module: nn.Module,
    clean: Tensor,
    copies: list[Tensor],
    run: Run,
    calls: Calls,
    chunks: Sequence[int],
) -> None:
    """Runs all disturbed copies, in chunks of the first size that fits into memory."""
    done = 0
    for place, size in enumerate(chunks):
        try:
            while done < len(copies):
                some = copies[done : done + size]
                _run_chunk(module, torch.cat([clean, *some]), run, calls)
                done += len(some)
            return
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error) or place + 1 == len(chunks):
                raise
        for output in chain.from_iterable(calls.values()):
            output.latest = None


def _run_chunk(module: nn.Module, batch: Tensor, run: Run, calls: Calls) -> None:
    """Runs the clean input with some disturbed copies and collects the responses of the layers."""
    previous: tuple[Tensor, Callable[[], bool], _Responses] | None = None

    def visit(name: str, output: Any) -> None:
        nonlocal previous
        outputs = calls[name]
        # Where only the last call is examined, each call replaces the one before.
        tensor, found = main_tensor(output), outputs[min(done[name], len(outputs) - 1)]
        done[name] += 1
        if tensor is None or not found.takes(tensor, len(batch)):
            found.latest = None
            return
        tensor = tensor.transpose(0, found.batch_axis)
        if previous and same_values(tensor, previous[0]) and not previous[1]():
            found.latest = previous[2]
        else:
            found.latest = _Responses(tensor, found.layouts)
            previous = tensor, watch_writes(tensor), found.latest

    done: Counter[str] = Counter()
    readable = [output for output in chain.from_iterable(calls.values()) if output.layouts]
    names = [name for name, outputs in calls.items() if any(each.layouts for each in outputs)]
    run_observed(module, batch, run, visit, names)
    for output in readable:
        output.keep()


def _disturbed(clean: Tensor, seed: int) -> Iterator[Tensor]:
    """One copy per horizontal band, then one per vertical band."""
    # Another seed than that of the clean input, whose multiple would not be a disturbance.
    generator = torch.Generator().manual_seed(seed + 7919)
    noise = 2 * torch.randn(clean.shape, generator=generator).to(clean)
    for axis in (-2, -1):
        edges = [round(i * clean.shape[axis] / BANDS) for i in range(BANDS + 1)]
        for start, stop in pairwise(edges):
            disturbed = clean.clone()
            band = (axis, start, stop - start)
            disturbed.narrow(*band).copy_(noise.narrow(*band))
            yield disturbed
