"""The field for classes: a list of all labels of the model, searched while typing.

A model may have twenty thousand. The field's value is a list of texts, as requests take them:
labels, indices, ``top(3)``.
"""

from __future__ import annotations

from dataclasses import dataclass

import gradio as gr

from space.components import combobox

__all__ = ["ClassEntry", "build_class_field"]


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


def build_class_field(elem_id: str, label: str, info: str, *, most: int) -> gr.HTML:
    """Builds the field where it is called; fires ``input`` with the ``query`` that is typed.

    Args:
        elem_id: The component's ID; must be an identifier.
        label: Above the field.
        info: Below the label.
        most: How many classes may be chosen.
    """
    chips = f'<ul class="chips" aria-label="{label}: chosen"></ul>'
    return gr.HTML(
        [],
        label=label,
        html_template=combobox.markup(elem_id, label, info, label, before=chips),
        css_template=combobox.CSS + _CSS,
        js_on_load=combobox.SCRIPT + _SCRIPT,
        apply_default_css=False,
        container=True,
        padding=False,
        elem_id=elem_id,
        name=elem_id,
        most=most,
        proposals=combobox.Proposals("").as_prop(),
    )


_CSS = """
.field {
  display: flex; flex-wrap: wrap; gap: 0.3rem; align-items: center; padding: 0.3rem;
  border: var(--input-border-width) solid var(--input-border-color);
  border-radius: var(--input-radius); background: var(--input-background-fill);
}
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
  background: none;
}
.list li { display: flex; justify-content: space-between; gap: 0.8rem; }
.list small { white-space: nowrap; }
.list li[aria-selected="true"]::before { content: "✓"; }
"""

# Typed text becomes a chip at Enter and when the field is left; Backspace in an empty field takes
# the last one back.
_SCRIPT = """
const chips = element.querySelector(".chips");
let last = "";

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
const fill = (row, entry) => {
  const facts = document.createElement("small");
  facts.textContent = entry.facts;
  row.append(entry.text, facts);
};
const choose = (value) => {
  input.value = "";
  shut();
  if (!value) return;
  if (chosen().includes(value)) put(chosen().filter((other) => other !== value));
  else put([...chosen(), value].slice(-props.most));
};
const ask = () => trigger("input", { query: typed() });

draw();
combobox({
  delay: 150, ask, choose,
  escape: (open) => { if (!open) input.value = ""; },
  key: (event) => {
    if (event.key === "Backspace" && !input.value) put(chosen().slice(0, -1));
  },
});
input.addEventListener("focus", ask);
input.addEventListener("blur", () => choose(typed()));
watch("proposals", () => {
  const { query, entries, note: words } = props.proposals;
  if (document.activeElement !== input || query !== typed()) return;
  // The same answer once more must not take the mark away that the keys have set.
  const answer = JSON.stringify(props.proposals);
  if (answer === last && !popup.hidden) return;
  last = answer;
  show(entries, words, fill);
  draw();
  announce(entries.length, "class", "classes");
});
watch("value", draw);
"""
