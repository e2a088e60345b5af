"""What networks answer, whatever they wrap it in."""

from __future__ import annotations

from collections.abc import Container, Mapping
from dataclasses import fields, is_dataclass
from typing import Any

from torch import Tensor

from cam_hub.errors import ModelRefused
from cam_hub.hooks.recording import main_tensor

__all__ = ["are_detections", "main_output", "unexpected", "with_batch"]

_MAIN_KEYS = ("logits", "out")
"""Names under which networks that return a mapping keep their main tensor, by convention."""

# Errors of tasks are raised where no model ID is known; whoever knows it puts it in.
_ANY_MODEL = "the model"


def main_output(output: Any) -> Tensor | None:
    """The tensor that an answer is about.

    Args:
        output: A tensor; or a mapping or dataclass, of which ``"logits"`` or ``"out"`` is taken,
            else its first tensor; or a tuple or list (distilled and auxiliary heads), of which the
            first counts.

    Returns:
        None if there is no tensor, or one answer per image (detections).
    """
    if are_detections(output):
        return None
    if isinstance(output, Mapping):
        for key in _MAIN_KEYS:
            if key in output:
                return main_tensor(output[key])
    if is_dataclass(output) and not isinstance(output, type):
        return main_output({field.name: getattr(output, field.name) for field in fields(output)})
    return main_tensor(output)


def with_batch(output: Any, images: int, without: Container[int]) -> Any:
    """An answer with the dimension of the batch, which ``squeeze()`` removes for a single image.

    Args:
        output: What a network returned, or one of its outputs.
        images: How many images were in the batch.
        without: How many dimensions an answer for one image has without the batch.
    """
    if not isinstance(output, Tensor) or images != 1 or output.ndim not in without:
        return output
    return output if output.ndim > 0 and len(output) == 1 else output[None]


def are_detections(output: Any) -> bool:
    """Whether an answer is a list with one mapping per image: boxes, labels and scores."""
    return (
        isinstance(output, (list, tuple))
        and len(output) > 0
        and all(
            isinstance(part, Mapping) and {"boxes", "labels", "scores"} <= set(part)
            for part in output
        )
    )


def unexpected(task: str, output: Any, expected: str) -> ModelRefused:
    """The error for an output that is not of the task's kind, with the task that it looks like."""
    instead = _looks_like(output)
    hint = "" if instead in (None, task) else f"; that looks like {instead}: wrap_model(…, task="
    return ModelRefused(
        _ANY_MODEL,
        f"as a {task} model it should return {expected}, and it returns {_seen(output)}"
        + (f"{hint}{instead!r})" if hint else "")
        + ".",
    )


def _seen(output: Any) -> str:
    if isinstance(output, Tensor):
        kind = "" if output.is_floating_point() else f" and type {output.dtype}"
        return f"a tensor of shape {tuple(output.shape)}{kind}"
    found = main_output(output)
    kind = type(output).__name__
    if found is None:
        return f"no tensor ({kind})"
    return f"a {kind} whose main tensor has shape {tuple(found.shape)}"


def _looks_like(output: Any) -> str | None:
    if are_detections(output):
        return "detection"
    found = main_output(output)
    dimensions = 0 if found is None else found.ndim
    return {2: "classification", 3: "similarity", 4: "segmentation"}.get(dimensions)
