"""The photo of a request: uploaded, an example, or at an address."""

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
from space.components.style import html_view
from space.components.viewer import data_uri
from space.config.settings import example_photos

__all__ = [
    "Example",
    "build_photo_field",
    "example_named",
    "example_of",
    "load_examples",
]


_THUMB_SIDE = 96


@dataclass(frozen=True)
class Example:
    """A photo that every visitor can choose.

    Attributes:
        name: The name of its file, which links contain.
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
    for example in examples:
        if example.digest == digest:
            return example
    return None


def build_examples(examples: Sequence[Example]) -> gr.HTML:
    """Builds the row of photos where it is called; fires ``select`` with ``name``."""
    buttons = "".join(
        f'<button type="button" data-name="{html.escape(example.name)}">'
        f'<img src="{example.thumbnail}" alt="Example photo: {html.escape(example.title)}">'
        "</button>"
        for example in examples
    )
    group = f'<div role="group" aria-label="Example photos">{buttons}</div>'
    return html_view("examples", _CSS, _JS, group, visible=bool(examples))


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


def build_photo_field(examples: Sequence[Example]) -> tuple[gr.Image, gr.HTML, gr.Textbox]:
    """Builds the fields where it is called; they start with the first example.

    Returns:
        The photo, the row of examples, and the address; of photo and address at most one is set.
    """
    photo = gr.Image(
        str(examples[0].source) if examples else None,
        label="Photo",
        type="filepath",
        image_mode=None,
        sources=["upload", "clipboard", "webcam"],
        height=210,
        buttons=["fullscreen"],
        placeholder="Drop an image file here to upload",
        alt_text="The photo to explain",
        elem_id="photo",
    )
    row = build_examples(examples)
    address = gr.Textbox(
        label="Or the address of a photo",
        placeholder="https://example.org/cat.jpg",
        max_length=2000,
        elem_id="photo_url",
    )
    return photo, row, address
