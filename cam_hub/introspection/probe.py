"""The experiment: disturb a part of the input and see which positions of each output move.

The input is cut into horizontal bands and, once more, into vertical ones; each disturbed copy
differs from the clean input in one band only. Where an output lies on the image, its rows answer
to the horizontal bands and its columns to the vertical ones. So the reading of an output (which
axes are rows and columns) that follows the bands best is its layout, and an output that follows
them under no reading is not spatial.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

from cam_hub.guard import quiet
from cam_hub.introspection.bands import BANDS, NONE, Match, match_bands
from cam_hub.introspection.layouts import Arrangement, arrangements, to_maps
from cam_hub.methods import layercam
from cam_hub.recording import main_tensor, observe, tap

__all__ = ["Dependence", "Finding", "dependence", "disturb"]

_ROUNDINGS = 64
"""A change below this many rounding errors of the output's greatest value is lost in them."""


@dataclass(frozen=True)
class Finding:
    """What the experiment showed of one layer's (last) output.

    Attributes:
        shape: Shape of the output for one image, or None if it is no tensor.
        arrangement: The reading that follows the bands best, or None if there is none to try.
        match: How well that reading follows them.
        moved: Whether any disturbance changed the output at all.
        drowned: Whether it changed by hardly more than rounding errors, so that where it changed
            says nothing (deep networks with random weights).
    """

    shape: tuple[int, ...] | None
    arrangement: Arrangement | None
    match: Match = NONE
    moved: bool = True
    drowned: bool = False

    @property
    def spatial(self) -> bool:
        """Whether the output lies on the image."""
        return self.arrangement is not None and self.match.spatial


def disturb(module: nn.Module, clean: Tensor, *, seed: int = 0) -> dict[str, Finding]:
    """Runs the experiment on all submodules, in one batched pass without gradients.

    Args:
        module: The model.
        clean: One input, ``(1, channels, rows, cols)``.
        seed: Of the noise.

    Returns:
        One finding per submodule that ran, in the order in which they finished (last calls).
    """
    findings: dict[str, Finding] = {}

    aspect = clean.shape[2] / clean.shape[3]

    def visit(name: str, output: Any) -> None:
        findings.pop(name, None)
        findings[name] = _judge(output, aspect)

    with quiet(module), torch.no_grad(), observe(module, visit):
        module(_disturbed(clean, seed))
    if any(finding.drowned for finding in findings.values()) and clean.dtype != torch.float64:
        finer = _in_double(module)
        if finer is not None:
            return disturb(finer, clean.double(), seed=seed)
    return findings


@dataclass(frozen=True)
class Dependence:
    """How scores depend on a layer.

    Attributes:
        covered: The part of its channels, or of its cells if that is less, that some score depends
            on, in [0, 1]. Tokens without a place do not count.
        speaks: Whether anything in it speaks for the predicted class: whether its LayerCAM map of
            the clean input is not blank.
    """

    covered: float
    speaks: bool


def dependence(
    module: nn.Module, clean: Tensor, layers: Mapping[str, Arrangement], *, seed: int = 0
) -> dict[str, Dependence]:
    """Finds out by one forward pass and the way back how scores depend on layers.

    A random mixture of all scores is differentiated, in which no dependence can cancel out; then
    the highest score.

    Args:
        module: The model.
        clean: One input, ``(1, channels, rows, cols)``.
        layers: The layers in question, and how each lies on the image.
        seed: Of the mixture.

    Returns:
        The layers that ran. Empty if no score depends on any.
    """
    with quiet(module), tap(module, list(layers)) as taps:
        scores = main_tensor(module(clean))
        ran = [name for name in layers if name in taps.activations]
        if scores is None or not scores.requires_grad or not ran:
            return {}
        weights = torch.randn(scores.shape, generator=torch.Generator().manual_seed(seed))
        mixture = (scores * weights.to(scores)).sum()
        mixed = taps.gradients(mixture, ran, keep_graph=True)
        highest = taps.gradients(scores.max(), ran)
    found = {}
    for name in ran:
        maps = [to_maps(part[name], layers[name]) for part in (mixed, highest, taps.activations)]
        found[name] = Dependence(_covered(maps[0]), bool(layercam(maps[2], maps[1]).any()))
    return found


def _covered(gradient: Tensor) -> float:
    """The lesser of the parts of channels and of cells with any gradient, of ``(1, C, …)``.

    Single zeros do not count: a ReLU that follows cuts off half of the values, but hardly ever a
    whole channel or a whole cell.
    """
    alive = gradient[0].flatten(1) != 0
    return min(float(alive.any(dim=1).float().mean()), float(alive.any(dim=0).float().mean()))


def _in_double(module: nn.Module) -> nn.Module | None:
    """A copy of the model in double precision, or None if it cannot be copied."""
    try:
        return copy.deepcopy(module).double()
    except (RuntimeError, TypeError, NotImplementedError):
        return None


def _disturbed(clean: Tensor, seed: int) -> Tensor:
    """The clean input, then one copy per horizontal band, then one per vertical band."""
    # Another seed than callers may have drawn the clean input with: its multiple is no disturbance.
    generator = torch.Generator().manual_seed(seed + 7919)
    noise = 2 * torch.randn(clean.shape, generator=generator).to(clean)
    copies = [clean]
    for axis in (2, 3):
        edges = [round(i * clean.shape[axis] / BANDS) for i in range(BANDS + 1)]
        for start, stop in pairwise(edges):
            disturbed = clean.clone()
            band = (axis, start, stop - start)
            disturbed.narrow(*band).copy_(noise.narrow(*band))
            copies.append(disturbed)
    return torch.cat(copies)


def _judge(output: Any, aspect: float) -> Finding:
    """Finds the reading of an output that follows the bands best."""
    tensor = main_tensor(output)
    if tensor is None:
        return Finding(None, None)
    shape = tuple(tensor.shape[1:])
    if tensor.shape[:1] != (1 + 2 * BANDS,) or not tensor.is_floating_point():
        return Finding(shape, None)
    change = tensor[1:] - tensor[:1]
    moved = bool(change.any())
    rounding = torch.finfo(tensor.dtype).eps * float(tensor[:1].abs().amax())
    drowned = moved and float(change.abs().amax()) < _ROUNDINGS * rounding
    best = Finding(shape, None, NONE, moved, drowned)
    for arrangement in arrangements(tuple(tensor.shape), aspect):
        match = match_bands(to_maps(change, arrangement), aspect)
        if best.arrangement is None or match.rank > best.match.rank:
            best = Finding(shape, arrangement, match, moved, drowned)
    return best
