"""From gradients, layer by layer as they come by, to maps."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cam_hub.errors import NoMap
from cam_hub.methods import Evidence, Method, MomentSum

__all__ = ["Gathering", "Map"]

Map = NDArray[np.float32]


class Gathering:
    """The maps of one class, made as soon as all that they need has come by.

    Where everything comes at once, a layer's gradient is let go before the next one is computed.
    What comes in several chunks is summed up.

    Args:
        methods: The methods.
        samples: How many noisy copies will come in all.
    """

    def __init__(self, methods: Sequence[Method], samples: int) -> None:
        self.maps: dict[tuple[str, str], Map] = {}
        self._methods = methods
        self._samples = samples
        self._clean: dict[str, tuple[Tensor, Tensor]] = {}
        self._sums: dict[str, MomentSum] = {}

    def take(self, name: str, activation: Tensor | None, gradients: Tensor) -> None:
        """Takes in one layer's share of a chunk.

        Args:
            name: The layer.
            activation: ``(1, channels, rows, cols)`` of the clean image, if its gradient comes
                first; else None.
            gradients: ``(N, channels, rows, cols)``.

        Raises:
            NoMap: If a map is not finite.
        """
        noisy = gradients
        if activation is not None:
            clean, noisy = gradients[:1], gradients[1:]
            self._make(name, Evidence(activation, clean), noise=False)
            if any(method.needs_noise for method in self._methods):
                alone = self._samples == len(noisy)
                self._clean[name] = activation, clean if alone else clean.clone()
        if len(noisy) and self._samples:
            total = self._sums.setdefault(name, MomentSum())
            total.add(noisy[:, None])
        if name in self._clean and name in self._sums and self._sums[name].count == self._samples:
            self._make(name, Evidence(*self._clean.pop(name), self._sums.pop(name).mean()))

    def _make(self, name: str, evidence: Evidence, *, noise: bool = True) -> None:
        for method in self._methods:
            if method.needs_noise == noise:
                self.maps[method.name, name] = _map(method, evidence, name)


def _map(method: Method, evidence: Evidence, name: str) -> Map:
    with torch.no_grad():
        cam: Any = method.compute(evidence)[0]
        if not bool(torch.isfinite(cam).all()):
            raise NoMap("its map holds values that are not finite (NaN or infinity)", layer=name)
        found: Map = cam.float().cpu().numpy()
    return found
