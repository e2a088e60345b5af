"""A line that screen readers say when it changes, and that nobody sees."""

from __future__ import annotations

__all__ = ["CSS", "MARKUP"]

MARKUP = '<p class="spoken" role="status"></p>'
"""For an ``html_template``; scripts find it as ``.spoken``."""

CSS = """
.spoken {
  position: absolute; width: 1px; height: 1px; margin: 0; overflow: hidden;
  clip-path: inset(50%); white-space: nowrap;
}
"""
"""For ``css_template``."""
