"""The layer to explain when nothing else is asked for, tried on pictures where in doubt."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import prod

from torch import Tensor, nn

from cam_hub.hooks.chunks import copies_at_once
from cam_hub.layers.dependence import Dependences
from cam_hub.layers.late import late_layers
from cam_hub.layers.probe import Finding, Run
from cam_hub.layers.quarters import CLEAR_HALVES, CLEAR_QUARTERS, quarter_leads
from cam_hub.layers.reading import Reading
from cam_hub.layers.recommendation import (
    Recommendation,
    alternatives,
    recommend,
    recommend_instead,
)
from cam_hub.models.precision import double_pair

__all__ = ["choose"]

_LEAST = 0.05
"""Least lead of the quarters of a layer that is taken in place of the deepest one."""


def choose(
    module: nn.Module,
    clean: Tensor,
    run: Run,
    findings: Mapping[str, Finding],
    readings: Mapping[str, Reading],
    reached: Dependences,
    *,
    dense: bool = False,
) -> Recommendation | None:
    """Picks the deepest layer, or a late one that does not mix the picture's quarters as it does.

    Where the bands leave no doubt that the deepest layer keeps them apart, no further pass is made.

    Args:
        module: The model.
        clean: The input that it was disturbed from.
        run: How to run it on a batch.
        findings: From ``disturb``.
        readings: How layers lie on the image.
        reached: The layers that scores depend on, with the graph still open.
        dense: Whether the model answers for every place.

    Returns:
        None if no layer can be explained.
    """
    best = recommend(list(findings), readings, reached, dense=dense)
    if best is None or readings[best.name].match.halves >= CLEAR_HALVES:
        return best
    late = late_layers(findings)
    others = alternatives(best.name, list(findings), readings, reached, late)
    if not others:
        return best
    if findings[best.name].drowned:
        module, clean = double_pair(module, clean) or (module, clean)
    kept = _apart(module, clean, run, best.name, others, findings, readings)
    return recommend_instead(best, kept[0], readings, reached) if kept else best


def _apart(
    module: nn.Module,
    clean: Tensor,
    run: Run,
    best: str,
    others: Sequence[str],
    findings: Mapping[str, Finding],
    readings: Mapping[str, Reading],
) -> list[str]:
    """Which of the others keep the quarters apart; none if the best layer does, too."""
    names = (best, *others)
    layers = {name: (findings[name].shape or (), readings[name].arrangement) for name in names}
    largest = max(prod(finding.shape or ()) for finding in findings.values())
    room = copies_at_once(largest * clean.element_size(), clean.device)
    rounds = quarter_leads(module, clean, run, layers, at_once=room)
    for number, leads in enumerate(rounds, start=1):
        others = [name for name in others if leads[name] > 0]
        if not others or leads[best] >= CLEAR_QUARTERS / number:
            return []
    # A lead that is no number is no answer either, so this asks for what must hold.
    return [] if leads[best] > 0 else [name for name in others if leads[name] >= _LEAST]
