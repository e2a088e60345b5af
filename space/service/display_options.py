"""How a result is looked at: everything that can be changed without running the model."""

from __future__ import annotations

from dataclasses import dataclass

from cam_hub.errors import ClassNotFound, InvalidArgument, LayerNotFound, nearest_names
from cam_hub.results.explanation import Explanation
from cam_hub.results.overlay import COLORMAPS

__all__ = ["SCALES", "VIEWS", "DisplayOptions", "read_display_options"]

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
    return DisplayOptions(
        class_index=class_index,
        layer=layer or None,
        view=_one_of("view", view, VIEWS),
        alpha=_fraction("alpha", alpha, least=0.0),
        colormap=_one_of("colormap", colormap, COLORMAPS),
        threshold=_fraction("threshold", threshold, least=0.01),
        scale=_one_of("scale", scale, SCALES),
    )


def _one_of(argument: str, value: object, known: object) -> str:
    names = list(known)  # type: ignore[call-overload]
    if not isinstance(value, str) or value not in names:
        raise InvalidArgument(argument, value, f"one of {', '.join(names)}")
    return value


def _fraction(argument: str, value: object, *, least: float) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise InvalidArgument(argument, value, "a number")
    if not least <= value <= 1:
        raise InvalidArgument(argument, value, f"a number from {least:g} to 1")
    return float(value)
