"""A model's layers: listed, suggested, and resolved from the caller's choice of target layers."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import fields, replace
from typing import Any

from torch import nn

from cam_hub._validation import check_sizes
from cam_hub.errors import InvalidArgument, LayerNotFound, ModelRefused, NoMap, nearest_names
from cam_hub.hooks.execution import PLAIN
from cam_hub.hooks.modes import default_modes
from cam_hub.hooks.recording import modules_by_name
from cam_hub.layers import cache
from cam_hub.layers.discovery import discover_layers
from cam_hub.layers.layouts import LayerInfo
from cam_hub.models.loaded_model import EXECUTION, LoadedModel, with_output
from cam_hub.models.network import quantized_parts
from cam_hub.targets.classes import is_iterable

__all__ = [
    "FAITHFUL",
    "LAYER_KEYWORDS",
    "SUGGESTIONS",
    "LayerChoice",
    "LayerInfo",
    "at_call",
    "layers_before",
    "list_layers",
    "resolve_layers",
    "store_layers",
    "stored_layers",
    "suggest_layers",
]


def stored_layers(key: str | None, model: LoadedModel) -> list[LayerInfo] | None:
    """The layers stored under a key; None if there are none, or if they do not fit the model."""
    payload = cache.read(key) if key else None
    if not isinstance(payload, dict) or payload.get("fields") != _FIELDS:
        return None
    try:
        layers = list(map(_layer, payload["layers"]))
    except (KeyError, TypeError, ValueError):
        return None
    names = modules_by_name(model.module)
    for layer in layers:
        if layer.name not in names:
            return None
    return layers


def store_layers(key: str | None, layers: Sequence[LayerInfo]) -> None:
    """Stores layers under a key."""
    if key:
        rows = [[getattr(layer, name) for name in _FIELDS] for layer in layers]
        cache.write(key, {"fields": _FIELDS, "layers": rows})


_FIELDS = [field.name for field in fields(LayerInfo) if field.init]


def _layer(row: list[Any]) -> LayerInfo:
    values = dict(zip(_FIELDS, row, strict=True))
    if values["grid"] is not None:
        rows, cols = values["grid"]
        values["grid"] = (int(rows), int(cols))
    values["readable_calls"] = tuple(map(int, values["readable_calls"]))
    values["extent"] = tuple(map(float, values["extent"]))
    layer = LayerInfo(**values)
    if not isinstance(layer.name, str) or not isinstance(layer.reason, str):
        raise TypeError("a layer's name and reason are texts")
    return layer


SUGGESTIONS = {
    "best": "the recommended layer",
    "stages": "the end of each stage: the deepest layer at each resolution",
    "blocks": "the end of each block and stage; of many, eight spread over the depth",
    "convs": "every convolution",
    "all": "every usable layer",
}
"""The words that stand for layers, with their meaning."""

FAITHFUL = "faithful"
"""The word for the layer that is chosen by evidence, which takes an image."""

LAYER_KEYWORDS = (*SUGGESTIONS, FAITHFUL)
"""Every word that ``explain`` accepts for layers."""

_CHAINS = ("Sequential", "ModuleList", "ModuleDict")
"""Modules that only put others in a row; their parts do not form a block because of that."""


@default_modes()
def list_layers(
    model: LoadedModel, *, input_size: tuple[int, ...] | None = None
) -> list[LayerInfo]:
    """Lists a model's layers with what the experiment found out about them.

    The experiment takes ten forward passes and one backward pass; five to fifteen others
    where it is in doubt whether the deepest layer keeps the picture's quadrants apart. The result
    is stored with the model and, for a model loaded by its ID, on disk (``layers/cache.py``); a
    model with classes of a user's own, whose code may change, is examined each time it is loaded.
    After parts of a module were replaced, wrap it anew.

    Args:
        model: From ``load_model`` or ``wrap_model``.
        input_size: Channels, rows and columns of the input to try it on; None for the model's
            own.

    Returns:
        One entry per submodule, in the order in which they finish in a forward pass (a block
        after its parts); those that do not run come last.

    Raises:
        InvalidArgument: If ``model`` is not a loaded or wrapped model, or ``input_size`` is not a
            size.
        ModelRefused: If the model cannot run on an input of this size.
    """
    given: object = model
    if not isinstance(given, LoadedModel):
        expected = "a model from load_model or wrap_model"
        raise InvalidArgument("model", type(model).__name__, expected)
    model = with_output(model)
    size = model.input_size
    if input_size is not None:
        # A module made for photos may be given clips, and vice versa.
        axes = len(input_size) if isinstance(input_size, (tuple, list)) else 0
        axes = axes if axes in (3, 4) else len(model.input_size)
        size = check_sizes("input_size", input_size, axes)
    with model.lock:
        known: dict[tuple[int, ...], list[LayerInfo]]
        known = model.facts.setdefault("layers", {})
        if size not in known:
            key = cache.cache_key(model, size)
            found = stored_layers(key, model)
            if found is None:
                found = discover_layers(model, size)
                if model.execution.is_plain:  # the files do not record any other execution
                    store_layers(key, found)
            else:
                model.facts.setdefault(EXECUTION, PLAIN)
            known[size] = found
        found = known[size]
    return list(found)


@default_modes()
def suggest_layers(
    model: LoadedModel, how: str = "best", *, input_size: tuple[int, ...] | None = None
) -> list[str]:
    """Names the layers that a word stands for.

    Args:
        model: From ``load_model`` or ``wrap_model``.
        how: ``"best"`` for the recommended one; ``"stages"`` for the deepest at each resolution,
            which is the recommended one at its own, and else a block's end rather than the first
            part of the next block; ``"blocks"`` for the ends of blocks, too, at most eight in all;
            ``"convs"`` for every convolution;
            ``"all"`` for every usable layer.
        input_size: As for ``list_layers``.

    Returns:
        Layer names in forward order, never empty.

    Raises:
        InvalidArgument: If ``how`` is none of these words.
        NoMap: If the model has no such layer.
        ModelRefused: If it has none since it is quantised.
    """
    if not isinstance(how, str) or how not in SUGGESTIONS:
        raise InvalidArgument("how", how, f"one of {', '.join(SUGGESTIONS)}")
    layers = list_layers(model, input_size=input_size)
    return [layer.name for layer in _suggested(model, how, layers)]


def _suggested(model: LoadedModel, how: str, layers: Sequence[LayerInfo]) -> list[LayerInfo]:
    """The layers out of all that a word stands for; errors as for ``suggest_layers``."""
    usable = [layer for layer in layers if layer.usable]
    if how == "best":
        found = [layer for layer in usable if layer.recommended]
    elif how == "stages":
        found = _stage_ends(usable)
    elif how == "blocks":
        found = _block_ends(usable, layers)
    elif how == "convs":
        found = [layer for layer in usable if layer.is_conv]
    else:
        found = usable
    if not usable and (parts := quantized_parts(model.module)):
        raise ModelRefused(
            model.id,
            f"none of its layers has a gradient: {len(parts)} of them are quantised ({parts[0]!r} "
            "and so on), and compute in whole numbers; pass the floating-point module that was "
            "quantised.",
        )
    if not found:
        raise NoMap(f"the model {model.id!r} has none that fits {how!r}: {_why_none(layers)}")
    return found


def _why_none(layers: Sequence[LayerInfo]) -> str:
    """Why no layer is usable, or not of the kind that was asked for."""
    usable = sum(layer.usable for layer in layers)
    if usable:
        return f"none of its {usable} usable layers is one; 'best' or 'all' work"
    spatial = sum(layer.layout is not None for layer in layers)
    if spatial:
        return (
            f"its scores depend on none of the {spatial} layers that lie on the image (they are "
            "constant, or the model cuts the gradient by detach, no_grad or rounding)"
        )
    reasons = Counter(layer.reason for layer in layers).most_common(1)
    common = reasons[0][0] if reasons else "it has no submodules"
    return (
        f"no layer that lies on the image was found among {len(layers)} (most often: {common}). "
        "A layer whose output keeps rows and columns is needed"
    )


def _stage_ends(usable: list[LayerInfo]) -> list[LayerInfo]:
    """The last layer of each stage outside the blocks of other stages."""
    blocks = {layer.name: layer for layer in usable if layer.module_type not in _CHAINS}

    def parts_of_others(layer: LayerInfo) -> int:
        names = layer.name.split(".")
        around = (blocks.get(".".join(names[:depth])) for depth in range(1, len(names)))
        return sum(block is not None and block.stage != layer.stage for block in around)

    ends: dict[int | None, LayerInfo] = {}
    for layer in usable:
        end = ends.get(layer.stage)
        if end is None or parts_of_others(layer) <= parts_of_others(end):
            ends[layer.stage] = layer
    # At the deepest resolution the choice was made with more care.
    ends |= {layer.stage: layer for layer in usable if layer.recommended}
    return [layer for layer in usable if layer in ends.values()]


_MAX_BLOCKS = 8
"""The most layers that ``"blocks"`` stands for."""


def _block_ends(usable: list[LayerInfo], layers: Sequence[LayerInfo]) -> list[LayerInfo]:
    """The ends of blocks (members of a chain that have parts of their own) and of stages.

    Of many, so many as are spread evenly over the depth, the recommended one among them.
    """
    kinds = {layer.name: layer.module_type for layer in layers}
    with_parts = {name.rpartition(".")[0] for name in kinds}
    stages = {layer.name for layer in _stage_ends(usable)}
    ends: list[LayerInfo] = []
    for layer in usable:
        parent = layer.name.rpartition(".")[0]
        if layer.name in stages or (layer.name in with_parts and kinds.get(parent) in _CHAINS):
            # A chain returns what its last member does.
            last = ends[-1].name.rpartition(".")[0] if ends else None
            if last == layer.name and layer.module_type in _CHAINS and not ends[-1].recommended:
                ends.pop()
            ends.append(layer)
    if len(ends) <= _MAX_BLOCKS:
        return ends
    step = (len(ends) - 1) / (_MAX_BLOCKS - 1)
    spread = {round(place * step): None for place in range(_MAX_BLOCKS)}
    best = next((place for place, layer in enumerate(ends) if layer.recommended), None)
    if best is not None and best not in spread:  # in place of its nearest neighbour
        del spread[min(spread, key=lambda place: abs(place - best))]
        spread[best] = None
    return [ends[place] for place in sorted(spread)]


_LOG = logging.getLogger("cam_hub")

_NEAR, _FAR = 8, 16
"""Where another layer than the recommended one is looked for: among so many just before it, and
then among so many spread over all that come before those."""

LayerChoice = str | nn.Module | Iterable[str | nn.Module] | None
"""How layers may be named: by name, as the module itself, by a word of ``suggest_layers``, several
of these; None for the recommended one."""


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
        InvalidArgument: If nothing is named, or something other than layers.
    """
    if choice is None:
        choice = "best"
    if isinstance(choice, str) and choice in SUGGESTIONS:
        # Found once: some networks have hundreds of layers.
        known: dict[object, list[LayerInfo]] = model.facts.setdefault("suggested_layers", {})
        key = choice, tuple(input_size or model.input_size)
        if key not in known:
            layers = list_layers(model, input_size=input_size)
            known[key] = _suggested(model, choice, layers)
            if choice == "best":
                for layer in known[key]:
                    _LOG.info("%s: layer %s is chosen: %s", model.id, layer.name, layer.reason)
        return list(known[key])
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


def at_call(layer: LayerInfo, call: int) -> LayerInfo:
    """A layer at one of its calls.

    Args:
        layer: The layer.
        call: From 0, or from the end if negative.

    Raises:
        InvalidArgument: If there is no such call, or its output does not follow the image.
    """
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
        if item == FAITHFUL:
            expected = "a layer or another word here: to choose by evidence takes one image"
            raise InvalidArgument("target_layers", item, expected)
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
