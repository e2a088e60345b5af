"""The evidence below the picture: the verdict on the map that is shown, and the tests behind it."""

from __future__ import annotations

import html

import gradio as gr

from cam_hub.faithfulness import Evidence, EvidenceTest
from cam_hub.options import OPTIONS
from space.components.style import html_view

__all__ = ["FIRST_CHECKS", "NOT_TESTED", "TESTING", "build_evidence", "evidence_html"]

FIRST_CHECKS = ["cover", "class_check"]
"""The tests of every map on the page: does the model depend on it, and does it answer for its class
alone? The button makes further ones."""

_BUTTON = '<button type="button">Test further</button>'

NOT_TESTED = (
    '<p>This map has not been tested against the model. <button type="button">Test it</button></p>'
)

TESTING = "<p>Testing this map against the model …</p>"


def build_evidence() -> gr.HTML:
    """Builds the view where it is called; fires ``select`` when further tests are wanted.

    Its value shows only while its map is the one named ``shown``, otherwise ``note`` does: a test
    may end when another map is on the page.
    """
    template = '<div class="evidence" role="status"></div>'
    return html_view("evidence", _CSS, _JS, html_template=template, shown="", note="", turn=0)


def evidence_html(evidence: Evidence, map_name: str) -> str:
    """Verdict, sentences and a table of the tests, as HTML.

    Args:
        evidence: The results.
        map_name: The name of the map that was tested, as in ``shown``.
    """
    verdict = html.escape(evidence.verdict[:1].upper() + evidence.verdict[1:])
    untested = evidence.faithful is None
    sentences = " ".join(html.escape(test.sentence) for test in evidence.tests)
    text = sentences if untested else f"<strong>{verdict}.</strong> {sentences}"
    further = "" if "road" in evidence or untested else f"<p>{_BUTTON}</p>"
    bad = evidence.class_specific is False or evidence.faithful is False or evidence.flags
    kind = "bad" if bad else "untested" if untested else "good"
    rows = "".join(map(_row, evidence.tests))
    return (
        f'<div class="{kind}" data-map="{html.escape(map_name)}"><p>{text}</p>'
        f"<details{'' if further else ' open'}><summary>How it was tested</summary>"
        "<table><thead><tr><th>Test</th><th>Value</th><th>Baselines</th><th>Images</th></tr>"
        f"</thead><tbody>{rows}</tbody></table>{further}</details></div>"
    )


def _row(test: EvidenceTest) -> str:
    words = OPTIONS["evidence"].choices.get(test.name, test.name)
    value = "not tested" if test.value is None else f"{test.value:.3g}"
    baselines = ", ".join(f"{name} {each:.3g}" for name, each in test.baselines.items()) or "–"
    cells = (words[:1].upper() + words[1:], value, baselines, str(test.passes))
    return "<tr>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in cells) + "</tr>"


_CSS = """
.evidence { font-size: 0.9rem; line-height: 1.45; color: var(--body-text-color); }
.evidence p { margin: 0.2rem 0; }
.evidence [data-map] { padding: 0.1rem 0 0.1rem 0.7rem; border-left: 4px solid #64748b; }
.evidence .good { border-color: #15803d; }
.evidence .bad { border-color: #b45309; }
details { margin: 0.2rem 0; font-size: 0.85rem; }
summary { cursor: pointer; }
table { border-collapse: collapse; margin: 0.3rem 0; }
th, td {
  padding: 0.15rem 0.9rem 0.15rem 0; text-align: left; vertical-align: top;
  border-bottom: 1px solid var(--border-color-primary);
}
td:nth-child(2), td:nth-child(4) { font-variant-numeric: tabular-nums; }
button {
  padding: 0.2rem 0.7rem; border: 1px solid var(--border-color-primary); cursor: pointer;
  border-radius: var(--radius-md); background: var(--background-fill-secondary);
  color: var(--body-text-color); font-size: 0.85rem;
}
button:focus-visible, summary:focus-visible { outline: 3px solid var(--color-accent); }
button:disabled { cursor: progress; opacity: 0.75; }
"""

# The server escapes what visitors and model authors wrote.
_JS = """
const box = element.querySelector(".evidence");
let drawn = null;
const update = () => {
  const holder = document.createElement("template");
  holder.innerHTML = props.value ?? "";
  const found = holder.content.firstElementChild;
  const fits = found && found.dataset.map === props.shown;
  const text = fits ? props.value : props.note ?? "";
  if (text === drawn) return;  // or the details would close
  drawn = text;
  box.innerHTML = text;
};
element.addEventListener("click", (event) => {
  const button = event.target.closest("button");
  if (!button) return;
  button.disabled = true;
  button.textContent = "Testing …";
  trigger("select", {});
});
update();
// Gradio takes names in quotation marks for events, and adds them to updates of this component.
const watched = "value shown note turn".split(" ");
watched.forEach((name) => watch(name, () => {
  if (name === watched.at(-1)) drawn = null;
  update();
}));
"""
