"""One class in models of different label sets."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from cam_hub.attribution.compare_columns import Class
from cam_hub.errors import ClassNotFound
from cam_hub.targets.classes import choose_classes

__all__ = ["own_class"]


def own_class(wanted: Class, names: Sequence[str] | None) -> Class:
    """A class as one model names it.

    Label sets differ in how many names they give a class: where one says "lion, king of beasts,
    Panthera leo", another one says "lion". So a label that a model lacks is looked for by each of
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
