"""A model that answers a search, and how the Hub describes one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from cam_hub._text import clean_line
from cam_hub.errors import ModelNotFound
from cam_hub.models.model_id import ModelId

__all__ = ["ModelHit", "read_hit"]

_TASKS = (None, "image-classification", "image-feature-extraction", "feature-extraction")
"""What a repo may call the task of a model that can be explained; many do not say."""

_WIDTHS = {"64": 8, "32": 4, "16": 2, "8": 1}
"""Bytes of a number, by the digits that safetensors' names of types hold (F32, BF16, I8)."""


@dataclass(frozen=True)
class ModelHit:
    """A model that answers a search.

    Attributes:
        id: What ``load_model`` takes.
        source: ``"hub"`` if the Hub listed it, ``"torchvision"``, or ``"timm"`` for weights that
            timm knows by name.
        downloads: In the last month, as the Hub counts.
        likes: On the Hub.
        parameters: How many.
        bytes: Size of the weights.
        licence: As the repo's card names it, such as ``"apache-2.0"``.
        gated: Whether terms must be accepted on the Hub first.
        private: Whether only some accounts may read it.
        task: As the Hub calls it, such as ``"image-classification"``.
        library: Likewise, ``"timm"`` or ``"torchvision"``.

    What is not known is None.
    """

    id: str
    source: str
    downloads: int | None = None
    likes: int | None = None
    parameters: int | None = None
    bytes: int | None = None
    licence: str | None = None
    gated: bool = False
    private: bool = False
    task: str | None = None
    library: str | None = None


def read_hit(row: Mapping[str, Any]) -> ModelHit | None:
    """A repo as the Hub describes it; None if it is not for this package.

    The Hub's own fields are as they should be, but what comes out of cards is anybody's.
    """
    id, library, task = row.get("id"), row.get("library_name"), row.get("pipeline_tag")
    if library not in (None, "timm") or task not in _TASKS or row.get("disabled"):
        return None
    try:
        name = str(ModelId("hub", str(id)))
    except ModelNotFound:
        return None
    parameters, size = _weights(row.get("safetensors"))
    return ModelHit(
        id=name,
        source="hub",
        downloads=_number(row.get("downloads")),
        likes=_number(row.get("likes")),
        parameters=parameters,
        bytes=size,
        licence=_licence(row),
        gated=bool(row.get("gated")),
        private=bool(row.get("private")),
        task=task,
        library=library,
    )


def _weights(described: object) -> tuple[int | None, int | None]:
    """Parameters, and their bytes, out of what the Hub read in a safetensors file's header."""
    if not isinstance(described, Mapping):
        return None, None
    kinds = described.get("parameters")
    if not isinstance(kinds, Mapping) or not kinds:
        return _number(described.get("total")), None
    counts = {str(kind): _number(count) or 0 for kind, count in kinds.items()}
    sizes = [
        count * next((width for digits, width in _WIDTHS.items() if digits in kind), 1)
        for kind, count in counts.items()
    ]
    return _number(described.get("total")) or sum(counts.values()), sum(sizes)


def _licence(row: Mapping[str, Any]) -> str | None:
    card, tags = row.get("cardData"), row.get("tags")
    named = card.get("license") if isinstance(card, Mapping) else None
    if isinstance(named, str) and named:
        return clean_line(named, 60)
    marked = [tag for tag in tags if isinstance(tag, str)] if isinstance(tags, list) else []
    return next((clean_line(tag[8:], 60) for tag in marked if tag.startswith("license:")), None)


def _number(value: object) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) and value >= 0 else None
