"""Source of the user's own modules."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from torch import nn

from cam_hub._text import clean_line
from cam_hub.clip_preprocessing import ClipPreprocessing
from cam_hub.errors import InvalidArgument, ModelRefused
from cam_hub.geometry import sizes
from cam_hub.guard import unusable, usable_copy
from cam_hub.modes import default_modes
from cam_hub.options import OutputChoice, check_options
from cam_hub.preprocessing import Preprocessing
from cam_hub.sources.base import LoadedModel
from cam_hub.sources.formats import check_form
from cam_hub.tasks.registry import make_task

__all__ = ["wrap_model"]

_IMAGENET_MEAN = (0.485, 0.456, 0.406)
_IMAGENET_STD = (0.229, 0.224, 0.225)


@default_modes()
def wrap_model(
    module: nn.Module,
    *,
    input_size: tuple[int, int, int] | tuple[int, int, int, int] = (3, 224, 224),
    mean: Sequence[float] = _IMAGENET_MEAN,
    std: Sequence[float] = _IMAGENET_STD,
    class_names: Sequence[str] | None = None,
    crop_pct: float = 0.875,
    crop_mode: str = "center",
    interpolation: str = "bilinear",
    id: str | None = None,
    task: str = "classification",
    multi_label: bool = False,
    output: OutputChoice = None,
) -> LoadedModel:
    """Makes a module of your own explainable, without changing it.

    It is put in evaluation mode only while it is explained, and left as it was afterwards. If its
    weights were made under ``torch.inference_mode()``, a copy of it is explained.

    Args:
        module: Takes ``(N, channels, rows, cols)`` and returns what its task asks for: by default
            ``(N, classes)`` scores before softmax. A network of clips takes ``(N, channels,
            frames, rows, cols)``.
        input_size: Channels, rows and columns that photos are brought to; for a network of clips
            channels, frames, rows and columns.
        mean: Mean per channel, of pixels in 0–1, subtracted from photos.
        std: Standard deviation per channel, of pixels in 0–1, that photos are divided by.
        class_names: One label per class.
        crop_pct: The part, in (0, 1], of the resized photo's side that the crop keeps.
        crop_mode: ``"center"`` keeps the aspect ratio and cuts off what is too long,
            ``"squash"`` ignores the aspect ratio, ``"border"`` keeps all and pads.
        interpolation: ``"bilinear"``, ``"bicubic"``, ``"nearest"`` or ``"lanczos"``.
        id: What to call the model in results; by default its class name.
        task: What the module answers, one of ``cam_hub.tasks.registry.TASKS``:
            ``"classification"``; ``"regression"`` for values ``(N, K)`` or ``(N,)``;
            ``"similarity"`` for features ``(N, D)``, ``(N, L, D)`` or
            ``(N, D, rows, cols)``; ``"segmentation"`` for scores ``(N, K, rows, cols)``;
            ``"detection"`` for what torchvision's detectors take and return: a list of images, and
            a list of dictionaries of ``boxes``, ``labels`` and ``scores``.
        multi_label: Of a classifier: any number of classes can be true of one picture, so that
            each score is a logit of its own (sigmoid). A single score always is.
        output: For a module that returns several tensors (a dictionary, tuple, list or dataclass):
            the key or the index of the one that is explained unless ``explain(output=…)`` names
            another, several of these for a nested one, or a function of everything that it
            returns; None for the main one, which results name.

    Raises:
        InvalidArgument: If ``module`` is no module, a number makes no sense, or there is no such
            task.
        ModelRefused: If it was scripted, traced, frozen or exported, or its weights have no values
            (the meta device).
    """
    check_form(module, id or type(module).__name__)
    if not isinstance(module, nn.Module):
        raise InvalidArgument("module", module, "a torch.nn.Module")
    module, notes = _with_usable_tensors(id or type(module).__name__, module)
    names = tuple(map(clean_line, class_names)) if class_names is not None else None
    frames, size = _frames_and_size(input_size)
    preprocessing = Preprocessing(
        input_size=size,
        mean=tuple(mean),
        std=tuple(std),
        crop_pct=crop_pct,
        crop_mode=crop_mode,
        interpolation=interpolation,
    )
    return LoadedModel(
        id=clean_line(id or type(module).__name__),
        module=module,
        preprocessing=ClipPreprocessing(preprocessing, frames) if frames else preprocessing,
        class_names=names,
        source="module",
        task=replace(
            make_task(task, class_names=names, multi_label=multi_label),
            wanted=check_options({"output": output})["output"],
        ),
        notes=notes,
    )


def _with_usable_tensors(id: str, module: nn.Module) -> tuple[nn.Module, tuple[str, ...]]:
    """The module, or a copy of it without inference tensors, and what to note about that.

    Raises:
        ModelRefused: If it holds tensors without values, or cannot be copied.
    """
    reason = unusable(module)
    if reason is None:
        return module, ()
    copied = usable_copy(module)
    if copied is None or (reason := unusable(copied)) is not None:
        raise ModelRefused(id, reason)
    return copied, (
        f"The weights of {id} were made under torch.inference_mode(). A copy is explained; later "
        "changes of the module itself do not count.",
    )


def _frames_and_size(input_size: Sequence[int]) -> tuple[int | None, Sequence[int]]:
    """Frames of a clip, or None for an image; channels, rows and columns."""
    if isinstance(input_size, Sequence) and len(input_size) == 4:
        channels, frames, rows, cols = sizes("input_size", input_size, 4)
        return frames, (channels, rows, cols)
    return None, input_size
