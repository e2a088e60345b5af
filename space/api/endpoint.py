"""What the endpoints share: parameters with their documentation, and the values they return.

``/explain`` and ``/compare`` have the same parameters but for a few; their functions are built from
one table and from ``cam_hub.options``.
"""

# Annotations must be real types here, not texts: Gradio reads inputs and outputs off them.

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from inspect import Parameter as Argument
from inspect import Signature, signature
from pathlib import Path
from typing import Any, TypedDict, TypeVar, cast

import gradio as gr
from gradio.components.api_component import Api
from gradio.context import Context
from gradio.events import api

from cam_hub.methods import METHODS
from cam_hub.options import Interface, Option, options_for
from space.config.settings import Settings
from space.service.errors import token_of
from space.service.explain_form import DEFAULTS

__all__ = [
    "METHOD_NAMES",
    "PARAMETERS",
    "Parameter",
    "PredictionRow",
    "add_documented",
    "file_of",
    "option_parameters",
    "row_of",
]


class PredictionRow(TypedDict):
    """One predicted class."""

    class_index: int
    label: str
    probability: float | None
    score: float | None


_Texts = list[str]
_Photo = gr.FileData | None
_Row = TypeVar("_Row")


@dataclass(frozen=True)
class Parameter:
    """A parameter of an endpoint.

    Attributes:
        type: Its type, from which Gradio derives the schema.
        help: Its documentation.
        default: Its default; nothing ever writes to a list. ``Argument.empty`` if it is required.
        choices: All of its values, if they are few.
    """

    type: Any
    help: str
    default: Any = Argument.empty
    choices: tuple[str, ...] = ()


METHOD_NAMES = " or ".join((", ".join([*METHODS][:-1]), [*METHODS][-1]))
"""The names of all methods, in words."""

PARAMETERS = {
    "image": Parameter(
        gr.FileData,
        "the photo, as a file or a URL: JPEG, PNG, WebP, GIF (its first frame) …",
    ),
    "model_id": Parameter(
        str, "'owner/name[@revision]' on the Hub, 'torchvision/name[@weights]' or a timm name"
    ),
    "method": Parameter(
        str, f"{METHOD_NAMES}; auto: the one whose map holds best if covered", DEFAULTS["method"]
    ),
    "target_layers": Parameter(
        _Texts,
        "layer names, or a word: best, stages, blocks, convs, all, faithful (the one whose map "
        "holds best if covered); empty: the recommended one",
        [],
    ),
    "classes": Parameter(
        _Texts, "class indices or labels as texts, or 'top(3)'; empty: the predicted class", []
    ),
    "num_samples": Parameter(
        int,
        "noisy copies that SmoothGradCAM++ averages over, at least 1",
        DEFAULTS["num_samples"],
    ),
    "std": Parameter(
        float,
        "standard deviation of their noise, in units of the normalised input, at least 0",
        DEFAULTS["std"],
    ),
    "seed": Parameter(int, "of the noise; the same seed gives the same maps", DEFAULTS["seed"]),
    "alpha": Parameter(
        float, "opacity of the heatmap over the photo, from 0 to 1", DEFAULTS["alpha"]
    ),
    "colormap": Parameter(str, "name of a colour map of matplotlib's", DEFAULTS["colormap"]),
    "contrast": Parameter(
        str,
        "one class, as an index or label, or several as 'tabby; 0.5*lynx', or 'nearest(3)' for "
        "those of the nearest scores: why the classes rather than this; empty: none",
        "",
    ),
    "region": Parameter(
        list[float],
        "for segmentation and detection: left, top, right, bottom in the photo's pixels; "
        "empty: all of it",
        [],
    ),
    "reference": Parameter(
        _Photo,
        "for models without classes: a photo to compare with; none: the photo itself",
        None,
    ),
}
"""The parameters of ``/explain`` that are not in ``cam_hub.options``, in order."""


def option_parameters(interface: Interface) -> dict[str, Parameter]:
    """The parameters that an endpoint has for the entries of ``cam_hub.options``."""
    return {name: _option_parameter(option) for name, option in options_for(interface).items()}


def _option_parameter(option: Option) -> Parameter:
    kinds = {"switch": bool, "count": int, "image": _Photo}
    if option.kind in kinds:
        return Parameter(kinds[option.kind], option.help, option.default)
    if option.kind == "checks":
        return Parameter(str, option.help, "")
    return Parameter(str, option.help, option.default or "", tuple(option.choices))


def add_documented(
    settings: Settings,
    name: str,
    answer: Callable[[dict[str, Any], str | None], Any],
    parameters: Mapping[str, Parameter],
    outputs: Mapping[str, str],
    **options: Any,
) -> None:
    """Adds an endpoint to the app that is being built.

    Args:
        settings: The app's settings, with the default of a parameter ``model_id``.
        name: Its name, without the slash.
        answer: Takes the values by name, and the visitor's access token. Its docstring describes
            the endpoint, its annotation what it returns.
        parameters: By name, in order.
        outputs: Meaning by name, in the order of what it returns.
        options: Of ``gradio.events.api``; by default the endpoint uses a model.
    """
    if "model_id" in parameters:
        model_id = replace(parameters["model_id"], default=settings.default_model)
        parameters = {**parameters, "model_id": model_id}

    def endpoint(*values: Any) -> Any:
        *sent, visitor = values
        return answer(dict(zip(parameters, sent, strict=True)), token_of(visitor))

    arguments = [
        Argument(
            each,
            Argument.POSITIONAL_OR_KEYWORD,
            default=parameter.default,
            annotation=parameter.type,
        )
        for each, parameter in {
            **parameters,
            "visitor": Parameter(gr.OAuthToken | None, "", None),
        }.items()
    ]
    returned = signature(answer).return_annotation
    # Gradio reads the arguments off these, and agents get the docstring.
    vars(endpoint)["__signature__"] = Signature(arguments, return_annotation=returned)
    kinds = {each.name: each.annotation for each in arguments}
    endpoint.__annotations__ = {**kinds, "return": returned}
    endpoint.__name__ = endpoint.__qualname__ = name
    lines = [answer.__doc__ or "", "Args:"]
    for each, parameter in parameters.items():
        choices = f"; one of: {', '.join(parameter.choices)}" if parameter.choices else ""
        lines.append(f"    {each}: {parameter.help}{choices}")
    lines += ["Returns:", *(f"    {each}: {words}" for each, words in outputs.items())]
    endpoint.__doc__ = "\n".join(lines)
    waiting = {"concurrency_id": "model", "concurrency_limit": settings.concurrency}
    event = api(endpoint, api_name=name, **{**waiting, **options})
    helps = {each: parameter.help for each, parameter in parameters.items()}
    for ids, documented, place in (
        (event["inputs"], helps, "additional_description"),
        (event["outputs"], outputs, "description"),
    ):
        for id, (label, words) in zip(ids, documented.items(), strict=True):
            value = Context.root_block.blocks[id] if Context.root_block else None
            if not isinstance(value, Api):
                raise AssertionError("gr.api makes Api components only, in an app")
            value.label = label
            value._api_info = {**value._api_info, place: words}


def row_of(kind: type[_Row], source: object, **others: object) -> _Row:
    """The attributes of an object as a row, with lists in place of tuples.

    Args:
        kind: The row's ``TypedDict``.
        source: Has the attributes.
        others: Values that are not attributes of it.
    """
    values = {
        name: others[name] if name in others else getattr(source, name)
        for name in kind.__annotations__
    }
    plain = {
        name: list(value) if isinstance(value, tuple) else value for name, value in values.items()
    }
    return cast("_Row", plain)


def file_of(path: Path) -> Any:
    """A file of ours as Gradio hands it over; a dictionary, as only those are found in lists."""
    return gr.FileData(path=str(path), orig_name=path.name, size=path.stat().st_size).model_dump()
