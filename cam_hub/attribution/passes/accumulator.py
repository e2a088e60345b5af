"""Accumulates the gradients of each layer and makes maps of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cam_hub.errors import NoMap
from cam_hub.methods import Evidence, Method, MomentSum
from cam_hub.methods.evidence import agreement

__all__ = ["Accumulator", "Allowance", "Key", "Map", "make_map"]

Map = NDArray[np.float32]


@dataclass
class Allowance:
    """What of the clean image's evidence may be kept for other methods.

    Attributes:
        bytes: How much memory it may take.
        activations: Those that are kept already, by layer: all classes share them.
    """

    bytes: int = 0
    activations: dict[str, Tensor] = field(default_factory=dict)

    def keep(self, name: str, activation: Tensor, gradient: Tensor) -> Evidence | None:
        """Evidence that keeps nothing else in memory; None where it would be too large."""
        known = self.activations.get(name)
        size = gradient.nbytes + (activation.nbytes if known is None else 0)
        if size > self.bytes:
            return None
        self.bytes -= size
        if known is None:
            known = self.activations[name] = _alone(activation)
        return Evidence(known, _alone(gradient))


Key = tuple[str, int, str]
"""Method, class index and layer of a map."""


class Accumulator:
    """Accumulates the gradients of each class and layer, and makes each map as soon as it can.

    Where all gradients of a layer arrive at once, they are freed before the next layer's are
    computed. Those that arrive in several chunks are summed up.

    Args:
        methods: The methods.
        samples: How many noisy copies will arrive in all.
        allowance: For the clean image's evidence, from which other methods can be had.

    Attributes:
        maps: By method, class index and layer.
        agreements: By the same keys, for methods that need noise: how far another seed's map can be
            expected to agree, see ``methods.evidence.agreement``. A single copy has none.
        evidence: That of the clean image, by class index and layer, as far as the allowance goes.
    """

    def __init__(
        self, methods: Sequence[Method], samples: int, allowance: Allowance | None = None
    ) -> None:
        self.maps: dict[Key, Map] = {}
        self.agreements: dict[Key, float] = {}
        self.evidence: dict[tuple[int, str], Evidence] = {}
        self._allowance = allowance or Allowance()
        self._methods = methods
        self._samples = samples
        self._clean: dict[tuple[int, str], tuple[Tensor, Tensor]] = {}
        self._sums: dict[tuple[int, str], MomentSum] = {}

    def take(self, index: int, name: str, activation: Tensor | None, gradients: Tensor) -> None:
        """Takes in one class's gradients of a chunk at one layer.

        Args:
            index: The class.
            name: The layer.
            activation: ``(1, channels, rows, cols)`` of the clean image, if its gradient comes
                first; else None.
            gradients: ``(N, channels, rows, cols)``.

        Raises:
            NoMap: If a map is not finite.
        """
        place, noisy = (index, name), gradients
        if activation is not None:
            clean, noisy = gradients[:1], gradients[1:]
            self._make(place, Evidence(activation, clean), noise=False)
            if (kept := self._allowance.keep(name, activation, clean)) is not None:
                self.evidence[place] = kept
            if any(method.needs_noise for method in self._methods):
                alone = self._samples == len(noisy)
                self._clean[place] = activation, clean if alone else clean.clone()
        if len(noisy) and self._samples:
            self._sums.setdefault(place, MomentSum()).add(noisy[:, None])
        if place in self._clean and place in self._sums:
            if self._sums[place].count < self._samples:
                return
            total, pair = self._sums.pop(place), self._clean.pop(place)
            self._make(place, Evidence(*pair, total.mean()))
            self._compare(place, pair, total)

    def _make(self, place: tuple[int, str], evidence: Evidence, *, noise: bool = True) -> None:
        for method in self._methods:
            if method.needs_noise == noise:
                self.maps[method.key, *place] = make_map(method, evidence, place[1])

    def _compare(
        self, place: tuple[int, str], clean: tuple[Tensor, Tensor], total: MomentSum
    ) -> None:
        noisy = [method for method in self._methods if method.needs_noise]
        with torch.no_grad():
            maps = [
                [method.compute(Evidence(*clean, without)) for method in noisy]
                for without in total.without_each()
            ]
        for method, found in zip(noisy, zip(*maps, strict=True), strict=bool(maps)):
            self.agreements[method.key, *place] = agreement(torch.cat(found))


def make_map(method: Method, evidence: Evidence, name: str) -> Map:
    """One method's map at one layer.

    Raises:
        NoMap: If it is not finite.
    """
    with torch.no_grad():
        found: Map = method.compute(evidence)[0].float().cpu().numpy()
    if not np.isfinite(found).all():
        raise NoMap("its map holds values that are not finite (NaN or infinity)", layer=name)
    return found


def _alone(tensor: Tensor) -> Tensor:
    """A tensor that keeps nothing in memory but itself."""
    lonely = tensor.untyped_storage().nbytes() == tensor.nbytes
    return tensor if lonely else tensor.clone()
