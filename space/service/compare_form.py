"""From what a visitor sent to a checked request for a comparison."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from cam_hub.attribution.compare_columns import read_columns
from cam_hub.errors import InvalidArgument, ModelNotFound, TooMuch
from cam_hub.layers.listing import SUGGESTIONS
from cam_hub.options import Interface, read_options
from cam_hub.results.comparison_sheets import Scale, check_scale
from cam_hub.sources.timm import DEFAULT_MODEL
from cam_hub.targets.classes import ClassChoice
from space.config.settings import Limits
from space.service.explain_form import Box, read_model_id, read_request, read_texts
from space.service.photos import Photo

__all__ = ["CompareRequest", "read_compare_request"]

_COMPARE: Final[Interface] = "compare"


@dataclass(frozen=True)
class CompareRequest:
    """Models to be put beside each other.

    Attributes:
        photo: What was uploaded, or where it lies.
        models: IDs, one or several; the rows.
        methods: Names, one or several.
        target_layers: Names, or one word of ``suggest_layers``; empty for the recommended layer.
        classes: Indices and labels as texts; empty for each model's predicted class.
        num_samples: Noisy copies.
        std: Standard deviation of their noise.
        seed: Of their noise.
        scale: What the colours of the maps have in common.
        alpha: Opacity of the overlays, in [0, 1].
        colormap: Their colour map.
        contrast: The class that the others are held against; empty for none.
        region: The part of the photo that is asked about; None for all of it.
        reference: What features are compared with; None for the photo itself.
        options: Those of ``cam_hub.options`` that a comparison takes.
    """

    photo: Photo
    models: tuple[str, ...]
    methods: tuple[str, ...]
    target_layers: tuple[str, ...]
    classes: tuple[str, ...]
    num_samples: int
    std: float
    seed: int
    scale: Scale
    alpha: float
    colormap: str
    contrast: str = ""
    region: Box | None = None
    reference: Photo | None = None
    options: Mapping[str, Any] = field(default_factory=lambda: read_options({}, _COMPARE))

    @property
    def layer_choice(self) -> str | tuple[str, ...] | None:
        """The layers as ``cam_hub.compare`` takes them."""
        return _layer_choice(self.target_layers)

    @property
    def class_choice(self) -> ClassChoice:
        """The classes as ``cam_hub.compare`` takes them."""
        return _class_choice(self.classes)


def read_compare_request(
    *,
    image: object,
    models: object,
    methods: object,
    target_layers: object,
    classes: object,
    num_samples: object,
    std: object,
    seed: object,
    scale: object,
    alpha: object,
    colormap: object,
    contrast: object = "",
    region: object = None,
    reference: object = None,
    options: Mapping[str, object] | None = None,
    limits: Limits,
) -> CompareRequest:
    """Checks everything that can be judged without a model.

    An ID that cannot be one is not refused here: its row will say so, and the others go on.

    Args:
        image: As for ``read_request``, and so are all that have the same name.
        models: A text or a list of texts.
        methods: Likewise.
        target_layers: Likewise, or None; one word of ``suggest_layers`` stands for layers.
        classes: Likewise, or None; numbers are taken too.
        num_samples: A whole number.
        std: A number.
        seed: A whole number.
        scale: Name of a scale.
        alpha: A number in [0, 1].
        colormap: Name of a colour map.
        contrast: A text, or None: one class, or none.
        region: As for ``read_request``.
        reference: As for ``read_request``.
        options: Texts by the names of ``cam_hub.options``.
        limits: How much may be asked for.

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
        image=image,
        model_id=DEFAULT_MODEL,
        method=names[0],
        target_layers=target_layers,
        classes=classes,
        num_samples=num_samples,
        std=std,
        seed=seed,
        alpha=alpha,
        colormap=colormap,
        contrast=contrast,
        region=region,
        reference=reference,
        options=options or {},
        interface=_COMPARE,
        limits=limits,
    )
    words = [name for name in common.target_layers if name in SUGGESTIONS]
    if words and len(common.target_layers) > 1:
        raise InvalidArgument(
            "target_layers", " ".join(common.target_layers), f"{words[0]!r} alone, or layer names"
        )
    wanted = tuple(dict.fromkeys(_written(id, limits) for id in ids))
    columns = read_columns(
        names, _layer_choice(common.target_layers), _class_choice(common.classes)
    )
    if columns.count is not None and columns.count * len(wanted) > limits.max_cells:
        raise TooMuch(
            "models",
            f"{len(wanted)} models × {columns.count} {columns.kind}",
            f"at most {limits.max_cells} maps beside each other",
        )
    return CompareRequest(
        photo=common.photo,
        models=wanted,
        methods=columns.methods,
        target_layers=common.target_layers,
        classes=common.classes,
        num_samples=common.num_samples,
        std=common.std,
        seed=common.seed,
        scale=check_scale(scale),
        alpha=common.alpha,
        colormap=common.colormap,
        contrast=common.contrast,
        region=common.region,
        reference=common.reference,
        options=common.options,
    )


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


def _class_choice(classes: tuple[str, ...]) -> ClassChoice:
    if not classes:
        return None
    return classes[0] if len(classes) == 1 else list(classes)
