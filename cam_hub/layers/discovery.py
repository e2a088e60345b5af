"""One examination of a model: the experiment, what depends on what, and a line for each layer."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from math import prod
from typing import Any

import torch
from torch import Tensor, nn

from cam_hub._text import first_line
from cam_hub.errors import CamHubError, ModelRefused, OutOfMemory
from cam_hub.hooks.execution import Execution
from cam_hub.hooks.frozen_eval import frozen_eval, mixes_batch, unwrapped
from cam_hub.hooks.memory import is_out_of_memory
from cam_hub.hooks.recording import modules_by_name
from cam_hub.layers.correspondence import SELECTIVE
from cam_hub.layers.findings import Finding
from cam_hub.layers.layouts import FULL, TURNS, LayerInfo
from cam_hub.layers.model_runner import ExecutionChanged, ModelRunner
from cam_hub.layers.probe import disturb, frames_in_batch
from cam_hub.layers.reachability import Dependence, dependences
from cam_hub.layers.recommendation import (
    Reading,
    Recommendation,
    choose,
    confirmed,
    read_layouts,
    unread_after,
)
from cam_hub.models.loaded_model import EXECUTION as FACT
from cam_hub.models.loaded_model import LoadedModel
from cam_hub.targets.base import Reference, Target

__all__ = ["discover_layers"]

_MIN_CERTAIN_CELLS = 16
"""So many cells of a sequence hardly ever follow the image by chance."""

_RESTARTS = 5
"""Each time another property of how the network is run may be found; the last one is believed."""

_TOO_LARGE = (
    "one image of {} at a time does not fit into the memory of {} while its layers are looked for. "
    "A smaller input or another device would need less."
)

_HIGHEST_SCORES = 5
"""Number of the highest scores for which a layer needs positive evidence, where these come from
different places."""


_NOWHERE: dict[str, Any] = {"layout": None, "grid": None, "channels": None, "prefix_tokens": 0}


class _NoMemory(Exception):
    """Memory did not suffice for the experiment as it was done."""


def discover_layers(model: LoadedModel, size: tuple[int, ...]) -> list[LayerInfo]:
    """Discovers everything that ``list_layers`` returns.

    It takes one forward pass of one input, the same with ``2 * BANDS`` disturbed copies, and one
    with backward passes; for models without a classifier, one of a baseline. Where the halves of
    the deepest layer hardly differ, some more passes show whether its quadrants do.

    Args:
        model: The model.
        size: Shape of the input, without the batch.

    Returns:
        One entry per submodule, as ``list_layers`` returns them.

    Raises:
        ModelRefused: If the model cannot run on an input of this size.
        OutOfMemory: If memory does not suffice for one image at a time.
    """
    execution = Execution(one_by_one=mixes_batch(model.module))
    save_memory = False
    # Once for all passes: each looks through all modules for what to switch off.
    with frozen_eval(model.module):
        for left in reversed(range(_RESTARTS)):
            current = replace(execution, one_by_one=True) if save_memory else execution
            runner = ModelRunner(model.module, model.task, current, certain=not left)
            try:
                lines = _experiment(model, size, runner)
            except ExecutionChanged as signal:
                execution = signal.execution
            except _NoMemory:
                if runner.one_by_one:
                    raise OutOfMemory(model.id, _TOO_LARGE.format(size, model.device)) from None
                save_memory = True
            else:
                model.facts[FACT] = execution
                return lines
    raise AssertionError("the last run is certain")


def _experiment(model: LoadedModel, size: tuple[int, ...], run: ModelRunner) -> list[LayerInfo]:
    """The experiment, with a network that is run in one way.

    Raises:
        ExecutionChanged: If it has to be run in another way.
        _NoMemory: If memory does not suffice.
        ModelRefused: As ``discover_layers``.
    """
    clean = _noise(model, size, seed=0)
    try:
        findings = disturb(model.module, clean, run)
        _check_frames(findings, clean, run)
        readings = read_layouts(findings)
        tapped = {name: reading.arrangement for name, reading in readings.items()}
        score = _target(model, size, run).scores
        highest = _HIGHEST_SCORES if model.task.scattered else 1
        overwritten = {name for name in tapped if findings[name].overwritten}
        with dependences(
            model.module,
            clean,
            run,
            score,
            tapped,
            highest=highest,
            overwritten=overwritten,
            chosen={name: findings[name].call for name in tapped if findings[name].calls > 1},
        ) as reached:
            readings = confirmed(readings, reached)
            found = {name: counts for name, counts in reached.items() if name in readings}
            best = choose(
                model.module, clean, run, findings, readings, reached, dense=model.task.dense
            )
    except ModelRefused as error:  # tasks do not know the model's ID
        raise ModelRefused(model.id, error.reason) from error
    except (CamHubError, ExecutionChanged):
        raise
    except Exception as error:  # whatever a network raises on an input that it cannot take
        if is_out_of_memory(error):
            raise _NoMemory from None
        raise ModelRefused(
            model.id,
            f"its forward pass failed on an input of {tuple(size)}: {first_line(error)}. "
            f"The model was made for {model.input_size}.",
        ) from error
    return _lines(model.module, findings, readings, found, best)


def _check_frames(findings: Mapping[str, Finding], clean: Tensor, run: ModelRunner) -> None:
    """Looks for frames in the batch where more layers have them there than lie on the image.

    Raises:
        ExecutionChanged: If there are.
    """
    if run.folded:
        return
    parts = frames_in_batch(clean)
    shapes = [found.shape or () for found in findings.values() if not found.batched]
    folded = sum(len(shape) > 2 and shape[0] in parts for shape in shapes)
    if folded > sum(map(_is_certainly_spatial, findings.values())):
        raise ExecutionChanged(replace(run.execution, one_by_one=True, folded=True))


def _is_certainly_spatial(finding: Finding) -> bool:
    """Whether an output lies on the image, and not a few tokens (or hidden units) by chance."""
    found = finding.arrangement if finding.spatial else None
    return found is not None and (
        found.explicit or found.frames * found.cells >= _MIN_CERTAIN_CELLS
    )


def _noise(model: LoadedModel, size: tuple[int, ...], *, seed: int) -> Tensor:
    noise = torch.randn((1, *size), generator=torch.Generator().manual_seed(seed))
    return noise.to(model.device, model.dtype)


def _target(model: LoadedModel, size: tuple[int, ...], run: ModelRunner) -> Target:
    """What an explanation of the clean input would differentiate."""
    if not model.task.takes_reference:
        return model.task.target()
    with frozen_eval(model.module), torch.no_grad(), run.execution.around(model.module):
        baseline = model.task.run(unwrapped(model.module), _noise(model, size, seed=1))
    return model.task.target(reference=Reference(baseline=baseline))


def _lines(
    module: nn.Module,
    findings: Mapping[str, Finding],
    readings: Mapping[str, Reading],
    reached: Mapping[str, Dependence],
    best: Recommendation | None,
) -> list[LayerInfo]:
    modules = modules_by_name(module)
    grids = {readings[name].arrangement.grid for name in reached}
    stages = sorted(grids, key=lambda grid: (-grid[0] * grid[1], grid))
    lines = []
    for name, finding in findings.items():
        reading = readings.get(name)
        arrangement = reading.arrangement if reading else None
        usable = name in reached
        recommended = best is not None and name == best.name
        reason = _reason(finding, reading, usable=usable)
        placement = _placement(finding) if usable else ""
        shallow = _note(name, findings, readings) if recommended else ""
        note = "; ".join(filter(None, (shallow, placement)))
        if best is not None and recommended:
            reason = _why_this(reason, best, readings)
        lines.append(
            LayerInfo(
                name=name,
                module_type=type(modules[name]).__name__,
                **(vars(arrangement) if arrangement else _NOWHERE),
                is_conv=_is_conv(modules[name]),
                stage=stages.index(arrangement.grid) if arrangement and usable else None,
                usable=usable,
                recommended=recommended,
                reason=f"{reason}; but {note}" if note else reason,
                faint=arrangement is not None and finding.below_precision,
                overwritten=finding.overwritten,
                calls=finding.calls,
                call=finding.call,
                readable_calls=finding.readable,
                extent=finding.extent if arrangement and finding.extent else FULL,
                note=note,
            )
        )
    seen = {id(modules[name]) for name in findings}
    lines += [
        _idle(name, child)
        for name, child in modules.items()
        if name not in findings and id(child) not in seen
    ]
    return lines


def _placement(finding: Finding) -> str:
    """The note on a layer whose grid does not cover the input, or may not."""
    if finding.extent is None:
        return (
            "its grid may not cover the whole input: the network crops or pads on the way, and how "
            "much could not be measured, so places in its map may be shifted"
        )
    if finding.extent == FULL:
        return ""
    top, left, bottom, right = (f"{100 * end:.0f}" for end in finding.extent)
    return (
        f"its grid covers rows {top} to {bottom} % and columns {left} to {right} % of the input, "
        "since the network crops or pads on the way; its map is placed there"
    )


def _note(name: str, findings: Mapping[str, Finding], readings: Mapping[str, Reading]) -> str:
    """The note on the recommended layer if most of the network behind it could not be read."""
    measured = {other for other, reading in readings.items() if reading.measured}
    if name not in measured:
        return ""
    unread, after = unread_after(name, findings, measured)
    if not unread:
        return ""
    reasons = (
        "every place in it answers to the whole image"
        if other in readings
        else _why_not(findings[other])
        for other in unread
    )
    common, _ = Counter(reasons).most_common(1)[0]
    return (
        f"it is not deep: {len(unread)} of the {after} layers that run between it and pooling "
        f"could not be read (most often: {common}), so its map shows what an earlier part of the "
        "network sees"
    )


def _idle(name: str, module: nn.Module) -> LayerInfo:
    reason = "does not run in a forward pass"
    if isinstance(module, torch.jit._script.RecursiveScriptModule):
        reason = (
            "is a TorchScript module, which takes no hooks; use the Python module that was scripted"
        )
    return LayerInfo(
        name=name,
        module_type=type(module).__name__,
        **_NOWHERE,
        is_conv=_is_conv(module),
        stage=None,
        usable=False,
        recommended=False,
        reason=reason,
    )


def _is_conv(module: nn.Module) -> bool:
    return isinstance(module, nn.modules.conv._ConvNd)


def _reason(finding: Finding, reading: Reading | None, *, usable: bool) -> str:
    if reading is None:
        return _why_not(finding)
    if not usable:
        return "no class score depends on it (zero gradient)"
    rows, cols = reading.arrangement.grid
    grid = f"{rows}×{cols} grid"
    if reading.arrangement.frames > 1:
        grid += f" at each of {reading.arrangement.frames} steps of time"
    if reading.arrangement.turn:
        grid += f", {TURNS[reading.arrangement.turn]} by the network"
    if reading.measured:
        seen = (
            f"follows the image on a {grid} (correlation {reading.match.correlation:.2f}), and "
            "class scores depend on it"
        )
    else:
        seen = (
            f"is read on a {grid} by its shape, as the layers before it (with these weights every "
            "place in it answers to the whole image), and class scores depend on it"
        )
    if finding.calls == 1:
        return seen
    if finding.call == finding.calls - 1 and len(finding.readable) < 2:
        return f"{seen}; the last of its {finding.calls} calls counts"
    return f"{seen}; call {finding.call} of its {finding.calls} calls (from 0) counts" + (
        "; call= selects another" if len(finding.readable) > 1 else ""
    )


def _why_not(finding: Finding) -> str:
    if finding.shape is None:
        return "returns no tensor"
    if not finding.batched:
        return (
            f"its output {finding.shape} does not keep the images of a batch apart (windows or "
            "other parts as items of their own)"
        )
    if finding.arrangement is None:
        if len(finding.shape) > 1 and max(finding.shape) == prod(finding.shape):
            return "its output has a single cell: the whole image at once"
        return f"its output {finding.shape} has no rows and columns"
    if not finding.finite:
        return "its output is not finite (NaN or infinity)"
    if not finding.moved:
        return "its output does not change with the input"
    correlation = f"correlation {finding.match.correlation:.2f} with disturbed bands"
    if finding.match.selectivity >= SELECTIVE:
        return (
            "its output does not follow the image: its places answer in another order than the "
            f"image's (windows, unrolled tokens), or have no place ({correlation})"
        )
    return f"its output does not follow the image ({correlation})"


def _why_this(reason: str, best: Recommendation, readings: Mapping[str, Reading]) -> str:
    text = f"{reason}; the deepest such layer"
    if best.instead_of is not None:
        text = (
            f"{reason}; the deepest such layer, {best.instead_of!r}, mixes the picture's quarters "
            "(with these weights), and this is the deepest late one that keeps them apart"
        )
    if best.branches:
        ends = (
            "{!r} ({}×{})".format(name, *readings[name].arrangement.grid) for name in best.branches
        )
        text += f"; of several branches this one was chosen, others end at {', '.join(ends)}"
    return text
