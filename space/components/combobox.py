"""A text field with a list that is searched while typing (a combobox).

Gradio's own menu sends all of its entries to the browser and keeps those that hold the typed text
verbatim. These fields ask the server, and are what screen readers know as a combobox with a
listbox. Entries are made of text, never of markup: strangers name repos and classes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

__all__ = ["CSS", "LIVE_REGION", "LIVE_REGION_CSS", "SCRIPT", "Proposals", "markup"]


LIVE_REGION = '<p class="live-region" role="status"></p>'
"""A line that only screen readers announce; scripts find it as ``.live-region``."""

LIVE_REGION_CSS = """
.live-region {
  position: absolute; width: 1px; height: 1px; margin: 0; overflow: hidden;
  clip-path: inset(50%); white-space: nowrap;
}
"""
"""Hides the line, for ``css_template``."""


@dataclass(frozen=True)
class Proposals:
    """The list for one query; as a dictionary, the property ``proposals`` of the component.

    Attributes:
        query: What was typed.
        entries: Best first; a data class of each field's own.
        note: A sentence below them.
    """

    query: str
    entries: tuple[Any, ...] = ()
    note: str = ""


def markup(elem_id: str, label: str, info: str, listed: str, *, before: str = "") -> str:
    """The field as HTML.

    Args:
        elem_id: The component's ID; an identifier.
        label: Above the field.
        info: Below the label.
        listed: What the list holds, for those who do not see it.
        before: What stands in the field before the text.
    """
    return f"""
<label class="title" for="{elem_id}_text">{label}</label>
<p class="info" id="{elem_id}_info">{info}</p>
<div class="field">
  {before}
  <input id="{elem_id}_text" type="text" role="combobox" aria-autocomplete="list"
    aria-expanded="false" aria-controls="{elem_id}_list" aria-describedby="{elem_id}_info"
    autocomplete="off" autocapitalize="off" spellcheck="false" maxlength="300">
  <div class="popup" hidden>
    <ul class="list" id="{elem_id}_list" role="listbox" aria-label="{listed}"></ul>
    <p class="note"></p>
  </div>
</div>
{LIVE_REGION}
"""


_CSS = """
position: relative;
.title {
  display: block; margin-bottom: var(--spacing-sm); font-size: var(--block-title-text-size);
  font-weight: var(--block-title-text-weight); color: var(--block-title-text-color);
}
.info {
  margin: 0 0 var(--spacing-md); font-size: var(--block-info-text-size);
  color: var(--block-info-text-color); line-height: var(--line-sm);
}
.field { position: relative; }
input { color: var(--body-text-color); font: inherit; font-size: var(--input-text-size); }
.popup {
  position: absolute; z-index: 50; top: calc(100% + 4px); left: 0; right: 0;
  border: 1px solid var(--border-color-primary); border-radius: var(--radius-lg);
  background: var(--background-fill-primary); box-shadow: var(--shadow-drop-lg);
}
.popup[hidden] { display: none; }
.list {
  list-style: none; margin: 0; padding: 0.25rem 0; max-height: min(45vh, 20rem);
  overflow-y: auto; overscroll-behavior: contain;
}
.list:empty { display: none; }
.list li {
  margin: 0; padding: 0.35rem 0.75rem; cursor: pointer; color: var(--body-text-color);
  font-size: 0.9rem; line-height: 1.35; overflow-wrap: anywhere;
}
.list small { color: var(--body-text-color-subdued); }
.list li:hover { background: var(--background-fill-secondary); }
.list li[data-active] {
  background: var(--color-accent-soft); box-shadow: inset 4px 0 var(--color-accent);
}
.note {
  margin: 0; padding: 0.35rem 0.75rem; font-size: 0.8rem; overflow-wrap: anywhere;
  color: var(--body-text-color-subdued); border-top: 1px solid var(--border-color-primary);
}
.list:empty + .note { border-top: none; }
.note:empty { display: none; }
"""

CSS = _CSS + LIVE_REGION_CSS
"""For ``css_template``; a field's own rules follow it."""

# Opening lines of a field's script, which go on with `combobox({...})`. `props.name` is the
# component's elem_id. Entries have a `value`; what they have besides is the field's own matter.
SCRIPT = """
const input = element.querySelector("input"), popup = element.querySelector(".popup");
const list = element.querySelector(".list"), note = element.querySelector(".note");
const live = element.querySelector(".live-region");
let timer = 0, active = -1;

const typed = () => input.value.trim();
const mark = (index) => {
  active = index;
  [...list.children].forEach((row, at) => row.toggleAttribute("data-active", at === index));
  list.children[index]?.scrollIntoView({ block: "nearest" });
  if (index < 0) input.removeAttribute("aria-activedescendant");
  else input.setAttribute("aria-activedescendant", list.children[index].id);
};
const shut = () => {
  clearTimeout(timer);
  popup.hidden = true;
  mark(-1);
  input.setAttribute("aria-expanded", "false");
};
const show = (entries, words, fill) => {
  list.replaceChildren(...entries.map((entry, at) => {
    const row = document.createElement("li");
    row.id = props.name + "_option_" + at;
    row.dataset.value = entry.value;
    row.setAttribute("role", "option");
    row.setAttribute("aria-selected", "false");
    fill(row, entry);
    return row;
  }));
  note.textContent = words;
  list.scrollTop = 0;
  mark(-1);
  popup.hidden = !entries.length && !words;
  input.setAttribute("aria-expanded", String(!popup.hidden));
};
const announce = (count, one, many) => {
  live.textContent = count + " " + (count === 1 ? one : many);
};
// ask(): the list is wanted. choose(value): an entry, or the typed text. escape(open), key(event):
// other keys.
const combobox = ({ delay, ask, choose, escape, key }) => {
  input.addEventListener("input", () => { clearTimeout(timer); timer = setTimeout(ask, delay); });
  input.addEventListener("click", () => { if (popup.hidden) ask(); });
  input.addEventListener("keydown", (event) => {
    const rows = list.children.length, open = !popup.hidden;
    if (event.key === "ArrowDown" || event.key === "ArrowUp") {
      event.preventDefault();
      if (!open) ask();
      else if (rows && event.key === "ArrowDown") mark((active + 1) % rows);
      else if (rows) mark(active <= 0 ? rows - 1 : active - 1);
    } else if (event.key === "Enter") {
      event.preventDefault();
      choose(open && active >= 0 ? list.children[active].dataset.value : typed());
    } else if (event.key === "Escape") {
      escape(open);
      shut();
    } else if (key) key(event);
  });
  popup.addEventListener("mousedown", (event) => event.preventDefault());
  list.addEventListener("click", (event) => {
    const row = event.target.closest("li");
    if (row) choose(row.dataset.value);
  });
};
"""
"""For ``js_on_load``; a field's own lines follow it."""
