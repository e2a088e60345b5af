"""A timm repo's ``config.json``, read, bounded, checked and brought to one layout; class names.

timm writes it in one of two layouts: today's, with ``architecture``, ``num_classes``,
``model_args`` and, in ``pretrained_cfg``, what the weights were trained with; and an old flat one,
in which all of that stands side by side. Both are read as timm does; beyond that, labels are also
found under the names that transformers gives them, and unknown keys do no harm.

The origins of weights (``url``, ``file``, ``hf_hub_id`` and the like) are dropped: weights come
from the requested repo only.

Class names are given by the caller, or stand in one of the files of a repo.
"""

from __future__ import annotations

import json
import operator
import re
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, fields
from functools import partial
from inspect import signature
from pathlib import Path
from typing import Any

import timm
import yaml
from timm.models import PretrainedCfg, build_model_with_cfg

from cam_hub._text import clean_line
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
from cam_hub.models.repo_files import why_other_library

__all__ = [
    "CARD",
    "CONFIG",
    "CONFIG_BYTES",
    "ClassNames",
    "RepoConfig",
    "read_class_names",
    "read_config",
]


ClassNames = Iterable[object] | Mapping[Any, Any] | None
"""Labels in the order of the classes; or index to label (``id2label``); or label to index."""

_EXPECTED = (
    "one label per class: a list, a dict from index to label ({0: 'cat', 1: 'dog'}), or one from "
    "label to index"
)
_MAX_SHOWN = 5


def read_class_names(value: ClassNames) -> tuple[str, ...] | None:
    """The labels of the classes, by index.

    A dict is read by index: its keys, or else its values, are all the indices from 0 on, as whole
    numbers or as texts such as ``"7"`` (JSON has no other keys). Where both are, the keys count.
    Several classes may have the same label; they then differ by their index only.

    Args:
        value: Labels, as :data:`ClassNames`; anything that can be iterated over once (an array, a
            pandas Series, a generator), or None.

    Returns:
        At least one label, or None for None.

    Raises:
        InvalidArgument: It is a single text, empty, no collection of labels, or a dict in which
            an index is missing or occurs twice.
    """
    if value is None:
        return None
    if isinstance(value, (str, bytes)):
        expected = f"{_EXPECTED}; for a single class, [{value!r}]"
        raise InvalidArgument("class_names", value, expected)
    if isinstance(value, (set, frozenset)):
        raise InvalidArgument("class_names", value, f"{_EXPECTED}; a set has no order")
    if hasattr(value, "to_dict") and not callable(getattr(value, "index", None)):
        value = value.to_dict()  # a pandas Series, whose index need not be in order
    if isinstance(value, Mapping):
        items: list[Any] = _by_index(value)
    else:
        try:
            items = list(value)
        except TypeError:
            raise InvalidArgument("class_names", value, _EXPECTED) from None
    if not items:
        raise InvalidArgument("class_names", value, f"{_EXPECTED}, and there are none; or None")
    return tuple(_label(item, position) for position, item in enumerate(items))


def _by_index(value: Mapping[Any, Any]) -> list[Any]:
    """The labels of a dict, in the order of their indices."""
    pairs = [(_index(key), label) for key, label in value.items()]
    if any(index is None for index, _ in pairs):
        pairs = [(_index(index), key) for key, index in value.items()]
    if any(index is None for index, _ in pairs):
        raise InvalidArgument("class_names", _some(value), _EXPECTED)
    found: dict[int, Any] = {}
    for index, label in pairs:
        if index is None or index in found:
            raise InvalidArgument("class_names", _some(value), f"one label for class {index}")
        found[index] = label
    missing = [index for index in range(len(found)) if index not in found]
    if missing:
        hint = " (they start at 1; shift them by one)" if missing == [0] else ""
        expected = f"indices from 0 to {len(found) - 1}, and {missing[0]} is missing{hint}"
        raise InvalidArgument("class_names", _some(value), expected)
    return [found[index] for index in range(len(found))]


def _index(value: object) -> int | None:
    """A class index, or None; also as a text or a number of numpy's."""
    if isinstance(value, bool):
        return None
    if isinstance(value, str):
        text = value.strip()
        return int(text) if text.isascii() and text.isdigit() and len(text) < 10 else None
    if isinstance(value, float):
        return int(value) if value.is_integer() and value >= 0 else None
    try:
        index = operator.index(value)  # type: ignore[arg-type]  # refused by the TypeError
    except TypeError:
        return None
    return index if index >= 0 else None


def _label(item: object, position: int) -> str:
    """One label as a text in one line; numbers are written out."""
    if isinstance(item, bytes):
        item = item.decode("utf-8", "replace")
    if not isinstance(item, (str, int, float)):
        with suppress(AttributeError, TypeError, ValueError, RuntimeError):
            item = item.item()  # type: ignore[attr-defined]  # a scalar of numpy's
    if isinstance(item, float) and item != item:  # noqa: PLR0124  (pandas' missing value)
        item = None
    if not isinstance(item, (str, int, float)):
        expected = f"texts, and the label of class {position} is {item!r}"
        raise InvalidArgument("class_names", item, expected)
    return clean_line(str(item)) or f"class {position}"


def _some(value: Mapping[Any, Any]) -> dict[Any, Any]:
    """The first entries, for a message."""
    return dict(list(value.items())[:_MAX_SHOWN])


CARD = "README.md"
"""The card of a repo; the facts stand in front of its text."""

_CARD_CHARS = 2**16
_LABEL_CHARS = 200
_BRACKETS = 32
_KEYS = ("label_names", "labels", "id2label")
_PLACEHOLDER = re.compile(r"LABEL_\d+\Z")
_FRONT = re.compile(r"\A\ufeff?---[ \t]*\n(.*?)\n---[ \t]*(?:\n|\Z)", re.DOTALL)


class _CardLoader(yaml.SafeLoader):  # type: ignore[misc]
    """yaml's safe loader without what takes more than linear time.

    Merged aliases grow exponentially, and the scanner takes a step for every open bracket at each
    token.
    """

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        """Composes a value, unless it is an alias."""
        if self.check_event(yaml.AliasEvent):
            raise yaml.YAMLError("a card with an alias")
        node: yaml.Node | None = super().compose_node(parent, index)
        return node

    def fetch_flow_collection_start(self, TokenClass: Any) -> None:  # noqa: N803 (yaml's name)
        """Scans a bracket that opens, unless there are many of them."""
        if self.flow_level > _BRACKETS:
            raise yaml.YAMLError("a card of brackets in brackets")
        super().fetch_flow_collection_start(TokenClass)


def _labels(config: Mapping[str, Any], count: int) -> tuple[str, ...] | None:
    """The labels that a configuration or a card declares, one per class.

    ``label_descriptions`` take the place of ``label_names``. None if there are none, not so many,
    or only placeholders such as ``LABEL_7``.
    """
    for found in _candidates(config):
        try:
            texts = _texts(found, count)
            if texts is not None and not all(map(_PLACEHOLDER.match, texts)):
                descriptions = config.get("label_descriptions")
                if isinstance(descriptions, Mapping):
                    texts = tuple(_text(descriptions.get(text, text)) for text in texts)
                return texts
        except ValueError:
            continue
    return None


def _declared_count(config: Mapping[str, Any]) -> int | None:
    """How many classes the labels of a mapping are for, or None where it has none."""
    for found in _candidates(config):
        if isinstance(found, list):
            return len(found)
        if isinstance(found, Mapping) and (indices := _indices(found)) is not None:
            return max(indices, default=-1) + 1
    return None


def _card_labels(folder: Path, count: int) -> tuple[str, ...] | None:
    """The labels in the front matter of the card in a folder; none if it is missing or damaged."""
    try:
        with (folder / CARD).open(encoding="utf-8") as file:
            text = file.read(_CARD_CHARS)
        front = _FRONT.match(text)
        # yaml's reader in C is faster, but deeply nested lists crash it.
        facts = yaml.load(front[1], _CardLoader) if front else None  # noqa: S506 (a safe one)
        return _labels(facts, count) if isinstance(facts, dict) else None
    except (OSError, ValueError, OverflowError, RecursionError, yaml.YAMLError):
        return None


def _candidates(config: Mapping[str, Any]) -> list[object]:
    """Lists of labels, and maps from index to label, in the order in which they are tried."""
    found: list[object] = [config[key] for key in _KEYS if config.get(key)]
    inverse = config.get("label2id")
    if isinstance(inverse, Mapping) and all(isinstance(value, int) for value in inverse.values()):
        found.append({index: name for name, index in inverse.items()})
    return found


def _texts(found: object, count: int) -> tuple[str, ...] | None:
    """One text per class; a map may leave gaps, which are named by their index."""
    if isinstance(found, list):
        fits = len(found) == count and all(isinstance(item, (str, int, float)) for item in found)
        return tuple(map(_text, found)) if fits else None
    if not isinstance(found, Mapping) or (indices := _indices(found)) is None:
        return None
    if not indices or max(indices) >= count or not 2 * len(indices) > count:
        return None
    return tuple(
        _text(found[indices[index]]) if index in indices else str(index) for index in range(count)
    )


def _indices(found: Mapping[Any, Any]) -> dict[int, Any] | None:
    """The key of each index, or None if the keys are not indices."""
    try:
        indices = {int(key): key for key in found}
    except (TypeError, ValueError, OverflowError):
        return None
    return indices if min(indices, default=0) >= 0 else None


def _text(value: object) -> str:
    """A label as it is shown.

    Raises:
        ValueError: If it is neither text nor a number of some digits.
    """
    if not isinstance(value, (str, int, float)):
        raise ValueError("a label that is not text")
    return clean_line(value, _LABEL_CHARS)


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
    for name, check in _CHECKS.items():
        if config.get(name) is not None:
            check(name, config[name])
    if taken := sorted(_RESERVED & args.keys()):
        raise InvalidArgument("model_args", taken, "arguments of the network alone")
    others = {name: value for name, value in args.items() if name != "num_classes"}
    check_constructor("model_args", others, _LARGEST)
    _complete(config, args)
    for name in ("label_names", "label_descriptions"):
        config.pop(name, None)
    shown = _labels(labels, count) or _card_labels(folder, count)
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
        found = _declared_count(declared)
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
