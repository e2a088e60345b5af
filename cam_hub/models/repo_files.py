"""The files of a repo: which one holds the weights, and which library the repo is for."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any, Literal

__all__ = [
    "PICKLES",
    "SAFE",
    "choose_weights",
    "not_a_model",
    "why_no_weights",
    "why_other_library",
]


SAFE = ".safetensors"
PICKLES = (".bin", ".pth", ".pt", ".pth.tar", ".ckpt")
"""Endings of files of weights: of the format that holds nothing else, and of those that may."""

_PREFERRED = (
    "model.safetensors",
    "pytorch_model.bin",
    "pytorch_model.pth",
    "model.pth",
)

_NAME = re.compile(r"[^\x00-\x1f\x7f/\\:]{1,200}\Z")
"""Names that are those of files at the top on every system: no part of a path, no drive."""

_PART = re.compile(r"-\d+-of-\d+\.")
_INDEX = ".index.json"


def choose_weights(files: Collection[str], *, pickles: bool) -> str | None:
    """The file that timm would read weights from.

    Args:
        files: Paths of the repo's files; only those at its top count.
        pickles: Whether a pickle suffices where a safetensors file is missing.

    Returns:
        Its name, or None if there is none. One of several parts is none.
    """
    endings = (SAFE, *PICKLES) if pickles else SAFE
    allowed = [
        name
        for name in files
        if name.endswith(endings) and _NAME.match(name) and not _PART.search(name)
    ]
    for name in _PREFERRED:
        if name in allowed:
            return name
    by_kind = sorted((not name.endswith(SAFE), name) for name in allowed)
    return by_kind[0][1] if by_kind else None


def why_no_weights(files: Collection[str]) -> str | None:
    """The reason why a repo, or a folder, has no weights to be read, and what would work.

    Args:
        files: Paths of its files, of which ``choose_weights`` has chosen none.

    Returns:
        The reason, in full sentences; None if there is nothing like weights.
    """
    weights = sorted(name for name in files if name.endswith((SAFE, *PICKLES)))
    indices = sorted(name for name in files if name.endswith(_INDEX))
    parts = [name for name in weights if _PART.search(name)]
    if found := [name for name in (*indices, *parts) if _NAME.match(name)]:
        return (
            f"its weights are in several files ({found[0]}), which timm does not read. Saved as "
            "one model.safetensors they work."
        )
    pickle = choose_weights(files, pickles=True)
    if pickle is not None:
        return (
            f"its weights exist only as a pickle ({pickle}), which is not read here. Saved as "
            "model.safetensors they work."
        )
    for name in weights:
        if all(_NAME.match(part) and part not in (".", "..") for part in name.split("/")):
            return (
                f"its weights are in a folder ({name[:120]}), and timm reads those at the top of a "
                "repo. Saved there as model.safetensors they work."
            )
    return None


_TIMM = "Repos that timm can read work: their config.json names an 'architecture' of timm's."


@dataclass(frozen=True)
class _Library:
    """One library's repos.

    Attributes:
        what: What they are, as in "it is …".
        names: What the Hub calls the library, in its ``library_name`` or tags.
        files: Files that only they hold, or endings of such (with a dot in front).
        keys: Keys of config.json that only they have.
        advice: What would work instead, if that is more specific than for any repo.
    """

    what: str
    names: tuple[str, ...]
    files: tuple[str, ...] = ()
    keys: tuple[str, ...] = ()
    advice: str = _TIMM


# The first that fits: those that build on transformers, and have its files too, stand before it,
# and formats that models of any library are also offered in after it.
_LIBRARIES = (
    _Library(
        "an adapter of the library peft, which changes another model",
        ("peft",),
        ("adapter_config.json",),
        ("peft_type",),
        "Merge it into its base model and save that for timm.",
    ),
    _Library(
        "a pipeline of the library diffusers, which makes images",
        ("diffusers",),
        ("model_index.json",),
        ("_diffusers_version",),
    ),
    _Library(
        "a model of the library sentence-transformers",
        ("sentence-transformers",),
        ("config_sentence_transformers.json",),
    ),
    _Library(
        "an open_clip model",
        ("open_clip",),
        ("open_clip_config.json",),
        ("preprocess_cfg", "model_cfg"),
        "timm has the image towers of many of them: search for 'clip'.",
    ),
    _Library("a detector of the library ultralytics", ("ultralytics", "yolov5", "yolov8")),
    _Library(
        "a Keras model",
        ("keras", "tf-keras", "keras-hub"),
        ("saved_model.pb", "keras_metadata.pb", ".keras"),
        ("keras_version", "registered_name"),
    ),
    _Library(
        "a transformers model",
        ("transformers",),
        ("preprocessor_config.json",),
        ("model_type", "transformers_version", "architectures"),
    ),
    _Library("a fastai model, which is a pickled program", ("fastai",)),
    _Library("a scikit-learn model", ("sklearn", "skops"), (".skops", ".joblib")),
    _Library(
        "a transformers.js model", ("transformers.js",), advice="Its original may be one of timm's."
    ),
    _Library(
        "a language model for llama.cpp",
        ("gguf",),
        (".gguf",),
        advice="It looks at no image.",
    ),
    _Library("an ONNX model, which has no gradients", ("onnx", "onnxruntime"), (".onnx",)),
    _Library("a TensorFlow Lite model", ("tflite",), (".tflite",)),
    _Library("a Core ML model", ("coreml",), (".mlmodel", ".mlpackage")),
)


def why_other_library(
    files: Collection[str], library: str | None, config: object, tags: Collection[str] = ()
) -> str | None:
    """The reason why timm cannot read a repo of another library, and what would work.

    Args:
        files: Paths of the repo's files, as far as they are known.
        library: The Hub's ``library_name`` of it, if known.
        config: The content of its config.json; anything, or None where there is no such file.
        tags: The Hub's tags of it.

    Returns:
        The reason for a refusal, in full sentences; None if the configuration names an
        architecture, as timm's do, or the Hub calls it timm's, or no library is recognized.
    """
    facts = config if isinstance(config, Mapping) else {}
    if isinstance(facts.get("architecture"), str) or library == "timm" or "timm" in tags:
        return None
    tests: tuple[Callable[[_Library], bool], ...] = (
        lambda other: library in other.names,
        lambda other: (
            any(key in facts for key in other.keys)
            or any(_holds(files, file) for file in other.files)
        ),
        lambda other: any(name in tags for name in other.names),
    )
    for test in tests:
        for other in _LIBRARIES:
            if test(other):
                return f"it is {other.what}{_type(other, facts)}. {other.advice}"
    if library is not None:
        return f"it is a model of the library {library[:40]!r}. {_TIMM}"
    return None


def not_a_model(kind: Literal["dataset", "space"]) -> str:
    """The reason for refusing a repo of another kind than models."""
    what = {"dataset": "a dataset", "space": "a Space (an app)"}[kind]
    return f"it is {what} and not a model. {_TIMM}"


def _holds(files: Collection[str], name_or_ending: str) -> bool:
    """Whether a file is there, at the top or (of a whole kind) anywhere."""
    if name_or_ending.startswith("."):
        return any(file.endswith(name_or_ending) for file in files)
    return name_or_ending in files


def _type(other: _Library, facts: Mapping[str, Any]) -> str:
    """The kind of model within the library, where the configuration names it."""
    kind = facts.get("model_type")
    is_declared = isinstance(kind, str) and "model_type" in other.keys
    return f" of type {str(kind)[:40]!r}" if is_declared else ""
