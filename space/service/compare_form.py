"""From what a visitor sent to a checked request for a comparison."""

from __future__ import annotations

from dataclasses import dataclass

from cam_hub.attribution.compare_columns import read_columns
from cam_hub.errors import InvalidArgument, ModelNotFound, TooMuch
from cam_hub.layers.listing import SUGGESTIONS
from cam_hub.results.comparison_sheets import Scale, check_scale
from cam_hub.sources.timm import DEFAULT_MODEL
from space.config.settings import Limits
from space.service.explain_form import ExplainForm, read_model_id, read_request, read_texts

__all__ = ["CompareForm", "read_compare_request"]


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

    An ID that cannot be one is not refused here: its row will say so, and the others go on.

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
    words = [name for name in common.target_layers if name in SUGGESTIONS]
    if words and len(common.target_layers) > 1:
        raise InvalidArgument(
            "target_layers", " ".join(common.target_layers), f"{words[0]!r} alone, or layer names"
        )
    wanted = tuple(dict.fromkeys(_written(id, limits) for id in ids))
    columns = read_columns(names, _layer_choice(common.target_layers), common.class_choice)
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
    if len(layers) == 1 and layers[0] in SUGGESTIONS:
        return layers[0] if layers[0] != "best" else None
    return layers or None
