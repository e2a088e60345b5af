"""From what a visitor sent, through the page or the endpoint, to a checked request."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from gradio.utils import get_upload_folder

from cam_hub.classes import ClassChoice, parse_top
from cam_hub.colormaps import colormap_table
from cam_hub.errors import ImageRefused, InvalidArgument
from cam_hub.methods import METHODS
from cam_hub.model_id import parse_model_id
from space.settings import Limits

__all__ = ["Request", "read_model_id", "read_request", "read_texts"]


@dataclass(frozen=True)
class Request:
    """One thing to explain.

    Attributes:
        photo: The uploaded file, as it was sent.
        photo_name: Its name on the visitor's machine.
        model_id: The model's ID.
        method: Name of the method.
        target_layers: Layer names and words of ``suggest_layers``; empty for the recommended one.
        classes: Indices and labels as texts; empty for the predicted class.
        num_samples: Noisy copies.
        std: Standard deviation of their noise.
        seed: Of their noise.
        alpha: Opacity of the overlays, in [0, 1].
        colormap: Their colour map.
    """

    photo: Path
    photo_name: str
    model_id: str
    method: str
    target_layers: tuple[str, ...]
    classes: tuple[str, ...]
    num_samples: int
    std: float
    seed: int
    alpha: float
    colormap: str

    @property
    def class_choice(self) -> ClassChoice:
        """The classes as ``cam_hub.explain`` takes them."""
        if not self.classes:
            return None
        return self.classes[0] if len(self.classes) == 1 else list(self.classes)


def read_request(
    *,
    image: object,
    model_id: object,
    method: object,
    target_layers: object,
    classes: object,
    num_samples: object,
    std: object,
    seed: object,
    alpha: object,
    colormap: object,
    limits: Limits,
) -> Request:
    """Checks everything that can be judged without a model.

    Args:
        image: Gradio's description of an uploaded file: a mapping with ``path`` and perhaps
            ``orig_name``.
        model_id: A text.
        method: A method's name.
        target_layers: A text, a list of texts, or None.
        classes: Likewise; numbers are taken too.
        num_samples: A whole number, from 1 to the limit.
        std: A number, at least 0.
        seed: A whole number, at least 0.
        alpha: A number in [0, 1].
        colormap: Name of a colour map.
        limits: How much may be asked for.

    Returns:
        The request. Numbers that sliders send as floats have become whole.

    Raises:
        ImageRefused: If no photo was sent.
        MethodNotFound: If there is no such method.
        InvalidArgument: If a value cannot work, or asks for more than the limits allow.
    """
    photo, name = _uploaded(image)
    layers = read_texts("target_layers", target_layers, limits.max_layers, limits.max_text)
    wanted = read_texts("classes", classes, limits.max_classes, limits.max_text)
    for text in wanted:
        if (top := parse_top(text)) and top.count > limits.max_classes:
            raise InvalidArgument("classes", text, f"at most {limits.max_classes} classes")
    model = read_model_id(model_id, limits)
    samples = _whole("num_samples", num_samples)
    if not 1 <= samples <= limits.max_samples:
        raise InvalidArgument("num_samples", samples, f"1 to {limits.max_samples}")
    noise = _number("std", std)
    if not math.isfinite(noise) or noise < 0:
        raise InvalidArgument("std", noise, "a finite number, at least 0")
    opacity = _number("alpha", alpha)
    if not 0 <= opacity <= 1:
        raise InvalidArgument("alpha", opacity, "a number from 0 to 1")
    if not isinstance(colormap, str):
        raise InvalidArgument("colormap", colormap, "the name of a colour map, such as 'jet'")
    colormap_table(colormap)
    return Request(
        photo=photo,
        photo_name=name,
        model_id=model,
        method=METHODS[str(method)[: limits.max_text]].name,
        target_layers=layers,
        classes=wanted,
        num_samples=samples,
        std=noise,
        seed=_whole("seed", seed),
        alpha=opacity,
        colormap=colormap,
    )


def read_model_id(model_id: object, limits: Limits) -> str:
    """Checks that something may be a model's ID.

    Args:
        model_id: A text.
        limits: How long it may be.

    Returns:
        The ID as it is written after the grammar, whatever form it was typed in.

    Raises:
        ModelNotFound: If it is not in the grammar, or names a folder.
        InvalidArgument: If it is no text, empty or too long.
    """
    if not isinstance(model_id, str) or not model_id.strip():
        raise InvalidArgument("model_id", model_id, "a model ID such as 'timm/resnet50.a1_in1k'")
    if len(model_id) > limits.max_text:
        raise InvalidArgument("model_id", model_id, f"at most {limits.max_text} characters")
    return str(parse_model_id(model_id))


def read_texts(argument: str, value: object, most: int, longest: int) -> tuple[str, ...]:
    """Checks that something is a list of texts.

    Args:
        argument: What it is called in messages.
        value: A text, a number, several of them, or None for none.
        most: How many there may be.
        longest: How many characters each may have.

    Returns:
        The texts, without white space around them, without empty ones and repetitions.

    Raises:
        InvalidArgument: If it is something else, or more.
    """
    items = [] if value is None else value if isinstance(value, (list, tuple)) else [value]
    for item in items:
        if isinstance(item, bool) or not isinstance(item, (str, int)):
            raise InvalidArgument(argument, item, "a text")
        if len(str(item)) > longest:
            raise InvalidArgument(argument, item, f"at most {longest} characters")
    texts = tuple(dict.fromkeys(text for item in items if (text := str(item).strip())))
    if len(texts) > most:
        raise InvalidArgument(argument, f"{len(texts)} entries", f"at most {most}")
    return texts


def _uploaded(image: object) -> tuple[Path, str]:
    """The file that was uploaded, and its name.

    Gradio checks paths only in mappings that claim to be files, so it is checked here again that
    nobody names a file of this machine.
    """
    if image is None:
        raise ImageRefused("there is none; upload, paste or take a photo first")
    path = image.get("path") if isinstance(image, Mapping) else None
    if not isinstance(image, Mapping) or not isinstance(path, str):
        raise ImageRefused(
            "it did not arrive as an uploaded file (gradio_client: handle_file(path))"
        )
    found = Path(path).resolve()
    if not found.is_relative_to(Path(get_upload_folder()).resolve()) or not found.is_file():
        raise ImageRefused("it is not, or no longer, among the uploaded files; upload it again")
    name = image.get("orig_name")
    return found, Path(name).name if isinstance(name, str) and name else found.name


def _whole(argument: str, value: object) -> int:
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if isinstance(value, bool) or not isinstance(value, int):
        raise InvalidArgument(argument, value, "a whole number")
    return value


def _number(argument: str, value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise InvalidArgument(argument, value, "a number")
    return float(value)
