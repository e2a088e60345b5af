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
from cam_hub.introspection.layouts import Arrangement, arrangements, to_maps
from cam_hub.recording import main_tensor, observe, tap

__all__ = ["Finding", "dependence", "disturb"]

BANDS = 4
"""Bands per axis: one clean input and twice this many disturbed ones are passed."""

SPATIAL = 0.85
"""Least correlation with the bands of an output that counts as spatial (true ones: above 0.95)."""

_ROUNDINGS = 64
"""A change below this many rounding errors of the output's greatest value is lost in them."""


@dataclass(frozen=True)
class Finding:
    """What the experiment showed of one layer's (last) output.

    Attributes:
        shape: Shape of the output for one image, or None if it is no tensor.
        arrangement: The reading that follows the bands best, or None if there is none to try.
        score: Its correlation with the bands, in [-1, 1].
        moved: Whether any disturbance changed the output at all.
        drowned: Whether it changed by hardly more than rounding errors, so that where it changed
            says nothing (deep networks with random weights).
    """

    shape: tuple[int, ...] | None
    arrangement: Arrangement | None
    score: float
    moved: bool = True
    drowned: bool = False

    @property
    def spatial(self) -> bool:
        """Whether the output lies on the image."""
        return self.arrangement is not None and self.score >= SPATIAL


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


def dependence(
    module: nn.Module, clean: Tensor, layers: Mapping[str, Arrangement], *, seed: int = 0
) -> dict[str, float]:
    """Finds out by one backward pass how far the scores depend on layers.

    A random mixture of all scores is differentiated, in which no dependence can cancel out.

    Args:
        module: The model.
        clean: One input, ``(1, channels, rows, cols)``.
        layers: The layers in question, and how each lies on the image.
        seed: Of the mixture.

    Returns:
        Per layer, the part of its maps' values at which the gradient is not zero, in [0, 1].
        Tokens without a place do not count.
    """
    with quiet(module), tap(module, list(layers)) as taps:
        scores = main_tensor(module(clean))
        ran = [name for name in layers if name in taps.activations]
        if scores is None or not scores.requires_grad or not ran:
            return {}
        weights = torch.randn(scores.shape, generator=torch.Generator().manual_seed(seed))
        gradients = taps.gradients((scores * weights.to(scores)).sum(), ran)
    return {
        name: float((to_maps(gradient, layers[name]) != 0).float().mean())
        for name, gradient in gradients.items()
    }


def _in_double(module: nn.Module) -> nn.Module | None:
    """A copy of the model in double precision, or None if it cannot be copied."""
    try:
        return copy.deepcopy(module).double()
    except (RuntimeError, TypeError, NotImplementedError):
        return None


def _disturbed(clean: Tensor, seed: int) -> Tensor:
    """The clean input, then one copy per horizontal band, then one per vertical band."""
    generator = torch.Generator().manual_seed(seed)
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
        return Finding(None, None, 0.0)
    shape = tuple(tensor.shape[1:])
    if tensor.shape[:1] != (1 + 2 * BANDS,) or not tensor.is_floating_point():
        return Finding(shape, None, 0.0)
    change = (tensor[1:] - tensor[:1]).abs()
    moved = bool(change.any())
    rounding = torch.finfo(tensor.dtype).eps * float(tensor[:1].abs().amax())
    drowned = moved and float(change.amax()) < _ROUNDINGS * rounding
    best = Finding(shape, None, 0.0, moved, drowned)
    for arrangement in arrangements(tuple(tensor.shape), aspect):
        score = _follows_bands(to_maps(change, arrangement).mean(dim=1), aspect)
        if best.arrangement is None or score > best.score:
            best = Finding(shape, arrangement, score, moved, drowned)
    return best


def _follows_bands(change: Tensor, aspect: float) -> float:
    """Correlation of the change per row and per column with the bands, the lesser of the two.

    Args:
        change: ``(2 * BANDS, rows, cols)``, mean absolute change per disturbed copy.
        aspect: Rows by columns of the input. Only where it is a strip may a grid be one, too.
    """
    rows = _correlation(change[:BANDS].mean(dim=2))
    cols = _correlation(change[BANDS:].mean(dim=1))
    if rows is not None and cols is not None:
        return min(rows, cols)
    longest = max(change.shape[1:])
    return max(rows or 0.0, cols or 0.0) if longest <= 2 * max(aspect, 1 / aspect) else 0.0


def _correlation(change: Tensor) -> float | None:
    """How well ``(BANDS, cells)`` follows the bands; None for a single cell, which cannot.

    Deep cells see far beyond their own place, so a band moves all of them a little. But the mean
    place of what moves a cell still runs along with the cell: it is this that must correlate.
    """
    bands, cells = change.shape
    if cells < 2:
        return None
    if not bool(torch.isfinite(change).all()) or not bool((change.sum(dim=1) > 0).all()):
        return 0.0
    # Bands may disturb more or less: each counts alike.
    share = change.double() / change.double().mean(dim=1, keepdim=True)
    total = share.sum(dim=0)
    if not bool((total > 0).all()):
        return 0.0
    places = (torch.arange(bands).to(share) + 0.5) / bands
    centre = (places[:, None] * share).sum(dim=0) / total
    cell = torch.arange(cells).to(share)
    return float(torch.corrcoef(torch.stack([centre, cell]))[0, 1].nan_to_num(0.0))
