"""What a result says of itself: everything that is needed to make the same maps again."""

from __future__ import annotations

import functools
import platform
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from typing import Any

from cam_hub._version import __version__
from cam_hub.models.loaded_model import LoadedModel
from cam_hub.results.serialization import file_stem
from cam_hub.targets.ranking import Prediction

__all__ = ["make_manifest"]


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
    precision: str,
    autocast: str | None = None,
    batch_size: int | None = None,
    notes: Sequence[str] = (),
    layer_notes: Mapping[str, str] | None = None,
    agreement: Mapping[str, float] | None = None,
) -> dict[str, Any]:
    """The manifest of an explanation, but for what it says of the picture.

    Args:
        model: The model.
        placement: Where the model's input lay on the picture.
        method: Name of the method.
        parameters: Of the method.
        layers: Names of the target layers.
        classes: The explained classes: ``class_index``, ``label`` and, where there is one,
            ``probability``.
        contrast: The classes whose scores were taken off theirs: ``class_index``, ``label`` and
            ``weight``.
        target: What was differentiated, as ``Target.describe`` tells it.
        options: Of the request, as ``options.recorded`` gives them.
        predictions: The most probable classes.
        grids: Rows and columns of the maps, by class index and layer; of a clip steps, rows and
            columns.
        precision: Floating-point type of the pass.
        autocast: The type in which autocast computed what it could, or None.
        batch_size: How many images passed the network at once, if there was more than one.
        notes: What must be known of all maps: how the model had to be run.
        layer_notes: What must be known of the maps of some layers, by layer (``LayerInfo.note``).
        agreement: Of maps that noise went into, by layer: how far another seed's map can be
            expected to correlate, the least of the classes.

    Returns:
        JSON types only.
    """
    return {
        "model": {
            "id": model.id,
            "source": model.source,
            "revision": model.revision,
            "pretrained": model.pretrained,
            "input_size": list(model.input_size),
            "notes": list(model.notes),
        },
        "method": method,
        "parameters": dict(parameters),
        "layers": list(layers),
        **({"notes": list(notes)} if notes else {}),
        **({"layer_notes": dict(layer_notes)} if layer_notes else {}),
        **({"agreement": dict(agreement)} if agreement else {}),
        "classes": [dict(entry) for entry in classes],
        "contrast": _contrast(contrast),
        "target": dict(target),
        "options": dict(options),
        "predictions": [vars(found) for found in predictions],
        "preprocessing": model.preprocessing.as_dict(),
        "placement": dict(placement),
        "maps": [
            {
                "class_index": entry["class_index"],
                "layer": name,
                **_shape(grids[entry["class_index"], name]),
                "file": f"cam-{entry['class_index']}-{file_stem(position, name)}.npy",
            }
            for entry in classes
            for position, name in enumerate(layers)
        ],
        "device": str(model.device),
        "precision": precision,
        **({"autocast": autocast} if autocast is not None else {}),
        **({"batch_size": batch_size} if batch_size is not None else {}),
        "versions": dict(_versions()),
    }


def _contrast(entries: Sequence[Mapping[str, Any]]) -> Any:
    """None, one class, or a list of classes with weights."""
    if len(entries) == 1 and entries[0]["weight"] == 1:
        return {name: entries[0][name] for name in ("class_index", "label")}
    return [dict(entry) for entry in entries] or None


def _shape(grid: tuple[int, ...]) -> dict[str, Any]:
    *steps, rows, cols = grid
    return {"grid": [rows, cols], **({"steps": steps[0]} if steps else {})}


@functools.cache
def _versions() -> dict[str, str]:
    packages = ("torch", "torchvision", "timm", "numpy", "Pillow")
    return {
        "cam_hub": __version__,
        "python": platform.python_version(),
        **{name: version(name) for name in packages},
    }
