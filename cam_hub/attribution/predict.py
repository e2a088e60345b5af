"""``predict`` and ``activations``: one forward pass, without any map."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from cam_hub._validation import check_whole, with_hints
from cam_hub.attribution.preparation import as_double, prepare
from cam_hub.attribution.request import model_of
from cam_hub.errors import ModelRefused, NoMap
from cam_hub.hooks.frozen_eval import frozen_eval
from cam_hub.hooks.memory import reported
from cam_hub.hooks.modes import default_modes
from cam_hub.hooks.recording import Taps, observe
from cam_hub.layers.layouts import batch_axes, to_maps
from cam_hub.layers.listing import LayerChoice, resolve_layers
from cam_hub.models.loaded_model import LoadedModel
from cam_hub.options import OutputChoice, check_options
from cam_hub.targets.classes import Prediction
from cam_hub.targets.region import read_region

__all__ = ["Predicted", "activations", "predict"]


_TOO_LARGE = "a forward pass of one image does not fit. A smaller input or device needs less."

_TOO_LARGE_WITH_LAYERS = (
    "a forward pass of one image, with the output of each layer, does not fit. Fewer layers or a "
    "smaller input would need less."
)


@dataclass(frozen=True)
class Predicted:
    """What a model sees in a picture.

    Attributes:
        predictions: The most probable classes, the best first; none of a model that answers with
            features rather than with probabilities.
        photo_size: Columns and rows of the picture.
        input_size: Channels, (frames,) rows and columns of what the model saw.
        seen: The part of the picture that it saw: left, top, right and bottom in its pixels.
        target: The score behind the predictions in words, with the output of the network if it has
            several.
        output: The name of the output that was read, of a network that returns several; else None.
    """

    predictions: tuple[Prediction, ...]
    photo_size: tuple[int, int]
    input_size: tuple[int, ...]
    seen: tuple[float, float, float, float]
    target: str = ""
    output: str | None = None


@with_hints
@default_modes()
def predict(
    model_or_id: LoadedModel | str, image: object, *, top: int = 5, output: OutputChoice = None
) -> Predicted:
    """Returns the most probable classes of a picture.

    Args:
        model_or_id: As for ``explain``.
        image: As for ``explain``.
        top: How many classes, at most.
        output: As for ``explain``.

    Returns:
        The same predictions as ``explain`` gives with the picture, but for rounding (about 1e-6,
        since other images pass along there), and what the model saw of it.

    Raises:
        InvalidArgument: If ``top`` is not a count, or a bare module is given.
        ImageRefused: If the image cannot be read, or does not fit the model.
        ModelNotFound, ModelRefused, HubUnavailable: As ``load_model``.
        ModelRefused: Also if the model raises, or its scores are not finite.
        NoMap: If a detector finds nothing in the picture.
    """
    check_whole("top", top)
    chosen = check_options({"output": output})["output"]
    model = model_of(model_or_id, chosen)
    prepared = prepare(model, image)
    task = model.task
    place = read_region(None, prepared.placement) if task.takes_region else None
    target = task.target(region=place)
    with reported(model.id, _TOO_LARGE), frozen_eval(model.module), torch.no_grad():
        found = model.run(prepared.tensor)
        _check(model, target.scores(found))
    standings = target.class_scores(found)
    names = target.labels or model.class_names
    described = target.describe()
    return Predicted(
        predictions=standings.predictions(names, count=top),
        photo_size=prepared.placement.photo_size,
        input_size=tuple(prepared.tensor.shape[1:]),
        seen=prepared.placement.seen_box,
        target=str(described["text"]),
        output=described.get("output"),
    )


@with_hints
@default_modes()
def activations(
    model: LoadedModel | str, image: object, layers: LayerChoice = None
) -> dict[str, Tensor]:
    """What layers put out for a picture, laid out as the image is.

    Args:
        model: A loaded or wrapped model, or an ID.
        image: As for ``explain``.
        layers: As ``target_layers`` of ``explain``.

    Returns:
        ``(channels, rows, cols)`` per layer name, of a clip ``(channels, steps, rows, cols)``, on
        the model's device and in its precision (in double precision if a layer is ``faint``).

    Raises:
        ImageRefused: If the image cannot be read, or does not fit the model.
        LayerNotFound: If the model has no such layer.
        NoMap: If a layer is not spatial, or did not run.
    """
    model = model_of(model)
    prepared = prepare(model, image)
    found = resolve_layers(model, layers, prepared.tensor.shape[1:], need_gradient=False)
    by_name = {layer.name: layer for layer in found}
    maps = {}
    with reported(model.id, _TOO_LARGE_WITH_LAYERS):
        working, tensor = model, prepared.tensor
        if any(layer.faint for layer in found):  # rounding would hide what they show
            working, tensor = as_double(model, tensor)
        chosen = {layer.name: layer.call for layer in found if layer.calls > 1}
        taps = Taps(**batch_axes(by_name), chosen=chosen)
        observed = observe(working.module, taps.record, by_name)
        with frozen_eval(working.module), torch.no_grad(), observed:
            working.run(tensor)
        for layer in found:
            arrangement = layer.arrangement
            if layer.name not in taps.activations or arrangement is None:
                reason = "it did not run, or returned no floating-point tensor"
                raise NoMap(reason, layer=layer.name)
            laid = to_maps(taps.activations[layer.name].detach(), arrangement)[0].clone()
            if prepared.tensor.ndim == 5 or layer.frames > 1:  # grids one below the other
                laid = laid.reshape(len(laid), layer.frames, -1, laid.shape[-1])
            maps[layer.name] = laid
    return maps


def _check(model: LoadedModel, scores: Tensor) -> None:
    if not bool(torch.isfinite(scores[0]).all()):
        raise ModelRefused(
            model.id, "its scores for this picture are not finite (NaN or infinity)."
        )
