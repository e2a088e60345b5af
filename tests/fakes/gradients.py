"""All gradients of a backward pass at once, which the engine never holds together."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from cam_hub.hooks.recording import Taps, observe


@contextmanager
def tap(module: nn.Module, names: Sequence[str], **options: Any) -> Iterator[Taps]:
    """Records the outputs of some layers; ``options`` are those of ``Taps``."""
    taps = Taps(**options)
    with observe(module, taps.record, names):
        yield taps


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
