"""The experiment: disturb a part of the input and see which positions of each output move.

The input is cut into horizontal bands and, once more, into vertical ones; each disturbed copy
differs from the clean input in one band only. Where an output lies on the image, its rows answer
to the horizontal bands and its columns to the vertical ones. So the reading of an output (which
axes are rows and columns) that follows the bands best is its layout, and an output that follows
them under no reading is not spatial.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from math import isfinite
from typing import Any

import torch
from torch import Tensor, nn

from cam_hub.guard import quiet
from cam_hub.introspection.bands import BANDS, FINEST, NONE, Match, match_all, sizes
from cam_hub.introspection.chunks import copies_at_once
from cam_hub.introspection.layouts import (
    LAYOUTS,
    OUT_OF_SHAPE,
    Arrangement,
    Frame,
    arrangements,
    to_maps,
)
from cam_hub.memory import in_chunks
from cam_hub.precision import double_pair
from cam_hub.recording import main_tensor, observe, same_values, watch_writes

__all__ = ["Finding", "Run", "disturb"]

Run = Callable[[nn.Module, Tensor], Any]
"""How a model is run on a batch."""

_ROUNDINGS = 64
"""A change below this many rounding errors of the output's greatest value is lost in them."""

_CHANNELS, _FEW_CHANNELS, _SMALL = 64, 32, 256
"""So many channels tell how much a place has changed; fewer on grids of more cells than a small
one has."""


@dataclass(frozen=True)
class Finding:
    """What the experiment showed of one layer's (last) output.

    Attributes:
        shape: Shape of the output for one image, or None if it is no tensor.
        readings: The readings that its shape allows, with how well each follows the bands, the
            best first.
        moved: Whether any disturbance changed the output at all.
        drowned: Whether it changed by hardly more than rounding errors, or not at all, so that
            where it changed says nothing (deep networks with random weights).
        batched: Whether its first dimension is the batch.
        finite: Whether it holds no NaN or infinity.
        calls: How often the layer ran in one pass; the last output counts.
        overwritten: Whether what follows writes to the output (in-place layers, ``+=``).
    """

    shape: tuple[int, ...] | None
    readings: tuple[tuple[Arrangement, Match], ...] = ()
    moved: bool = True
    drowned: bool = False
    batched: bool = True
    finite: bool = True
    calls: int = 1
    overwritten: bool = False

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

    One pass of the clean input tells the shapes; then come the disturbed copies, ``2 * BANDS``
    of them, at once or in a few chunks if they would not fit, each chunk with the clean input
    again (so that both see the same arithmetic).

    Args:
        module: The model.
        clean: One input, ``(1, channels, rows, cols)``; of a clip ``(1, channels, frames, rows,
            cols)``.
        run: How to run the model on a batch of them.
        budget: Bytes that the activations of one chunk may take, roughly; None for a part of
            what the device has free.
        seed: Of the noise.

    Returns:
        One finding per submodule that ran, in the order in which they finished (last calls).
    """
    *_, rows, cols = clean.shape
    frame = Frame(rows, cols, clean.shape[2] if clean.ndim == 5 else 1)
    with quiet(module), torch.no_grad():
        seen = _shapes(module, clean, run, frame)
        largest = max((output.size for output in seen.values()), default=0)
        room = copies_at_once(largest, clean.device, budget)
        # All at once, one axis', or fewer if need be.
        chunk = max(size for size in (2 * BANDS, BANDS, BANDS // 2, 1) if size <= room)
        for copies in in_chunks(_disturbed(clean, seed), chunk):
            _run_chunk(module, torch.cat([clean, *copies]), run, seen)
    strip = max(frame.aspect, 1 / frame.aspect) >= OUT_OF_SHAPE
    findings = _findings(seen, strip=strip)
    unclear = any(found.drowned and not found.spatial for found in findings.values())
    finer = double_pair(module, clean) if unclear else None
    if finer is None:
        return findings
    finest = disturb(*finer, run, budget=budget, seed=seed)
    return {
        name: replace(found, drowned=findings[name].drowned)
        for name, found in finest.items()
        if name in findings
    }


@dataclass
class _Output:
    """What is gathered about one layer's last output."""

    shape: tuple[int, ...] | None = None
    size: int = 0
    batched: bool = True
    finite: bool = True
    calls: int = 0
    readings: list[Arrangement] = field(default_factory=list)
    responses: list[_Responses] = field(default_factory=list)
    latest: _Responses | None = None
    rounding: float = 0.0
    overwritten: bool = False

    @property
    def layouts(self) -> set[str]:
        """The layouts of its readings."""
        return {reading.layout for reading in self.readings}

    @property
    def change(self) -> float:
        """The greatest change of a value by a disturbance."""
        return max((found.change for found in self.responses), default=0.0)

    @property
    def drowned(self) -> bool:
        """Whether the change is hardly more than rounding errors, or less."""
        return bool(self.readings) and self.change < _ROUNDINGS * self.rounding

    def keep(self) -> None:
        """Ends a chunk."""
        if self.latest is None:
            # It does not grow with the batch, or changes its shape from image to image (proposals
            # of boxes): it is no map.
            self.readings, self.responses = [], []
        else:
            self.responses.append(self.latest)
            self.latest = None

    def finding(self, matches: list[Match]) -> Finding:
        """Judges what was gathered.

        Args:
            matches: One of each reading.
        """
        found = list(zip(self.readings, matches, strict=True))
        # Stable: of equal readings the earlier one stays in front.
        found.sort(key=lambda pair: pair[1].rank, reverse=True)
        return Finding(
            self.shape,
            tuple(found),
            self.change > 0 or not self.responses,
            self.drowned,
            self.batched,
            self.finite,
            self.calls,
            self.overwritten,
        )


class _Responses:
    """How the places of one output answered to the disturbances of one chunk.

    Args:
        output: What the layer returned, the clean input's first.
        readings: How it may lie on the image.
    """

    def __init__(self, output: Tensor, readings: Sequence[Arrangement]) -> None:
        # Sums over channels leave the range of half precision soon.
        exact = torch.promote_types(output.dtype, torch.float32)
        self.by_layout: dict[str, Tensor] = {}
        self._change: Tensor | None = None
        for reading in readings:
            if reading.layout in self.by_layout:
                continue
            some = _sample(output, reading).to(exact)
            axis = LAYOUTS[reading.layout].channel_axis
            self.by_layout[reading.layout], greatest = sizes(some[1:] - some[:1], axis)
            self._change = greatest if self._change is None else self._change.maximum(greatest)

    @property
    def change(self) -> float:
        """The greatest change of a value."""
        return 0.0 if self._change is None else float(self._change)


def _sample(output: Tensor, reading: Arrangement) -> Tensor:
    """Evenly spread channels of an output and, of a fine grid, evenly spread rows and columns."""
    layout = LAYOUTS[reading.layout]
    index = [slice(None)] * output.ndim
    for axis, side in zip(layout.grid_axes, reading.grid, strict=False):
        step = -(-side // FINEST)
        index[axis] = slice(step // 2, None, step)
    channels = _CHANNELS if reading.cells <= _SMALL else _FEW_CHANNELS
    index[layout.channel_axis] = slice(None, None, -(-reading.channels // channels))
    return output[tuple(index)]


def _findings(seen: Mapping[str, _Output], *, strip: bool) -> dict[str, Finding]:
    """Judges all outputs; those of one shape, which have the same readings, at once."""
    alike: dict[tuple[int, ...] | None, list[str]] = {}
    for name, output in seen.items():
        alike.setdefault(output.shape if output.readings else None, []).append(name)
    matches: dict[str, list[Match]] = {name: [] for name in seen}
    for names in alike.values():
        outputs = [seen[name] for name in names]
        answers = {layout: _answers(outputs, layout) for layout in outputs[0].layouts}
        for reading in outputs[0].readings:
            maps = to_maps(answers[reading.layout], reading)
            # Over steps of time the mean is taken.
            maps = maps.reshape(len(names), 2 * BANDS, 2, reading.frames, -1, maps.shape[-1])
            for name, match in zip(names, match_all(maps.mean(dim=3), strip=strip), strict=True):
                matches[name].append(match)
    return {name: output.finding(matches[name]) for name, output in seen.items()}


def _answers(outputs: Sequence[_Output], layout: str) -> Tensor:
    """Their ``sizes``, one output after the other, of each the two of each disturbance."""
    parts = [torch.cat([each.by_layout[layout] for each in output.responses]) for output in outputs]
    return torch.cat(parts).flatten(0, 1)


def _shapes(module: nn.Module, clean: Tensor, run: Run, frame: Frame) -> dict[str, _Output]:
    """Runs the clean input alone: what comes out of each layer, and how it could be read."""
    seen: dict[str, _Output] = {}
    written: dict[str, Callable[[], bool]] = {}

    def visit(name: str, output: Any) -> None:
        tensor = main_tensor(output)
        calls = seen.pop(name).calls if name in seen else 0
        written.pop(name, None)
        if tensor is None:
            seen[name] = _Output(calls=calls + 1)
            return
        batched = tensor.shape[:1] == (1,)
        shape = tuple(tensor.shape[1:]) if batched else tuple(tensor.shape)
        size = tensor.numel() * tensor.element_size()
        readings = []
        if batched and tensor.is_floating_point():
            readings = [found for found in arrangements(tensor.shape, frame) if found.cells > 1]
        greatest = _greatest(tensor)
        finite = isfinite(greatest)
        seen[name] = _Output(shape, size, batched, finite, calls + 1, readings)
        if tensor.is_floating_point():
            seen[name].rounding = torch.finfo(tensor.dtype).eps * greatest
        if readings:
            written[name] = watch_writes(tensor)

    with observe(module, visit):
        run(module, clean)
    for name, is_written in written.items():
        seen[name].overwritten = is_written()
    return seen


def _greatest(tensor: Tensor) -> float:
    """The greatest absolute value; not finite if any value is not."""
    if tensor.numel() == 0:
        return 0.0
    if tensor.is_complex() or tensor.dtype == torch.bool:
        tensor = tensor.abs().float()
    least, most = torch.aminmax(tensor)
    return max(abs(float(least)), abs(float(most)))


def _run_chunk(module: nn.Module, batch: Tensor, run: Run, seen: dict[str, _Output]) -> None:
    """Runs the clean input with some disturbed copies and takes in what the layers answer."""
    previous: tuple[Tensor, Callable[[], bool], _Responses] | None = None

    def visit(name: str, output: Any) -> None:
        nonlocal previous
        tensor, found = main_tensor(output), seen[name]
        if tensor is None or tuple(tensor.shape) != (len(batch), *(found.shape or ())):
            found.latest = None
        # A later call in the same pass replaces what an earlier one said.
        elif previous and same_values(tensor, previous[0]) and not previous[1]():
            found.latest = previous[2]
        else:
            found.latest = _Responses(tensor, found.readings)
            previous = tensor, watch_writes(tensor), found.latest

    readable = [name for name, output in seen.items() if output.readings]
    with observe(module, visit, readable):
        run(module, batch)
    for name in readable:
        seen[name].keep()


def _disturbed(clean: Tensor, seed: int) -> Iterator[Tensor]:
    """One copy per horizontal band, then one per vertical band."""
    # Another seed than callers may have drawn the clean input with: its multiple is no disturbance.
    generator = torch.Generator().manual_seed(seed + 7919)
    noise = 2 * torch.randn(clean.shape, generator=generator).to(clean)
    for axis in (-2, -1):
        edges = [round(i * clean.shape[axis] / BANDS) for i in range(BANDS + 1)]
        for start, stop in pairwise(edges):
            disturbed = clean.clone()
            band = (axis, start, stop - start)
            disturbed.narrow(*band).copy_(noise.narrow(*band))
            yield disturbed
