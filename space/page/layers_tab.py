"""The tab of layers: components, handlers, events; and the table of layers as HTML.

Names and reasons are escaped in the table: the authors of models chose them.
"""

from __future__ import annotations

import html
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import gradio as gr

from cam_hub.layers.listing import SUGGESTIONS, LayerInfo
from space.components import formatting
from space.components.style import SHOW_LAYERS, html_view
from space.config.settings import Settings
from space.page.controls import ANY_LAYERS, LAYER_WORDS, Controls
from space.service.errors import cancellable_progress, event_value, readable, token_of, warn
from space.service.explain_form import read_model_id, read_texts
from space.service.explainer import Explainer, LayerTable

__all__ = [
    "LAYERS_TAB",
    "NO_TABLE",
    "RESULT_TAB",
    "LayerHandlers",
    "LayersPanel",
    "layer_table",
]


RESULT_TAB = "result"
LAYERS_TAB = "layers"


class LayersPanel:
    """The components of the tab, built where it is called, and the tabs.

    ``is_open`` holds whether the tab is in front: layers are looked for only then.
    """

    def __init__(self, tabs: gr.Tabs, result_tab: gr.Tab, layers_tab: gr.Tab) -> None:
        self.tabs, self.result_tab, self.layers_tab = tabs, result_tab, layers_tab
        self.table = html_view("layer_table", TABLE_CSS, TABLE_JS, min_height=96)
        self.show_all = gr.Checkbox(
            False,
            label="Show also layers that give no map, and why",
            container=False,
            elem_id="show_all",
        )
        self.is_open = gr.State(False)


Updates = dict[Any, Any]
"""New values by component."""


@dataclass(frozen=True)
class LayerHandlers:
    """The handlers, and the events that call them. Only ``show`` uses a model."""

    explainer: Explainer
    settings: Settings
    controls: Controls
    panel: LayersPanel

    def show(
        self,
        model_id: Any,
        target_layers: Any,
        show_all: Any,
        visitor: gr.OAuthToken | None,
        progress: gr.Progress = gr.Progress(),  # noqa: B008 (how Gradio wants it)
    ) -> Updates:
        """Lists the model's layers; a problem is shown in their place."""
        try:
            with readable(as_html=True):
                wanted = self._layers(target_layers)
                table = self.explainer.layers(
                    read_model_id(model_id, self.settings.limits),
                    cancellable_progress(progress),
                    token_of(visitor),
                )
                warn(table.notes)
                return {
                    self.panel.table: layer_table(table, wanted, show_all=bool(show_all)),
                    self.controls.target_layers: gr.update(
                        choices=formatting.layer_choices(table.layers)
                    ),
                }
        except gr.Error as problem:
            return {self.panel.table: f'<p class="note" role="alert">{problem.message}</p>'}

    def show_if_open(
        self,
        is_open: Any,
        model_id: Any,
        target_layers: Any,
        show_all: Any,
        visitor: gr.OAuthToken | None,
        progress: gr.Progress = gr.Progress(),  # noqa: B008
    ) -> Updates:
        """Lists them only while the tab is open: it takes seconds."""
        if not is_open:
            return {self.panel.table: gr.skip()}
        return self.show(model_id, target_layers, show_all, visitor, progress)

    def choose(self, choice: Any) -> Updates:
        """Takes a word for the target layers; or lets them be picked, starting from the last."""
        chosen = self.controls.target_layers
        if choice in dict(LAYER_WORDS).values():
            return {chosen: gr.update(value=[choice], visible=False)}
        return {chosen: gr.update(visible=True), self.panel.tabs: gr.Tabs(selected=LAYERS_TAB)}

    def pick(self, ticked: gr.EventData) -> Updates:
        """Takes the layers whose rows are ticked."""
        with readable(as_html=True):
            names = self._layers(event_value(ticked, "chosen"))
            return {
                self.controls.layer_choice: ANY_LAYERS,
                self.controls.target_layers: gr.update(value=names, visible=True),
            }

    def forget(self, target_layers: Any) -> Updates:
        """Takes away layers that another model has; words mean something for every model."""
        updates: Updates = {self.panel.table: NO_TABLE}
        offered = gr.update(choices=formatting.layer_choices())
        chosen = target_layers if isinstance(target_layers, list) else [None]
        if not all(isinstance(name, str) and name in SUGGESTIONS for name in chosen):
            offered = gr.update(choices=formatting.layer_choices(), value=["best"], visible=False)
            updates[self.controls.layer_choice] = "best"
        return {**updates, self.controls.target_layers: offered}

    def _layers(self, value: Any) -> list[str]:
        limits = self.settings.limits
        return list(read_texts("target_layers", value, limits.max_layers, limits.max_text))

    def connect(self) -> None:
        """Wires the tab that is being built. None of its events is an endpoint."""
        controls, panel = self.controls, self.panel
        private: dict[str, Any] = {"api_visibility": "private", "preprocess": False}
        quick: dict[str, Any] = {"queue": False, "show_progress": "hidden", **private}
        looking: dict[str, Any] = {
            "outputs": [panel.table, controls.target_layers],
            "show_progress_on": panel.table,
            "trigger_mode": "always_last",
            "concurrency_id": "model",
            "concurrency_limit": self.settings.concurrency,
            **private,
        }
        chosen = [controls.model_id, controls.target_layers, panel.show_all]

        # Tabs fire this also when an event brings them to the front.
        panel.layers_tab.select(lambda: True, None, panel.is_open, **quick)
        panel.result_tab.select(lambda: False, None, panel.is_open, **quick)
        opened = panel.layers_tab.select(self.show, chosen, **looking)
        opened.then(None, controls.layer_choice, js=SHOW_LAYERS, **private)
        more = panel.show_all.input(self.show, chosen, **looking)
        controls.run.click(lambda: gr.Tabs(selected=RESULT_TAB), None, panel.tabs, **quick)

        controls.layer_choice.input(
            self.choose, controls.layer_choice, [controls.target_layers, panel.tabs], **quick
        ).then(None, controls.layer_choice, js=SHOW_LAYERS, **private)
        panel.table.select(
            self.pick,
            None,
            [controls.layer_choice, controls.target_layers],
            trigger_mode="multiple",
            **quick,
        )
        controls.target_layers.change(None, controls.target_layers, js=TICK_JS, **private)

        controls.model_id.select(
            self.forget,
            controls.target_layers,
            [panel.table, controls.layer_choice, controls.target_layers],
            cancels=[opened, more],
            **quick,
        ).then(self.show_if_open, [panel.is_open, *chosen], **looking)


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
    kinds = [kind for kind in ("usable", "recommended") if getattr(layer, kind)]
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
