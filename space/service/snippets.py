"""The few lines of code that give the same result."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from cam_hub.options import OPTIONS
from cam_hub.results.maps import ScaleChoice
from space.service.explain_form import ExplainForm
from space.service.photos import Photo

__all__ = ["client_code", "python_code"]


def python_code(
    request: ExplainForm,
    layers: Sequence[str],
    class_index: int | None = None,
    layer: str | None = None,
) -> str:
    """Python that makes the same explanation and overlay with ``cam_hub``.

    Args:
        request: What was explained.
        layers: The layers that it came down to.
        class_index: Which class's overlay; None for the first.
        layer: At which layer; None for the fusion.

    Returns:
        A program; the photo is expected in the working folder, or fetched from its address.
    """
    which = "" if class_index is None else f"{class_index}, "
    which += "" if layer is None else f"layer={layer!r}, "
    scaled = "" if request.scale in (None, "own") else f", scale={request.scale!r}"
    scaled += ", colorbar=True" if request.colorbar else ""
    if len(request.target_layers) > 1:
        # A word among several names is a word on the page only.
        request = replace(request, target_layers=tuple(layers))
    call = _call(
        "result = cam_hub.explain",
        [request.model_id, _opened(request.photo)],
        _changed(request.arguments(_opened)),
    )
    pictures = [request.photo, request.reference, *request.options.values()]
    fetching = any(isinstance(each, Photo) and each.url is not None for each in pictures)
    return (
        f"{'from urllib.request import urlopen' + chr(10) * 2 if fetching else ''}"
        f"import cam_hub\n\n{call}\n"
        f"result.overlay({which}alpha={request.alpha!r}, colormap={request.colormap!r}{scaled})"
        '.save("overlay.png")\n'
    )


def client_code(request: ExplainForm, address: str) -> str:
    """Python that has the same result made by this app, through ``gradio_client``.

    Args:
        request: What was explained.
        address: URL of the app, or ``owner/name`` of the Space.

    Returns:
        A program; the photo is expected in the working folder.
    """
    call = _call(
        "overlay, predictions, maps, manifest, archive = client.predict",
        [],
        {
            "image": _sent(request.photo),
            "model_id": request.model_id,
            **_changed(request.arguments(_sent)),
            "target_layers": list(request.target_layers),
            "classes": list(request.classes),
            "region": list(request.region) if request.region else None,
            "alpha": request.alpha,
            "colormap": request.colormap,
            "scale": None if request.scale == "own" else _scale_text(request.scale),
            "colorbar": request.colorbar or None,
            **{
                name: _sent(value) if isinstance(value, Photo) else str(value)
                for name, value in _changed(request.options).items()
            },
            "api_name": "/explain",
        },
    )
    return (
        f"from gradio_client import Client, handle_file\n\nclient = Client({address!r})\n{call}\n"
    )


class _Code(str):
    """Code in place of a text: written without quotes."""

    def __repr__(self) -> str:
        return str(self)


def _opened(photo: Photo) -> str:
    """A photo as ``cam_hub.explain`` takes it."""
    return photo.name if photo.url is None else _Code(f"urlopen({photo.url!r}).read()")


def _sent(photo: Photo) -> str:
    """A photo as ``gradio_client`` takes it."""
    return _Code(f"handle_file({(photo.url or photo.name)!r})")


def _scale_text(scale: ScaleChoice) -> str:
    """A scale as the endpoint takes it."""
    return ", ".join(map(repr, scale)) if isinstance(scale, tuple) else str(scale or "own")


def _changed(values: Mapping[str, Any]) -> dict[str, Any]:
    """The values without those of ``cam_hub.options`` that have their default."""
    return {
        name: value
        for name, value in values.items()
        if name not in OPTIONS or value != OPTIONS[name].default
    }


def _call(head: str, positional: list[Any], named: dict[str, Any]) -> str:
    lines = [f"    {value!r}," for value in positional]
    lines += [f"    {name}={value!r}," for name, value in named.items() if value is not None]
    return "\n".join([f"{head}(", *lines, ")"])
