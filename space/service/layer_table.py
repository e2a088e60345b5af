"""A model's layers as a table: what the experiment says, and what each word stands for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from cam_hub.errors import NoMap
from cam_hub.layers.listing import SUGGESTIONS, LayerInfo, list_layers, suggest_layers
from cam_hub.models.loaded_model import LoadedModel

__all__ = ["LayerTable", "make_table"]


@dataclass(frozen=True)
class LayerTable:
    """The layers of one model.

    Attributes:
        model_id: The model's ID.
        layers: All of its layers, in forward order.
        meaning: By each word of ``suggest_layers``, the names that it stands for; none where the
            model has no such layer.
        random_weights: Whether the weights were drawn, not trained.
        notes: What those who use the model should be told.
    """

    model_id: str
    layers: tuple[LayerInfo, ...]
    meaning: Mapping[str, tuple[str, ...]]
    random_weights: bool = False
    notes: tuple[str, ...] = ()

    @property
    def usable(self) -> list[LayerInfo]:
        """The layers that a map can be made from."""
        return [layer for layer in self.layers if layer.usable]

    @property
    def recommended(self) -> LayerInfo | None:
        """The layer to explain when nothing else is asked for, if there is one."""
        return next((layer for layer in self.layers if layer.recommended), None)

    def listed(self, show_all: bool) -> list[LayerInfo]:
        """The rows: the usable layers, or all of them."""
        return list(self.layers) if show_all else self.usable

    def words_of(self, name: str) -> list[str]:
        """The words that stand for a layer, among others."""
        return [word for word, names in self.meaning.items() if name in names]

    def chosen(self, wanted: Sequence[str]) -> set[str]:
        """The layers that a choice comes down to.

        Args:
            wanted: Layer names and words; empty for the recommended layer.
        """
        names: set[str] = set()
        for name in wanted or ("best",):
            names.update(self.meaning.get(name, (name,)))
        return names


def make_table(model: LoadedModel) -> LayerTable:
    """Examines a model, unless its layers are known already.

    Raises:
        CamHubError: As ``cam_hub.list_layers``.
    """
    return LayerTable(
        model_id=model.id,
        layers=tuple(list_layers(model)),
        meaning={word: _meaning(model, word) for word in SUGGESTIONS},
        random_weights=model.pretrained is False,
        notes=(*model.notes, *model.execution.notes),
    )


def _meaning(model: LoadedModel, word: str) -> tuple[str, ...]:
    try:
        return tuple(suggest_layers(model, word))
    except NoMap:
        return ()
