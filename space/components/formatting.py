"""An explanation as values for the page's components. Nothing here knows Gradio."""

from __future__ import annotations

import html
from collections.abc import Sequence

from cam_hub.layers.listing import SUGGESTIONS, LayerInfo
from cam_hub.methods import METHODS
from cam_hub.results.explanation import Explanation
from cam_hub.results.overlay import COLORMAPS

__all__ = [
    "colormap_choices",
    "layer_choices",
    "method_choices",
    "method_note",
    "shown_class_choices",
    "summary",
]

Choices = list[tuple[str, str]]
"""What a menu shows, and the value behind it."""


def method_choices() -> Choices:
    """All methods, by the names that their authors gave them."""
    return [(method.title, name) for name, method in METHODS.items()]


def method_note(name: object) -> str:
    """What a method does, as HTML, with the paper it comes from."""
    if name not in METHODS:
        return ""
    method = METHODS[str(name)]
    paper = html.escape(method.paper.split(".", maxsplit=1)[0])
    link = f'<a href="{html.escape(method.url)}" target="_blank" rel="noopener noreferrer">'
    return f"<p>{html.escape(method.summary)} {link}{paper}</a></p>"


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


def shown_class_choices(result: Explanation) -> list[tuple[str, int]]:
    """The explained classes, to choose the one that is shown."""
    return [
        (label if result.has_map(index) else f"{label} (no map)", index)
        for index, label in result.labels.items()
    ]


def summary(result: Explanation, class_index: int, layer: str | None, against: str = "") -> str:
    """A heading and a line of HTML that say what is shown.

    Args:
        result: The explanation.
        class_index: Whose map is shown.
        layer: At which layer; None for the fusion.
        against: What the class was contrasted with, if it was.
    """
    label = html.escape(_short(result.labels[class_index]))
    than = f" rather than {html.escape(_short(against))}" if against else ""
    model = html.escape(str(result.manifest["model"]["id"]))
    title = html.escape(METHODS[result.method].title)
    copies = result.manifest["parameters"].get("num_samples")
    taken = f", out of {copies} noisy copies" if isinstance(copies, int) else ""
    where = (
        f"the fusion of {len(result.layers)} layers"
        if layer is None
        else f"layer <code>{html.escape(layer)}</code>"
    )
    return (
        f"<h2>What spoke {_SIDES[result.sign]} <strong>{label}</strong>{than}</h2>"
        f"<p>in <code>{model}</code>: {title} at {where}{taken}</p>"
        f"{_notes(result, layer)}"
    )


def _notes(result: Explanation, layer: str | None) -> str:
    """What must be known of the maps of the layers that are shown."""
    notes: dict[str, str] = result.manifest.get("layer_notes", {})
    shown = notes if layer is None else {layer: notes[layer]} if layer in notes else {}
    return "".join(
        f'<p class="note">Layer <code>{html.escape(name)}</code>: {html.escape(note)}.</p>'
        for name, note in shown.items()
    )


_SIDES = {"for": "for", "against": "against", "both": "for and against"}


def _describe(layer: LayerInfo) -> str:
    rows, cols = layer.grid or (0, 0)
    text = f"{layer.name} – {layer.module_type}, {rows}×{cols}"
    return f"{text} (recommended: {layer.reason})" if layer.recommended else text


def _short(label: str) -> str:
    """The first of a label's comma-separated names."""
    return label.split(",", maxsplit=1)[0].strip() or label
