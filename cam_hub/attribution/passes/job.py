"""What a pass is to find out, and what it brings back."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from torch import Tensor

from cam_hub.attribution.passes.gathering import Map
from cam_hub.attribution.passes.noise import Noise
from cam_hub.attribution.passes.trace import Setting
from cam_hub.layers.layer_info import LayerInfo
from cam_hub.methods import Method
from cam_hub.models.loaded_model import LoadedModel
from cam_hub.targets.base import Standings, Target
from cam_hub.targets.classes import Settled

__all__ = ["Company", "Job", "Pass", "Progress"]

Progress = Callable[[float, str], None]
"""Called with the part of the work that is done, in [0, 1], and what is being done."""


class Company(NamedTuple):
    """What passes the network along with a clean image: how its numbers are rounded depends on it.

    Attributes:
        noise: The noisy copies; None where it passes alone.
        size: How many images pass at once, at most.
    """

    noise: Noise | None
    size: int


@dataclass(frozen=True)
class Job:
    """What a pass is to find out.

    Attributes:
        model: The model.
        image: ``(1, channels, rows, cols)`` or ``(1, channels, frames, rows, cols)``, preprocessed,
            on the model's device. Nobody writes to it: what is kept of the pass is known by it.
        layers: The target layers.
        aim: Makes a fresh target; it may cost passes of its own.
        question: What makes targets of ``aim`` differ, as far as the model and the image do not.
        settle: Names the classes, given how they stand in the clean image, and the target's labels.
        methods: What to make of the gradients.
        noise: The noisy copies to make; None for the clean image alone.
        batch_size: Most images that pass the network at once.
        setting: How the network is run.
        progress: Told after each step.
        options: Of the request, as the manifest records them.
    """

    model: LoadedModel
    image: Tensor
    layers: Mapping[str, LayerInfo]
    aim: Callable[[], Target]
    question: object
    settle: Callable[[Standings, tuple[str, ...] | None], Settled]
    methods: Sequence[Method]
    noise: Noise | None
    batch_size: int
    setting: Setting = field(default_factory=Setting)
    progress: Progress | None = None
    options: Mapping[str, Any] = field(default_factory=dict)

    @property
    def samples(self) -> int:
        """How many noisy copies are made."""
        return self.noise.num_samples if self.noise is not None else 0

    @property
    def size(self) -> int:
        """How many images pass the network at once, if memory allows."""
        return min(self.batch_size, 1 + self.samples)

    @property
    def company(self) -> Company:
        """What passes along with the clean image."""
        return Company(self.noise, self.size)

    def settled(self, standings: Standings, target: Target) -> Settled:
        """The classes to explain.

        Raises:
            CamHubError: If there are no such classes, or one of them cannot be explained.
        """
        found = self.settle(standings, target.labels)
        others = () if found.contrast is None else tuple(index for index, _ in found.contrast)
        target.check((*found.classes, *others))
        return found

    def tell(self, part: float, step: int, classes: Sequence[int]) -> None:
        """Tells ``progress``, if there is one."""
        if self.progress is not None:
            self.progress(part, f"class {step + 1} of {len(classes)}")


@dataclass(frozen=True)
class Pass:
    """What a pass has brought back.

    Attributes:
        standings: How the classes stand in the clean image.
        settled: The classes that were differentiated.
        labels: Names of the scores, where the model's own class names do not apply.
        target: What was differentiated, for the manifest.
        maps: By method, class index and layer; ``(rows, cols)``, of a clip the grids of its steps
            one below the other.
        agreements: Likewise, of methods that need noise: how far another seed's map can be
            expected to agree.
    """

    standings: Standings
    settled: Settled
    labels: tuple[str, ...] | None
    target: Mapping[str, Any]
    maps: Mapping[tuple[str, int, str], Map]
    agreements: Mapping[tuple[str, int, str], float] = field(default_factory=dict)
