"""What is known about a model, as HTML: the lines below the field for its ID."""

from __future__ import annotations

import html

from huggingface_hub import constants

from cam_hub.models.limits import ModelFacts
from space.components.model_field import short

__all__ = ["ASKING", "FACTS_CSS", "NO_FACTS", "facts_html", "trouble_html"]

NO_FACTS = ""

ASKING = '<p class="asking">Asking what is known about it …</p>'

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
        facts: What is known; a fact that is not is left out.
        random_weights: Whether it would be loaded without its weights, so that nothing is fetched.
    """
    parts = [
        f"{_many(facts.parameters)} parameters" if facts.parameters is not None else "",
        f"input {_sides(facts.input_size)}" if facts.input_size else "",
        f"{len(facts.class_names):,} classes" if facts.class_names else "",
        "" if random_weights else _fetching(facts.fetch_bytes),
        "weights as a pickle" if _is_pickle(facts) else "",
        facts.licence or "",
        facts.library or "",
        f"{short(facts.downloads)} downloads a month" if facts.downloads is not None else "",
        "private" if facts.private else "",
        "gated" if facts.gated else "",
    ]
    shown = " · ".join(f"<span>{html.escape(part[:80])}</span>" for part in parts if part)
    lines = [f'<p class="facts">{shown}{_page(facts)}</p>']
    if not facts.fresh:
        lines.append('<p class="facts">The Hub does not answer: this is what is known here.</p>')
    if facts.refusal:
        lines.append(trouble_html("It would not be loaded", facts.refusal))
    return "".join(lines)


def trouble_html(title: str, message: str) -> str:
    """A problem, in words that anybody may have written."""
    sentence = message[:1].upper() + message[1:]
    return f'<p class="refused"><strong>{html.escape(title)}.</strong> {html.escape(sentence)}</p>'


def _many(count: int) -> str:
    """A number of parameters; thousands of millions are called billions, as everybody does."""
    return short(count).replace("G", "B")


def _sides(size: tuple[int, ...]) -> str:
    """Rows and columns of an input, of clips with the frames in front."""
    return " × ".join(map(str, size[1:]))


def _fetching(count: int | None) -> str:
    if count is None:
        return ""
    return f"{short(count, 'B')} to fetch" if count else "already here"


def _is_pickle(facts: ModelFacts) -> bool:
    name = facts.weights_file
    return facts.source == "hub" and name is not None and not name.endswith(".safetensors")


def _page(facts: ModelFacts) -> str:
    """A link to the repo's page, where its terms are."""
    if facts.source != "hub":
        return ""
    name, _, _ = facts.id.partition("@")
    address = html.escape(f"{constants.ENDPOINT}/{name}")
    link = f'<a href="{address}" target="_blank" rel="noopener noreferrer">its page</a>'
    return f" · {link}"
