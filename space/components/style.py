"""How the page looks, and its one keyboard shortcut. Nothing comes from another host."""

from __future__ import annotations

from typing import Any

import gradio as gr

__all__ = ["CSS", "JS", "SHOW_LAYERS", "SHOW_RESULT", "STARTER_JS", "html_view", "theme"]

CSS = """
.gradio-container { width: 100%; max-width: 1440px !important; margin: 0 auto !important; }
.gradio-container main { padding-top: 0.6rem !important; }
#title h1 { margin: 0; font-size: 1.5rem; }
#title p { margin: 0.1rem 0 0; color: var(--body-text-color-subdued); }
#head { flex-wrap: wrap; align-items: center; gap: 0.25rem 1rem; }
#title { flex: 1 1 300px; }
#account { flex: 0 1 auto; }
#account p { margin: 0; font-size: 0.85rem; color: var(--body-text-color-subdued); }
#ask .html-container, #summary .html-container, #viewer .html-container, #maps .html-container,
#predictions .html-container, #downloads .html-container, #examples .html-container,
#evidence .html-container, #method_note .html-container { padding: 0 !important; }
#ask h2, #summary h2 { margin: 0; font-size: 1.15rem; line-height: 1.35; }
#facts { margin-top: -0.5rem; }
#facts .html-container { padding: 0 0.25rem; }
#method_note { margin-top: -0.6rem; }
#method_note p { margin: 0; padding: 0 0.25rem; font-size: 0.85rem; line-height: 1.45;
  color: var(--body-text-color-subdued); }
#method_note a { color: inherit; text-decoration: underline; }
#summary .pending { visibility: hidden; }
#summary { min-height: 3.6rem; }
#summary p { margin: 0.1rem 0 0; line-height: 1.45; }
#summary code { overflow-wrap: anywhere; }
#starter { display: none; }
#tabs button.selected { color: #c2410c; }
.dark #tabs button.selected { color: #fb923c; }
#jump { display: none; }
#jump a { color: var(--link-text-color); }
@media (max-width: 767px) {
  /* On a phone the answer comes first: it is what the page is for. */
  #answer { order: -1; }
  #jump { display: block; }
}
"""

# Ctrl+Enter (Cmd+Enter) presses the button from anywhere on the page. It is caught on its way
# down, or the menu that has the focus would take it for an entry.
JS = """
() => {
  document.addEventListener("keydown", (event) => {
    if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) {
      event.preventDefault();
      event.stopPropagation();
      // What was typed becomes a value when its field is left; the click comes after that.
      document.activeElement?.blur();
      setTimeout(() => document.getElementById("explain")?.click(), 50);
    }
  }, true);
}
"""

# Where the columns stand one below the other, the button brings the result into view.
SHOW_RESULT = """
() => {
  if (window.innerWidth < 768) {
    document.getElementById("summary")?.scrollIntoView({ behavior: "smooth" });
  }
}
"""

# Also the table of layers, where they are to be picked from it.
SHOW_LAYERS = """
(choice) => {
  if (choice === "any" && window.innerWidth < 768) {
    document.getElementById("tabs")?.scrollIntoView({ behavior: "smooth" });
  }
}
"""


# Presses the button on request of the server, after the fields have their new values.
STARTER_JS = """
watch("turn", () => setTimeout(() => document.getElementById("explain")?.click(), 150));
"""


def html_view(
    elem_id: str, css: str, js: str | None = None, value: object = "", **options: Any
) -> gr.HTML:
    """Builds HTML with a style and a script of its own, and none of Gradio's, where it is called.

    Args:
        elem_id: The component's ID.
        css: The style; Gradio confines it to the component.
        js: The script, which runs once.
        value: The HTML, or what the template takes.
        options: Further arguments of ``gr.HTML``.
    """
    return gr.HTML(
        value,
        css_template=css,
        js_on_load=js,
        apply_default_css=False,
        elem_id=elem_id,
        **options,
    )


_COLOURS = {
    "body_text_color_subdued": ("#475569", "#b6c2d2"),
    "block_info_text_color": ("#475569", "#b6c2d2"),
    "block_label_text_color": ("#475569", "#cbd5e1"),
    "block_title_text_color": ("#334155", "#cbd5e1"),
    "input_placeholder_color": ("#64748b", "#a3b1c4"),
    "button_primary_background_fill": ("#c2410c", "#c2410c"),
    "button_primary_background_fill_hover": ("#9a3412", "#9a3412"),
    "button_cancel_background_fill": ("#b91c1c", "#b91c1c"),
    "button_cancel_background_fill_hover": ("#991b1b", "#991b1b"),
    "button_cancel_text_color": ("#ffffff", "#ffffff"),
    "button_cancel_text_color_hover": ("#ffffff", "#ffffff"),
    "link_text_color": ("#1d4ed8", "#93c5fd"),
}
"""Colours on light and on dark pages; every text has a contrast of 4.5."""


def theme() -> gr.themes.Base:
    """A quiet theme that uses the visitor's own typefaces."""
    quiet = gr.themes.Default(
        primary_hue="orange",
        neutral_hue="slate",
        font=["ui-sans-serif", "system-ui", "sans-serif"],
        font_mono=["ui-monospace", "Consolas", "monospace"],
    )
    colours = {name: light for name, (light, _) in _COLOURS.items()}
    colours |= {f"{name}_dark": dark for name, (_, dark) in _COLOURS.items()}
    return quiet.set(**colours)
