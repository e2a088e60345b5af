"""A table of layers as HTML, with its style and its script. Nothing here knows Gradio.

Names and reasons are escaped: the authors of models chose them.
"""

from __future__ import annotations

import html
import re
from collections.abc import Sequence

from cam_hub.layers.listing import LayerInfo
from space.service.explainer import LayerTable

__all__ = ["NO_TABLE", "TABLE_CSS", "TABLE_JS", "TICK_JS", "layer_table", "layer_trouble"]

NO_TABLE = ""
"""What stands here before a model was examined; progress is shown over it."""

_JOINTS = re.compile(r"(?<=[.])|(?<=[a-z0-9])(?=[A-Z])")
_NUMERIC = ("Grid", "Channels", "Stage", "Prefix tokens")
_HEADERS = ("Target", "Layer", "Type", "Layout", *_NUMERIC, "Why")


def layer_table(table: LayerTable, wanted: Sequence[str] = (), *, show_all: bool = False) -> str:
    """The recommendation in a sentence, and one row per layer.

    Args:
        table: The model's layers.
        wanted: The layers that are chosen, as names and words; their rows are ticked.
        show_all: Whether layers that give no map have a row, too.

    Returns:
        HTML. Rows of usable layers carry the layer's name and the words that stand for it as
        data attributes, for the script.
    """
    chosen = table.chosen(wanted)
    rows = "".join(_row(layer, table, layer.name in chosen) for layer in table.listed(show_all))
    head = "".join(f'<th scope="col"{_number(name in _NUMERIC)}>{name}</th>' for name in _HEADERS)
    label = html.escape(f"Layers of {table.model_id}")
    body = (
        f'<div class="rows" tabindex="0" role="region" aria-label="{label}">'
        f"<table><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table></div>"
    )
    return _note(table) + (body if rows else "")


def layer_trouble(message: str) -> str:
    """A message in the table's place.

    Args:
        message: HTML, as ``readable(as_html=True)`` makes it.
    """
    return f'<p class="note" role="alert">{message}</p>'


def _note(table: LayerTable) -> str:
    model = f"<code>{html.escape(table.model_id)}</code>"
    if table.random_weights:
        model += " (random weights)"
    best = table.recommended
    if best is None:
        return (
            f'<p class="note"><strong>No layer of {model} gives a map.</strong> '
            "Show also those that give none to read why.</p>"
        )
    count = f"{len(table.usable)} of {len(table.layers)} layers of {model} give a map."
    return (
        f'<p class="note"><strong>Recommended: <code>{html.escape(best.name)}</code></strong>, '
        f"{html.escape(best.layout or '')} {_grid(best)}, because it "
        f"{html.escape(best.reason.removeprefix('it '))}.<br>{count} Tick a row to explain it.</p>"
    )


def _row(layer: LayerInfo, table: LayerTable, ticked: bool) -> str:
    name = html.escape(layer.name)
    badge = '<span class="badge">recommended</span>' if layer.recommended else ""
    kinds = [
        kind
        for kind, holds in (
            ("usable", layer.usable),
            ("recommended", layer.recommended),
        )
        if holds
    ]
    data = tick = ""
    if layer.usable:
        data = f' data-layer="{name}" data-words="{" ".join(table.words_of(layer.name))}"'
        tick = (
            f'<button type="button" role="checkbox" aria-checked="{str(ticked).lower()}" '
            f'aria-label="Explain {name}"></button>'
        )
    numbers = (
        _grid(layer),
        _or_dash(layer.channels),
        _or_dash(layer.stage),
        _tokens(layer),
    )
    cells = "".join(f"<td{_number(True)}>{text}</td>" for text in numbers)
    return (
        f'<tr class="{" ".join(kinds)}"{data}><td>{tick}</td>'
        f'<th scope="row"><code>{_breakable(layer.name)}</code>{badge}</th>'
        f"<td>{_breakable(layer.module_type)}</td><td>{html.escape(layer.layout or '–')}</td>"
        f'{cells}<td class="why">{html.escape(layer.reason)}</td></tr>'
    )


def _breakable(name: str) -> str:
    """A name, escaped, that may be broken behind its dots and before its capitals."""
    return "<wbr>".join(html.escape(part) for part in _JOINTS.split(name))


def _grid(layer: LayerInfo) -> str:
    return "×".join(map(str, layer.grid)) if layer.grid else "–"


def _tokens(layer: LayerInfo) -> str:
    """Tokens before the grid; those after it are rare, and in the last column."""
    if layer.grid is None:
        return "–"
    after = f", {layer.suffix_tokens} after" if layer.suffix_tokens else ""
    return f"{layer.prefix_tokens}{after}"


def _or_dash(number: int | None) -> str:
    return "–" if number is None else str(number)


def _number(is_number: bool) -> str:
    return ' class="number"' if is_number else ""


TABLE_CSS = """
.note { margin: 0 0 0.6rem; line-height: 1.5; overflow-wrap: anywhere; }
code { font-family: var(--font-mono); font-size: 0.95em; }
.rows {
  max-height: min(70vh, 560px); overflow: auto; overscroll-behavior: contain;
  contain: inline-size; padding: 0;
  border: 1px solid var(--border-color-primary); border-radius: var(--radius-lg);
}
table {
  border-collapse: separate; border-spacing: 0; width: 100%; margin: 0; padding: 0;
  font-size: 0.8rem;
}
th, td {
  padding: 0.3rem 0.25rem; text-align: left; vertical-align: top; font-weight: normal;
  border-bottom: 1px solid var(--border-color-primary);
  background: var(--background-fill-primary); color: var(--body-text-color);
}
thead th {
  position: sticky; top: 0; z-index: 2; font-weight: 600; vertical-align: bottom;
  background: var(--background-fill-secondary);
}
tbody tr:last-child > * { border-bottom: none; }
.number { text-align: right; font-variant-numeric: tabular-nums; }
tbody .number { white-space: nowrap; }
thead th:nth-child(2) { left: 0; z-index: 3; }
tbody th {
  position: sticky; left: 0; z-index: 1; min-width: 8.5rem; overflow-wrap: anywhere;
  border-right: 1px solid var(--border-color-primary);
}
th code { margin-right: 0.45rem; }
td:nth-child(3) { overflow-wrap: anywhere; min-width: 6.2rem; }
.why { min-width: 9rem; font-size: 0.92em; }
tbody tr:not(.usable) > * {
  color: color-mix(in srgb, var(--body-text-color) 72%, transparent);
}
tr.usable { cursor: pointer; }
tr.usable:hover > * { background: var(--background-fill-secondary); }
tr.recommended > * { background: var(--color-accent-soft) !important; }
tr.recommended code { font-weight: 700; }
tr.recommended > :first-child { box-shadow: inset 4px 0 var(--color-accent); }
.badge {
  display: inline-block; padding: 0 0.45rem; border-radius: 1rem;
  background: var(--color-accent); color: #000; font-size: 0.68rem; font-weight: 600;
  line-height: 1.5; white-space: nowrap;
}
[role="checkbox"] {
  position: relative; display: block; width: 1.05rem; height: 1.05rem; margin: 0.05rem auto;
  border: 1.5px solid var(--body-text-color-subdued); border-radius: 0.25rem;
  background: var(--input-background-fill); cursor: pointer;
}
[role="checkbox"]:focus-visible, .rows:focus-visible {
  outline: 2px solid var(--color-accent); outline-offset: 1px;
}
[role="checkbox"][aria-checked="true"] {
  border-color: var(--color-accent); background: var(--color-accent);
}
[role="checkbox"][aria-checked="true"]::after {
  content: ""; position: absolute; left: 0.28rem; top: 0.06rem; width: 0.3rem; height: 0.58rem;
  border: solid #000; border-width: 0 2px 2px 0; transform: rotate(42deg);
}
"""
"""Style of the table; Gradio confines it to the component."""

# Runs once. A click anywhere in a row ticks it, unless text is being selected; a button answers
# to Enter and Space already. The recommended row is brought into the box's view, since it
# stands near the end.
TABLE_JS = """
element.addEventListener("click", (event) => {
  const row = event.target.closest("tr[data-layer]");
  const marked = window.getSelection();
  if (!row || (marked?.type === "Range" && marked.containsNode(row, true))) return;
  const box = row.querySelector("[role=checkbox]");
  box.setAttribute("aria-checked", box.getAttribute("aria-checked") !== "true");
  const ticked = element.querySelectorAll("[role=checkbox][aria-checked=true]");
  trigger("select", { chosen: [...ticked].map((tick) => tick.closest("tr").dataset.layer) });
});
watch("value", () => {
  const box = element.querySelector(".rows");
  const row = element.querySelector("tr.recommended");
  if (box && row) box.scrollTop = row.offsetTop - (box.clientHeight - row.offsetHeight) / 2;
});
"""

# Keeps the ticks in step with what is chosen elsewhere on the page.
TICK_JS = """
(chosen) => {
  const wanted = chosen?.length ? chosen : ["best"];
  for (const row of document.querySelectorAll("#layer_table tr[data-layer]")) {
    const names = [row.dataset.layer, ...row.dataset.words.split(" ")];
    const ticked = names.some((name) => wanted.includes(name));
    row.querySelector("[role=checkbox]").setAttribute("aria-checked", ticked);
  }
}
"""
