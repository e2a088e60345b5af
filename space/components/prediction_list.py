"""The predictions with bars; choosing one explains it."""

from __future__ import annotations

import html
from collections.abc import Collection, Sequence

import gradio as gr

from cam_hub.targets.ranking import Prediction, said_of

__all__ = ["build_prediction_list", "percent", "prediction_list_html"]

_MOST = 5


def build_prediction_list() -> gr.HTML:
    """Builds the list where it is called; fires ``select`` with the class index as ``chosen``."""
    return gr.HTML(
        "",
        css_template=_CSS,
        js_on_load=_JS,
        apply_default_css=False,
        padding=False,
        elem_id="predictions",
    )


def prediction_list_html(predictions: Sequence[Prediction], explained: Collection[int]) -> str:
    """The list as HTML; empty for a model without classes.

    Args:
        predictions: The most probable classes, the first the most probable.
        explained: Indices of the classes whose maps are here.
    """
    if not predictions:
        return ""
    rows = "".join(_row(found, found.class_index in explained) for found in predictions[:_MOST])
    return f"<h3>Predictions</h3><p>Choose one to see what spoke for it.</p><ol>{rows}</ol>"


def percent(found: Prediction) -> str:
    """A probability in three digits at most; the score of what has none."""
    probability = found.probability
    if probability is None:
        return said_of(found)
    return f"{probability:.1%}" if probability >= 0.0005 else "< 0.1%"


def _row(found: Prediction, is_here: bool) -> str:
    label, said = html.escape(found.label), html.escape(percent(found))
    bar = (
        ""
        if found.probability is None
        else f'<span class="bar" aria-hidden="true"><i style="width: {found.probability:.2%}"></i>'
        "</span>"
    )
    note = "<small>its map is here</small>" if is_here else ""
    return (
        f'<li><button type="button" data-index="{found.class_index}">'
        f'<span class="label">{label}</span><span class="part">{said}</span>'
        f"{bar}{note}</button></li>"
    )


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
