"""A timm repo's ``config.json``: read, bounded, checked, and brought to one layout.

timm writes it in one of two layouts: today's, with ``architecture``, ``num_classes``,
``model_args`` and, in ``pretrained_cfg``, what the weights were trained with; and an old flat one,
in which all of that stands side by side. Both are read as timm does; beyond that, labels are also
found under the names that transformers gives them, and unknown keys do no harm.

The origins of weights (``url``, ``file``, ``hf_hub_id`` and the like) are dropped: weights come
from the requested repo only.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from functools import partial
from inspect import signature
from pathlib import Path
from typing import Any

import timm
from timm.models import PretrainedCfg, build_model_with_cfg

from cam_hub._validation import (
    check_constructor,
    check_flag,
    check_image_size,
    check_names,
    check_numbers,
    check_whole,
    check_word,
)
from cam_hub.errors import InvalidArgument, ModelRefused, nearest_names
from cam_hub.images.preprocessing import CROP_MODES, INTERPOLATIONS
from cam_hub.models.labels import card_labels, declared_count, labels_of
from cam_hub.models.repo_files import why_other_library

__all__ = ["CONFIG", "CONFIG_BYTES", "RepoConfig", "read_config"]

CONFIG = "config.json"

CONFIG_BYTES = 4 * 2**20
"""Larger ones are not read. With names and descriptions of 21,841 classes it is some 2 MB."""

_CLASSES = 1_000_000
_CHANNELS = 1024
_SIDE = 4096  # of an input, in pixels
_LARGEST = 2**16  # number among the arguments of a constructor

_ELSEWHERE = frozenset(
    {"url", "file", "state_dict", "hf_hub_id", "hf_hub_filename", "source", "custom_load"}
)
_FIELDS = frozenset(entry.name for entry in fields(PretrainedCfg)) - _ELSEWHERE

# A repo does not decide how timm builds and loads, nor the network's device.
_RESERVED = (
    frozenset(signature(timm.create_model).parameters)
    | frozenset(signature(build_model_with_cfg).parameters)
    | frozenset({"features_only", "device", "dtype"})
) - frozenset({"kwargs"})


@dataclass(frozen=True)
class RepoConfig:
    """A repo's configuration of its model, checked.

    Attributes:
        architecture: Name of the timm architecture, without a tag.
        model_args: Arguments of the architecture's constructor.
        pretrained_cfg: timm's ``PretrainedCfg`` of the weights, as keyword arguments. Labels stand
            in ``label_names`` as they are to be shown, or not at all.
        num_classes: How many classes the weights have, 0 for features alone.
        label_names: One label per class, or None where the repo has none.
        raw: All that ``config.json`` holds.
    """

    architecture: str
    model_args: Mapping[str, Any]
    pretrained_cfg: Mapping[str, Any]
    num_classes: int
    label_names: tuple[str, ...] | None = field(repr=False)
    raw: Mapping[str, Any] = field(repr=False)


def read_config(id: str, path: Path) -> RepoConfig:
    """Reads the configuration of a timm repo.

    Args:
        id: The model's ID, for messages.
        path: The file; labels may also come from a card beside it (``README.md``).

    Raises:
        ModelRefused: If it is too large or no JSON, describes a model of another library or of an
            architecture that timm has not, or holds a value that cannot be.
    """
    raw = _read(id, path)
    if (reason := why_other_library((), None, raw)) is not None:
        raise ModelRefused(id, reason)
    named = raw.get("architecture") if isinstance(raw, dict) else None
    if not isinstance(raw, dict) or named is None:
        raise ModelRefused(
            id,
            f"it is not a timm model (its {CONFIG} names no timm architecture). Repos that timm "
            "can read work.",
        )
    if not isinstance(named, str) or not timm.is_model(named):
        nearest = nearest_names(named, timm.list_models(), 3) if isinstance(named, str) else []
        hint = f" Nearest: {', '.join(nearest)}." if nearest else ""
        shown = repr(named)[:80] if isinstance(named, str) else f"(a {type(named).__name__})"
        raise ModelRefused(
            id, f"the installed timm ({timm.__version__}) has no architecture {shown}.{hint}"
        )
    try:
        return _parse(named.partition(".")[0], raw, path.parent)
    except InvalidArgument as error:
        raise ModelRefused(id, f"in its {CONFIG}, {error}") from error


def _read(id: str, path: Path) -> Any:
    try:
        size = path.stat().st_size
        if size > CONFIG_BYTES:
            raise ModelRefused(
                id, f"its {CONFIG} has {size:,} bytes; at most {CONFIG_BYTES:,} are read."
            )
        return json.loads(path.read_bytes())
    except RecursionError:
        raise ModelRefused(id, f"its {CONFIG} cannot be read (it is nested too deep).") from None
    except ValueError as error:  # of decoding, of JSON, of numbers with thousands of digits
        why = str(error).splitlines()[0][:120]
        raise ModelRefused(id, f"its {CONFIG} cannot be read ({why}).") from error
    except OSError as error:
        why = error.strerror or type(error).__name__
        raise ModelRefused(id, f"its {CONFIG} cannot be read ({why}).") from error


def _parse(architecture: str, raw: Mapping[str, Any], folder: Path) -> RepoConfig:
    """Both layouts to one, as timm does it."""
    args = _mapping("model_args", raw.get("model_args"))
    if raw.get("pretrained_cfg") is None:  # the old, flat layout
        nested = {name: value for name, value in raw.items() if name != "architecture"}
        pool = raw.get("global_pool")
        if isinstance(pool, str):
            args.setdefault("global_pool", pool)
    else:
        nested = _mapping("pretrained_cfg", raw["pretrained_cfg"])
    config = {name: value for name, value in nested.items() if name in _FIELDS}
    labels = {**nested, **raw}
    count = _class_count(labels, args)
    config["num_classes"] = count
    _check(config)
    if taken := sorted(_RESERVED & args.keys()):
        raise InvalidArgument("model_args", taken, "arguments of the network alone")
    others = {name: value for name, value in args.items() if name != "num_classes"}
    check_constructor("model_args", others, _LARGEST)
    _complete(config, args)
    for name in ("label_names", "label_descriptions"):
        config.pop(name, None)
    shown = labels_of(labels, count) or card_labels(folder, count)
    if shown is not None:
        config["label_names"] = shown
    return RepoConfig(architecture, args, config, count, shown, raw)


def _mapping(name: str, value: object) -> dict[str, Any]:
    if value is not None and not isinstance(value, dict):
        raise InvalidArgument(name, value, "an object")
    return dict(value or {})


def _class_count(declared: Mapping[str, Any], args: Mapping[str, Any]) -> int:
    """The number of classes, or the number of labels where none is declared."""
    found = declared.get("num_classes")
    if found is None:
        found = args.get("num_classes")
    if found is None:
        found = declared_count(declared)
    count = check_whole(
        "num_classes", PretrainedCfg.num_classes if found is None else found, 0, _CLASSES
    )
    other = args.get("num_classes", count)
    if other != count:
        # timm would go by the latter, and leave the classifier random.
        raise InvalidArgument("model_args.num_classes", other, f"{count}, as in num_classes")
    return count


_Check = Callable[[str, object], object]

_sizes: _Check = partial(check_image_size, channels=_CHANNELS, side=_SIDE)
_pools: _Check = partial(check_numbers, least=1, most=_SIDE)
_crops: _Check = partial(check_numbers, least=0.01, most=100, count=1)

_CHECKS: Mapping[str, _Check] = {
    "input_size": _sizes,
    "test_input_size": _sizes,
    "min_input_size": _sizes,
    "pool_size": _pools,
    "test_pool_size": _pools,
    "mean": partial(check_numbers, least=-1000, most=1000),
    "std": partial(check_numbers, least=1e-6, most=1000),
    "crop_pct": _crops,
    "test_crop_pct": _crops,
    "crop_mode": partial(check_word, known=CROP_MODES),
    "interpolation": partial(check_word, known=INTERPOLATIONS),
    "fixed_input_size": check_flag,
    "label_offset": partial(check_whole, minimum=0, maximum=_CLASSES),
    "first_conv": check_names,
    "classifier": check_names,
    "architecture": check_names,
    "tag": check_names,
}
"""What decides about building and preprocessing, where it is there and not null."""


def _check(config: Mapping[str, Any]) -> None:
    for name, check in _CHECKS.items():
        if config.get(name) is not None:
            check(name, config[name])


def _complete(config: dict[str, Any], args: Mapping[str, Any]) -> None:
    """Brings the weights' configuration in line with the constructor's arguments, as timm does."""
    if (
        args.get("dynamic_img_size")
        or args.get("strict_img_size") is False
        or args.get("use_naflex")
    ):
        config["fixed_input_size"] = False
    size = config.get("input_size") or PretrainedCfg.input_size
    if (channels := args.get("in_chans")) is not None:
        check_whole("model_args.in_chans", channels, 1, _CHANNELS)
        config["input_size"] = size = [channels, *size[1:]]
        for name in ("test_input_size", "min_input_size"):
            if config.get(name):
                config[name] = [channels, *config[name][1:]]
    if (side := args.get("img_size")) is not None:
        whole = [side, side] if isinstance(side, int) else side
        size = [size[0], *whole] if isinstance(whole, list) else whole
        check_image_size("model_args.img_size", size, _CHANNELS, _SIDE)
        if config.get("fixed_input_size", False):
            config["input_size"] = size
    for name in ("mean", "std"):
        found = config.get(name) or getattr(PretrainedCfg, name)
        if len(found) not in (1, size[0]):
            # As timm has it: of three colours for one channel or four, the mean stands for all.
            config[name] = [sum(found) / len(found)]
