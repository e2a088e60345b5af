"""``Cell`` and ``Row``: one map of a comparison, or the reason why there is none."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Literal

from cam_hub.errors import CamHubError, NoMap
from cam_hub.results.explanation import Explanation
from cam_hub.results.maps import Map
from cam_hub.targets.ranking import Prediction

__all__ = ["Cell", "Cost", "Kind", "Row"]

Kind = Literal["methods", "layers", "classes"]
"""What the columns of a comparison are."""


@dataclass(frozen=True)
class Cost:
    """What it took to make a map.

    Attributes:
        seconds: From the photo to the map, without loading the model and looking for its layers.
        forward_passes: The same, in plain forward passes of this model on this photo.
        maps: How many maps came out of this work together; the cost is that of all of them.
    """

    seconds: float
    forward_passes: float
    maps: int


@dataclass(frozen=True, eq=False)
class Cell:
    """One place of the grid.

    Attributes:
        method: Name of the method.
        layer: The layer, as far as it is known.
        class_index: The class, likewise.
        label: Its label.
        probability: In [0, 1]; None where the model gives none.
        explanation: What the map belongs to; None if there is no map. Cells of one row may share
            it.
        cost: What the map took; None where nothing was done.
        error: Why there is no map; None if there is one.
    """

    method: str
    layer: str | None = None
    class_index: int | None = None
    label: str | None = None
    probability: float | None = None
    explanation: Explanation | None = None
    cost: Cost | None = None
    error: CamHubError | None = None

    @cached_property
    def cam(self) -> Map | None:
        """The un-normalised map, float32 ``(rows, cols)``; of a clip the fusion of its steps."""
        if self.explanation is None:
            return None
        return self.explanation.cam(self.class_index, self.layer)

    @property
    def reason(self) -> str:
        """Why there is no map; empty if there is one."""
        if isinstance(self.error, NoMap):
            return self.error.reason  # its message repeats what the cell says already
        return self.error.message if self.error is not None else ""


@dataclass(frozen=True, eq=False)
class Row:
    """One model of the grid.

    Attributes:
        model: Its ID; of a wrapped module its class name.
        cells: One per column.
        predictions: Its most probable classes; empty for a model without classes, and where
            nothing was explained.
        notes: What those who use the model should be told.
        has_random_weights: Whether its weights were drawn rather than trained: what its maps show
            means nothing then.
        loading_seconds: How long it took to have the model, and to know its layers.
        forward_seconds: How long one plain forward pass takes on this photo; None if it failed.
    """

    model: str
    cells: tuple[Cell, ...]
    predictions: tuple[Prediction, ...] = ()
    notes: tuple[str, ...] = ()
    has_random_weights: bool = False
    loading_seconds: float | None = None
    forward_seconds: float | None = None
