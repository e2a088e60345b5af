"""Checks one model strictly, and only by cam_hub's public interface."""

from __future__ import annotations

import math
import platform
import random
import time
import traceback
from collections.abc import Callable
from contextlib import suppress
from importlib.metadata import version
from itertools import count
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from bench.zoo.depth import TAIL, find_depth
from bench.zoo.plan import Candidate
from bench.zoo.quadrants import lies_on_image
from bench.zoo.row import CHECKS, Row
from bench.zoo.smaller import smaller
from bench.zoo.watch import counted, state_of
from cam_hub import (
    LayerInfo,
    LoadedModel,
    activations,
    explain,
    list_layers,
    load_model,
    suggest_layers,
)
from cam_hub.errors import CamHubError

__all__ = ["check_loaded", "check_model", "smooth_image"]

_METHODS = ("smoothgradcampp", "layercam")

_HEADS_AT_PLACES = ("detection",)
"""Tasks whose heads follow the trunk at every level and position instead of pooling, so that the
depth of a layer before pooling is undefined."""


def check_model(candidate: Candidate) -> Row:
    """Builds a model with random weights on the CPU and checks it.

    Args:
        candidate: The model.

    Returns:
        Its row; exceptions are recorded in it.
    """
    own: list[int] = []

    def load() -> LoadedModel:
        model = load_model(candidate.id, pretrained=False, device="cpu")
        own.extend(model.input_size)
        return smaller(model, candidate) if candidate.reduced else model

    row = check_loaded(candidate, load)
    row.default_size = own if row.input_size not in (None, own) else None
    return row


def check_loaded(candidate: Candidate, load: Callable[[], LoadedModel]) -> Row:
    """Checks a model that is loaded in another way.

    Args:
        candidate: The name and family to record.
        load: Returns the model; called after all generators have been seeded.
    """
    row = Row(
        id=candidate.id,
        source=candidate.source,
        family=candidate.family,
        parameters=candidate.parameters,
        status="error",
        refusal_expected=candidate.refusal_expected,
        versions={
            "python": platform.python_version(),
            **{name: version(name) for name in ("torch", "torchvision", "timm")},
        },
    )
    start = time.monotonic()
    torch.manual_seed(0)
    np.random.seed(0)
    random.seed(0)
    try:
        model = load()
        row.parameters = sum(weight.numel() for weight in model.module.parameters())
        row.input_size = list(model.input_size)
        layer = _find_layer(model, row)
    except CamHubError as error:
        row.status = "refused"
        row.reasons.append(f"{type(error).__name__}: {error}")
    except Exception as error:  # noqa: BLE001 - any exception is a result
        row.reasons.append(_in_words(error))
    else:
        recorded = Row(**candidate.recorded) if candidate.recorded else None
        if recorded is not None and recorded.choice == row.choice:
            row.adopt(recorded)
        _judge(model, layer, row)
        asked = [name for name in CHECKS if name not in row.not_asked]
        row.status = "passed" if all(row.checks.get(name) for name in asked) else "failed"
    row.seconds = round(time.monotonic() - start, 2)
    return row


def smooth_image(input_size: tuple[int, ...]) -> Tensor:
    """An image of soft blobs with a little texture, mean 0 and variance 1, the same each time.

    Args:
        input_size: Channels, perhaps time steps, rows and columns.

    Returns:
        ``(1, *input_size)``.
    """
    generator = torch.Generator().manual_seed(0)
    *channels, rows, cols = input_size
    blobs = torch.randn((1, math.prod(channels), 7, 7), generator=generator)
    image = nn.functional.interpolate(blobs, (rows, cols), mode="bicubic", align_corners=True)
    image = image.reshape(1, *input_size)
    image = image + 0.1 * torch.randn(image.shape, generator=generator)
    return (image - image.mean()) / image.std()


def _find_layer(model: LoadedModel, row: Row) -> LayerInfo:
    """Runs layer discovery, counts its cost, and records the recommended layer."""
    before = state_of(model.module)
    start = time.monotonic()
    try:
        with counted(model.module) as cost:
            layers = list_layers(model)
    finally:  # a refusal must not leave anything behind either
        _note(row, "nothing_left", before.differences(state_of(model.module)))
    row.probe_seconds = round(time.monotonic() - start, 2)
    row.forward_passes, row.backward_passes = cost.forward, cost.backward
    [name] = suggest_layers(model, "best")
    layer = next(each for each in layers if each.name == name)
    row.layer, row.layer_reason = name, layer.reason
    row.layout, row.grid = layer.layout, list(layer.grid) if layer.grid else None
    row.prefix_tokens, row.suffix_tokens = layer.prefix_tokens, layer.suffix_tokens
    return layer


def _judge(model: LoadedModel, layer: LayerInfo, row: Row) -> None:
    before = state_of(model.module)
    for method in _METHODS:
        _attempt(row, method, lambda method=method: _map_faults(model, method))  # type: ignore[misc]
    if not row.checked_by:
        _attempt(row, "on_image", lambda: _place_faults(model, layer.name, row))
        if model.task.name in _HEADS_AT_PLACES:
            row.not_asked.append("deep")
        else:
            _attempt(row, "deep", lambda: _depth_faults(model, layer.name, row))
    _note(row, "nothing_left", before.differences(state_of(model.module)))
    _attempt(row, "nothing_left", lambda: _faults_when_training(model))


def _attempt(row: Row, check: str, faults: Callable[[], list[str]]) -> None:
    try:
        _note(row, check, faults())
    except CamHubError as error:
        _note(row, check, [f"{type(error).__name__}: {error}"])
    except Exception as error:  # noqa: BLE001 - any exception is a result
        _note(row, check, [_in_words(error)])


def _note(row: Row, check: str, faults: list[str]) -> None:
    """Records the outcome of a check; once it has failed, it stays failed."""
    row.checks[check] = row.checks.get(check, True) and not faults
    if faults:
        more = f" (and {len(faults) - 1} more)" if len(faults) > 1 else ""
        row.reasons.append(f"{check}: {faults[0]}{more}")


def _map_faults(model: LoadedModel, method: str) -> list[str]:
    cam = explain(model, smooth_image(model.input_size), method=method).cam()
    if not bool(np.isfinite(cam).all()):
        return ["the map is not finite"]
    if not float(cam.max()) > float(cam.min()):
        return [f"the map is flat: {float(cam.max()):g} everywhere"]
    return []


def _place_faults(model: LoadedModel, layer: str, row: Row) -> list[str]:
    quadrants = lies_on_image(
        lambda image: activations(model, image, [layer])[layer], model.input_size
    )
    row.margin = round(quadrants.worst, 4) if math.isfinite(quadrants.worst) else None
    if quadrants.misplaced:
        row.best_late_margin = _best_late_margin(model)
    return [
        f"{name} of the input moved another quadrant of {layer} at least as much"
        for name in quadrants.misplaced
    ]


def _best_late_margin(model: LoadedModel) -> float | None:
    """The largest worst margin in the last tenth of the usable layers: is there a better layer?

    All layers are read from the same passes, with the maximum number of draws.
    """
    usable = [layer.name for layer in list_layers(model) if layer.usable]
    late = usable[-math.ceil(TAIL * len(usable)) :]
    passes: list[dict[str, Tensor]] = []

    def margin(name: str) -> float:
        seen = count()

        def activation(image: Tensor) -> Tensor:
            if (number := next(seen)) == len(passes):
                passes.append(activations(model, image, late))
            return passes[number][name]

        return lies_on_image(activation, model.input_size, clear=math.inf).worst

    margins = [found for name in late if math.isfinite(found := margin(name))]
    return round(max(margins), 4) if margins else None


def _depth_faults(model: LoadedModel, layer: str, row: Row) -> list[str]:
    depth = find_depth(model.module, smooth_image(model.input_size), layer)
    row.leaves, row.leaves_after = depth.leaves, depth.after
    row.block_leaves = depth.block_leaves
    if depth.deep:
        return []
    return [f"{depth.after} of {depth.leaves} leaf modules before pooling run after {layer}"]


def _faults_when_training(model: LoadedModel) -> list[str]:
    """What an explanation changes on a model in training mode, with all flags set."""
    flags = {child: child.training for child in model.module.modules()}
    learning = [weight for weight in model.module.parameters() if weight.requires_grad]
    try:
        for child in flags:
            child.training = True
        for weight in model.module.parameters():
            weight.requires_grad_(weight.is_floating_point())
        before = state_of(model.module)
        with suppress(CamHubError):  # a missing map is another check's failure
            explain(model, smooth_image(model.input_size), method="layercam")
        return before.differences(state_of(model.module))
    finally:
        model.module.requires_grad_(False)
        for weight in learning:
            weight.requires_grad_(True)
        for child, training in flags.items():
            child.training = training


def _in_words(error: Exception) -> str:
    """An exception that is not cam_hub's own, with the line of code that raised it."""
    frames = traceback.extract_tb(error.__traceback__)
    where = f" ({Path(frames[-1].filename).name}:{frames[-1].lineno})" if frames else ""
    first = (str(error) or "no message").splitlines()[0]
    return f"{type(error).__name__}: {first}{where}"
