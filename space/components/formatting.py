"""Results as values for components: texts, tables, predictions."""

from __future__ import annotations

import html
from collections.abc import Collection, Sequence

import gradio as gr

from cam_hub.attribution.choice import AUTO
from cam_hub.layers.listing import SUGGESTIONS, LayerInfo
from cam_hub.methods import METHODS
from cam_hub.results.comparison_grid import short_label
from cam_hub.results.explanation import Explanation
from cam_hub.results.overlay import COLORMAPS
from cam_hub.targets.classes import Prediction, prediction_text
from space.components.style import html_view

__all__ = [
    "build_prediction_list",
    "colormap_choices",
    "layer_choices",
    "method_choices",
    "method_note",
    "percent",
    "prediction_list_html",
    "shown_class_choices",
    "summary",
]


Choices = list[tuple[str, str]]
"""What a menu shows, and the value behind it."""


_AUTO_NOTE = (
    "<p>The method and, unless layers are chosen, the layer whose map holds best if what it marks "
    "is covered. At most 25 images pass; none for a photo that was explained before.</p>"
)


def method_choices() -> Choices:
    """The choice by evidence, then all methods, by the names that their authors gave them."""
    return [("Auto", AUTO), *((method.title, name) for name, method in METHODS.items())]


def method_note(name: object) -> str:
    """What a method does, as HTML, with its cost and the paper it comes from."""
    if name not in METHODS:
        return _AUTO_NOTE if name == AUTO else ""
    method = METHODS[str(name)]
    paper = html.escape(method.citation)
    cost = html.escape(str(method.passes))
    link = f'<a href="{html.escape(method.url)}" target="_blank" rel="noopener noreferrer">'
    return f"<p>{html.escape(method.summary)} Passes: {cost}. {link}{paper}</a></p>"


def colormap_choices() -> Choices:
    """Good colour maps; those that can be read without seeing hue are marked."""
    return [
        (f"{entry.name} (colour-blind safe)" if entry.colour_blind_safe else entry.name, name)
        for name, entry in COLORMAPS.items()
    ]


_WORD_CHOICES = [(f"{word} – {meaning}", word) for word, meaning in SUGGESTIONS.items()]


def layer_choices(layers: Sequence[LayerInfo] = ()) -> Choices:
    """The words that stand for layers, then the usable layers themselves.

    Args:
        layers: The model's layers in forward order; empty if they are not known yet.

    Returns:
        The deepest layers come first, since those are asked for most.
    """
    choices = list(_WORD_CHOICES)
    for layer in reversed(layers):
        if not layer.usable:
            continue
        rows, cols = layer.grid or (0, 0)
        text = f"{layer.name} – {layer.module_type}, {rows}×{cols}"
        reason = f" (recommended: {layer.reason})" if layer.recommended else ""
        choices.append((text + reason, layer.name))
    return choices


def shown_class_choices(result: Explanation) -> list[tuple[str, int]]:
    """The explained classes, to choose the one that is shown."""
    return [
        (label if result.has_map(index) else f"{label} (no map)", index)
        for index, label in result.labels.items()
    ]


def summary(result: Explanation, class_index: int, layer: str | None, against: str = "") -> str:
    """A heading and a line of HTML about what is shown.

    Args:
        result: The explanation.
        class_index: Whose map is shown.
        layer: At which layer; None for the fusion.
        against: What the class was contrasted with, if it was.
    """
    label = html.escape(short_label(result.labels[class_index]))
    than = f" rather than {html.escape(short_label(against))}" if against else ""
    model = html.escape(str(result.manifest["model"]["id"]))
    title = html.escape(METHODS[result.method].title)
    # The numbers of noisy copies that went into what is shown, as far as they are recorded.
    counts = set()
    for entry in result.manifest["maps"]:
        is_shown = entry["class_index"] == class_index and layer in {None, entry["layer"]}
        if is_shown and "num_samples" in entry:
            counts.add(entry["num_samples"])
    copies = " to ".join(map(str, sorted({min(counts), max(counts)}))) if counts else ""
    taken = f", out of {copies} noisy copies" if copies else ""
    where = (
        f"the fusion of {len(result.layers)} layers"
        if layer is None
        else f"layer <code>{html.escape(layer)}</code>"
    )
    notes: dict[str, str] = result.manifest.get("layer_notes", {})
    lines = ""
    for name, note in notes.items():
        if layer in (None, name):
            text = f"Layer <code>{html.escape(name)}</code>: {html.escape(note)}."
            lines += f'<p class="note">{text}</p>'
    return (
        f"<h2>Evidence {_SIDES[result.sign]} <strong>{label}</strong>{than}</h2>"
        f"<p>in <code>{model}</code>: {title} at {where}{taken}</p>"
        f"{lines}"
    )


_SIDES = {"for": "for", "against": "against", "both": "for and against"}


_MOST = 5


def build_prediction_list() -> gr.HTML:
    """Builds the list where it is called; fires ``select`` with the class index as ``chosen``."""
    return html_view("predictions", _CSS, _JS)


def prediction_list_html(predictions: Sequence[Prediction], explained: Collection[int]) -> str:
    """The list as HTML; empty for a model without classes.

    Args:
        predictions: The most probable classes, the first the most probable.
        explained: Indices of the classes whose maps are here.
    """
    if not predictions:
        return ""
    rows = []
    for found in predictions[:_MOST]:
        label, share = html.escape(found.label), html.escape(percent(found))
        bar = ""
        if found.probability is not None:
            width = f"width: {found.probability:.2%}"
            bar = f'<span class="bar" aria-hidden="true"><i style="{width}"></i></span>'
        note = "<small>its map is here</small>" if found.class_index in explained else ""
        rows.append(
            f'<li><button type="button" data-index="{found.class_index}">'
            f'<span class="label">{label}</span><span class="part">{share}</span>'
            f"{bar}{note}</button></li>"
        )
    return (
        f"<h3>Predictions</h3><p>Select one to see the evidence for it.</p><ol>{''.join(rows)}</ol>"
    )


def percent(found: Prediction) -> str:
    """A probability in three digits at most; the score of what has none."""
    probability = found.probability
    if probability is None:
        return prediction_text(found)
    return f"{probability:.1%}" if probability >= 0.0005 else "< 0.1%"


_CSS = """
h3 { margin: 0; font-size: 1rem; color: var(--body-text-color); }
p { margin: 0.1rem 0 0.4rem; font-size: 0.8rem; color: var(--body-text-color-subdued); }
ol { list-style: none; margin: 0; padding: 0; }
li { margin: 0 0 0.3rem; }
button {
  display: grid; grid-template-columns: 1fr auto; gap: 0.1rem 0.6rem; width: 100%;
  padding: 0.3rem 0.45rem; border: 1px solid transparent; border-radius: var(--radius-md);
  background: none; color: var(--body-text-color); font-size: 0.85rem; text-align: left;
  cursor: pointer; line-height: 1.35;
}
button:hover { background: var(--background-fill-secondary);
  border-color: var(--border-color-primary); }
button:focus-visible { outline: 3px solid var(--color-accent); }
.label { overflow-wrap: anywhere; }
.part { font-variant-numeric: tabular-nums; font-weight: 600; }
.bar { grid-column: 1 / -1; height: 0.4rem; border-radius: 0.2rem;
  background: var(--border-color-primary); overflow: hidden; }
.bar i { display: block; height: 100%; background: var(--color-accent); }
small { grid-column: 1 / -1; font-size: 0.72rem; color: var(--body-text-color-subdued); }
"""

_JS = """
element.addEventListener("click", (event) => {
  const chosen = event.target.closest("button");
  if (chosen) trigger("select", { chosen: Number(chosen.dataset.index) });
});
"""
