"""The field for classes: a list of all labels of the model, searched as one types.

Gradio's own menu would send twenty thousand labels to the browser and draw them all. This one asks
the server. Its value is a list of texts, as requests take them: labels, indices, ``top(3)``.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from string import Template

import gradio as gr

__all__ = ["ClassEntry", "ClassProposals", "build_class_field"]


@dataclass(frozen=True)
class ClassEntry:
    """An entry of the list.

    Attributes:
        value: What stands for the class in a request.
        text: Its label.
        facts: Its probability, or its index.
    """

    value: str
    text: str
    facts: str = ""


@dataclass(frozen=True)
class ClassProposals:
    """The list for one query.

    Attributes:
        query: What was typed.
        entries: Best first.
        note: Something to say below them.
    """

    query: str
    entries: tuple[ClassEntry, ...] = ()
    note: str = ""

    def as_prop(self) -> dict[str, object]:
        """As the script takes it."""
        return asdict(self)


def build_class_field(elem_id: str, label: str, info: str, *, most: int) -> gr.HTML:
    """Builds the field where it is called; fires ``input`` with the ``query`` that is typed.

    Args:
        elem_id: Of the component; must be an identifier.
        label: Above the field.
        info: Below the label.
        most: How many classes may be chosen.
    """
    return gr.HTML(
        [],
        label=label,
        html_template=_TEMPLATE.substitute(id=elem_id, label=label, info=info),
        css_template=_CSS,
        js_on_load=_JS,
        apply_default_css=False,
        container=True,
        padding=False,
        elem_id=elem_id,
        name=elem_id,
        most=most,
        proposals=ClassProposals("").as_prop(),
    )


_TEMPLATE = Template("""
<label class="title" for="${id}_text">${label}</label>
<p class="info" id="${id}_info">${info}</p>
<div class="field">
  <ul class="chips" aria-label="${label}: chosen"></ul>
  <input id="${id}_text" type="text" role="combobox" aria-autocomplete="list"
    aria-expanded="false" aria-controls="${id}_list" aria-describedby="${id}_info"
    autocomplete="off" autocapitalize="off" spellcheck="false" maxlength="300">
  <div class="popup" hidden>
    <ul class="list" id="${id}_list" role="listbox" aria-label="${label}"></ul>
    <p class="note"></p>
  </div>
</div>
<p class="spoken" role="status"></p>
""")

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
.field { position: relative; display: flex; flex-wrap: wrap; gap: 0.3rem; align-items: center;
  padding: 0.3rem; border: var(--input-border-width) solid var(--input-border-color);
  border-radius: var(--input-radius); background: var(--input-background-fill); }
.field:focus-within {
  border-color: var(--color-accent); box-shadow: 0 0 0 2px var(--color-accent);
}
.chips { display: contents; list-style: none; margin: 0; padding: 0; }
.chips li {
  display: flex; align-items: center; gap: 0.2rem; max-width: 100%; margin: 0;
  padding: 0.05rem 0.05rem 0.05rem 0.5rem; border-radius: 0.8rem; font-size: 0.8rem;
  background: var(--background-fill-secondary); border: 1px solid var(--border-color-primary);
  color: var(--body-text-color);
}
.chips span { overflow: hidden; text-overflow: ellipsis; white-space: nowrap; max-width: 15rem; }
.chips button {
  width: 1.5rem; height: 1.5rem; border: none; border-radius: 50%; background: none; padding: 0;
  color: inherit; font-size: 0.95rem; line-height: 1; cursor: pointer;
}
.chips button:hover { background: var(--border-color-primary); }
.chips button:focus-visible { outline: 2px solid var(--color-accent); }
input {
  flex: 1 1 6rem; min-width: 5rem; padding: 0.3rem 0.4rem; border: none; outline: none;
  background: none; color: var(--body-text-color); font: inherit; font-size: var(--input-text-size);
}
.popup {
  position: absolute; z-index: 50; top: calc(100% + 4px); left: 0; right: 0;
  border: 1px solid var(--border-color-primary); border-radius: var(--radius-lg);
  background: var(--background-fill-primary); box-shadow: var(--shadow-drop-lg);
}
.popup[hidden] { display: none; }
.list {
  list-style: none; margin: 0; padding: 0.25rem 0; max-height: min(45vh, 19rem);
  overflow-y: auto; overscroll-behavior: contain;
}
.list:empty { display: none; }
.list li {
  display: flex; justify-content: space-between; gap: 0.8rem; margin: 0; padding: 0.35rem 0.75rem;
  cursor: pointer; color: var(--body-text-color); font-size: 0.88rem; line-height: 1.35;
  overflow-wrap: anywhere;
}
.list small { color: var(--body-text-color-subdued); white-space: nowrap; }
.list li:hover { background: var(--background-fill-secondary); }
.list li[data-active] {
  background: var(--color-accent-soft); box-shadow: inset 4px 0 var(--color-accent);
}
.list li[aria-selected="true"]::before { content: "✓"; }
.note {
  margin: 0; padding: 0.35rem 0.75rem; font-size: 0.8rem; overflow-wrap: anywhere;
  color: var(--body-text-color-subdued); border-top: 1px solid var(--border-color-primary);
}
.note:empty { display: none; }
.spoken {
  position: absolute; width: 1px; height: 1px; margin: 0; overflow: hidden;
  clip-path: inset(50%); white-space: nowrap;
}
"""

# Chips and entries are made of text, never of markup. Typed text becomes a chip at Enter and when
# the field is left; Backspace in an empty field takes the last one back.
_JS = """
const field = element.querySelector(".field"), chips = element.querySelector(".chips");
const input = element.querySelector("input"), popup = element.querySelector(".popup");
const list = element.querySelector(".list"), note = element.querySelector(".note");
const spoken = element.querySelector(".spoken");
let timer = 0, active = -1, last = "";

const chosen = () => (Array.isArray(props.value) ? props.value : []);
const put = (values) => {
  if (JSON.stringify(values) !== JSON.stringify(chosen())) props.value = values;
  draw();
};
const draw = () => {
  chips.replaceChildren(...chosen().map((value) => {
    const chip = document.createElement("li"), text = document.createElement("span");
    const remove = document.createElement("button");
    text.textContent = text.title = value;
    remove.type = "button";
    remove.textContent = "×";
    remove.setAttribute("aria-label", "Remove " + value);
    remove.addEventListener("click", () => {
      put(chosen().filter((other) => other !== value));
      input.focus();
    });
    chip.append(text, remove);
    return chip;
  }));
  chips.hidden = !chosen().length;
  for (const row of list.children) {
    row.setAttribute("aria-selected", chosen().includes(row.dataset.value));
  }
};
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
const show = (entries, words) => {
  list.replaceChildren(...entries.map((entry, at) => {
    const row = document.createElement("li"), facts = document.createElement("small");
    row.id = props.name + "_option_" + at;
    row.dataset.value = entry.value;
    row.setAttribute("role", "option");
    facts.textContent = entry.facts;
    row.append(entry.text, facts);
    return row;
  }));
  note.textContent = words;
  list.scrollTop = 0;
  mark(-1);
  draw();
  popup.hidden = !entries.length && !words;
  input.setAttribute("aria-expanded", String(!popup.hidden));
};
const add = (value) => {
  input.value = "";
  if (!value) return;
  if (chosen().includes(value)) put(chosen().filter((other) => other !== value));
  else put([...chosen(), value].slice(-props.most));
};
const ask = () => trigger("input", { query: input.value.trim() });

draw();
input.addEventListener("input", () => { clearTimeout(timer); timer = setTimeout(ask, 150); });
input.addEventListener("focus", ask);
input.addEventListener("click", () => { if (popup.hidden) ask(); });
input.addEventListener("blur", () => { add(input.value.trim()); shut(); });
input.addEventListener("keydown", (event) => {
  const rows = list.children.length, open = !popup.hidden;
  if (event.key === "ArrowDown" || event.key === "ArrowUp") {
    event.preventDefault();
    if (!open) ask();
    else if (rows && event.key === "ArrowDown") mark((active + 1) % rows);
    else if (rows) mark(active <= 0 ? rows - 1 : active - 1);
  } else if (event.key === "Enter") {
    event.preventDefault();
    add(open && active >= 0 ? list.children[active].dataset.value : input.value.trim());
    shut();
  } else if (event.key === "Escape") {
    if (!open) input.value = "";
    shut();
  } else if (event.key === "Backspace" && !input.value) {
    put(chosen().slice(0, -1));
  }
});
field.addEventListener("mousedown", (event) => {
  if (event.target.closest(".popup")) event.preventDefault();
});
list.addEventListener("click", (event) => {
  const row = event.target.closest("li");
  if (!row) return;
  add(row.dataset.value);
  shut();
});
watch("proposals", () => {
  const { query, entries, note: words } = props.proposals;
  if (document.activeElement !== input || query !== input.value.trim()) return;
  // The same answer once more must not take the mark away that the keys have set.
  const answer = JSON.stringify(props.proposals);
  if (answer === last && !popup.hidden) return;
  last = answer;
  show(entries, words);
  spoken.textContent = entries.length === 1 ? "1 class" : entries.length + " classes";
});
watch("value", draw);
"""
