"""The photos that the page offers: small pictures on this machine, with names for links."""

from __future__ import annotations

import hashlib
import html
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import gradio as gr
from gradio.processing_utils import save_file_to_cache
from gradio.utils import get_upload_folder
from PIL import Image

from cam_hub.errors import InvalidArgument
from space.components.preview import data_uri
from space.config.settings import example_photos

__all__ = ["Example", "build_examples", "example_named", "example_of", "load_examples"]

_THUMB_SIDE = 96


@dataclass(frozen=True)
class Example:
    """A photo that anybody can ask about.

    Attributes:
        name: Of its file; this is what links say.
        source: The file, as it was installed.
        title: What it shows, in a word.
        digest: SHA-256 of the file.
        thumbnail: A small copy, as a data address.
    """

    name: str
    source: Path
    title: str
    digest: str
    thumbnail: str

    def served(self) -> Path:
        """A copy where uploads are; Gradio removes those after a while, so ask each time."""
        return Path(save_file_to_cache(self.source, get_upload_folder()))


def load_examples() -> tuple[Example, ...]:
    """The photos that are on this machine; the first is what the page opens with."""
    return tuple(map(_load, map(Path, example_photos())))


def example_named(examples: Sequence[Example], name: str) -> Example:
    """The example of this name.

    Raises:
        InvalidArgument: If there is none.
    """
    for example in examples:
        if example.name == name:
            return example
    names = ", ".join(example.name for example in examples) or "none here"
    raise InvalidArgument("photo", name, f"the address of a photo, or an example: {names}")


def example_of(examples: Sequence[Example], path: Path) -> Example | None:
    """The example that a file is a copy of, if it is one."""
    try:
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError:
        return None
    return next((example for example in examples if example.digest == digest), None)


def build_examples(examples: Sequence[Example]) -> gr.HTML:
    """Builds the row of photos where it is called; fires ``select`` with ``name``."""
    buttons = "".join(
        f'<button type="button" data-name="{html.escape(example.name)}">'
        f'<img src="{example.thumbnail}" alt="Example photo: {html.escape(example.title)}">'
        "</button>"
        for example in examples
    )
    return gr.HTML(
        f'<div role="group" aria-label="Example photos">{buttons}</div>',
        css_template=_CSS,
        js_on_load=_JS,
        apply_default_css=False,
        padding=False,
        visible=bool(examples),
        elem_id="examples",
    )


def _load(path: Path) -> Example:
    content = path.read_bytes()
    with Image.open(path) as image:
        small = image.convert("RGB")
    small.thumbnail((_THUMB_SIDE, _THUMB_SIDE), Image.Resampling.BICUBIC)
    return Example(
        name=path.name,
        source=path,
        title=re.sub(r"[\W\d_]+", " ", path.stem).strip(),
        digest=hashlib.sha256(content).hexdigest(),
        thumbnail=data_uri(small, quality=85),
    )


_CSS = """
div { display: flex; flex-wrap: wrap; gap: 0.4rem; }
button {
  width: 3.6rem; height: 3.6rem; padding: 0; overflow: hidden; cursor: pointer;
  border: 2px solid var(--border-color-primary); border-radius: var(--radius-lg);
  background: var(--background-fill-secondary);
}
button:hover { border-color: var(--color-accent); }
button:focus-visible { outline: 3px solid var(--color-accent); outline-offset: 1px; }
img { display: block; width: 100%; height: 100%; margin: 0; object-fit: cover; }
"""

_JS = """
element.addEventListener("click", (event) => {
  const chosen = event.target.closest("button");
  if (chosen) trigger("select", { name: chosen.dataset.name });
});
"""
