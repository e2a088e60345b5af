"""An explanation as values for the page's components. Nothing here knows Gradio."""

from __future__ import annotations

import html
from collections.abc import Sequence
from pathlib import Path

from cam_hub.classes import Prediction
from cam_hub.colormaps import COLORMAPS
from cam_hub.introspection.layers import SUGGESTIONS, LayerInfo
from cam_hub.methods import METHODS
from cam_hub.results import Explanation
from space.artifacts import Artifacts, shown

__all__ = [
    "class_choices",
    "colormap_choices",
    "first_shown_class",
    "gallery",
    "layer_choices",
    "method_choices",
    "probabilities",
    "shown_class_choices",
    "summary",
]

Choices = list[tuple[str, str]]
"""What a menu shows, and the value behind it."""


def method_choices() -> Choices:
    """All methods, by the names that their authors gave them."""
    return [(method.title, name) for name, method in METHODS.items()]


def colormap_choices() -> Choices:
    """Good colour maps; those that can be read without seeing hue say so."""
    return [
        (f"{entry.name} (colour-blind safe)" if entry.colour_blind_safe else entry.name, name)
        for name, entry in COLORMAPS.items()
    ]


def layer_choices(layers: Sequence[LayerInfo] = ()) -> Choices:
    """The words that stand for layers, then the layers themselves.

    Args:
        layers: The model's usable layers in forward order; empty if they are not known yet.

    Returns:
        The deepest layers come first, since those are asked for most.
    """
    words = [(f"{word} – {meaning}", word) for word, meaning in SUGGESTIONS.items()]
    return words + [(_describe(layer), layer.name) for layer in reversed(layers)]


def class_choices(predictions: Sequence[Prediction]) -> Choices:
    """The predicted classes with their probabilities; the value is the class index."""
    return [
        (f"{found.label} · {_percent(found.probability)}", str(found.class_index))
        for found in predictions
    ]


def shown_class_choices(result: Explanation) -> list[tuple[str, int]]:
    """The explained classes, to choose the one that is shown."""
    return [
        (label if _speaks(result, index) else f"{label} (no map)", index)
        for index, label in result.labels.items()
    ]


def first_shown_class(result: Explanation) -> int:
    """The first explained class that has a map."""
    return next(index for index in result.classes if _speaks(result, index))


def probabilities(predictions: Sequence[Prediction]) -> dict[str, float]:
    """Probability by label; where labels repeat, the index tells them apart."""
    labels = [found.label for found in predictions]
    return {
        found.label
        if labels.count(found.label) == 1
        else f"{found.label} ({found.class_index})": found.probability
        for found in predictions
    }


def gallery(artifacts: Artifacts, class_index: int) -> list[tuple[Path, str]]:
    """One picture per layer and, if there are several, their fusion; each with a caption.

    Where a layer's map is blank, the bare photo stands and the caption says so.
    """
    result = artifacts.result
    label = _short(result.labels[class_index])
    pictures = []
    for name in result.layers:
        path = artifacts.overlay(class_index, name)
        caption = f"{name} · {label}" + ("" if path else " (blank)")
        pictures.append((shown(path or artifacts.photo), caption))
    if len(result.layers) > 1:
        path = artifacts.overlay(class_index)
        caption = f"fusion of {len(result.layers)} layers · {label}"
        pictures.append((shown(path or artifacts.photo), caption + ("" if path else " (blank)")))
    return pictures


def summary(result: Explanation, class_index: int) -> str:
    """A line of HTML that says what is shown."""
    label = html.escape(_short(result.labels[class_index]))
    model = html.escape(str(result.manifest["model"]["id"]))
    title = html.escape(METHODS[result.method].title)
    where = (
        f"layer <code>{html.escape(result.layers[0])}</code>"
        if len(result.layers) == 1
        else f"the fusion of {len(result.layers)} layers"
    )
    cut = "" if result.seen.all() else " Hatched: what the model's crop left out."
    return (
        f"What spoke for <strong>{label}</strong> in <code>{model}</code>: {title} at {where}.{cut}"
    )


def _speaks(result: Explanation, index: int) -> bool:
    return any(result.cams[index, name].any() for name in result.layers)


def _describe(layer: LayerInfo) -> str:
    rows, cols = layer.grid or (0, 0)
    text = f"{layer.name} – {layer.module_type}, {rows}×{cols}"
    return f"{text} (recommended: {layer.reason})" if layer.recommended else text


def _short(label: str) -> str:
    """The first of a label's comma-separated names."""
    return label.split(",", maxsplit=1)[0].strip() or label


def _percent(probability: float) -> str:
    return f"{probability:.1%}" if probability >= 0.0005 else "< 0.1%"
