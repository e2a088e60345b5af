"""Source of the user's own modules."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from timm.data.config import resolve_data_config
from torch import nn

from cam_hub._text import clean_line
from cam_hub._validation import check_sizes, with_hints
from cam_hub.errors import InvalidArgument, ModelRefused
from cam_hub.hooks.frozen_eval import unusable, usable_copy
from cam_hub.hooks.modes import default_modes
from cam_hub.images.clips import ClipPreprocessing
from cam_hub.images.preprocessing import Preprocessing
from cam_hub.images.transforms import TransformPreprocessing, read_transform
from cam_hub.models.config import ClassNames, read_class_names
from cam_hub.models.loaded_model import LoadedModel
from cam_hub.models.network import check_form
from cam_hub.options import OutputChoice, check_options
from cam_hub.sources.timm import labels_of
from cam_hub.targets import make_task
from cam_hub.targets.classes import Names
from cam_hub.targets.classification import Classification

__all__ = ["wrap_model"]

Numbers = float | Sequence[float]

_IMAGENET_MEAN = (0.485, 0.456, 0.406)
_IMAGENET_STD = (0.229, 0.224, 0.225)
_SIDES = (224, 224)

_LOG = logging.getLogger("cam_hub")


@with_hints
@default_modes()
def wrap_model(
    module: nn.Module,
    *,
    input_size: tuple[int, int, int] | tuple[int, int, int, int] | None = None,
    mean: Numbers | None = None,
    std: Numbers | None = None,
    class_names: ClassNames = None,
    crop_pct: float | None = None,
    crop_mode: str | None = None,
    interpolation: str | None = None,
    transform: Callable[..., Any] | None = None,
    id: str | None = None,
    task: str = "classification",
    multi_label: bool = False,
    output: OutputChoice = None,
) -> LoadedModel:
    """Makes a module of your own explainable, without changing it.

    It is put in evaluation mode only while it is explained, and left as it was afterwards. If its
    weights were made under ``torch.inference_mode()``, a copy of it is explained.

    Preprocessing and labels that are not given are those that the module declares in its
    ``pretrained_cfg`` (timm's models have one), else those of the only part that declares one.
    ``notes`` of the result states what was assumed.

    Args:
        module: Takes ``(N, channels, rows, cols)`` and returns what its task asks for: by default
            ``(N, classes)`` scores before softmax. A network of clips takes ``(N, channels,
            frames, rows, cols)``.
        input_size: Channels, rows and columns that photos are brought to; for a network of clips
            channels, frames, rows and columns. ``(3, 224, 224)`` if nothing is declared.
        mean: Mean per channel, of pixels in 0-1, subtracted from photos; one number for all
            channels. If nothing is declared, ImageNet's, and 0.5 where there are not three
            channels.
        std: Standard deviation per channel, of pixels in 0-1, that photos are divided by; as
            ``mean``.
        class_names: One label per class: a sequence, a dict from index to label (``id2label``), or
            one from label to index. For a network with one logit one name (of class 1; class 0 is
            "not" that) or two. Their number is compared with that of the scores in the first
            forward pass.
        crop_pct: The part, in (0, 1], of the resized photo's side that the crop keeps; 0.875 if
            nothing is declared.
        crop_mode: ``"center"`` keeps the aspect ratio and cuts off what is too long,
            ``"squash"`` ignores the aspect ratio, ``"border"`` keeps all and pads. ``"center"`` if
            nothing is declared.
        interpolation: ``"bilinear"``, ``"bicubic"``, ``"nearest"`` or ``"lanczos"``;
            ``"bilinear"`` if nothing is declared.
        transform: In the place of all of these: a function from an RGB picture (``PIL.Image``) to
            the model's input, such as ``weights.transforms()`` of torchvision, a ``Compose``, an
            albumentations pipeline or a processor of transformers. Where photos come to lie in the
            input is measured. If they do not lie there upright and unwarped, heatmaps are placed
            on the model's input instead of the photo, and results report this.
        id: What to call the model in results; by default its class name.
        task: What the module answers, one of ``cam_hub.targets.TASKS``:
            ``"classification"``; ``"regression"`` for values ``(N, K)`` or ``(N,)``;
            ``"similarity"`` for features ``(N, D)``, ``(N, L, D)`` or
            ``(N, D, rows, cols)``; ``"segmentation"`` for scores ``(N, K, rows, cols)``;
            ``"detection"`` for what torchvision's detectors take and return: a list of images, and
            a list of dictionaries of ``boxes``, ``labels`` and ``scores``.
        multi_label: For a classifier: whether any number of classes can be true of one picture, so
            that each score is a logit of its own (sigmoid). A single score always is.
        output: For a module that returns several tensors (a dictionary, tuple, list or dataclass):
            the key or the index of the one that is explained unless ``explain(output=…)`` names
            another, several of these for a nested one, or a function of everything that it
            returns; None for the main one, which results name.

    Raises:
        InvalidArgument: If ``module`` is not a module, a number makes no sense, there is no such
            task, ``class_names`` are not one label per class, or ``transform`` fails, is random or
            is given along with what it replaces.
        ModelRefused: If it was scripted, traced, frozen or exported, or its weights have no values
            (the meta device).
    """
    if id is not None and not isinstance(id, str):
        raise InvalidArgument("id", id, "a text")
    check_form(module, id or type(module).__name__)
    if not isinstance(module, nn.Module):
        raise InvalidArgument("module", module, "a torch.nn.Module")
    module, found = _with_usable_tensors(id or type(module).__name__, module)
    given = {
        "input_size": input_size,
        "mean": mean,
        "std": std,
        "crop_pct": crop_pct,
        "crop_mode": crop_mode,
        "interpolation": interpolation,
    }
    given = {name: value for name, value in given.items() if value is not None}
    notes = list(found)
    config, part = _declared(module)
    if transform is not None:
        preprocessing = _from_transform(transform, given, notes)
    else:
        preprocessing = _from_values(module, given, config, part, notes)
    names = read_class_names(class_names)
    made = make_task(task, class_names=names, multi_label=multi_label)
    if isinstance(made, Classification) and names is None and part == "" and config:
        names = labels_of(config, getattr(module, "num_classes", None))
        made = replace(made, names=Names(names, declared=True) if names else None)
    for note in notes:
        _LOG.info("%s: %s", id or type(module).__name__, note)
    if isinstance(made, Classification) and made.names is not None:
        names = made.names.both
    made = replace(made, wanted=check_options({"output": output})["output"])
    return LoadedModel(
        id=clean_line(id or type(module).__name__),
        module=module,
        preprocessing=preprocessing,
        class_names=names,
        source="module",
        task=made,
        notes=tuple(notes),
    )


def _with_usable_tensors(id: str, module: nn.Module) -> tuple[nn.Module, tuple[str, ...]]:
    """The module, or a copy of it without inference tensors, and what to note about that."""
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


def _from_transform(
    transform: Callable[..., Any], given: Mapping[str, Any], notes: list[str]
) -> Preprocessing | TransformPreprocessing | ClipPreprocessing:
    """The preprocessing that a function does."""
    if others := [name for name in given if name != "input_size"]:
        expected = f"None along with {', '.join(others)}: the transform replaces them"
        raise InvalidArgument("transform", type(transform).__name__, expected)
    frames, size = _frames_and_size(given.get("input_size", (3, *_SIDES)))
    if frames:
        try:
            return ClipPreprocessing.from_torchvision(transform, frames)
        except InvalidArgument:
            expected = "one of torchvision's video presets, for a network of clips"
            raise InvalidArgument("transform", type(transform).__name__, expected) from None
    found = read_transform(transform)
    if "input_size" in given and tuple(found.input_size) != tuple(
        check_sizes("input_size", size, 3)
    ):
        expected = f"{found.input_size}, which the transform gives; or None"
        raise InvalidArgument("input_size", given["input_size"], expected)
    if isinstance(found, TransformPreprocessing) and found.place((320, 240)) is None:
        notes.append(
            "where a photo lies in the result of the transform is not known: heatmaps are placed "
            "on the model's input, which is shown in the place of the photo"
        )
    return found


def _from_values(
    module: nn.Module,
    given: dict[str, Any],
    config: Mapping[str, Any],
    part: str,
    notes: list[str],
) -> Preprocessing | ClipPreprocessing:
    """The preprocessing of arguments, of what the module declares, and of defaults."""
    values = {**config, **given}
    frames, size = _frames_and_size(values.get("input_size", (3, *_SIDES)))
    channels = check_sizes("input_size", size, 3)[0]
    if config and "input_size" not in given and (found := _channels_of(module)):
        channels = found
    sides = tuple(size[1:])
    if config and "input_size" not in given and (built := _sides_of(module)):
        sides = built
    size = (channels, *sides)
    for name, default in (("mean", _IMAGENET_MEAN), ("std", _IMAGENET_STD)):
        if name in given:
            values[name] = _per_channel(name, given[name], channels)
        elif len(values.get(name, ())) == channels:
            values[name] = tuple(values[name])
        elif channels == len(default):
            values[name] = default
        else:
            values[name] = (0.5,) * channels
            notes.append(f"{name} is not known for {channels} channels; 0.5 is assumed")
    _check_normalisation(values["mean"], values["std"])
    used = [name for name in ("input_size", "mean", "std") if name in config and name not in given]
    if part and used:
        notes.append(f"{', '.join(used)} are those that its part {part!r} declares")
    preprocessing = Preprocessing(
        input_size=size,
        mean=values["mean"],
        std=values["std"],
        crop_pct=values.get("crop_pct", 0.875),
        crop_mode=values.get("crop_mode", "center"),
        interpolation=values.get("interpolation", "bilinear"),
    )
    return ClipPreprocessing(preprocessing, frames) if frames else preprocessing


def _declared(module: nn.Module) -> tuple[dict[str, Any], str]:
    """The preprocessing that a module, or its only part that does so, declares; and which part.

    Fields of timm's data config, none if nothing usable is declared; an empty name for the module.
    """
    found = {"": config} if (config := _config_of(module)) else {}
    if not found:
        parts = ((name, _config_of(child)) for name, child in module.named_modules() if name)
        found = {name: config for name, config in parts if config}
    if len({repr(sorted(config.items(), key=str)) for config in found.values()}) != 1:
        return {}, ""
    part, config = next(iter(found.items()))
    try:
        data = resolve_data_config(pretrained_cfg=config, use_test_size=False, verbose=False)
        fields = ("input_size", "mean", "std", "crop_pct", "crop_mode", "interpolation")
        values = {name: data[name] for name in fields if data.get(name) is not None}
        Preprocessing.from_timm(values)
        _check_normalisation(values["mean"], values["std"])
    except Exception:  # noqa: BLE001  (whatever another library keeps under this name)
        return {}, ""
    return values, part


def _config_of(module: nn.Module) -> dict[str, Any] | None:
    """What timm's models keep as ``pretrained_cfg``, formerly as ``default_cfg``."""
    for name in ("pretrained_cfg", "default_cfg"):
        found = getattr(module, name, None)
        if found is not None and callable(getattr(found, "to_dict", None)):
            found = found.to_dict()
        if isinstance(found, Mapping) and {"mean", "std", "input_size"} & set(found):
            return dict(found)
    return None


def _channels_of(module: nn.Module) -> int | None:
    """Channels that a network of timm's was built for, which its configuration does not follow."""
    declared = _config_of(module) or {}
    first = declared.get("first_conv")
    try:
        layer = module.get_submodule(first) if isinstance(first, str) else None
    except AttributeError:
        return None
    channels = getattr(layer, "in_channels", None)
    return channels if isinstance(channels, int) else None


def _sides_of(module: nn.Module) -> tuple[int, int] | None:
    """Rows and columns that a network of timm's was built for, where it takes no others."""
    patches = getattr(module, "patch_embed", None)
    found = getattr(patches, "img_size", None)
    if not getattr(patches, "strict_img_size", False) or not isinstance(found, Sequence):
        return None
    sides = tuple(found)
    return sides if len(sides) == 2 and all(isinstance(side, int) for side in sides) else None


def _frames_and_size(input_size: Sequence[int]) -> tuple[int | None, Sequence[int]]:
    """Frames of a clip, or None for an image; channels, rows and columns."""
    if isinstance(input_size, Sequence) and len(input_size) == 4:
        channels, frames, rows, cols = check_sizes("input_size", input_size, 4)
        return frames, (channels, rows, cols)
    return None, input_size


def _per_channel(name: str, value: Any, channels: int) -> tuple[float, ...]:
    """One number per channel; a single number is that of all."""
    try:
        found = np.asarray(value)
        if found.dtype.kind not in "fiu":  # texts, None, yes and no
            raise TypeError
        found = found.astype(np.float64)
    except (TypeError, ValueError):
        raise InvalidArgument(name, value, f"{channels} numbers, one per channel") from None
    if found.ndim == 0:
        found = np.repeat(found, channels)
    if found.shape != (channels,) or not np.isfinite(found).all():
        counted = f", and {found.size} were given" if found.size != channels else ""
        expected = f"{channels} finite numbers, one per channel{counted}"
        raise InvalidArgument(name, value, expected)
    return tuple(found.tolist())


def _check_normalisation(mean: Sequence[float], std: Sequence[float]) -> None:
    """Refuses what is not a mean and deviation of pixels in 0-1, and states what it may be."""
    wrong = [each for each in mean if not 0 <= each <= 1]
    if wrong:
        raise InvalidArgument("mean", tuple(mean), _mean_hint(mean, std, wrong))
    wrong = [each for each in std if not 0 < each <= 1]
    if wrong:
        expected = "numbers above 0 and at most 1, as deviations of pixels in 0-1"
        if all(1 < each < 256 for each in std):
            scaled = ", ".join(f"{each / 255:.3g}" for each in std)
            expected += f"; these look like pixels in 0-255: divide by 255, ({scaled})"
        elif wrong[0] > 1:
            expected += f"; {wrong[0]:g} looks like a typo{_shifted(wrong[0])}"
        elif any(each > 0 for each in std) or wrong[0] < 0:
            expected += f"; {wrong[0]:g} is not one"
        raise InvalidArgument("std", tuple(std), expected)
    if tiny := [each for each in std if each < 1e-3]:
        expected = f"deviations of pixels in 0-1, and {tiny[0]:g} would make every photo extreme"
        raise InvalidArgument("std", tuple(std), expected)


def _mean_hint(mean: Sequence[float], std: Sequence[float], wrong: Sequence[float]) -> str:
    expected = "numbers from 0 to 1, as means of pixels in 0-1"
    if all(1 < each < 256 for each in mean):
        scaled = ", ".join(f"{each / 255:.3g}" for each in mean)
        expected += f"; these look like pixels in 0-255: divide by 255, mean=({scaled})"
        if all(each == 1 for each in std):
            expected += (
                f", and std by 255, too, std=({', '.join([f'{1 / 255:.3g}'] * len(std))}). With a "
                "std of 1, as Caffe's networks have them, the channels are often blue, green, red: "
                "then give a transform= that swaps them"
            )
        elif all(each > 1 for each in std):
            expected += f", std=({', '.join(f'{each / 255:.3g}' for each in std)})"
        return expected
    if any(each < 0 for each in wrong) and all(-1 <= each <= 1 for each in mean):
        return f"{expected}; for inputs in -1 to 1, mean=0.5 and std=0.5"
    return f"{expected}; {wrong[0]:g} looks like a typo{_shifted(wrong[0])}"


def _shifted(value: float) -> str:
    """The same digits as a number below 1."""
    digits = value
    while abs(digits) > 1:
        digits /= 10
    return f" for {digits:.3g}" if 0 < digits <= 1 else ""
