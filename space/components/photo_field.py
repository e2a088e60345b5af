"""The photo of a request: uploaded, pasted, taken, out of the examples, or at an address."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import gradio as gr

from space.components.examples import Example, build_examples

__all__ = ["PhotoField", "build_photo_field", "photo_of"]


@dataclass(frozen=True)
class PhotoField:
    """The components; at most one of ``photo`` and ``address`` is set."""

    photo: gr.Image
    address: gr.Textbox
    examples: gr.HTML


def build_photo_field(examples: Sequence[Example]) -> PhotoField:
    """Builds the fields where it is called; they start with the first example."""
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
    return PhotoField(photo, address, row)


def photo_of(photo: object, address: object) -> object:
    """What goes into a request: the address, if there is one, else the photo."""
    return address.strip() if isinstance(address, str) and address.strip() else photo
