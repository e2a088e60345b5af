"""The values of a request, checked: ``ExplainForm`` and ``CompareForm``."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import MISSING, dataclass, field, fields
from types import MappingProxyType
from typing import Any

from cam_hub.attribution.choice import AUTO, method_name
from cam_hub.attribution.compare_columns import read_columns
from cam_hub.attribution.result import MOST_SAMPLES
from cam_hub.errors import InvalidArgument, ModelNotFound, ModelRefused, TooMuch
from cam_hub.layers.listing import LAYER_KEYWORDS
from cam_hub.models.model_id import parse_model_id
from cam_hub.options import OPTIONS, Interface, Option, options_for, read_options
from cam_hub.results.comparison_grid import Scale, check_scale
from cam_hub.results.maps import ScaleChoice, read_scale
from cam_hub.results.overlay import colormap_table
from cam_hub.sources.timm import DEFAULT_MODEL
from cam_hub.targets.classes import parse_top
from space.config.settings import Limits
from space.service.photos import Photo, read_photo

__all__ = [
    "DEFAULTS",
    "Box",
    "CompareForm",
    "ExplainForm",
    "box_text",
    "one_or_all",
    "read_box",
    "read_compare_request",
    "read_limited_options",
    "read_model_id",
    "read_request",
    "read_texts",
    "read_whole",
]


Box = tuple[float, float, float, float]
"""Left, top, right and bottom, in the photo's pixels."""

_SWITCH = Option("colorbar", "switch", False, "", "")


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
        seed: Seed of the noise.
        alpha: Opacity of the overlays, in [0, 1].
        colormap: Their colour map.
        contrast: The class that the others are contrasted with, as an index or a label; empty for
            none.
        region: The part of the photo that is asked about; None for all of it.
        reference: What the features of a model without classes are compared with; None for the
            photo itself.
        scale: Scale of the colours, as ``Explanation.overlay`` takes it.
        colorbar: Whether the colours and their values stand below the overlays.
        options: Values by the names of ``cam_hub.options``, as ``cam_hub.explain`` takes them, with
            a ``Photo`` for a picture.
    """

    photo: Photo
    model_id: str
    method: str = AUTO
    target_layers: tuple[str, ...] = ()
    classes: tuple[str, ...] = ()
    num_samples: int = 4
    std: float = 0.3
    seed: int = 0
    alpha: float = 0.5
    colormap: str = "jet"
    contrast: str = ""
    region: Box | None = None
    reference: Photo | None = None
    scale: ScaleChoice = "own"
    colorbar: bool = False
    options: Mapping[str, Any] = field(default_factory=lambda: read_options({}))

    def arguments(self, open: Callable[[Photo], object]) -> dict[str, Any]:
        """The arguments of ``cam_hub.explain``, except for the model and the photo.

        Args:
            open: Makes a picture of a ``Photo``.
        """
        values: dict[str, Any] = {
            "method": self.method,
            "target_layers": one_or_all(self.target_layers),
            "classes": one_or_all(self.classes),
            "contrast": self.contrast or None,
            "region": self.region,
            "reference": self.reference,
            "num_samples": self.num_samples,
            "std": self.std,
            "seed": self.seed,
            **self.options,
        }
        for name, value in values.items():
            if isinstance(value, Photo):
                values[name] = open(value)
        return values


DEFAULTS: Mapping[str, Any] = MappingProxyType(
    {each.name: each.default for each in fields(ExplainForm) if each.default is not MISSING}
)
"""The values of a form's fields where nothing is given."""


def one_or_all(items: tuple[str, ...]) -> str | list[str] | None:
    """Texts as ``cam_hub.explain`` takes them: None for none, one alone as a text."""
    if not items:
        return None
    return items[0] if len(items) == 1 else list(items)


def read_request(
    *, limits: Limits, interface: Interface = "explain", **values: object
) -> ExplainForm:
    """Checks everything that can be judged without a model.

    Args:
        limits: How much may be asked for.
        interface: Whose options these are.
        values: By the names of ``/explain``'s parameters; the default where one is missing.
            ``image``, ``reference`` and options that are pictures are as for ``read_photo``;
            ``region`` as for ``read_box``; ``scale`` as for ``cam_hub``'s ``read_scale``. Lists of
            texts may be a single text, and their entries numbers.

    Returns:
        The request. Numbers that sliders send as floats have become whole.

    Raises:
        ImageRefused: If no photo was sent, or its URL must not be fetched.
        MethodNotFound: If there is no such method.
        InvalidArgument: If a value cannot work.
        TooMuch: If it asks for more than the limits allow.
    """
    values = {**DEFAULTS, **values}
    photo = read_photo(values.get("image"), limits.photo_rules)
    layers = read_texts(
        "target_layers", values["target_layers"], limits.max_layers, limits.max_text
    )
    wanted = read_texts("classes", values["classes"], limits.max_classes, limits.max_text)
    for text in wanted:
        if (top := parse_top(text)) and top.count > limits.max_classes:
            raise TooMuch("classes", text, f"at most {limits.max_classes} classes")
    contrasts = read_texts("contrast", values["contrast"], 1, limits.max_text)
    model = read_model_id(values.get("model_id"), limits)
    samples = read_whole("num_samples", values["num_samples"], limits.max_samples)
    noise = _number("std", values["std"])
    if not math.isfinite(noise) or noise < 0:
        raise InvalidArgument("std", noise, "a finite number, at least 0")
    opacity = _number("alpha", values["alpha"])
    if not 0 <= opacity <= 1:
        raise InvalidArgument("alpha", opacity, "a number from 0 to 1")
    colormap, reference = values["colormap"], values["reference"]
    if not isinstance(colormap, str):
        raise InvalidArgument("colormap", colormap, "the name of a colour map, such as 'jet'")
    colormap_table(colormap)
    scale, longest = values["scale"], limits.max_text
    if isinstance(scale, str) and len(scale) > longest:
        raise TooMuch("scale", scale, f"at most {longest} characters")
    options = read_limited_options(values, limits, interface)
    if limits.max_samples < MOST_SAMPLES:
        options["sampling"] = "fixed"
    return ExplainForm(
        photo=photo,
        model_id=model,
        method=method_name(str(values["method"])[: limits.max_text]),
        target_layers=layers,
        classes=wanted,
        num_samples=samples,
        std=noise,
        seed=read_whole("seed", values["seed"]),
        alpha=opacity,
        colormap=colormap,
        contrast=contrasts[0] if contrasts else "",
        region=read_box("region", values["region"], limits.max_text),
        reference=read_photo(reference, limits.photo_rules) if reference else None,
        scale=read_scale(scale),
        colorbar=_SWITCH.read(values["colorbar"]),
        options=options,
    )


def read_limited_options(
    values: Mapping[str, object], limits: Limits, interface: Interface
) -> dict[str, Any]:
    """Checks the options of ``cam_hub.options``.

    A batch may be as large as the number of noisy copies.

    Args:
        values: By name, and others; the default of an option that is missing or empty.
        limits: How much may be asked for.
        interface: Whose options these are.

    Returns:
        Values by name, with a ``Photo`` for a picture.

    Raises:
        InvalidArgument: If a value has no meaning.
        ImageRefused: If a picture cannot be read.
        TooMuch: If a text is too long, or the batch too large.
    """
    options: dict[str, Any] = {}
    for name, option in options_for(interface).items():
        value = values.get(name)
        if option.kind == "image":
            options[name] = read_photo(value, limits.photo_rules) if value else None
            continue
        if len(str(value or "")) > limits.max_text:
            raise TooMuch(name, value, f"at most {limits.max_text} characters")
        options[name] = option.read(value)
    largest = max(limits.max_samples, OPTIONS["batch_size"].default)
    if (size := options.get("batch_size", 1)) > largest:
        raise TooMuch("batch_size", size, f"1 to {largest}")
    return options


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
        InvalidArgument: If it is not a text, or is empty.
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
    texts: dict[str, None] = {}  # in order
    for item in items:
        if isinstance(item, bool) or not isinstance(item, (str, int)):
            raise InvalidArgument(argument, item, "a text")
        if len(str(item)) > longest:
            raise TooMuch(argument, item, f"at most {longest} characters")
        if text := str(item).strip():
            texts[text] = None
    if len(texts) > most:
        raise TooMuch(argument, f"{len(texts)} entries", f"at most {most}")
    return tuple(texts)


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


def read_whole(argument: str, value: object, most: int | None = None) -> int:
    """Checks that something is a whole number, or a count.

    Args:
        argument: What it is called in messages.
        value: A whole number; sliders send floats.
        most: The largest count that is allowed; None for any whole number.

    Raises:
        InvalidArgument: If it is something else, or a count less than 1.
        TooMuch: If it is larger.
    """
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, int):
        raise InvalidArgument(argument, value, "a whole number")
    if most is not None and value > most:
        raise TooMuch(argument, value, f"1 to {most}")
    if most is not None and value < 1:
        raise InvalidArgument(argument, value, f"1 to {most}")
    return value


def _number(argument: str, value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise InvalidArgument(argument, value, "a number")
    try:
        return float(value)
    except OverflowError:  # a whole number of hundreds of digits
        return math.inf


@dataclass(frozen=True)
class CompareForm:
    """Models to compare.

    Attributes:
        form: What all maps have in common; its model and its method are not used.
        models: IDs, one or several; the rows.
        methods: Names, one or several.
        scale: What the colours of the maps have in common.
    """

    form: ExplainForm
    models: tuple[str, ...]
    methods: tuple[str, ...]
    scale: Scale

    @property
    def layer_choice(self) -> str | tuple[str, ...] | None:
        """The layers as ``cam_hub.compare`` takes them."""
        return _layer_choice(self.form.target_layers)


def read_compare_request(
    *, models: object, methods: object, scale: object, limits: Limits, **values: object
) -> CompareForm:
    """Checks everything that can be judged without a model.

    An ID that cannot be one is not refused here: its row gets the reason, and the others go on.

    Args:
        models: A text or a list of texts.
        methods: A text or a list of texts.
        scale: Name of a scale.
        limits: How much may be asked for.
        values: As for ``read_request``; for ``target_layers`` one word of ``suggest_layers`` or
            names.

    Raises:
        ImageRefused, MethodNotFound, InvalidArgument: As ``read_request`` and
            ``cam_hub.compare``.
        TooMuch: If it asks for more than the limits allow.
    """
    ids = read_texts("models", models, limits.max_models, limits.max_text)
    if not ids:
        raise InvalidArgument("models", models, "at least one model ID")
    names = read_texts("methods", methods, limits.max_cells, limits.max_text)
    if not names:
        raise InvalidArgument("methods", methods, "at least one method")
    common = read_request(
        **{**values, "model_id": DEFAULT_MODEL, "method": names[0]},
        interface="compare",
        limits=limits,
    )
    words = [name for name in common.target_layers if name in LAYER_KEYWORDS]
    if words and len(common.target_layers) > 1:
        raise InvalidArgument(
            "target_layers", " ".join(common.target_layers), f"{words[0]!r} alone, or layer names"
        )
    wanted = tuple(dict.fromkeys(_written(id, limits) for id in ids))
    columns = read_columns(names, _layer_choice(common.target_layers), one_or_all(common.classes))
    if columns.count is not None and columns.count * len(wanted) > limits.max_cells:
        raise TooMuch(
            "models",
            f"{len(wanted)} models × {columns.count} {columns.kind}",
            f"at most {limits.max_cells} maps beside each other",
        )
    return CompareForm(common, wanted, columns.methods, check_scale(scale))


def _written(id: str, limits: Limits) -> str:
    """An ID as the grammar has it, so that two spellings of one model are one row."""
    try:
        return read_model_id(id, limits)
    except ModelNotFound:
        return id


def _layer_choice(layers: tuple[str, ...]) -> str | tuple[str, ...] | None:
    if len(layers) == 1 and layers[0] in LAYER_KEYWORDS:
        return layers[0] if layers[0] != "best" else None
    return layers or None
