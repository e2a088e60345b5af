"""``list_layers`` and ``suggest_layers``: what the experiment says about each layer."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from torch import nn

from cam_hub.errors import InvalidArgument, ModelRefused, NoMap
from cam_hub.introspection.layouts import Arrangement
from cam_hub.introspection.probe import Dependence, Finding, dependence, disturb
from cam_hub.recording import modules_by_name
from cam_hub.sources.base import LoadedModel

__all__ = ["SUGGESTIONS", "LayerInfo", "list_layers", "suggest_layers"]

_WHOLE = 0.9
"""The scores depend on an output as a whole if this part of its channels and cells counts."""

SUGGESTIONS = {
    "best": "the recommended layer",
    "stages": "the end of each stage: the deepest layer at each resolution",
    "convs": "every convolution",
    "all": "every usable layer",
}
"""The words that stand for layers, with their meaning."""


@dataclass(frozen=True)
class LayerInfo:
    """One layer, as seen from outside.

    Attributes:
        name: Its name in the model, as in ``named_modules``.
        module_type: Its class.
        layout: How its output is laid out (``"NCHW"``), or None if it is not spatial.
        grid: Rows and columns of its output, or None.
        channels: Channels of its output, or None.
        prefix_tokens: Tokens before those of the grid that belong to no place.
        is_conv: Whether it is a convolution.
        stage: Number of its resolution, 0 for the finest; None if it is not usable.
        usable: Whether a map can be made from it.
        recommended: Whether it is the one to explain when nothing else is asked for.
        reason: In plain words, why it is or is not usable.
        suffix_tokens: Tokens after those of the grid that belong to no place.
    """

    name: str
    module_type: str
    layout: str | None
    grid: tuple[int, int] | None
    channels: int | None
    prefix_tokens: int
    is_conv: bool
    stage: int | None
    usable: bool
    recommended: bool
    reason: str
    suffix_tokens: int = 0

    @property
    def arrangement(self) -> Arrangement | None:
        """How its output is read as maps over the image."""
        if self.layout is None or self.grid is None or self.channels is None:
            return None
        return Arrangement(
            self.layout, self.grid, self.channels, self.prefix_tokens, self.suffix_tokens
        )


def list_layers(
    model: LoadedModel, *, input_size: tuple[int, int, int] | None = None
) -> list[LayerInfo]:
    """Lists a model's layers with what the experiment found out about them.

    The experiment takes one batched forward pass and one backward pass; its answer is kept with
    the model.

    Args:
        model: From ``load_model`` or ``wrap_model``.
        input_size: Channels, rows and columns of the input to try it on; None for the model's
            own.

    Returns:
        One entry per submodule, in the order in which they finish in a forward pass (a block
        after its parts); those that do not run come last.

    Raises:
        ModelRefused: If the model cannot run on an input of this size.
    """
    with model.lock:
        size = input_size or model.input_size
        known: dict[tuple[int, int, int], list[LayerInfo]]
        known = model.facts.setdefault("layers", {})
        if size not in known:
            known[size] = _examine(model, size)
        found = known[size]
    return list(found)


def suggest_layers(
    model: LoadedModel, how: str = "best", *, input_size: tuple[int, int, int] | None = None
) -> list[str]:
    """Names the layers that a word stands for.

    Args:
        model: From ``load_model`` or ``wrap_model``.
        how: ``"best"`` for the recommended one; ``"stages"`` for the deepest at each resolution,
            taken from the outermost modules of that resolution, so that it is a block's end
            rather than the first part of the next block; ``"convs"`` for every convolution;
            ``"all"`` for every usable layer.
        input_size: As for ``list_layers``.

    Returns:
        Layer names in forward order, never empty.

    Raises:
        InvalidArgument: If ``how`` is none of these words.
        NoMap: If the model has no such layer.
    """
    if how not in SUGGESTIONS:
        raise InvalidArgument("how", how, f"one of {', '.join(SUGGESTIONS)}")
    usable = [layer for layer in list_layers(model, input_size=input_size) if layer.usable]
    if how == "best":
        names = [layer.name for layer in usable if layer.recommended]
    elif how == "stages":
        names = _stage_ends(usable)
    elif how == "convs":
        names = [layer.name for layer in usable if layer.is_conv]
    else:
        names = [layer.name for layer in usable]
    if not names:
        raise NoMap(
            f"the model {model.id!r} has none that fits {how!r}: no layer that lies on the image "
            "and on which the class scores depend was found"
        )
    return names


def _stage_ends(usable: list[LayerInfo]) -> list[str]:
    ends: dict[int | None, LayerInfo] = {}
    for layer in usable:
        end = ends.get(layer.stage)
        if end is None or layer.name.count(".") <= end.name.count("."):
            ends[layer.stage] = layer
    return [layer.name for layer in usable if layer in ends.values()]


def _examine(model: LoadedModel, size: tuple[int, int, int]) -> list[LayerInfo]:
    generator = torch.Generator().manual_seed(0)
    clean = torch.randn((1, *size), generator=generator)
    clean = clean.to(model.device, model.dtype)
    try:
        findings = disturb(model.module, clean)
        spatial = {
            name: finding.arrangement
            for name, finding in findings.items()
            if finding.spatial and finding.arrangement and _cells(finding.arrangement) > 1
        }
        reached = dependence(model.module, clean, spatial)
    except (RuntimeError, ValueError, TypeError, AssertionError, IndexError) as error:
        raise ModelRefused(
            model.id, f"its forward pass on an input of {size} failed ({error})."
        ) from error
    modules = modules_by_name(model.module)
    layers = [
        _describe(name, modules[name], finding, name in reached and reached[name].covered > 0)
        for name, finding in findings.items()
    ]
    seen = {id(modules[name]) for name in findings}
    layers += [
        _describe(name, child, None, False)
        for name, child in modules.items()
        if name not in findings and id(child) not in seen
    ]
    return _recommend(_number_stages(layers), reached)


def _describe(name: str, module: nn.Module, finding: Finding | None, spoken_for: bool) -> LayerInfo:
    spatial = finding is not None and finding.spatial
    arrangement = finding.arrangement if finding is not None and spatial else None
    usable = spatial and _cells(arrangement) > 1 and spoken_for
    return LayerInfo(
        name=name,
        module_type=type(module).__name__,
        layout=arrangement.layout if arrangement else None,
        grid=arrangement.grid if arrangement else None,
        channels=arrangement.channels if arrangement else None,
        prefix_tokens=arrangement.prefix_tokens if arrangement else 0,
        is_conv=isinstance(module, nn.modules.conv._ConvNd),
        stage=None,
        usable=usable,
        recommended=False,
        reason=_reason(finding, spoken_for),
        suffix_tokens=arrangement.suffix_tokens if arrangement else 0,
    )


def _reason(finding: Finding | None, spoken_for: bool) -> str:
    if finding is None:
        return "does not run in a forward pass"
    if finding.shape is None:
        return "returns no tensor"
    if finding.arrangement is None:
        return f"its output {finding.shape} has no rows and columns"
    rows, cols = finding.arrangement.grid
    if rows * cols == 1:
        return "its output has a single cell: the whole image at once"
    if not finding.moved:
        return "its output does not change with the input"
    if not finding.spatial:
        return (
            "its output does not follow the image "
            f"(correlation {finding.match.correlation:.2f} with disturbed bands)"
        )
    if not spoken_for:
        return "no class score depends on it (zero gradient)"
    return (
        f"follows the image on a {rows}×{cols} grid "
        f"(correlation {finding.match.correlation:.2f}), and class scores depend on it"
    )


def _number_stages(layers: list[LayerInfo]) -> list[LayerInfo]:
    """Numbers the resolutions among the usable layers, the finest first."""
    grids = {layer.grid for layer in layers if layer.usable and layer.grid is not None}
    order = sorted(grids, key=lambda grid: (-grid[0] * grid[1], grid))
    return [
        replace(layer, stage=order.index(layer.grid)) if layer.usable and layer.grid else layer
        for layer in layers
    ]


def _recommend(layers: list[LayerInfo], reached: Mapping[str, Dependence]) -> list[LayerInfo]:
    """Marks the deepest usable layer: the last to finish that speaks, and speaks as a whole.

    Where the scores depend on part of an output only (the queries of the last attention, say, of
    which only the class token's is asked for), an earlier output is the better choice; likewise
    where nothing in it speaks for the predicted class, so that its map would be blank. Without
    any such layer, the last one is taken.
    """
    usable = [index for index, layer in enumerate(layers) if layer.usable]
    whole = [index for index in usable if reached[layers[index].name].covered >= _WHOLE]
    speaking = [index for index in whole if reached[layers[index].name].speaks]
    for index in (speaking or whole or usable)[-1:]:
        layers[index] = replace(
            layers[index],
            recommended=True,
            reason=f"{layers[index].reason}; the deepest such layer",
        )
    return layers


def _cells(arrangement: Arrangement | None) -> int:
    return arrangement.grid[0] * arrangement.grid[1] if arrangement else 0
