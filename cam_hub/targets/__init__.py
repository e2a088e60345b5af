"""Targets: which score is explained; the tasks by name."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from types import MappingProxyType

from cam_hub.errors import InvalidArgument
from cam_hub.targets.base import Task
from cam_hub.targets.classification import Classification, Regression
from cam_hub.targets.detection import Detection
from cam_hub.targets.segmentation import Segmentation
from cam_hub.targets.similarity import Similarity

__all__ = ["TASKS", "make_task"]

TASKS: MappingProxyType[str, type[Task]] = MappingProxyType(
    {
        Classification.name: Classification,
        Regression.name: Regression,
        Similarity.name: Similarity,
        Segmentation.name: Segmentation,
        Detection.name: Detection,
    }
)
"""Name to task. To add one, write a module with a child of ``Task`` and list it here."""


def make_task(
    name: str, *, class_names: Sequence[str] | None = None, multi_label: bool = False
) -> Task:
    """The task of this name for a model of these classes.

    Args:
        name: One of ``TASKS``.
        class_names: One label per class, or None.
        multi_label: Whether any number of classes can be true of one picture.

    Raises:
        InvalidArgument: If there is no such task, or ``multi_label`` makes no sense for it.
    """
    if not isinstance(name, str) or name not in TASKS:
        raise InvalidArgument("task", name, f"one of {', '.join(TASKS)}")
    task = TASKS[name].make(class_names)
    try:
        if not multi_label:
            return task
    except ValueError:  # the truth value of an array
        raise InvalidArgument("multi_label", multi_label, "True or False") from None
    if not isinstance(task, Classification):
        raise InvalidArgument("multi_label", multi_label, f"False for task={name!r}")
    return replace(task, multi_label=True)
