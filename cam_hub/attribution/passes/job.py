"""A pass: what it has to find, its noisy copies, and the rows of its batch."""

from __future__ import annotations

import functools
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cam_hub.layers.layouts import LayerInfo
from cam_hub.methods import Method
from cam_hub.models.loaded_model import LoadedModel
from cam_hub.targets.base import ClassScores, Target
from cam_hub.targets.classes import ResolvedClasses

__all__ = [
    "BatchContext",
    "Job",
    "Key",
    "Map",
    "Noise",
    "Pass",
    "Progress",
    "Row",
    "Setting",
    "rows_of",
    "stacked",
]


Map = NDArray[np.float32]

Key = tuple[str, int, str]
"""Method, class index and layer of a map."""

_KEPT = 4 << 20
"""The most bytes of drawn noise that is kept for the next picture."""


@dataclass(frozen=True)
class Setting:
    """How the network is run.

    Attributes:
        autocast: Floating-point type of torch's autocast, or None for the model's own.
        memory_format: That of the batch. Convolutions hand it on, whatever their weights' own is.
    """

    autocast: torch.dtype | None = None
    memory_format: torch.memory_format = torch.contiguous_format


@dataclass(frozen=True)
class Noise:
    """Gaussian noise on the model's input.

    Attributes:
        num_samples: How many noisy copies.
        std: Standard deviation, in units of the normalised input.
        seed: The same seed gives the same copies; the first ones do not depend on how many there
            are.
    """

    num_samples: int
    std: float
    seed: int

    def draws(self, image: Tensor, memory_format: torch.memory_format) -> Iterator[Tensor]:
        """The noise of each copy of an image or clip ``(1, …)``, drawn on the CPU on every device.

        Args:
            image: The image, for its shape, type and device.
            memory_format: How the noise is to lie in memory.
        """
        asked = tuple(image.shape), self.num_samples, self.std, self.seed, memory_format
        if self.num_samples * image.numel() * 4 <= _KEPT:
            yield from _drawn(*asked, image.device, image.dtype)
        else:
            for drawn in _draw(*asked):
                yield drawn.to(image)


def _draw(
    shape: tuple[int, ...], count: int, std: float, seed: int, memory_format: torch.memory_format
) -> Iterator[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    for _ in range(count):
        drawn = torch.randn(shape, generator=generator) * std
        yield drawn.contiguous(memory_format=memory_format)


@functools.lru_cache(maxsize=2)  # picture after picture has the same, by default
def _drawn(
    shape: tuple[int, ...],
    count: int,
    std: float,
    seed: int,
    memory_format: torch.memory_format,
    device: torch.device,
    dtype: torch.dtype,
) -> tuple[Tensor, ...]:
    with torch.inference_mode(False):
        draws = _draw(shape, count, std, seed, memory_format)
        return tuple(drawn.to(device, dtype) for drawn in draws)


Progress = Callable[[float, str], None]
"""Called with the part of the work that is done, in [0, 1], and what is being done."""


class BatchContext(NamedTuple):
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
            on the model's device. It is never written to: cached passes are found by its values.
        layers: The target layers.
        aim: Makes a fresh target; it may cost passes of its own.
        question: What makes targets of ``aim`` differ, as far as the model and the image do not.
        settle: Names the classes, given their scores for the clean image, their labels, and which
            of them may be chosen without being named.
        methods: What to make of the gradients.
        noise: The noisy copies to make; None for the clean image alone.
        batch_size: Most images that pass the network at once.
        setting: How the network is run.
        progress: Called after each step.
        options: The options of the request, as the manifest records them.
        seed: Of what methods draw at random in passes of their own.
        samples: How many noisy copies are made.
        company: What passes along with the clean image, if memory allows.
    """

    model: LoadedModel
    image: Tensor
    layers: Mapping[str, LayerInfo]
    aim: Callable[[], Target]
    question: object
    settle: Callable[[Tensor, Sequence[str] | None, Tensor | None], ResolvedClasses]
    methods: Sequence[Method]
    noise: Noise | None
    batch_size: int
    setting: Setting = field(default_factory=Setting)
    progress: Progress | None = None
    options: Mapping[str, Any] = field(default_factory=dict)
    seed: int = 0

    samples: int = field(init=False)
    company: BatchContext = field(init=False)

    def __post_init__(self) -> None:
        samples = self.noise.num_samples if self.noise is not None else 0
        context = BatchContext(self.noise, min(self.batch_size, 1 + samples))
        object.__setattr__(self, "samples", samples)
        object.__setattr__(self, "company", context)

    def settled(self, standings: ClassScores, target: Target) -> ResolvedClasses:
        """The classes to explain.

        Raises:
            CamHubError: If there are no such classes, or one of them cannot be explained.
        """
        names = target.labels or self.model.class_names
        found = self.settle(standings.ranking, names, standings.eligible)
        checked = list(found.classes)
        for other, _ in found.contrast or ():
            checked.append(other)
        target.check(checked)
        return found


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
        agreements: By the same keys, for methods that need noise: how far another seed's map can be
            expected to agree.
        cancellation: By the same keys, for methods that have it: the share of the paper's weights
            that comes from cancelling denominators.
        samples: By the same keys, where it differs from the job's: the number of noisy copies.
        images: How many images passed for methods that make passes of their own.
        state: The state of the network that the images have passed, where a result may be made of
            this later; else None.
    """

    standings: ClassScores
    settled: ResolvedClasses
    labels: tuple[str, ...] | None
    target: Mapping[str, Any]
    maps: Mapping[Key, Map]
    agreements: Mapping[Key, float] = field(default_factory=dict)
    cancellation: Mapping[Key, float] = field(default_factory=dict)
    samples: Mapping[Key, int] = field(default_factory=dict)
    images: int = 0
    state: tuple[Hashable, ...] | None = None


Row = tuple[Tensor, Tensor | None]
"""An image ``(1, …)``, and the noise that is added to it."""


def rows_of(job: Job) -> Iterator[Row]:
    """The images that pass the network for a job, in their order: the picture itself first."""
    yield job.image, None
    if job.noise is not None:
        layout = job.setting.memory_format
        # Laid out once rather than with every copy.
        image = job.image.contiguous(memory_format=layout)
        for drawn in job.noise.draws(image, layout):
            yield image, drawn


def stacked(rows: Sequence[Row], job: Job) -> Tensor:
    """A batch of rows, written once, in the memory format in which a job's network is run.

    Args:
        rows: At least one; of one shape.
        job: The job, or one of several that are alike.

    Returns:
        ``(N, …)``, in memory of its own.
    """
    image, _ = rows[0]
    batch = torch.empty(
        (len(rows), *image.shape[1:]),
        dtype=image.dtype,
        device=image.device,
        memory_format=job.setting.memory_format,
    )
    images, places, noise = [], [], []
    for place, (image, drawn) in enumerate(rows):
        images.append(image)
        if drawn is not None:
            places.append(batch[place : place + 1])
            noise.append(drawn)
    # Few kernels on an accelerator, however many rows there are.
    torch.cat(images, out=batch)
    if noise:
        torch._foreach_add_(places, noise)
    return batch
