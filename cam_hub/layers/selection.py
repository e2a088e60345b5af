"""From what a caller names as target layers to layers that a map can be made from."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from dataclasses import replace

from torch import nn

from cam_hub.errors import InvalidArgument, LayerNotFound, NoMap, nearest_names
from cam_hub.hooks.recording import modules_by_name
from cam_hub.layers.listing import SUGGESTIONS, LayerInfo, list_layers, suggest_layers
from cam_hub.models.loaded_model import LoadedModel
from cam_hub.targets.classes import is_iterable

__all__ = ["LayerChoice", "at_call", "layers_before", "plain_choice", "resolve_layers"]

_LOG = logging.getLogger("cam_hub")

_NEAR, _FAR = 8, 16
"""Where another layer than the recommended one is looked for: among so many just before it, and
then among so many spread over all that come before those."""

LayerChoice = str | nn.Module | Iterable[str | nn.Module] | None
"""How layers may be named: by name, as the module itself, by a word of ``suggest_layers``, several
of these; None for the recommended one."""


def plain_choice(choice: LayerChoice) -> LayerChoice:
    """A choice of layers that can be read more than once; None for the recommended layer.

    Every interface passes the caller's words on as they are, so that all of them treat
    ``"best"``, ``["best"]`` and None alike.
    """
    once = is_iterable(choice) and not isinstance(choice, (str, nn.Module))
    plain = list(choice) if once else choice  # type: ignore[arg-type]
    return None if plain in ("best", ["best"]) else plain


def resolve_layers(
    model: LoadedModel,
    choice: LayerChoice,
    input_size: tuple[int, ...] | None = None,
    *,
    need_gradient: bool = True,
) -> list[LayerInfo]:
    """Finds the layers that are meant, and makes sure that a map can be made from each.

    Args:
        model: The model.
        choice: What the caller named.
        input_size: Channels, rows and columns of the input; None for the model's own.
        need_gradient: Whether a layer must also have a gradient.

    Returns:
        The layers in the order in which they were named, without repetition.

    Raises:
        LayerNotFound: If a name is not one of the model's.
        NoMap: If a layer is not spatial, or no class score depends on it.
        InvalidArgument: If nothing is named, or something that is no layer.
    """
    if choice is None:
        choice = "best"
    if isinstance(choice, str) and choice in SUGGESTIONS:
        return list(_suggested(model, choice, tuple(input_size or model.input_size)))
    by_name = {layer.name: layer for layer in list_layers(model, input_size=input_size)}
    named = [choice] if isinstance(choice, (str, nn.Module)) else _listed(choice)
    names: dict[str, None] = {}
    for item in named:
        if isinstance(item, str) and item in SUGGESTIONS and item not in by_name:
            names.update(dict.fromkeys(suggest_layers(model, item, input_size=input_size)))
        else:
            names[_name(model, item)] = None
    if not names:
        raise InvalidArgument("target_layers", choice, "at least one layer")
    for name in names:
        if name not in by_name:
            raise LayerNotFound(name, nearest_names(name, by_name))
        layer = by_name[name]
        if layer.arrangement is None or (need_gradient and not layer.usable):
            raise NoMap(layer.reason + _instead(by_name.values()), layer=name)
    return [by_name[name] for name in names]


def _suggested(model: LoadedModel, how: str, size: tuple[int, ...]) -> list[LayerInfo]:
    """The layers that a word stands for, found once: some networks have hundreds."""
    known: dict[object, list[LayerInfo]] = model.facts.setdefault("suggested_layers", {})
    if (how, size) not in known:
        names = set(suggest_layers(model, how, input_size=size))
        layers = list_layers(model, input_size=size)
        found = known[how, size] = [layer for layer in layers if layer.name in names]
        if how == "best":
            for layer in found:
                _LOG.info("%s: layer %s is chosen: %s", model.id, layer.name, layer.reason)
    return known[how, size]


def at_call(layer: LayerInfo, call: int | None) -> LayerInfo:
    """A layer at one of its calls.

    Args:
        layer: The layer.
        call: From 0, or from the end if negative; None for the one that it stands for.

    Raises:
        InvalidArgument: If there is no such call, or its output does not follow the image.
    """
    if call is None:
        return layer
    number = call + layer.calls if call < 0 else call
    if not 0 <= number < layer.calls:
        times = "once" if layer.calls == 1 else f"{layer.calls} times"
        expected = f"None or 0 to {layer.calls - 1}, as layer {layer.name!r} runs {times} in a pass"
        raise InvalidArgument("call", call, expected)
    if layer.readable_calls and number not in layer.readable_calls:
        allowed = " or ".join(map(str, layer.readable_calls))
        raise InvalidArgument(
            "call",
            call,
            f"{allowed}: at that call, layer {layer.name!r} does not follow the image (it is "
            "mirrored, or mixed)",
        )
    # What follows this call may write to its output, whatever follows the other one.
    return layer if number == layer.call else replace(layer, call=number, overwritten=True)


def layers_before(
    model: LoadedModel, name: str, input_size: tuple[int, ...] | None = None
) -> list[list[str]]:
    """Names some usable layers that finish before another: first those near it, then farther ones.

    Each in forward order; there may be none.
    """
    usable = [layer.name for layer in list_layers(model, input_size=input_size) if layer.usable]
    place = usable.index(name)
    near, rest = usable[max(0, place - _NEAR) : place], usable[: max(0, place - _NEAR)]
    return [found for found in (near, rest[:: -(-len(rest) // _FAR) or 1]) if found]


def _listed(choice: Iterable[str | nn.Module]) -> list[str | nn.Module]:
    if not is_iterable(choice):
        raise InvalidArgument("target_layers", choice, "layer names")
    return list(choice)


def _name(model: LoadedModel, item: object) -> str:
    if isinstance(item, str):
        return item
    if isinstance(item, nn.Module):
        for name, module in modules_by_name(model.module).items():
            if module is item:
                return name
        raise LayerNotFound(type(item).__name__, hint="This module is not part of the model.")
    raise InvalidArgument("target_layers", item, "layer names")


def _instead(layers: Iterable[LayerInfo]) -> str:
    best = next((layer.name for layer in layers if layer.recommended), None)
    return f"; {best!r} works" if best else ""
