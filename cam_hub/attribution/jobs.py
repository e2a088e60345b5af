"""From what a caller asks about a picture to what a pass has to find out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from cam_hub.attribution.memory_format import suited_format
from cam_hub.attribution.passes import Job, Setting
from cam_hub.attribution.preparation import Prepared, ask
from cam_hub.attribution.request import Request
from cam_hub.errors import InvalidArgument
from cam_hub.hooks.memory import reported
from cam_hub.layers.layer_info import LayerInfo
from cam_hub.layers.selection import at_call, resolve_layers
from cam_hub.methods import Method
from cam_hub.models.loaded_model import LoadedModel
from cam_hub.models.precision import in_double
from cam_hub.targets.base import Target, Task
from cam_hub.targets.classes import settle
from cam_hub.targets.custom import Custom, Probabilities

_TOO_LARGE = "the model does not fit twice, as it must to be run in double precision."

__all__ = ["make_job", "precise_enough"]


def make_job(
    model: LoadedModel,
    prepared: Prepared,
    methods: Sequence[Method],
    request: Request,
    *,
    double: bool = False,
) -> Job:
    """What a pass has to find out about a picture.

    Args:
        model: The model.
        prepared: The picture.
        methods: The methods.
        request: What is asked; its words for layers are looked up, those for classes wait for the
            scores.
        double: Whether the pass is to be in double precision in any case.

    Raises:
        CamHubError: If there are no such layers, or the task has no use for what was given.
    """
    model.task.check_contrast(request.contrast)
    model.task.check_target(request.target)
    question = ask(model, prepared, request.region, request.reference)
    layers = [
        at_call(layer, request.call)
        for layer in resolve_layers(model, request.target_layers, prepared.size)
    ]
    with reported(model.id, _TOO_LARGE):
        working, tensor = precise_enough(model, prepared.tensor, layers, double=double)
        setting = _setting(working, tensor, request.autocast)
    classes = request.classes
    if callable(classes):
        working = replace(working, task=_custom(working.task, classes, request))
        classes = None

    def aim() -> Target:
        target = question.aim(working, tensor)
        return Probabilities(target) if request.target == "probability" else target

    return Job(
        model=working,
        image=tensor,
        layers={layer.name: layer for layer in layers},
        aim=aim,
        question=(question.key, request.target, request.call),
        settle=lambda found, labels: settle(
            classes,
            request.contrast,
            found.ranking,
            labels or model.class_names,
            found.eligible,
        ),
        methods=methods,
        noise=request.noise if any(method.needs_noise for method in methods) else None,
        batch_size=request.batch_size,
        setting=setting,
        progress=request.progress,
        options=request.recorded,
    )


def _custom(task: Task, function: Callable[[Any], Any], request: Request) -> Custom:
    """The task of a caller's own function.

    Raises:
        InvalidArgument: If it is combined with what makes sense for classes only.
    """
    for name, value, default in (
        ("contrast", request.contrast, None),
        ("target", request.target, "logit"),
    ):
        if value != default:
            expected = f"{default!r} along with a function as classes=, which can do the same"
            raise InvalidArgument(name, value, expected)
    return Custom(task, function, chosen=request.output is not None or task.wanted is not None)


def precise_enough(
    model: LoadedModel, tensor: Tensor, layers: Sequence[LayerInfo], *, double: bool = False
) -> tuple[LoadedModel, Tensor]:
    """Both in double precision if asked for, or if rounding would hide what the layers say."""
    double = double or any(layer.faint for layer in layers)
    working = in_double(model) if double else model
    return working, tensor.to(working.device, working.dtype)


def _setting(model: LoadedModel, tensor: Tensor, autocast: torch.dtype | None) -> Setting:
    if model.dtype == torch.float64:  # which autocast leaves alone
        return Setting()
    return Setting(autocast, suited_format(model, tensor))
