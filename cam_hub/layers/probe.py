"""The experiment: disturb a part of the input and see which positions of each output move.

The input is cut into horizontal bands and, once more, into vertical ones; each disturbed copy
differs from the clean input in one band only. Where an output lies on the image, its rows respond
to the horizontal bands and its columns to the vertical ones. So the reading of an output (which
axes are rows and columns) that follows the bands best is its layout, and an output that follows
them under no reading is not spatial.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import chain, pairwise
from math import isfinite
from typing import Any

import torch
from torch import Tensor, nn

from cam_hub.hooks.frozen_eval import frozen_eval
from cam_hub.hooks.memory import copies_at_once, is_out_of_memory
from cam_hub.hooks.recording import main_tensor, observe, same_values, watch_writes
from cam_hub.layers.correspondence import (
    BANDS,
)
from cam_hub.layers.findings import Finding, Output, Responses, judge_outputs, lost_in_rounding
from cam_hub.layers.layouts import (
    Frame,
    arrangements,
)
from cam_hub.layers.model_runner import Run, run_observed
from cam_hub.models.loaded_model import double_pair

__all__ = ["disturb", "frames_in_batch"]

_MAX_CALLS = 8
"""For a layer that runs more often than this in one pass, only the last call is examined."""

_RECURRENT = (nn.RNNBase, nn.RNNCellBase)


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
    findings = judge_outputs(seen, frame, recurrent, turned=once)
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


Calls = Mapping[str, Sequence[Output]]
"""By layer, the outputs of its calls in one pass; of most layers the last one only."""


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
    found: dict[str, list[Output]] = {}
    written: dict[str, Callable[[], bool]] = {}

    def visit(name: str, output: Any) -> None:
        tensor = main_tensor(output)
        outputs = found[name] = found.pop(name, [])
        calls = len(outputs) + 1
        written.pop(name, None)
        if tensor is None:
            outputs.append(Output(calls=calls))
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
        seen = Output(
            shape, size, batched or folded, isfinite(greatest), calls, axis, layouts, folded
        )
        outputs.append(seen)
        if tensor.is_floating_point():
            seen.lost = lost_in_rounding(tensor.dtype, greatest)
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
        found = [*judge_outputs(numbered, frame, ()).values(), last]
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
    previous: tuple[Tensor, Callable[[], bool], Responses] | None = None

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
            found.latest = Responses(tensor, found.layouts)
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
