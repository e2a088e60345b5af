"""The manifest of a result, and the types of its parts."""

from __future__ import annotations

import functools
import platform
import re
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from operator import itemgetter
from typing import Any

from cam_hub._text import shortened
from cam_hub._version import __version__
from cam_hub.models.loaded_model import LoadedModel
from cam_hub.targets.classes import Prediction

__all__ = ["COMPARISON", "check_explanation", "check_parts", "file_stem", "make_manifest"]


Schema = Any
"""A type; ``[schema]`` for a list; a dict for an object; ``(schema, None)`` where null will do."""

_LIMIT = 2**63  # larger than any number in a manifest
_NAMES = {str: "text", int: "a whole number", float: "a number", bool: "true or false"}
_TEXT = (str, None)
_NUMBER = (float, None)
_PREDICTION = {"class_index": int, "label": str, "probability?": _NUMBER, "score?": _NUMBER}

_EXPLANATION: Schema = {
    "model": {
        "id": str,
        "source": str,
        "revision": _TEXT,
        "pretrained": (bool, None),
        "input_size": [int],
        "notes?": [str],
    },
    "image": {"size": [int], "sha256": str},
    "frames?": [str],
    "method": str,
    "parameters": dict,
    "layers": [str],
    "classes": [{"class_index": int, "label": str}],
    "target": {"text": str},
    "predictions": [_PREDICTION],
    "preprocessing": dict,
    "placement": {
        "photo_size": [int],
        "input_size": [int],
        "scale": [float],
        "offset": [float],
    },
    "maps": [
        {
            "class_index": int,
            "layer": str,
            "grid": [int],
            "steps?": int,
            "num_samples?": int,
            "file": str,
        }
    ],
    "versions": dict,
    "options?": {"sign?": str},
    "layer_notes?": dict,
    "agreement?": dict,
    "cancellation?": dict,
}
"""The manifest of an explanation. Parts whose names end in ``?`` may be missing."""

COMPARISON: Schema = {
    "kind": str,
    "titles": [str],
    "photo": bool,
    "rows": [
        {
            "model": str,
            "predictions": [_PREDICTION],
            "notes": [str],
            "has_random_weights": bool,
            "loading_seconds": _NUMBER,
            "forward_seconds": _NUMBER,
            "cells": [
                {
                    "method": str,
                    "layer": _TEXT,
                    "class_index": (int, None),
                    "label": _TEXT,
                    "probability": _NUMBER,
                    "seconds": _NUMBER,
                    "forward_passes": _NUMBER,
                    "maps": (int, None),
                    "error": _TEXT,
                    "reason": _TEXT,
                    "folder": _TEXT,
                }
            ],
        }
    ],
}
"""The table of a comparison."""


def check_explanation(manifest: Mapping[str, Any]) -> None:
    """Checks the manifest of an explanation.

    Raises:
        ValueError: If a part is missing or of another type.
    """
    check_parts(manifest, _EXPLANATION)
    contrast, other = manifest.get("contrast"), {"class_index": int, "label": str}
    weighted = isinstance(contrast, list)
    schema = [{**other, "weight": float}] if weighted else (other, None)
    check_parts(contrast, schema, "the manifest.contrast")


def check_parts(value: object, schema: Schema, where: str = "the manifest") -> None:
    """Checks that a value has the parts that a schema names, with their types.

    Args:
        value: Parsed JSON. Parts that the schema does not name may be anything.
        schema: What it must be.
        where: What messages call the value.

    Raises:
        ValueError: If a part is missing or of another type.
    """
    if isinstance(schema, tuple):
        if value is not None:
            check_parts(value, schema[0], where)
    elif isinstance(schema, list):
        if not isinstance(value, (list, tuple)):
            raise _unfit(where, "a list", value)
        for index, item in enumerate(value):
            check_parts(item, schema[0], f"{where}[{index}]")
    elif isinstance(schema, dict):
        if not isinstance(value, Mapping):
            raise _unfit(where, "an object", value)
        for key, inner in schema.items():
            name = key.removesuffix("?")
            if name in value:
                check_parts(value[name], inner, f"{where}.{name}")
            elif name == key:
                raise ValueError(f"{where} has no {name!r}")
    elif not _is(value, schema):
        raise _unfit(where, _NAMES.get(schema, "an object"), value)


def _is(value: object, kind: type) -> bool:
    if kind not in (int, float):
        return isinstance(value, kind)
    kinds = (int,) if kind is int else (int, float)
    # False for NaN, too.
    return isinstance(value, kinds) and not isinstance(value, bool) and -_LIMIT < value < _LIMIT


def _unfit(where: str, expected: str, value: object) -> ValueError:
    return ValueError(f"{where} is {shortened(repr(value), 60)}, not {expected}")


def file_stem(position: int, layer: str) -> str:
    """A layer's part of a file name: its place among the layers, and its name made harmless."""
    return f"{position:02d}-{re.sub(r'[^A-Za-z0-9._-]+', '_', layer)[:80]}"


def make_manifest(
    model: LoadedModel,
    *,
    placement: Mapping[str, Any],
    method: str,
    parameters: Mapping[str, Any],
    layers: Sequence[str],
    classes: Sequence[Mapping[str, Any]],
    contrast: Sequence[Mapping[str, Any]],
    target: Mapping[str, Any],
    options: Mapping[str, Any],
    predictions: Sequence[Prediction],
    grids: Mapping[tuple[int, str], tuple[int, ...]],
    samples: Mapping[tuple[int, str], int],
    precision: str,
    **optional: Any,
) -> dict[str, Any]:
    """The manifest of an explanation, without the entry for the picture.

    Args:
        model: The model.
        placement: Where the model's input lay on the picture.
        method: Name of the method.
        parameters: The parameters of the method.
        layers: Names of the target layers.
        classes: The explained classes: ``class_index``, ``label`` and, where there is one,
            ``probability``.
        contrast: The classes whose scores were subtracted from theirs: ``class_index``, ``label``
            and ``weight``.
        target: The scores that were differentiated, from ``Target.describe``.
        options: The options of the request, from ``options.recorded``.
        predictions: The most probable classes.
        grids: Rows and columns of the maps, by class index and layer; for a clip steps, rows and
            columns.
        samples: The number of noisy copies for each map; empty for maps without noise.
        precision: Floating-point type of the pass.
        optional: Entries that are left out if they are empty. ``approximation``: "draft" or
            "device" if the picture was preprocessed in that way, not exactly. ``autocast``: the
            type in which autocast computed what it could. ``batch_size``: how many images passed
            the network at once, if there was more than one. ``notes``: what must be known of all
            maps: how the model had to be run. ``layer_notes``: what must be known of the maps of
            some layers, by layer (``LayerInfo.note``). ``agreement``: of maps that noise went into,
            by layer: how far another seed's map can be expected to correlate, the least of the
            classes. ``cancellation``: of maps of Grad-CAM++ and XGrad-CAM, by layer: the share of
            the weights in the paper's formula that comes from denominators whose terms cancel, for
            the class with the largest one. ``choice``: how method and layer were chosen by
            evidence.

    Returns:
        JSON types only.
    """
    against: Any = list(map(dict, contrast)) or None
    if len(contrast) == 1 and contrast[0]["weight"] == 1:  # as in manifests without weights
        against = {name: contrast[0][name] for name in ("class_index", "label")}
    maps = []
    for entry in classes:
        index = entry["class_index"]
        for position, name in enumerate(layers):
            *steps, rows, cols = grids[index, name]
            listed: dict[str, Any] = {"class_index": index, "layer": name, "grid": [rows, cols]}
            if steps:
                listed["steps"] = steps[0]
            if (index, name) in samples:
                listed["num_samples"] = samples[index, name]
            maps.append({**listed, "file": f"cam-{index}-{file_stem(position, name)}.npy"})
    described: dict[str, Any] = {
        "model": {
            "id": model.id,
            "source": model.source,
            "revision": model.revision,
            "pretrained": model.pretrained,
            "input_size": list(model.preprocessing.input_size),
            "notes": list(model.notes),
        },
        "method": method,
        "parameters": dict(parameters),
        "layers": list(layers),
        "classes": list(map(dict, classes)),
        "contrast": against,
        "target": dict(target),
        "options": dict(options),
        "predictions": list(map(vars, predictions)),
        "preprocessing": model.preprocessing.as_dict(),
        "placement": dict(placement),
        "maps": maps,
        "device": str(model.device),
        "precision": precision,
    }
    described.update(filter(itemgetter(1), optional.items()))
    described["versions"] = dict(_versions())
    return described


@functools.cache
def _versions() -> dict[str, str]:
    packages = ("torch", "torchvision", "timm", "numpy", "Pillow")
    return {
        "cam_hub": __version__,
        "python": platform.python_version(),
        **{name: version(name) for name in packages},
    }
