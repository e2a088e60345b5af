"""The experiment: disturb a part of the input and see which positions of each output move.

The input is cut into horizontal bands and, once more, into vertical ones; each disturbed copy
differs from the clean input in one band only. Where an output lies on the image, its rows answer
to the horizontal bands and its columns to the vertical ones. So the reading of an output (which
axes are rows and columns) that follows the bands best is its layout, and an output that follows
them under no reading is not spatial.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

from cam_hub.guard import quiet
from cam_hub.introspection.bands import BANDS, NONE, Match, coarse, match_bands, sizes
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
from cam_hub.recording import main_tensor, observe, watch_writes

__all__ = ["Finding", "Run", "disturb"]

Run = Callable[[nn.Module, Tensor], Any]
"""How a model is run on a batch."""

_ROUNDINGS = 64
"""A change below this many rounding errors of the output's greatest value is lost in them."""

_CHANNELS = 64
"""So many channels tell how much a place has changed."""


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
    findings = {name: output.finding(strip=strip) for name, output in seen.items()}
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
    responses: list[list[Tensor]] = field(default_factory=list)
    latest: list[Tensor] | None = None
    moved: bool = False
    change: float = 0.0
    rounding: float = 0.0
    overwritten: bool = False

    @property
    def drowned(self) -> bool:
        """Whether the change is hardly more than rounding errors, or less."""
        return bool(self.readings) and self.change < _ROUNDINGS * self.rounding

    def watch(self, output: Tensor) -> None:
        """Takes in the answers of one chunk, the clean one first."""
        rounding = torch.finfo(output.dtype).eps * float(output[:1].abs().amax())
        self.rounding = max(self.rounding, rounding)
        answers: list[list[Tensor]] = [[] for _ in self.readings]
        # One copy after the other: large outputs are not multiplied.
        for index in range(1, len(output)):
            by_layout: dict[str, Tensor] = {}
            for reading, found in zip(self.readings, answers, strict=True):
                name, axis = reading.layout, LAYOUTS[reading.layout].channel_axis
                if name not in by_layout:
                    some = _some_channels(output, axis)
                    change = some[index : index + 1] - some[:1]
                    self.change = max(self.change, float(change.abs().amax()))
                    by_layout[name] = sizes(change, axis)
                found.append(_on_grid(by_layout[name], reading))
        self.moved = self.change > 0
        # A later call in the same pass replaces what an earlier one said.
        self.latest = [torch.stack(found) for found in answers]

    def keep(self) -> None:
        """Ends a chunk."""
        if self.latest is None:
            # It does not grow with the batch, or changes its shape from image to image (proposals
            # of boxes): it is no map.
            self.readings, self.responses = [], []
        else:
            self.responses.append(self.latest)
            self.latest = None

    def finding(self, *, strip: bool) -> Finding:
        """Judges what was gathered."""
        found = [
            (reading, match_bands(torch.cat(list(parts)), strip=strip))
            for reading, *parts in zip(self.readings, *self.responses, strict=True)
            if parts
        ]
        # Stable: of equal readings the earlier one stays in front.
        found.sort(key=lambda pair: pair[1].rank, reverse=True)
        return Finding(
            self.shape,
            tuple(found),
            self.moved or not self.responses,
            self.drowned,
            self.batched,
            self.finite,
            self.calls,
            self.overwritten,
        )


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
        finite = bool(torch.isfinite(tensor).all())
        seen[name] = _Output(shape, size, batched, finite, calls + 1, readings)
        if readings:
            written[name] = watch_writes(tensor)

    with observe(module, visit):
        run(module, clean)
    for name, is_written in written.items():
        seen[name].overwritten = is_written()
    return seen


def _run_chunk(module: nn.Module, batch: Tensor, run: Run, seen: dict[str, _Output]) -> None:
    """Runs the clean input with some disturbed copies and takes in what the layers answer."""

    def visit(name: str, output: Any) -> None:
        tensor = main_tensor(output)
        if tensor is not None and tuple(tensor.shape) == (len(batch), *(seen[name].shape or ())):
            seen[name].watch(tensor)
        else:
            seen[name].latest = None

    readable = [name for name, output in seen.items() if output.readings]
    with observe(module, visit, readable):
        run(module, batch)
    for name in readable:
        seen[name].keep()


def _some_channels(output: Tensor, axis: int) -> Tensor:
    """At most ``_CHANNELS`` of the channels, evenly spread: they are averaged over anyway."""
    step = -(-output.shape[axis] // _CHANNELS)
    index = [slice(None)] * axis + [slice(None, None, step)]
    return output[tuple(index)]


def _on_grid(found: Tensor, reading: Arrangement) -> Tensor:
    """``(2, rows, cols)`` of ``sizes``; over steps of time the mean is taken."""
    maps = to_maps(found, reading).reshape(2, reading.frames, *reading.grid)
    return coarse(maps.mean(dim=1))


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
