"""All gradients of a backward pass at once, which the engine never holds together."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from cam_hub.hooks.recording import Taps


def gradients_of(
    taps: Taps, score: Tensor, names: Sequence[str], *, keep_graph: bool = False
) -> dict[str, Tensor]:
    """Derivatives of a score by recorded activations; zeros where it does not depend on one."""
    found: dict[str, Tensor] = {}
    taps.visit_gradients(score, found.__setitem__, keep_graph=keep_graph)
    return {
        name: found[name] if name in found else torch.zeros_like(taps.activations[name])
        for name in names
    }
