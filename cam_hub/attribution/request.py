"""What callers give, checked before anything is spent on it."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from inspect import Parameter
from typing import Any, Final, ParamSpec, TypeVar, Unpack, cast

from torch import Tensor, nn

from cam_hub._validation import check_whole
from cam_hub.attribution.passes import Noise, Progress
from cam_hub.errors import InvalidArgument
from cam_hub.layers.listing import FAITHFUL, LayerChoice
from cam_hub.models.loaded_model import LoadedModel, with_output
from cam_hub.options import OPTIONS, Interface, OptionValues, OutputChoice, options_for
from cam_hub.sources.store import SHARED
from cam_hub.targets.classes import ClassChoice, ContrastChoice, is_iterable
from cam_hub.targets.region import RegionChoice

__all__ = [
    "AUTO",
    "MAX_SAMPLES",
    "ExplainArguments",
    "ExplainOptions",
    "Rising",
    "model_of",
    "takes_arguments",
]

AUTO: Final = "auto"
"""The word for the method whose map holds best."""

MAX_SAMPLES = 1000

P = ParamSpec("P")
R = TypeVar("R")


class ExplainArguments(OptionValues, total=False):
    """The arguments that ``explain``, ``explain_many`` and ``compare`` share."""

    target_layers: LayerChoice
    classes: ClassChoice
    contrast: ContrastChoice
    region: RegionChoice
    reference: object
    num_samples: int
    std: float
    seed: int
    progress: Progress | None


_DEFAULTS: dict[str, Any] = {
    "target_layers": None,
    "classes": None,
    "contrast": None,
    "region": None,
    "reference": None,
    "num_samples": 4,
    "std": 0.3,
    "seed": 0,
    "progress": None,
}


def takes_arguments(
    interface: Interface, *, without: Sequence[str] = ()
) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Writes the arguments of ``ExplainArguments`` into a function's signature, as a decorator.

    Args:
        interface: Which options the function has.
        without: Further arguments that it does not have.
    """
    # As they are written: resolved, they would fill a page of help().
    kinds = {
        name: getattr(kind, "__forward_arg__", kind)
        for name, kind in ExplainArguments.__annotations__.items()
    }
    defaults = {name: each for name, each in _DEFAULTS.items() if name not in without}
    defaults |= {name: option.default for name, option in options_for(interface).items()}
    shared = [
        Parameter(name, Parameter.KEYWORD_ONLY, default=default, annotation=kinds[name])
        for name, default in defaults.items()
    ]

    def decorate(function: Callable[P, R]) -> Callable[P, R]:
        signature = inspect.signature(function)
        own = [each for each in signature.parameters.values() if each.kind != each.VAR_KEYWORD]
        function.__signature__ = signature.replace(  # type: ignore[attr-defined]
            parameters=[*own, *shared]
        )
        return function

    return decorate


@dataclass(frozen=True)
class ExplainOptions:
    """The arguments of ``explain`` of these names, checked.

    Attributes:
        target_layers: The layers.
        classes: The classes.
        contrast: The class that they are contrasted with, or None.
        region: A part of the photo.
        reference: A picture to compare with.
        noise: The noisy copies, for the methods that need some.
        progress: Called with the progress of all passes.
        options: All options of ``cam_hub.options``.
        reuse: Whether recent passes are used: not with a caller's functions, whose results may
            vary.
        choice: How layer and method were chosen by evidence, for the manifest, or None.
    """

    target_layers: LayerChoice
    classes: ClassChoice
    contrast: ContrastChoice
    region: RegionChoice
    reference: object
    noise: Noise
    progress: Progress | None
    options: OptionValues
    reuse: bool
    choice: Mapping[str, Any] | None = None

    @classmethod
    def checked(cls, **given: Unpack[ExplainArguments]) -> ExplainOptions:
        """Checks the numbers whatever the method, so that a wrong one never passes unseen.

        Raises:
            InvalidArgument: If one of them can never work.
        """
        values: dict[str, Any] = {**_DEFAULTS, **given}
        if values["progress"] is not None:
            tested = values.get("evidence") is not None
            values["progress"] = Rising(values["progress"], 0.5 if tested else 1.0)
        for name in ("classes", "contrast"):  # which are read for every picture and method
            choice = values[name]
            if not isinstance(choice, (str, Sequence, Tensor)) and is_iterable(choice):
                values[name] = choice if callable(choice) else list(choice)
        layers = values["target_layers"]
        if is_iterable(layers) and not isinstance(layers, (str, nn.Module)):
            layers = list(layers)
        if layers in ("best", ["best"]):  # as None, in every interface
            layers = None
        elif layers == [FAITHFUL]:
            layers = FAITHFUL
        values["target_layers"] = layers
        samples, std, seed = values.pop("num_samples"), values.pop("std"), values.pop("seed")
        check_whole("num_samples", samples, 1, MAX_SAMPLES)
        check_whole("seed", seed, 0, 2**63 - 1)
        number = isinstance(std, (int, float)) and not isinstance(std, bool)
        if not number or not 0 <= std <= sys.float_info.max:
            raise InvalidArgument("std", std, "a finite number, at least 0")
        options: dict[str, Any] = {}
        for name, option in OPTIONS.items():
            options[name] = option.check(values.pop(name, option.default))
        functions = callable(options["output"]) or callable(values["classes"])
        return cls(
            noise=Noise(samples, float(std), seed),
            options=cast(OptionValues, options),
            reuse=options["reuse"] and not functions,
            **values,
        )


class Rising:
    """Progress of work that turns out to take several passes: each fills what others have left.

    Args:
        progress: Called with the part of everything that is done, and a few words.
        share: The part that these passes are; tests of the maps are the rest.
    """

    def __init__(self, progress: Progress, share: float = 1.0) -> None:
        self._progress = progress
        self._share = share
        self._base = self._told = self._part = 0.0

    def __call__(self, part: float, what: str) -> None:
        """Reports the progress of one pass."""
        if part < self._part:  # another pass has begun
            self._base = self._told
        self._part = part
        self._told = self._base + (1 - self._base) * part
        self._progress(self._told * self._share, what)

    def testing(self, part: float, what: str) -> None:
        """Reports the progress of the tests alone."""
        self._progress(self._share + (1 - self._share) * part, what)


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
    return with_output(SHARED.get(model_or_id), output)
