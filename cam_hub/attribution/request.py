"""What callers give, checked before anything is spent on it."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from cam_hub.attribution.passes import Noise, Progress
from cam_hub.errors import InvalidArgument
from cam_hub.layers.listing import LayerChoice, plain_choice
from cam_hub.methods import Sign
from cam_hub.models.loaded_model import LoadedModel
from cam_hub.models.variants import autocast_type, with_output
from cam_hub.options import OutputChoice, check_options, recorded
from cam_hub.sources import store
from cam_hub.targets.classes import ClassChoice, ContrastChoice
from cam_hub.targets.region import RegionChoice

__all__ = ["MAX_SAMPLES", "ExplainOptions", "check_count", "model_of"]

MAX_SAMPLES = 1000


@dataclass(frozen=True)
class ExplainOptions:
    """The arguments of ``explain`` of these names.

    Attributes:
        target_layers: The layers.
        classes: The classes.
        contrast: The class that they are held against, or None.
        region: A part of the photo.
        reference: A picture to compare with.
        noise: The noisy copies, for the methods that need some.
        batch_size: Most images that pass the network at once.
        autocast: The type that autocast computes in, or None.
        reuse: Whether recent passes are used, and this one kept.
        progress: Told how far it is.
        sign: Evidence for the classes, against them, or both.
        target: Which score of a class is explained: ``"logit"`` or ``"probability"``.
        output: Which output of the network is explained; None for the main one.
        call: Which call of a layer that runs several times; None for its last.
        sampling: Whether noisy copies are added where they disagree: ``"adaptive"``, ``"fixed"``.
    """

    target_layers: LayerChoice
    classes: ClassChoice
    contrast: ContrastChoice
    region: RegionChoice
    reference: object
    noise: Noise
    batch_size: int
    autocast: torch.dtype | None
    reuse: bool
    progress: Progress | None
    sign: Sign = "for"
    target: str = "logit"
    output: OutputChoice = None
    call: int | None = None
    sampling: str = "adaptive"

    @property
    def reuses(self) -> bool:
        """Whether recent passes are used: not with a caller's functions, whose results may vary."""
        return self.reuse and not callable(self.output) and not callable(self.classes)

    @property
    def recorded(self) -> dict[str, Any]:
        """The options of ``cam_hub.options``, as the manifest records them."""
        return recorded(vars(self))

    @classmethod
    def checked(
        cls,
        *,
        target_layers: LayerChoice = None,
        classes: ClassChoice = None,
        contrast: ContrastChoice = None,
        region: RegionChoice = None,
        reference: object = None,
        num_samples: int = 4,
        std: float = 0.3,
        seed: int = 0,
        batch_size: int = 8,
        autocast: str | None = None,
        reuse: bool = True,
        progress: Progress | None = None,
        sign: str = "for",
        target: str = "logit",
        output: OutputChoice = None,
        call: int | None = None,
        sampling: str = "adaptive",
    ) -> ExplainOptions:
        """Checks the numbers whatever the method, so that a wrong one never passes unseen.

        Raises:
            InvalidArgument: If one of them can never work.
        """
        _check_samples(num_samples, std, seed)
        options = check_options(
            {
                "sign": sign,
                "target": target,
                "output": output,
                "call": call,
                "sampling": sampling,
                "batch_size": batch_size,
                "autocast": autocast,
                "reuse": reuse,
            }
        )
        options["autocast"] = autocast_type(options["autocast"])
        return cls(
            target_layers=plain_choice(target_layers),
            classes=classes,
            contrast=contrast,
            region=region,
            reference=reference,
            noise=Noise(num_samples, float(std), seed),
            progress=progress,
            **options,
        )


def model_of(model_or_id: LoadedModel | str, output: OutputChoice = None) -> LoadedModel:
    """The model that is meant; one that is named by its ID stays in memory for the next call.

    Args:
        model_or_id: A model, or the ID of one.
        output: Which output of the network is explained; None for the main one.

    Raises:
        InvalidArgument: If it is a bare module, or has no such output.
        ModelNotFound, ModelRefused, HubUnavailable: As ``load_model``.
    """
    if isinstance(model_or_id, LoadedModel):
        return with_output(model_or_id, output)
    if isinstance(model_or_id, nn.Module):
        raise InvalidArgument("model", type(model_or_id).__name__, "wrap_model(module) or an ID")
    return with_output(store.get(model_or_id), output)


def check_count(argument: str, value: int) -> None:
    """Makes sure that something can be counted by a number.

    Raises:
        InvalidArgument: If it is no whole number of at least 1.
    """
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise InvalidArgument(argument, value, "a count of at least 1")


def _check_samples(num_samples: object, std: object, seed: object) -> None:
    if isinstance(num_samples, bool) or not isinstance(num_samples, int):
        raise InvalidArgument("num_samples", num_samples, "a whole number")
    if not 1 <= num_samples <= MAX_SAMPLES:
        raise InvalidArgument("num_samples", num_samples, f"1 to {MAX_SAMPLES}")
    if (
        isinstance(std, bool)
        or not isinstance(std, (int, float))
        or not 0 <= std <= sys.float_info.max
    ):
        raise InvalidArgument("std", std, "a finite number, at least 0")
    if isinstance(seed, bool) or not isinstance(seed, int) or not 0 <= seed < 2**63:
        raise InvalidArgument("seed", seed, "a whole number from 0 to 2**63 - 1")
