"""What ``explain`` is asked beside model, picture and method, checked before anything is loaded."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

from cam_hub.classes import ClassChoice
from cam_hub.errors import InvalidArgument
from cam_hub.introspection.selection import LayerChoice
from cam_hub.passes import Noise, Progress
from cam_hub.precision import autocast_type
from cam_hub.tasks.region import RegionChoice

__all__ = ["MAX_SAMPLES", "Request"]

MAX_SAMPLES = 1000


@dataclass(frozen=True)
class Request:
    """The arguments of ``explain`` of these names.

    Attributes:
        target_layers: The layers.
        classes: The classes.
        region: A part of the photo.
        reference: A picture to compare with.
        noise: The noisy copies, for the methods that need some.
        batch_size: Most images that pass the network at once.
        autocast: The type that autocast computes in, or None.
        reuse: Whether recent passes are used, and this one kept.
        progress: Told how far it is.
    """

    target_layers: LayerChoice
    classes: ClassChoice
    region: RegionChoice
    reference: object
    noise: Noise
    batch_size: int
    autocast: torch.dtype | None
    reuse: bool
    progress: Progress | None

    @classmethod
    def checked(
        cls,
        *,
        target_layers: LayerChoice,
        classes: ClassChoice,
        region: RegionChoice,
        reference: object,
        num_samples: int,
        std: float,
        seed: int,
        batch_size: int,
        autocast: str | None,
        reuse: bool,
        progress: Progress | None,
    ) -> Request:
        """Checks the numbers whatever the method, so that a wrong one never passes unseen.

        Raises:
            InvalidArgument: If one of them can never work.
        """
        _check_samples(num_samples, std, seed)
        if isinstance(batch_size, bool) or not isinstance(batch_size, int) or batch_size < 1:
            raise InvalidArgument("batch_size", batch_size, "a count of at least 1")
        return cls(
            target_layers=target_layers,
            classes=classes,
            region=region,
            reference=reference,
            noise=Noise(num_samples, float(std), seed),
            batch_size=batch_size,
            autocast=autocast_type(autocast),
            reuse=reuse,
            progress=progress,
        )


def _check_samples(num_samples: object, std: object, seed: object) -> None:
    if isinstance(num_samples, bool) or not isinstance(num_samples, int):
        raise InvalidArgument("num_samples", num_samples, "a whole number")
    if not 1 <= num_samples <= MAX_SAMPLES:
        raise InvalidArgument("num_samples", num_samples, f"1 to {MAX_SAMPLES}")
    if (
        isinstance(std, bool)
        or not isinstance(std, (int, float))
        or not math.isfinite(std)
        or std < 0
    ):
        raise InvalidArgument("std", std, "a finite number, at least 0")
    if isinstance(seed, bool) or not isinstance(seed, int) or not 0 <= seed < 2**63:
        raise InvalidArgument("seed", seed, "a whole number from 0 to 2**63 - 1")
