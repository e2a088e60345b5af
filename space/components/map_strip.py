"""The maps of a result side by side: one per layer and their fusion, to choose the large one."""

from __future__ import annotations

import html
from dataclasses import replace

import gradio as gr

from cam_hub.errors import NoMap
from space.components.preview import Screen, data_uri
from space.components.viewer import number
from space.service.display_options import SCALES, Look

__all__ = ["build_map_strip", "map_strip_html"]

_ALONE = (
    "<h3>Maps</h3><p>One layer, one map. <em>Target layers</em> takes several: <em>Stages</em>, "
    "for example, shows what each stage of the network looks at, and their fusion.</p>"
)


def build_map_strip() -> gr.HTML:
    """Builds the strip where it is called; fires ``select`` with ``layer``, "" for the fusion."""
    return gr.HTML(
        "",
        css_template=_CSS,
        js_on_load=_JS,
        apply_default_css=False,
        padding=False,
        elem_id="maps",
    )


def map_strip_html(screen: Screen, look: Look) -> str:
    """The strip as HTML: of one map only, how to get more.

    Args:
        screen: The result.
        look: Tells class, colours and scale, and which map is large.
    """
    names = screen.result.layers
    if len(names) == 1:
        return _ALONE
    index, large = look.at(screen.result)
    tiles = [_tile(screen, replace(look, layer=name), name == large) for name in (None, *names)]
    label = html.escape(screen.result.labels[index].split(",", maxsplit=1)[0])
    scale = SCALES[look.scale].lower()
    return (
        f"<h3>Maps for {label}</h3><p>Choose one to see it large. Colours: {scale}"
        f"{' (the fusion runs from 0 to 1)' if look.scale == 'common' else ''}.</p>"
        f"<ul>{''.join(tiles)}</ul>"
    )


def _tile(screen: Screen, look: Look, is_large: bool) -> str:
    name = look.layer
    title = html.escape(name or f"fusion of {len(screen.result.layers)}")
    try:
        span = screen.span(look)
        picture = data_uri(screen.thumbnail(look), quality=85)
    except NoMap as problem:
        reason = html.escape(problem.reason)
        return f'<li class="none"><strong>{title}</strong><span>No map: {reason}</span></li>'
    index, _ = look.at(screen.result)
    grid = "×".join(map(str, screen.result.cam(index, name).shape))
    words = f"{grid}, {number(span.low)} to {number(span.high)}"
    return (
        f'<li><button type="button" aria-pressed="{str(is_large).lower()}" '
        f'data-layer="{html.escape(name or "")}"><img src="{picture}" alt="">'
        f"<strong>{title}</strong><span>{words}</span></button></li>"
    )


_CSS = """
h3 { margin: 0; font-size: 1rem; color: var(--body-text-color); }
p { margin: 0.1rem 0 0.4rem; font-size: 0.8rem; color: var(--body-text-color-subdued); }
ul {
  list-style: none; margin: 0; padding: 3px; display: grid; gap: 0.5rem; max-height: 32rem;
  grid-template-columns: repeat(auto-fill, minmax(8.2rem, 1fr)); overflow-y: auto;
}
li { margin: 0; min-width: 0; }
button, .none {
  display: flex; flex-direction: column; gap: 0.15rem; width: 100%; height: 100%; padding: 0.3rem;
  border: 2px solid var(--border-color-primary); border-radius: var(--radius-lg); text-align: left;
  background: var(--background-fill-primary); color: var(--body-text-color); font-size: 0.75rem;
  overflow-wrap: anywhere; line-height: 1.3;
}
.none { border-style: dashed; }
button { cursor: pointer; }
button:hover { background: var(--background-fill-secondary); }
button[aria-pressed="true"] { border-color: var(--color-accent); }
button:focus-visible { outline: 3px solid var(--color-accent); outline-offset: 1px; }
img { display: block; width: 100%; margin: 0; border-radius: 0.3rem; }
span { color: var(--body-text-color-subdued); }
"""

# What is pressed is marked at once; the large picture follows.
_JS = """
element.addEventListener("click", (event) => {
  const chosen = event.target.closest("button");
  if (!chosen) return;
  for (const each of element.querySelectorAll("button")) {
    each.setAttribute("aria-pressed", each === chosen);
  }
  trigger("select", { layer: chosen.dataset.layer });
});
"""
