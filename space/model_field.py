"""The field for the model's ID, which proposes models as one types.

Gradio's own menu keeps only entries that hold the typed text as it stands, so words in another
order, or with something in between, would find nothing. This one is a text field with a list, as
screen readers know it (a combobox). Its value is an ID once it was chosen, or typed and left.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass

import gradio as gr

from cam_hub.sources.hub.hits import ModelHit

__all__ = ["Proposal", "Proposals", "build_model_field", "proposal_of", "short"]


@dataclass(frozen=True)
class Proposal:
    """An entry of the list.

    Attributes:
        id: The model's ID.
        facts: A few words on it.
    """

    id: str
    facts: str = ""


@dataclass(frozen=True)
class Proposals:
    """The list for one query.

    Attributes:
        query: What was typed.
        entries: Best first.
        note: Something to say below them.
    """

    query: str
    entries: tuple[Proposal, ...] = ()
    note: str = ""

    def as_prop(self) -> dict[str, object]:
        """As the script takes it."""
        return asdict(self)


def proposal_of(hit: ModelHit) -> Proposal:
    """An entry for a hit: downloads, size and access, as far as they are known."""
    facts = [
        "" if hit.downloads is None else f"{short(hit.downloads)} downloads",
        "" if hit.bytes is None else short(hit.bytes, "B"),
        "gated" if hit.gated else "",
        "private" if hit.private else "",
    ]
    return Proposal(hit.id, " · ".join(filter(None, facts)))


def build_model_field(choices: Sequence[str], value: str) -> gr.HTML:
    """Builds the field where it is called.

    Args:
        choices: IDs to propose before anything is typed.
        value: The one that it starts with.
    """
    return gr.HTML(
        value,
        label="Model ID",
        html_template=_TEMPLATE,
        css_template=_CSS,
        js_on_load=_JS,
        apply_default_css=False,
        container=True,
        padding=False,
        elem_id="model_id",
        choices=[asdict(Proposal(id)) for id in choices],
        proposals=Proposals("").as_prop(),
    )


def short(number: int, unit: str = "") -> str:
    """A number in two or three digits: 950, 12 k, 5.2 MB."""
    for exponent, prefix in ((9, "G"), (6, "M"), (3, "k")):
        if number >= 10**exponent:
            scaled = number / 10**exponent
            return f"{scaled:.{1 if scaled < 10 else 0}f} {prefix}{unit}"
    return f"{number} {unit}".strip()


_TEMPLATE = """
<label class="title" for="model_id_text">Model ID</label>
<p class="info" id="model_id_info">Words to search for, or any timm or torchvision model:
owner/name[@revision], its URL, torchvision/name[@weights] or a timm name.</p>
<div class="field">
  <input id="model_id_text" type="text" role="combobox" aria-autocomplete="list"
    aria-expanded="false" aria-controls="model_id_list" aria-describedby="model_id_info"
    autocomplete="off" autocapitalize="off" spellcheck="false" maxlength="300">
  <div class="popup" hidden>
    <ul id="model_id_list" role="listbox" aria-label="Models"></ul>
    <p class="note"></p>
  </div>
</div>
<p class="spoken" role="status"></p>
"""

_CSS = """
position: relative;
.title {
  display: block; margin-bottom: var(--spacing-lg); font-size: var(--block-title-text-size);
  font-weight: var(--block-title-text-weight); color: var(--block-title-text-color);
}
.info {
  margin: 0 0 var(--spacing-lg); font-size: var(--block-info-text-size);
  color: var(--block-info-text-color); line-height: var(--line-sm);
}
.field { position: relative; }
input {
  display: block; width: 100%; box-sizing: border-box; padding: var(--input-padding);
  border: var(--input-border-width) solid var(--input-border-color);
  border-radius: var(--input-radius); background: var(--input-background-fill);
  box-shadow: var(--input-shadow); color: var(--body-text-color);
  font: inherit; font-size: var(--input-text-size); line-height: var(--line-sm);
  text-overflow: ellipsis;
}
input:focus {
  outline: none; border-color: var(--input-border-color-focus);
  box-shadow: var(--input-shadow-focus); background: var(--input-background-fill-focus);
}
.popup {
  position: absolute; z-index: 50; top: calc(100% + 4px); left: 0; right: 0;
  border: 1px solid var(--border-color-primary); border-radius: var(--radius-lg);
  background: var(--background-fill-primary); box-shadow: var(--shadow-drop-lg);
}
.popup[hidden] { display: none; }
ul {
  list-style: none; margin: 0; padding: 0.25rem 0; max-height: min(50vh, 22rem);
  overflow-y: auto; overscroll-behavior: contain;
}
ul:empty { display: none; }
li {
  margin: 0; padding: 0.35rem 0.75rem; cursor: pointer; color: var(--body-text-color);
  font-size: 0.9rem; line-height: 1.35; overflow-wrap: anywhere;
}
li small { display: block; color: var(--body-text-color-subdued); font-size: 0.8em; }
li:hover { background: var(--background-fill-secondary); }
li[aria-selected="true"] {
  background: var(--color-accent-soft); box-shadow: inset 4px 0 var(--color-accent);
}
.note {
  margin: 0; padding: 0.35rem 0.75rem; font-size: 0.8rem; overflow-wrap: anywhere;
  color: var(--body-text-color-subdued); border-top: 1px solid var(--border-color-primary);
}
ul:empty + .note { border-top: none; }
.note:empty { display: none; }
.spoken {
  position: absolute; width: 1px; height: 1px; margin: 0; overflow: hidden;
  clip-path: inset(50%); white-space: nowrap;
}
"""

# Entries are made of text, never of markup: strangers name repos. The text becomes the value when
# an entry is chosen, at Enter and when the field is left; Escape brings the value back.
_JS = """
const input = element.querySelector("input"), popup = element.querySelector(".popup");
const list = element.querySelector("ul"), note = element.querySelector(".note");
const spoken = element.querySelector(".spoken"), choices = props.choices;
let timer = 0, active = -1;

const typed = () => input.value.trim();
const shut = () => {
  clearTimeout(timer);
  popup.hidden = true;
  mark(-1);
  input.setAttribute("aria-expanded", "false");
};
const mark = (index) => {
  active = index;
  [...list.children].forEach((row, at) => row.setAttribute("aria-selected", at === index));
  list.children[index]?.scrollIntoView({ block: "nearest" });
  if (index < 0) input.removeAttribute("aria-activedescendant");
  else input.setAttribute("aria-activedescendant", list.children[index].id);
};
const show = (entries, words) => {
  list.replaceChildren(...entries.map((entry, at) => {
    const row = document.createElement("li");
    row.id = "model_id_option_" + at;
    row.dataset.id = entry.id;
    row.setAttribute("role", "option");
    // Long names are broken where they have joints.
    for (const part of entry.id.split(/(?<=[/._-])/)) {
      row.append(part, document.createElement("wbr"));
    }
    if (entry.facts) row.append(Object.assign(document.createElement("small"),
      { textContent: entry.facts }));
    return row;
  }));
  note.textContent = words;
  list.scrollTop = 0;
  mark(-1);
  popup.hidden = !entries.length && !words;
  input.setAttribute("aria-expanded", String(!popup.hidden));
};
const take = (id) => {
  shut();
  input.value = id || props.value;
  if (!id || id === props.value) return;
  props.value = id;
  trigger("select", { id });  // people choose; links and other code only set the value
};
const ask = () => {
  const query = typed();
  if (!query || query === props.value) show(choices, "");
  else trigger("input", { query });
};

input.value = props.value;
input.addEventListener("input", () => { clearTimeout(timer); timer = setTimeout(ask, 250); });
input.addEventListener("focus", () => { input.select(); show(choices, ""); });
input.addEventListener("click", () => { if (popup.hidden) ask(); });
input.addEventListener("blur", () => take(typed()));
input.addEventListener("keydown", (event) => {
  const rows = list.children.length, open = !popup.hidden;
  if (event.key === "ArrowDown" || event.key === "ArrowUp") {
    event.preventDefault();
    if (!open) ask();
    else if (rows && event.key === "ArrowDown") mark((active + 1) % rows);
    else if (rows) mark(active <= 0 ? rows - 1 : active - 1);
  } else if (event.key === "Enter") {
    event.preventDefault();
    take(open && active >= 0 ? list.children[active].dataset.id : typed());
  } else if (event.key === "Escape") {
    if (!open) input.value = props.value;
    shut();
  }
});
list.addEventListener("mousedown", (event) => event.preventDefault());
list.addEventListener("click", (event) => {
  const row = event.target.closest("li");
  if (row) take(row.dataset.id);
});
watch("proposals", () => {
  const { query, entries, note: words } = props.proposals;
  if (document.activeElement !== input || query !== typed() || query === props.value) return;
  show(entries, words);
  spoken.textContent = entries.length === 1 ? "1 model" : entries.length + " models";
});
watch("value", () => { if (document.activeElement !== input) input.value = props.value; });
"""
