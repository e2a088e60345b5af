"""The one orchestration: photo to tensor, through the network, to maps, to a result."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from cam_hub import store
from cam_hub.classes import ClassChoice, Prediction, choose_classes, label_of, predict
from cam_hub.errors import InvalidArgument, NoMap
from cam_hub.folders import frame_files
from cam_hub.introspection.layers import LayerInfo
from cam_hub.introspection.selection import LayerChoice, layers_before, resolve_layers
from cam_hub.manifests import make_manifest
from cam_hub.methods import METHODS, Method
from cam_hub.passes import Noise, Pass, Progress, forward_activations, run
from cam_hub.precision import in_double
from cam_hub.preparation import Prepared, aim, facts_of, prepare
from cam_hub.results import Explanation
from cam_hub.sources.base import LoadedModel
from cam_hub.tasks.base import Standings, Target
from cam_hub.tasks.region import RegionChoice

__all__ = ["activations", "explain"]

SHOWN_PREDICTIONS = 5
MAX_SAMPLES = 1000


def explain(
    model_or_id: LoadedModel | str,
    image: object,
    *,
    method: str = "smoothgradcampp",
    target_layers: LayerChoice = None,
    classes: ClassChoice = None,
    region: RegionChoice = None,
    reference: object = None,
    num_samples: int = 4,
    std: float = 0.3,
    seed: int = 0,
    batch_size: int = 8,
    progress: Progress | None = None,
) -> Explanation:
    """Shows which parts of a picture spoke for which class.

    Args:
        model_or_id: A loaded or wrapped model, or an ID for ``load_model``; a model loaded by ID
            stays in memory for the next call.
        image: A path, bytes, a PIL image, an HWC uint8 array, or an already preprocessed float
            tensor ``(C, H, W)`` or ``(1, C, H, W)``. For a model of clips: several of these as a
            list, an animated GIF, WebP or APNG, a uint8 array ``(T, H, W, 3)``, a preprocessed
            float tensor ``(C, T, H, W)`` or ``(1, C, T, H, W)``; or a single picture, which is a
            clip in which nothing moves.
        method: A name out of ``METHODS``.
        target_layers: A layer's name, several of them, a word of ``suggest_layers``, or None for
            the recommended layer (where that is blank for this picture, the last one before it
            that is not). A text that is one of the words is that word, even where a layer has the
            same name; in a list, every text is a name.
        classes: A class index, a label, several of these, ``top(count)``, or None for the
            predicted class.
        region: Of a segmentation or detection model: the part of the photo that is asked about,
            a box ``(left, top, right, bottom)`` in its pixels or a boolean mask ``(H, W)``; None
            for all of it.
        reference: Of a model without a classifier: the picture whose features are compared with,
            given like ``image``; None for the picture itself.
        num_samples: How many noisy copies SmoothGradCAM++ averages over.
        std: Standard deviation of their noise, in units of the normalised input.
        seed: Of their noise; the same call gives the same bytes.
        batch_size: Most images that pass the network at once.
        progress: Called with the part that is done and a few words; what it raises stops the
            work.

    Returns:
        The predictions, and one map per class and layer.

    Raises:
        ImageRefused: If the image cannot be read, or does not fit the model.
        LayerNotFound: If the model has no such layer.
        ClassNotFound: If the model has no such class.
        MethodNotFound: If there is no such method.
        InvalidArgument: If a number makes no sense, or the model has no use for a region or a
            reference.
        ModelNotFound, ModelRefused, HubUnavailable: As ``load_model``.
        NoMap: If every map would be blank, or the layer cannot give one.
    """
    chosen = METHODS[method]
    noise = _noise(chosen, num_samples, std, seed)
    if isinstance(batch_size, bool) or not isinstance(batch_size, int) or batch_size < 1:
        raise InvalidArgument("batch_size", batch_size, "a count of at least 1")
    model = _model(model_or_id)
    prepared = prepare(model, image)
    target = aim(model, prepared, region, reference)
    layers = resolve_layers(model, target_layers, prepared.size)
    working, prepared = _precise_enough(model, prepared, layers)
    if working is not model:
        target = aim(working, prepared, region, reference)
    names = target.labels or model.class_names
    passed = run(
        working,
        prepared.tensor,
        _arranged(layers),
        target,
        lambda found: choose_classes(classes, found.ranking, names, found.eligible),
        noise=noise,
        batch_size=batch_size,
        progress=progress,
    )
    cams = {key: _cam(chosen, passed, key) for key in passed.evidence}
    if prepared.is_clip:
        steps = {layer.name: layer.frames for layer in layers}
        cams = {(index, name): _over_time(cam, steps[name]) for (index, name), cam in cams.items()}
    if not any(cam.any() for cam in cams.values()):
        options: dict[str, Any] = {
            "method": method,
            "classes": classes,
            "region": region,
            "reference": reference,
            "num_samples": num_samples,
            "std": std,
            "seed": seed,
            "batch_size": batch_size,
            "progress": progress,
        }
        spare = layers_before(model, layers[0].name, prepared.size) if target_layers is None else []
        if (speaking := _last_that_speaks(model, image, spare, options)) is not None:
            return explain(model, image, target_layers=speaking, **options)
        raise NoMap(
            "blank: nothing at "
            + (f"layer {layers[0].name!r}" if len(layers) == 1 else "any of the layers")
            + " spoke for the class; try another layer or class",
        )
    return _result(model, prepared, layers, chosen, noise, target, passed, cams)


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
        NoMap: If a layer is not spatial.
    """
    model = _model(model)
    prepared = prepare(model, image)
    found = resolve_layers(model, layers, prepared.size, need_gradient=False)
    working, prepared = _precise_enough(model, prepared, found)
    maps = forward_activations(working, prepared.tensor, _arranged(found))
    if not prepared.is_clip:
        return maps
    steps = {layer.name: layer.frames for layer in found}
    return {
        name: stacked.reshape(len(stacked), steps[name], -1, stacked.shape[-1])
        for name, stacked in maps.items()
    }


def _model(model_or_id: LoadedModel | str) -> LoadedModel:
    if isinstance(model_or_id, LoadedModel):
        return model_or_id
    if isinstance(model_or_id, nn.Module):
        raise InvalidArgument("model", type(model_or_id).__name__, "wrap_model(module) or an ID")
    return store.get(model_or_id)


def _noise(method: Method, num_samples: int, std: float, seed: int) -> Noise | None:
    """Checks the numbers whatever the method, so that a wrong one never passes unseen."""
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
    return Noise(num_samples, float(std), seed) if method.needs_noise else None


def _precise_enough(
    model: LoadedModel, prepared: Prepared, layers: Sequence[LayerInfo]
) -> tuple[LoadedModel, Prepared]:
    """Both in double precision if what the layers say would be lost in rounding errors."""
    if not any(layer.faint for layer in layers):
        return model, prepared
    working = in_double(model)
    return working, replace(prepared, tensor=prepared.tensor.to(working.device, working.dtype))


def _last_that_speaks(
    model: LoadedModel, image: object, spare: list[str], options: dict[str, Any]
) -> list[str] | None:
    """Of layers named in forward order, the last whose map of this picture is not blank."""
    if not spare:
        return None
    try:
        found = explain(model, image, target_layers=spare, **options)
    except NoMap:
        return None
    first = found.classes[0]
    return [name for name in spare if found.cams[first, name].any()][-1:] or None


def _arranged(layers: Sequence[LayerInfo]) -> dict[str, Any]:
    return {layer.name: layer.arrangement for layer in layers}


def _cam(
    method: Method, passed: Pass, key: tuple[int, str]
) -> np.ndarray[Any, np.dtype[np.float32]]:
    with torch.no_grad():
        cam = method.compute(passed.evidence[key])[0]
    if not bool(torch.isfinite(cam).all()):
        raise NoMap("its map holds values that are not finite (NaN or infinity)", layer=key[1])
    return cam.float().cpu().numpy()


def _over_time(
    cam: np.ndarray[Any, np.dtype[np.float32]], steps: int
) -> np.ndarray[Any, np.dtype[np.float32]]:
    """Grids one below the other, ``(steps * rows, cols)``, as ``(steps, rows, cols)``."""
    return cam.reshape(steps, -1, cam.shape[1])


def _result(
    model: LoadedModel,
    prepared: Prepared,
    layers: Sequence[LayerInfo],
    method: Method,
    noise: Noise | None,
    target: Target,
    passed: Pass,
    cams: Mapping[tuple[int, str], np.ndarray[Any, np.dtype[np.float32]]],
) -> Explanation:
    names = target.labels or model.class_names
    predictions = _predictions(passed.standings, names)
    by_index = {found.class_index: vars(found) for found in predictions}
    labels = {index: label_of(index, names) for index in passed.classes}
    layer_names = [layer.name for layer in layers]
    shown = tuple(predictions[:SHOWN_PREDICTIONS])
    manifest = make_manifest(
        model,
        image=facts_of(prepared),
        frames=frame_files(prepared.frames) if prepared.is_clip else (),
        placement=prepared.placement.as_dict(),
        method=method.name,
        parameters=vars(noise) if noise else {},
        layers=layer_names,
        classes=[
            by_index.get(index, {"class_index": index, "label": labels[index]})
            for index in passed.classes
        ],
        target=target.describe(),
        predictions=shown,
        grids={key: cam.shape for key, cam in cams.items()},
        precision=str(prepared.tensor.dtype).removeprefix("torch."),
    )
    return Explanation(
        photo=prepared.frames[len(prepared.frames) // 2],
        frames=prepared.frames,
        placement=prepared.placement,
        predictions=shown,
        classes=passed.classes,
        layers=tuple(layer_names),
        cams=cams,
        labels=labels,
        manifest=manifest,
    )


def _predictions(standings: Standings, names: Sequence[str] | None) -> list[Prediction]:
    """What there is to say about classes, without those of which the model said nothing."""
    probabilities = standings.probabilities
    if probabilities is None:
        return []
    said = standings.eligible | (probabilities > 0)
    found = predict(standings.ranking, probabilities, names)
    return [entry for entry in found if said[entry.class_index]]
