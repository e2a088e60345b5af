"""From what a visitor sent, through the page or the endpoint, to a checked request."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

from cam_hub.attribution.adaptive_sampling import MOST_SAMPLES
from cam_hub.errors import InvalidArgument, ModelRefused, TooMuch
from cam_hub.methods import METHODS
from cam_hub.models.model_id import parse_model_id
from cam_hub.options import OPTIONS, Interface, Option, options_for, read_options
from cam_hub.results.maps import ScaleChoice, read_scale
from cam_hub.results.overlay import colormap_table
from cam_hub.targets.classes import ClassChoice, parse_top
from space.config.settings import Limits
from space.service.photos import Photo, read_photo

__all__ = [
    "Box",
    "ExplainForm",
    "box_text",
    "read_box",
    "read_limited_options",
    "read_model_id",
    "read_request",
    "read_texts",
    "read_whole",
]

Box = tuple[float, float, float, float]
"""Left, top, right and bottom, in the photo's pixels."""

_SWITCH = Option("colorbar", "switch", False, "", "")

_BATCH: int = OPTIONS["batch_size"].default

_NONE: Mapping[str, object] = MappingProxyType({})


@dataclass(frozen=True)
class ExplainForm:
    """One thing to explain.

    Attributes:
        photo: What was uploaded, or where it lies.
        model_id: The model's ID.
        method: Name of the method.
        target_layers: Layer names and words of ``suggest_layers``; empty for the recommended one.
        classes: Indices and labels as texts; empty for the predicted class.
        num_samples: Noisy copies.
        std: Standard deviation of their noise.
        seed: Of their noise.
        alpha: Opacity of the overlays, in [0, 1].
        colormap: Their colour map.
        contrast: The class that the others are contrasted with, as an index or a label; empty for
            none.
        region: The part of the photo that is asked about; None for all of it.
        reference: What the features of a model without classes are compared with; None for the
            photo itself.
        background: The picture that maps are drawn on; None for the photo.
        scale: Scale of the colours, as ``Explanation.overlay`` takes it.
        colorbar: Whether the colours and their values stand below the overlays.
        options: Those of ``cam_hub.options`` other than pictures, as ``cam_hub.explain`` takes
            them.
    """

    photo: Photo
    model_id: str
    method: str
    target_layers: tuple[str, ...]
    classes: tuple[str, ...]
    num_samples: int
    std: float
    seed: int
    alpha: float
    colormap: str
    contrast: str = ""
    region: Box | None = None
    reference: Photo | None = None
    background: Photo | None = None
    scale: ScaleChoice = "own"
    colorbar: bool = False
    options: Mapping[str, Any] = field(default_factory=lambda: read_limited_options({}, 0))

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
    contrast: object = "",
    region: object = None,
    reference: object = None,
    background: object = None,
    scale: object = "own",
    colorbar: object = False,
    options: Mapping[str, object] = _NONE,
    interface: Interface = "explain",
    limits: Limits,
) -> ExplainForm:
    """Checks everything that can be judged without a model.

    Args:
        image: As for ``read_photo``.
        model_id: A text.
        method: A method's name.
        target_layers: A text, a list of texts, or None.
        classes: Likewise; numbers are taken too.
        num_samples: A whole number, from 1 to the limit.
        std: A number, at least 0.
        seed: A whole number, at least 0.
        alpha: A number in [0, 1].
        colormap: Name of a colour map.
        contrast: A text, a number, or None: one class, or none.
        region: As for ``read_box``.
        reference: As for ``read_photo``; None or nothing for none.
        background: As for ``read_photo``; None or nothing for none.
        scale: As for ``read_scale``.
        colorbar: True or false.
        options: Texts by the names of ``cam_hub.options``; empty or missing for the default.
        interface: Whose options these are.
        limits: How much may be asked for.

    Returns:
        The request. Numbers that sliders send as floats have become whole.

    Raises:
        ImageRefused: If no photo was sent, or its URL must not be fetched.
        MethodNotFound: If there is no such method.
        InvalidArgument: If a value cannot work.
        TooMuch: If it asks for more than the limits allow.
    """
    photo = read_photo(image, limits.photo_rules)
    layers = read_texts("target_layers", target_layers, limits.max_layers, limits.max_text)
    wanted = read_texts("classes", classes, limits.max_classes, limits.max_text)
    for text in wanted:
        if (top := parse_top(text)) and top.count > limits.max_classes:
            raise TooMuch("classes", text, f"at most {limits.max_classes} classes")
    contrasts = read_texts("contrast", contrast, 1, limits.max_text)
    model = read_model_id(model_id, limits)
    samples = read_whole("num_samples", num_samples, limits.max_samples)
    noise = _number("std", std)
    if not math.isfinite(noise) or noise < 0:
        raise InvalidArgument("std", noise, "a finite number, at least 0")
    opacity = _number("alpha", alpha)
    if not 0 <= opacity <= 1:
        raise InvalidArgument("alpha", opacity, "a number from 0 to 1")
    if not isinstance(colormap, str):
        raise InvalidArgument("colormap", colormap, "the name of a colour map, such as 'jet'")
    colormap_table(colormap)
    chosen = _limited(options, interface, limits)
    if limits.max_samples < MOST_SAMPLES:
        chosen["sampling"] = "fixed"
    return ExplainForm(
        photo=photo,
        model_id=model,
        method=METHODS[str(method)[: limits.max_text]].name,
        target_layers=layers,
        classes=wanted,
        num_samples=samples,
        std=noise,
        seed=_whole("seed", seed),
        alpha=opacity,
        colormap=colormap,
        contrast=contrasts[0] if contrasts else "",
        region=read_box("region", region, limits.max_text),
        reference=read_photo(reference, limits.photo_rules) if reference else None,
        background=read_photo(background, limits.photo_rules) if background else None,
        scale=_scale(scale, limits.max_text),
        colorbar=_SWITCH.read(colorbar),
        options=chosen,
    )


def _limited(texts: Mapping[str, object], interface: Interface, limits: Limits) -> dict[str, Any]:
    """The options of a request; as many images pass the network at once as there may be copies."""
    values = read_limited_options(texts, limits.max_text, interface)
    if (size := values.get("batch_size", 1)) > max(limits.max_samples, _BATCH):
        raise TooMuch("batch_size", size, f"1 to {max(limits.max_samples, _BATCH)}")
    return values


def _scale(value: object, longest: int) -> ScaleChoice:
    if isinstance(value, str) and len(value) > longest:
        raise TooMuch("scale", value[:longest], f"at most {longest} characters")
    return read_scale(value)


def read_limited_options(
    texts: Mapping[str, object], longest: int, interface: Interface = "explain"
) -> dict[str, Any]:
    """Checks the options of ``cam_hub.options``, but for pictures.

    Args:
        texts: By name; empty or missing for the default.
        interface: Whose options these are.
        longest: How many characters each may have.

    Raises:
        InvalidArgument: If one can mean nothing.
        TooMuch: If one is longer.
    """
    known = options_for(interface)
    for name in known:
        if len(str(texts.get(name) or "")) > longest:
            raise TooMuch(name, str(texts[name])[:longest], f"at most {longest} characters")
    found = read_options(texts, interface)
    return {name: value for name, value in found.items() if known[name].kind != "image"}


def read_model_id(model_id: object, limits: Limits) -> str:
    """Checks that something may be a model's ID.

    Args:
        model_id: A text.
        limits: How long it may be, and whose models are loaded.

    Returns:
        The ID as it is written after the grammar, whatever form it was typed in.

    Raises:
        ModelNotFound: If it is not in the grammar, or names a folder.
        ModelRefused: If the app does not load its owner's models.
        InvalidArgument: If it is no text or empty.
        TooMuch: If it is too long.
    """
    if not isinstance(model_id, str) or not model_id.strip():
        raise InvalidArgument("model_id", model_id, "a model ID such as 'timm/resnet50.a1_in1k'")
    if len(model_id) > limits.max_text:
        raise TooMuch("model_id", model_id, f"at most {limits.max_text} characters")
    id = parse_model_id(model_id)
    if not limits.lets_load(id):
        owners = ", ".join(limits.owners or ())
        raise ModelRefused(str(id), f"of the models on the Hub, this app loads those of {owners}.")
    return str(id)


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
        InvalidArgument: If it is something else.
        TooMuch: If there are more, or longer ones.
    """
    items = [] if value is None else value if isinstance(value, (list, tuple)) else [value]
    for item in items:
        if isinstance(item, bool) or not isinstance(item, (str, int)):
            raise InvalidArgument(argument, item, "a text")
        if len(str(item)) > longest:
            raise TooMuch(argument, item, f"at most {longest} characters")
    texts = tuple(dict.fromkeys(text for item in items if (text := str(item).strip())))
    if len(texts) > most:
        raise TooMuch(argument, f"{len(texts)} entries", f"at most {most}")
    return texts


def read_box(argument: str, value: object, longest: int) -> Box | None:
    """Checks that something is a box.

    Args:
        argument: What it is called in messages.
        value: Four numbers, as a list or as a text with commas or white space between them; None
            or nothing for no box. Whether it lies on the photo is found out later.
        longest: How many characters a text may have.

    Raises:
        InvalidArgument: If it is something else.
        TooMuch: If it is a longer text.
    """
    if isinstance(value, str):
        if len(value) > longest:
            raise TooMuch(argument, value, f"at most {longest} characters")
        items: list[object] = list(value.replace(",", " ").split())
    else:
        items = list(value) if isinstance(value, (list, tuple)) else [value]
    if not items or items == [None]:
        return None
    try:
        left, top, right, bottom = (
            float(item) if isinstance(item, str) else _number(argument, item) for item in items
        )
    except ValueError:  # too few, too many, or no numbers
        left = top = right = bottom = math.nan
    if not all(map(math.isfinite, (left, top, right, bottom))):
        expected = "four numbers: left, top, right, bottom, in the photo's pixels"
        raise InvalidArgument(argument, value, expected)
    return left, top, right, bottom


def box_text(box: Box | None) -> str:
    """A box as people type it; empty for none."""
    return ", ".join(repr(edge).removesuffix(".0") for edge in box or ())


def read_whole(argument: str, value: object, most: int) -> int:
    """Checks that something is a count.

    Args:
        argument: What it is called in messages.
        value: A whole number; sliders send floats.
        most: The largest that is allowed.

    Raises:
        InvalidArgument: If it is something else, or less than 1.
        TooMuch: If it is larger.
    """
    count = _whole(argument, value)
    if count > most:
        raise TooMuch(argument, count, f"1 to {most}")
    if count < 1:
        raise InvalidArgument(argument, count, f"1 to {most}")
    return count


def _whole(argument: str, value: object) -> int:
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if isinstance(value, bool) or not isinstance(value, int):
        raise InvalidArgument(argument, value, "a whole number")
    return value


def _number(argument: str, value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise InvalidArgument(argument, value, "a number")
    try:
        return float(value)
    except OverflowError:  # a whole number of hundreds of digits
        return math.inf
