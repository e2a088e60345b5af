"""Detectors that drop no box, however low its score is."""

from __future__ import annotations

import copy
from typing import Any

from torch import Tensor, nn

__all__ = ["THRESHOLD", "run_leniently"]

THRESHOLD = "score_thresh"
"""The attribute in which torchvision's detectors keep the score below which they drop a box."""


def run_leniently(
    module: nn.Module, images: list[Tensor], *strict: type[nn.Module]
) -> tuple[Any, float]:
    """Calls a detector with its score thresholds at 0, without writing to it.

    Other threads may be calling the same module, so the parts that hold a threshold are replaced
    by shallow copies in a copy of the way to them. All else, hooks too, is shared.

    Args:
        module: The detector.
        images: ``(channels, rows, cols)`` each.
        *strict: Parts that keep their threshold.

    Returns:
        What the detector returned, and the highest threshold that was put to 0.
    """
    found: list[float] = []
    view = _lenient(module, strict, found)
    return view(images), max(found, default=0.0)


def _lenient(
    module: nn.Module, strict: tuple[type[nn.Module], ...], found: list[float]
) -> nn.Module:
    changed: dict[str, nn.Module] = {}
    for name, child in module.named_children():
        view = _lenient(child, strict, found)
        if view is not child:
            changed[name] = view
    own = getattr(module, THRESHOLD, None)
    lower = isinstance(own, (int, float)) and not isinstance(module, strict)
    if not changed and not lower:
        return module
    view = copy.copy(module)
    # The copy shares its dictionaries with the original.
    view.__dict__["_modules"] = {**module._modules, **changed}
    if lower:
        found.append(float(own))  # type: ignore[arg-type]
        setattr(view, THRESHOLD, 0.0)
    return view
