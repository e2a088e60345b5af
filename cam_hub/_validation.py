"""Hints for keyword arguments that a function does not have."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Final, ParamSpec, TypeVar

from cam_hub.errors import nearest_names

__all__ = ["SYNONYMS", "with_hints"]

P = ParamSpec("P")
R = TypeVar("R")

SYNONYMS: Final[Mapping[str, tuple[str, ...]]] = MappingProxyType(
    {
        "autocast": ("amp", "dtype", "mixed_precision", "precision"),
        "batch_size": ("batch", "chunk_size", "internal_batch_size", "max_batch_size"),
        "class_names": ("categories", "classnames", "id2label", "label_names", "labels", "names"),
        "classes": (
            "category",
            "class_id",
            "class_idx",
            "class_index",
            "cls",
            "label",
            "labels",
            "target",
            "target_category",
            "target_class",
            "target_index",
            "targets",
        ),
        "crop_pct": ("crop", "crop_ratio"),
        "image": (
            "images",
            "img",
            "input",
            "input_tensor",
            "inputs",
            "path",
            "photo",
            "picture",
            "x",
        ),
        "images": ("dataset", "folder", "image", "paths", "photos", "pictures"),
        "input_size": ("image_size", "img_size", "input_shape", "resize", "shape", "size"),
        "method": ("algorithm", "cam", "extractor", "methods"),
        "methods": ("algorithms", "method"),
        "model_id": ("id", "model", "model_name", "name", "path", "repo_id"),
        "model_or_id": ("id", "model", "model_id", "model_name", "module", "net", "network"),
        "models": ("ids", "model", "model_ids"),
        "module": ("model", "net", "network"),
        "multi_label": ("multilabel", "sigmoid"),
        "num_samples": ("n_samples", "nt_samples", "samples"),
        "pretrained": ("weights",),
        "progress": ("callback", "verbose"),
        "seed": ("generator", "random_seed", "random_state"),
        "std": ("noise", "noise_level", "noise_std", "sigma", "stdev", "stdevs"),
        "target_layers": (
            "layer",
            "layer_name",
            "layers",
            "module",
            "target_layer",
            "target_modules",
        ),
        "threads": ("num_workers", "workers"),
        "transform": ("preprocess", "preprocessing", "processor", "tfm", "transforms"),
    }
)
"""Arguments, and other names for them: those of other libraries, and likely ones."""

_ELSEWHERE: Final[Mapping[str, str]] = MappingProxyType(
    {
        "device": "the device is that of the model: load_model(…, device=…) or module.to(…)",
        "use_cuda": "the device is that of the model: load_model(…, device='cuda')",
        "cuda": "the device is that of the model: load_model(…, device='cuda')",
        "alpha": "colours belong to pictures: result.overlay(alpha=…)",
        "colormap": "colours belong to pictures: result.overlay(colormap=…)",
        "normalized": "result.cam() is un-normalised, result.heatmap() in [0, 1]",
        "reshape_transform": "the layout of a layer is found by experiment; leave it out",
        "aug_smooth": "noise is averaged over by the method 'smoothgradcampp' (num_samples=)",
        "eigen_smooth": "noise is averaged over by the method 'smoothgradcampp' (num_samples=)",
        "random_weights": "load_model(…, pretrained=False) gives random weights",
        "pretrained": "load_model(…, pretrained=False) gives random weights",
        "token": "load_model(…, token=…) loads private models",
        "revision": "the revision is a part of the ID: 'owner/name@revision'",
        "cache_dir": "the environment variable HF_HOME sets the folder for files of the Hub",
        "trust_remote_code": "code of a repo is never run; leave it out",
        "class_names": "wrap_model(…, class_names=…) names classes",
        "mean": "wrap_model(…, mean=…, std=…) sets the normalisation",
        "transform": "wrap_model(…, transform=…) sets the preprocessing",
        "top_k": "several classes are classes=top(5)",
        "topk": "several classes are classes=top(5)",
    }
)
"""What is done elsewhere, where a function has no argument for it."""


def with_hints(function: Callable[P, R]) -> Callable[P, R]:
    """Adds a hint to Python's TypeError for keyword arguments that a function does not have.

    Args:
        function: A function with named arguments only; its signature stays as it is.

    Example:
        >>> @with_hints
        ... def explain(image: str, *, target_layers: str = "") -> None: ...
        >>> explain("cat.jpg", target_layer="layer4")
        Traceback (most recent call last):
        ...
        TypeError: explain() got an unexpected keyword argument 'target_layer': target_layers= \
is the argument.
    """
    names = tuple(inspect.signature(function).parameters)

    @functools.wraps(function)
    def checked(*args: P.args, **kwargs: P.kwargs) -> R:
        for name in kwargs:
            if name not in names:
                called = function.__name__
                message = f"{called}() got an unexpected keyword argument {name!r}"
                raise TypeError(f"{message}: {_hint(name, names)}.")
        return function(*args, **kwargs)

    return checked


def _hint(name: str, names: tuple[str, ...]) -> str:
    word = name.lower()
    meant = [each for each in names if word in SYNONYMS.get(each, ())]
    if meant:
        return f"{meant[0]}= is the argument"
    if word in _ELSEWHERE:
        return _ELSEWHERE[word]
    near = nearest_names(word, names)
    if near:
        return f"did you mean {near[0]}=?"
    return f"it takes {', '.join(names)}"
