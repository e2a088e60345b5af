"""The fields that are searched while typing: for classes, and for the model with facts below it.

**Classes.** A list of all labels of the model, of which there may be twenty thousand. The field's
value is a list of texts, as requests take them: labels, indices, ``top(3)``.

**Model.** Proposes models, with words in any order or with something in between. Its value is an ID
once it was chosen, or typed and left.
"""

from __future__ import annotations

import html
from collections.abc import Sequence
from dataclasses import asdict, dataclass

import gradio as gr
from huggingface_hub import constants

from cam_hub.models.loading import ModelFacts
from cam_hub.sources.hub.listing import ModelHit
from space.components import combobox
from space.components.style import html_view

__all__ = [
    "ASKING",
    "FACTS_CSS",
    "ClassEntry",
    "Proposal",
    "build_class_field",
    "build_model_field",
    "facts_html",
    "proposal_of",
    "short",
    "trouble_html",
]


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
    return html_view(
        elem_id,
        combobox.CSS + _CLASS_CSS,
        combobox.SCRIPT + _CLASS_SCRIPT,
        [],
        label=label,
        html_template=combobox.markup(elem_id, label, info, label, before=chips),
        container=True,
        name=elem_id,
        most=most,
        proposals=asdict(combobox.Proposals("")),
    )


_CLASS_CSS = """
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
_CLASS_SCRIPT = """
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


@dataclass(frozen=True)
class Proposal:
    """An entry of the list.

    Attributes:
        value: The model's ID.
        facts: A few words on it.
    """

    value: str
    facts: str = ""


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
    return html_view(
        "model_id",
        combobox.CSS + _CSS,
        combobox.SCRIPT + _SCRIPT,
        value,
        label="Model ID",
        html_template=combobox.markup("model_id", "Model ID", _INFO, "Models"),
        container=True,
        name="model_id",
        choices=[asdict(Proposal(id)) for id in choices],
        proposals=asdict(combobox.Proposals("")),
    )


def short(number: int, unit: str = "") -> str:
    """A number in two or three digits: 950, 12 k, 5.2 MB."""
    for exponent, prefix in ((9, "G"), (6, "M"), (3, "k")):
        if number >= 10**exponent:
            scaled = number / 10**exponent
            return f"{scaled:.{1 if scaled < 10 else 0}f} {prefix}{unit}"
    return f"{number} {unit}".strip()


_INFO = """Words to search for, or any timm or torchvision model:
owner/name[@revision], its URL, torchvision/name[@weights] or a timm name."""

_CSS = """
.title { margin-bottom: var(--spacing-lg); }
.info { margin-bottom: var(--spacing-lg); }
input {
  display: block; width: 100%; box-sizing: border-box; padding: var(--input-padding);
  border: var(--input-border-width) solid var(--input-border-color);
  border-radius: var(--input-radius); background: var(--input-background-fill);
  box-shadow: var(--input-shadow); line-height: var(--line-sm); text-overflow: ellipsis;
}
input:focus {
  outline: none; border-color: var(--input-border-color-focus);
  box-shadow: var(--input-shadow-focus); background: var(--input-background-fill-focus);
}
.list small { display: block; font-size: 0.8em; }
"""

# The text becomes the value when an entry is chosen, at Enter and when the field is left; Escape
# brings the value back.
_SCRIPT = """
const fill = (row, entry) => {
  for (const part of entry.value.split(/(?<=[/._-])/)) {  // long names are broken at their joints
    row.append(part, document.createElement("wbr"));
  }
  if (entry.facts) row.append(Object.assign(document.createElement("small"),
    { textContent: entry.facts }));
};
const choose = (id) => {
  shut();
  input.value = id || props.value;
  if (!id || id === props.value) return;
  props.value = id;
  trigger("select", { id });  // people choose; links and other code only set the value
};
const ask = () => {
  const query = typed();
  if (!query || query === props.value) show(props.choices, "", fill);
  else trigger("input", { query });
};

input.value = props.value;
combobox({ delay: 250, ask, choose, escape: (open) => { if (!open) input.value = props.value; } });
input.addEventListener("focus", () => { input.select(); show(props.choices, "", fill); });
input.addEventListener("blur", () => choose(typed()));
watch("proposals", () => {
  const { query, entries, note: words } = props.proposals;
  if (document.activeElement !== input || query !== typed() || query === props.value) return;
  show(entries, words, fill);
  announce(entries.length, "model", "models");
});
watch("value", () => { if (document.activeElement !== input) input.value = props.value; });
"""


ASKING = '<p class="asking">Asking for its facts …</p>'

FACTS_CSS = """
p { margin: 0; font-size: 0.85rem; line-height: 1.45; overflow-wrap: anywhere; }
.facts { color: var(--body-text-color-subdued); }
.facts span { white-space: nowrap; }
.facts a { color: inherit; text-decoration: underline; white-space: nowrap; }
.refused { margin-top: 0.2rem; padding-left: 0.5rem; border-left: 3px solid var(--color-accent); }
.asking { color: var(--body-text-color-subdued); opacity: 0; animation: appear 0s 0.4s forwards; }
@keyframes appear { to { opacity: 1; } }
"""


def facts_html(facts: ModelFacts, *, random_weights: bool = False) -> str:
    """The lines for a model.

    Args:
        facts: The facts; one that is missing is left out.
        random_weights: Whether it would be loaded without its weights, so that nothing is fetched.
    """
    count = facts.parameters
    # Thousands of millions are called billions.
    parameters = "" if count is None else f"{short(count).replace('G', 'B')} parameters"
    fetching = "already here" if facts.fetch_bytes == 0 else ""
    if facts.fetch_bytes:
        fetching = f"{short(facts.fetch_bytes, 'B')} to fetch"
    safe = facts.source != "hub" or (facts.weights_file or ".safetensors").endswith(".safetensors")
    parts = [
        parameters,
        # For clips with the frames in front.
        f"input {' × '.join(map(str, facts.input_size[1:]))}" if facts.input_size else "",
        f"{len(facts.class_names):,} classes" if facts.class_names else "",
        "" if random_weights else fetching,
        "" if safe else "weights as a pickle",
        facts.licence or "",
        facts.library or "",
        f"{short(facts.downloads)} downloads a month" if facts.downloads is not None else "",
        "private" if facts.private else "",
        "gated" if facts.gated else "",
    ]
    shown = " · ".join(f"<span>{html.escape(part[:80])}</span>" for part in parts if part)
    lines = [f'<p class="facts">{shown}{_page(facts)}</p>']
    if not facts.fresh:
        lines.append('<p class="facts">The Hub does not answer: these facts are stored here.</p>')
    if facts.refusal:
        lines.append(trouble_html("It would not be loaded", facts.refusal))
    return "".join(lines)


def trouble_html(title: str, message: str) -> str:
    """A problem; its words may come from strangers."""
    sentence = message[:1].upper() + message[1:]
    return f'<p class="refused"><strong>{html.escape(title)}.</strong> {html.escape(sentence)}</p>'


def _page(facts: ModelFacts) -> str:
    """A link to the repo's page, where its terms are."""
    if facts.source != "hub":
        return ""
    name, _, _ = facts.id.partition("@")
    address = html.escape(f"{constants.ENDPOINT}/{name}")
    link = f'<a href="{address}" target="_blank" rel="noopener noreferrer">its page</a>'
    return f" · {link}"
