"""The columns of a comparison: methods, layers or classes."""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from cam_hub.attribution.choice import AUTO, method_name
from cam_hub.errors import ClassNotFound, InvalidArgument
from cam_hub.layers.listing import FAITHFUL, LAYER_KEYWORDS
from cam_hub.methods import METHODS
from cam_hub.results.comparison_grid import Kind
from cam_hub.targets.classes import ClassChoice, Top, choose_classes, is_iterable, parse_top

__all__ = ["Class", "Columns", "own_class", "read_columns"]


_MAX_COLUMNS = 1000

Class = int | str
"""A class by its index or its label."""


@dataclass(frozen=True)
class Columns:
    """The methods, layers and classes of a comparison; several values in one of the three at most.

    Attributes:
        kind: Which of them the columns are; ``"methods"`` where each has one value.
        methods: Canonical names.
        layers: A word that stands for layers, names, or None for the recommended one.
        classes: Indices, labels and ``Top`` for a model's own best; ``Top`` alone; None for its
            predicted one; or a function of what the network returns.
    """

    kind: Kind
    methods: tuple[str, ...]
    layers: str | tuple[str, ...] | None
    classes: Top | tuple[Class | Top, ...] | Callable[[Any], Any] | None

    @property
    def count(self) -> int | None:
        """How many there are; None for a word, which each model answers with layers of its own."""
        if self.kind == "methods":
            return len(self.methods)
        if self.kind == "layers":
            return len(self.layers) if isinstance(self.layers, tuple) else None
        return len(self.class_columns)

    @property
    def class_columns(self) -> tuple[tuple[Class | Top, int], ...]:
        """One entry per class: what was named, and for ``Top`` the rank, from 0."""
        if self.classes is None or callable(self.classes):
            return ()
        named = (self.classes,) if isinstance(self.classes, Top) else self.classes
        return tuple(
            (item, rank)
            for item in named
            for rank in range(item.count if isinstance(item, Top) else 1)
        )

    def class_name(self, place: int) -> str | None:
        """The class of a column as it was named; None for one that depends on the model."""
        columns = self.class_columns
        if not columns:
            return None
        item, _ = columns[place if self.kind == "classes" else 0]
        return None if isinstance(item, Top) else str(item)

    def titles(self, count: int) -> tuple[str, ...]:
        """What stands above the columns, of which there turned out to be ``count``."""
        if self.kind == "methods":
            return tuple(METHODS[name].title if name != AUTO else "Auto" for name in self.methods)
        if self.kind == "layers" and isinstance(self.layers, tuple):
            return self.layers
        if self.kind == "classes" and isinstance(self.classes, tuple):
            return tuple(
                str(item)
                if not isinstance(item, Top)
                else "predicted"
                if item.count == 1
                else f"predicted {rank + 1}"
                for item, rank in self.class_columns
            )
        word = "layer" if self.kind == "layers" else "class"
        return tuple(f"{word} {number}" for number in range(1, count + 1))


def read_columns(methods: str | Iterable[str], layers: Any, classes: ClassChoice) -> Columns:
    """Checks methods, layers and classes without any model.

    Args:
        methods: A method's name, or several.
        layers: A layer's name, several, a word of ``suggest_layers``, or None.
        classes: A class index, a label, ``top(count)``, several of these, a function of what the
            network returns, or None.

    Returns:
        The columns, without repetitions.

    Raises:
        MethodNotFound: If there is no such method.
        InvalidArgument: If something is of another type, empty, or more than one of the three has
            several values.
    """
    names = _methods(methods)
    layer_choice, class_choice = _layers(layers), _classes(classes)
    several: dict[Kind, bool] = {
        "methods": len(names) > 1,
        "layers": layer_choice not in (None, "best", FAITHFUL)
        and (isinstance(layer_choice, str) or len(layer_choice or ()) > 1),
        "classes": len(Columns("classes", names, None, class_choice).class_columns) > 1,
    }
    kinds = [kind for kind, many in several.items() if many]
    if len(kinds) > 1:
        raise InvalidArgument(
            "columns",
            " and ".join(kinds),
            "several methods, several layers or several classes, one of the three: these are the "
            "columns, and the models are the rows",
        )
    return Columns(kinds[0] if kinds else "methods", names, layer_choice, class_choice)


def _methods(methods: Any) -> tuple[str, ...]:
    wanted = [methods] if isinstance(methods, str) else _listed("methods", methods)
    return tuple(dict.fromkeys(map(method_name, wanted)))


def _layers(layers: Any) -> str | tuple[str, ...] | None:
    if layers is None or (isinstance(layers, str) and layers in LAYER_KEYWORDS):
        return layers
    wanted = [layers] if isinstance(layers, str) else _listed("target_layers", layers)
    for name in wanted:
        if not isinstance(name, str):
            raise InvalidArgument(
                "target_layers", name, "layer names, since a module belongs to one model"
            )
    return tuple(dict.fromkeys(wanted))


def _classes(classes: Any) -> Top | tuple[Class | Top, ...] | Callable[[Any], Any] | None:
    if classes is None:
        return None
    if isinstance(classes, (str, Top)):
        classes = [classes]
    if callable(classes):
        chosen: Callable[[Any], Any] = classes
        return chosen
    try:
        return (operator.index(classes),)
    except TypeError:
        wanted = _listed("classes", classes)
    found = tuple(dict.fromkeys(map(_class, wanted)))
    if sum(item.count if isinstance(item, Top) else 1 for item in found) > _MAX_COLUMNS:
        raise InvalidArgument("classes", classes, f"at most {_MAX_COLUMNS:,} columns")
    return found[0] if len(found) == 1 and isinstance(found[0], Top) else found


def _class(item: Any) -> Class | Top:
    if isinstance(item, str):
        return parse_top(item) or item
    if isinstance(item, Top):
        return item
    try:
        if isinstance(item, bool):
            raise TypeError
        return operator.index(item)
    except TypeError:
        raise InvalidArgument("classes", item, "class indices, labels or top(count)") from None


def _listed(argument: str, value: Any) -> list[Any]:
    found = list(value) if is_iterable(value) else []
    if not found:
        raise InvalidArgument(argument, value, "a name, or several")
    return found


def own_class(wanted: Class, names: Sequence[str] | None) -> Class:
    """A class as one model names it.

    Label sets differ in how many names they give a class: where one has "lion, king of beasts,
    Panthera leo", another one has "lion". So a label that a model lacks is looked for by each of
    its comma-separated names. An index means what it means in each model.

    Args:
        wanted: An index or a label.
        names: The model's labels, or None.

    Returns:
        The index of a label; anything that only a pass can judge as it is.

    Raises:
        ClassNotFound: If the model has labels and none fits, or several do.
    """
    if not isinstance(wanted, str):
        return wanted
    if not names:
        return int(wanted) if wanted.strip().isdecimal() else wanted
    ranking = torch.zeros(len(names))
    try:
        return choose_classes([wanted], ranking, names)[0]
    except ClassNotFound as error:
        for part in wanted.split(","):
            try:
                if not part.strip().isdecimal():
                    return choose_classes([part], ranking, names)[0]
            except ClassNotFound:
                continue
        raise error
