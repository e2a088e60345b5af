"""Accumulates the gradients of each layer and makes maps of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import filterfalse, product
from operator import attrgetter

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cam_hub.errors import NoMap
from cam_hub.methods import Evidence, Method, MomentSum
from cam_hub.methods.evidence import agreement

__all__ = ["Accumulator", "Allowance", "Key", "Map"]

Map = NDArray[np.float32]

_NEEDS_NOISE = attrgetter("needs_noise")


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


@dataclass(eq=False)
class Accumulator:
    """Accumulates the gradients of each class and layer, and makes each map as soon as it can.

    Where all gradients of a layer arrive at once, they are freed before the next layer's are
    computed. Those that arrive in several chunks are summed up.

    Attributes:
        methods: The methods.
        samples: How many noisy copies will arrive in all.
        allowance: For the clean image's evidence, from which other methods can be had.
        maps: By method, class index and layer.
        agreements: By the same keys, for methods that need noise: how far another seed's map can be
            expected to agree, see ``methods.evidence.agreement``. A single copy has none.
        evidence: That of the clean image, by class index and layer, as far as the allowance goes.
        error: The reason why a map is missing, if one was not finite; later gradients are ignored.
    """

    methods: Sequence[Method]
    samples: int
    allowance: Allowance = field(default_factory=Allowance)
    maps: dict[Key, Map] = field(default_factory=dict, init=False)
    agreements: dict[Key, float] = field(default_factory=dict, init=False)
    evidence: dict[tuple[int, str], Evidence] = field(default_factory=dict, init=False)
    error: NoMap | None = field(default=None, init=False)
    _clean: dict[tuple[int, str], tuple[Tensor, Tensor]] = field(default_factory=dict, init=False)
    _sums: dict[tuple[int, str], MomentSum] = field(default_factory=dict, init=False)

    @torch.no_grad()
    def take(self, index: int, name: str, activation: Tensor | None, gradients: Tensor) -> None:
        """Takes in one class's gradients of a chunk at one layer.

        Args:
            index: The class.
            name: The layer.
            activation: ``(1, channels, rows, cols)`` of the clean image, if its gradient comes
                first; else None.
            gradients: ``(N, channels, rows, cols)``.
        """
        place, noisy = (index, name), gradients
        smooth = list(filter(_NEEDS_NOISE, self.methods))
        ready: list[tuple[Method, Evidence]] = []
        if activation is not None:
            clean, noisy = gradients[:1], gradients[1:]
            ready += product(filterfalse(_NEEDS_NOISE, self.methods), [Evidence(activation, clean)])
            if (kept := self.allowance.keep(name, activation, clean)) is not None:
                self.evidence[place] = kept
            if smooth:
                alone = self.samples == len(noisy)
                self._clean[place] = activation, clean if alone else clean.clone()
        if len(noisy) and self.samples:
            self._sums.setdefault(place, MomentSum()).add(noisy[:, None])
        total = self._sums.get(place)
        if place in self._clean and total is not None and total.count >= self.samples:
            del self._sums[place]
            pair = self._clean.pop(place)
            parts: dict[str, list[Tensor]] = {}  # before the means take memory, too
            for without in total.without_each():
                for method in smooth:
                    cam = method.compute(Evidence(*pair, without))
                    parts.setdefault(method.key, []).append(cam)
            for key, maps in parts.items():
                self.agreements[key, index, name] = agreement(torch.cat(maps))
            ready += product(smooth, [Evidence(*pair, total.mean())])
        for method, evidence in ready:
            found: Map = method.compute(evidence)[0].float().cpu().numpy()
            if not np.isfinite(found).all():
                reason = "its map holds values that are not finite (NaN or infinity)"
                self.error = self.error or NoMap(reason, layer=name)
            self.maps[method.key, index, name] = found


def _alone(tensor: Tensor) -> Tensor:
    """A tensor that keeps nothing in memory but itself."""
    lonely = tensor.untyped_storage().nbytes() == tensor.nbytes
    return tensor if lonely else tensor.clone()
