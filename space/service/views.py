"""A view of a result: its look, the query of a link to it, and code that gives the same result."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import repeat
from typing import Any
from urllib.parse import urlencode

from cam_hub._validation import check_word
from cam_hub.attribution.choice import AUTO
from cam_hub.errors import ClassNotFound, InvalidArgument, LayerNotFound, nearest_names
from cam_hub.options import OPTIONS, options_for
from cam_hub.results.explanation import Explanation
from cam_hub.results.maps import ScaleChoice
from cam_hub.results.overlay import COLORMAPS
from space.service.explain_form import ExplainForm, box_text
from space.service.photos import Photo

__all__ = [
    "SCALES",
    "VIEWS",
    "DisplayOptions",
    "View",
    "client_code",
    "is_link",
    "python_code",
    "query_of",
    "read_display_options",
    "read_query",
]


VIEWS = {
    "overlay": "Overlay",
    "boxes": "Boxes",
    "cutout": "Cut-out",
    "map": "Raw map",
}
"""What can be shown of a map, and the words for it."""

SCALES = {"own": "Each map on its own", "common": "One scale for all"}
"""What the colours of several maps have in common, and the words for it."""


@dataclass(frozen=True)
class DisplayOptions:
    """One view of a result.

    Attributes:
        class_index: Whose map; None for the first explained class that has one.
        layer: At which layer; None for the fusion of all.
        view: A key of ``VIEWS``.
        alpha: Opacity of the colours, in [0, 1].
        colormap: A key of ``COLORMAPS``.
        threshold: Heat, in (0, 1], from which a place belongs to a box or to the cut-out.
        scale: A key of ``SCALES``.
    """

    class_index: int | None = None
    layer: str | None = None
    view: str = "overlay"
    alpha: float = 0.5
    colormap: str = "jet"
    threshold: float = 0.5
    scale: str = "own"

    def at(self, result: Explanation) -> tuple[int, str | None]:
        """The class and the layer that are meant; of one layer, the fusion is that layer.

        Raises:
            ClassNotFound: If the class was not explained.
            LayerNotFound: If the layer was not among the targets.
        """
        index = self.class_index
        if index is None:
            index = next(filter(result.has_map, result.classes), None)
            index = result.classes[0] if index is None else index
        if index not in result.labels:
            explained = ", ".join(f"{each} ({label})" for each, label in result.labels.items())
            raise ClassNotFound(index, hint=f"Explained were: {explained}.")
        layer = self.layer
        if layer is not None and layer not in result.layers:
            near = nearest_names(layer, result.layers)
            raise LayerNotFound(layer, near, f"Explained were: {', '.join(result.layers)}.")
        return index, result.layers[0] if len(result.layers) == 1 else layer


def read_display_options(
    *,
    class_index: object = None,
    layer: object = None,
    view: object = "overlay",
    alpha: object = 0.5,
    colormap: object = "jet",
    threshold: object = 0.5,
    scale: object = "own",
) -> DisplayOptions:
    """Checks a look that came from outside; arguments as the attributes of ``DisplayOptions``.

    Raises:
        InvalidArgument: If a value can mean nothing.
    """
    if class_index is not None and (
        isinstance(class_index, bool) or not isinstance(class_index, int)
    ):
        raise InvalidArgument("class", class_index, "the index of an explained class")
    if layer is not None and not isinstance(layer, str):
        raise InvalidArgument("layer", layer, "the name of an explained layer")
    check_word("view", view, VIEWS)
    check_word("colormap", colormap, COLORMAPS)
    check_word("scale", scale, SCALES)
    return DisplayOptions(
        class_index=class_index,
        layer=layer or None,
        view=str(view),
        alpha=_fraction("alpha", alpha, least=0.0),
        colormap=str(colormap),
        threshold=_fraction("threshold", threshold, least=0.01),
        scale=str(scale),
    )


def _fraction(argument: str, value: object, *, least: float) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise InvalidArgument(argument, value, "a number")
    if not least <= value <= 1:
        raise InvalidArgument(argument, value, f"a number from {least:g} to 1")
    return float(value)


@dataclass(frozen=True)
class View:
    """What a link opens: a request, and how its result is looked at.

    Attributes:
        model_id: The model.
        method: The method.
        target_layers: Names and words.
        classes: Classes, as texts.
        contrast: The class that they are compared with; empty for none.
        region: The part of the photo that is asked about, as ``read_box`` takes it; empty for all
            of it.
        num_samples: Noisy copies.
        std: Standard deviation of their noise.
        seed: Seed of the noise.
        photo: Name of an example, or the address of a photo; empty for an upload, which cannot be
            in a link.
        look: How the result is looked at. Its class is an index.
        options: Those of ``cam_hub.options`` that do not have their default.
    """

    model_id: str
    method: str = AUTO
    target_layers: tuple[str, ...] = ("best",)
    classes: tuple[str, ...] = ()
    contrast: str = ""
    region: str = ""
    num_samples: int = 4
    std: float = 0.3
    seed: int = 0
    photo: str = ""
    look: DisplayOptions = field(default_factory=DisplayOptions)
    options: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def of(cls, form: ExplainForm, photo: str, look: DisplayOptions) -> View:
        """The view of a result.

        Args:
            form: What was asked for.
            photo: The photo as a link names it.
            look: How the result is looked at.
        """
        return cls(
            model_id=form.model_id,
            method=form.method,
            target_layers=form.target_layers or ("best",),
            classes=form.classes,
            contrast=form.contrast,
            region="" if form.region is None else box_text(form.region),
            num_samples=form.num_samples,
            std=form.std,
            seed=form.seed,
            photo=photo,
            look=look,
            options=form.options,
        )


_OPTIONS = options_for("page")

_FIELDS: dict[str, tuple[str, type]] = {
    "model": ("model_id", str),
    "method": ("method", str),
    "photo": ("photo", str),
    "than": ("contrast", str),
    "part": ("region", str),
    "layers": ("target_layers", tuple),
    "classes": ("classes", tuple),
    "samples": ("num_samples", int),
    "noise": ("std", float),
    "seed": ("seed", int),
}
"""The attributes of a ``View`` by their names in links, with their types."""

_LOOKS: dict[str, tuple[str, type]] = {
    "class": ("class_index", int),
    "layer": ("layer", str),
    "view": ("view", str),
    "opacity": ("alpha", float),
    "colours": ("colormap", str),
    "threshold": ("threshold", float),
    "scale": ("scale", str),
}


def is_link(query: Mapping[str, object]) -> bool:
    """Whether a query asks for a view; others (of a host, of Gradio) are none of ours."""
    return "model" in query or "photo" in query


def query_of(view: View) -> str:
    """The query, without the question mark: the model, and all that is not as the page starts."""
    plain = View(view.model_id)
    pairs: list[tuple[str, object]] = [("model", view.model_id)]
    for key, (name, kind) in _FIELDS.items():
        if (value := getattr(view, name)) != getattr(plain, name):
            pairs += zip(repeat(key), value if kind is tuple else (value,), strict=False)
    for key, option in _OPTIONS.items():
        if text := option.text(view.options.get(key, option.default)):
            pairs.append((key, text))
    for key, (name, _) in _LOOKS.items():
        if (value := getattr(view.look, name)) != getattr(plain.look, name):
            pairs.append((key, f"{value:g}" if isinstance(value, float) else value))
    return urlencode(pairs)


def read_query(pairs: Sequence[tuple[str, str]], default_model: str) -> View:
    """A view out of a link. Whether its model, classes and layers exist is found out later.

    Args:
        pairs: Names and values, in order; names that are not of a view are passed over.
        default_model: The model of a link that names none.

    Raises:
        InvalidArgument: If a value can mean nothing, or stands twice where one is meant.
    """
    fields: dict[str, Any] = {"model_id": default_model}
    look: dict[str, object] = {}
    options: dict[str, Any] = {}
    seen = set()
    for key, text in pairs:
        name, kind = _FIELDS.get(key) or _LOOKS.get(key) or (key, str)
        if kind is tuple:
            known = fields.get(name, ())
            fields[name] = known if text in known else (*known, text)
            continue
        if key in seen and key in {*_FIELDS, *_LOOKS, *_OPTIONS}:
            raise InvalidArgument(key, text, "one value in a link, and there are two")
        seen.add(key)
        if key in _FIELDS:
            fields[name] = _typed(key, text, kind)
        elif key in _OPTIONS:
            options[key] = _OPTIONS[key].read(text)
        elif key in _LOOKS:
            look[name] = _typed(key, text, kind)
    return View(**fields, look=_look(look), options=options)


def _look(values: dict[str, object]) -> DisplayOptions:
    """The look; a problem is stated in the words of links."""
    for key, (name, _) in _LOOKS.items():
        if name in values:
            try:
                read_display_options(**{name: values[name]})
            except InvalidArgument as problem:
                expected = problem.message.partition("expected ")[2].rstrip(".")
                raise InvalidArgument(key, values[name], expected) from None
    return read_display_options(**values)


def _typed(key: str, text: str, kind: type) -> object:
    try:
        return kind(text)
    except ValueError:
        expected = "a whole number" if kind is int else "a number"
        raise InvalidArgument(key, text, expected) from None


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
        request.arguments(_opened),
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
    values = {
        "image": _sent(request.photo),
        "model_id": request.model_id,
        **request.arguments(_sent),
        "target_layers": list(request.target_layers),
        "classes": list(request.classes),
        "region": list(request.region) if request.region else None,
        "alpha": request.alpha,
        "colormap": request.colormap,
        "scale": None if request.scale == "own" else _scale_text(request.scale),
        "colorbar": request.colorbar or None,
        "api_name": "/explain",
    }
    for name, value in request.options.items():
        # The endpoint takes these as texts.
        if value is not None and OPTIONS[name].kind not in ("image", "switch", "count"):
            values[name] = OPTIONS[name].text(value) or None
    call = _call("overlay, predictions, maps, manifest, archive = client.predict", [], values)
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


def _call(head: str, positional: list[Any], named: dict[str, Any]) -> str:
    """A call, without arguments that are None and options that have their default."""
    lines = [f"{head}(", *map("    {!r},".format, positional)]
    for name, value in named.items():
        if value is not None and (name not in OPTIONS or value != OPTIONS[name].default):
            lines.append(f"    {name}={value!r},")
    return "\n".join([*lines, ")"])
