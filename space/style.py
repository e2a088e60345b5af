"""How the page looks, and its one keyboard shortcut. Nothing comes from another host."""

from __future__ import annotations

import gradio as gr

__all__ = ["CSS", "JS", "SHOW_LAYERS", "SHOW_RESULT", "theme"]

CSS = """
.gradio-container { width: 100%; max-width: 1440px !important; margin: 0 auto !important; }
#title h1 { margin: 0; font-size: 1.6rem; }
#title p { margin: 0.2rem 0 0; color: var(--body-text-color-subdued); }
#head { flex-wrap: wrap; align-items: center; gap: 0.5rem 1rem; }
#title { flex: 1 1 300px; }
#account { flex: 0 1 auto; }
#account p { margin: 0; font-size: 0.85rem; color: var(--body-text-color-subdued); }
#facts { margin-top: -0.5rem; }
#facts .html-container { padding: 0 0.25rem; }
#summary .pending { visibility: hidden; }
#summary { min-height: 4.6rem; }
#summary p { margin: 0; padding: 0.4rem 0.1rem; font-size: 1.02rem; line-height: 1.5; }
#summary code { overflow-wrap: anywhere; }
#gallery .grid-wrap { min-height: 0; height: auto; max-height: 640px; }
#gallery .grid-container { grid-template-columns: repeat(3, minmax(0, 1fr)); }
#gallery .caption-label { max-width: 100%; }
#files .label-clear-button { display: none; }
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

# Likewise the table of layers, where they are to be picked from it.
SHOW_LAYERS = """
(choice) => {
  if (choice === "any" && window.innerWidth < 768) {
    document.getElementById("tabs")?.scrollIntoView({ behavior: "smooth" });
  }
}
"""


def theme() -> gr.themes.Base:
    """A quiet theme that uses the visitor's own typefaces."""
    return gr.themes.Default(
        primary_hue="orange",
        neutral_hue="slate",
        font=["ui-sans-serif", "system-ui", "sans-serif"],
        font_mono=["ui-monospace", "Consolas", "monospace"],
    )
