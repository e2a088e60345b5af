"""cam_hub: which pixels support which class, for any timm or torchvision model.

    import cam_hub

    result = cam_hub.explain("timm/tf_efficientnet_lite0.in1k", "cat.jpg", method="layercam")
    result.overlay().save("cat-overlay.png")

Importing the package is light: torch and timm are imported when something is first used.
"""

from __future__ import annotations

import logging
from importlib import import_module
from typing import TYPE_CHECKING, Any

from ._version import __version__

if TYPE_CHECKING:
    from . import errors
    from .attribution.compare import compare
    from .attribution.evidence import evidence
    from .attribution.explain import explain, explain_methods
    from .attribution.explain_many import Outcome, explain_many
    from .attribution.predict import Predicted, activations, predict
    from .attribution.reproduce import reproduce
    from .datasets.explain_dataset import explain_dataset
    from .datasets.ray_runner import RayRunner
    from .datasets.report import DatasetReport
    from .faithfulness import Evidence
    from .layers.listing import LayerInfo, list_layers, suggest_layers
    from .methods import METHODS, Method
    from .models.loaded_model import LoadedModel
    from .models.loading import LoadLimits, ModelFacts
    from .models.model_id import ModelId, parse_model_id
    from .results.comparison import Comparison
    from .results.explanation import Explanation
    from .results.maps import shared_scale
    from .results.upload import save_to_hub
    from .sources.registry import ModelHit, describe_model, load_model, search_models
    from .sources.store import ModelStore
    from .sources.timm import DEFAULT_MODEL
    from .sources.wrapping import wrap_model
    from .targets.classes import Prediction, Top, expected, nearest, top
    from .training.explanation_logger import ExplanationLogger

# What is chosen, halved or computed in double precision is reported to this logger; nothing is
# printed unless the program that uses the package configures logging.
logging.getLogger("cam_hub").addHandler(logging.NullHandler())

_HOMES = {
    name: module
    for module, names in {
        "attribution.compare": ("compare",),
        "attribution.evidence": ("evidence",),
        "attribution.explain": ("explain", "explain_methods"),
        "attribution.explain_many": ("explain_many", "Outcome"),
        "attribution.predict": ("activations", "predict", "Predicted"),
        "attribution.reproduce": ("reproduce",),
        "datasets.explain_dataset": ("explain_dataset",),
        "datasets.ray_runner": ("RayRunner",),
        "datasets.report": ("DatasetReport",),
        "errors": ("errors",),
        "faithfulness": ("Evidence",),
        "layers.listing": ("LayerInfo", "list_layers", "suggest_layers"),
        "methods": ("Method", "METHODS"),
        "models.loaded_model": ("LoadedModel",),
        "models.loading": ("LoadLimits", "ModelFacts"),
        "models.model_id": ("ModelId", "parse_model_id"),
        "results.comparison": ("Comparison",),
        "results.explanation": ("Explanation",),
        "results.maps": ("shared_scale",),
        "results.upload": ("save_to_hub",),
        "sources.registry": ("describe_model", "load_model", "ModelHit", "search_models"),
        "sources.store": ("ModelStore",),
        "sources.timm": ("DEFAULT_MODEL",),
        "sources.wrapping": ("wrap_model",),
        "targets.classes": ("expected", "nearest", "Prediction", "Top", "top"),
        "training.explanation_logger": ("ExplanationLogger",),
    }.items()
    for name in names
}
"""The module of each public name."""

__all__ = [
    "DEFAULT_MODEL",
    "METHODS",
    "Comparison",
    "DatasetReport",
    "Evidence",
    "Explanation",
    "ExplanationLogger",
    "LayerInfo",
    "LoadLimits",
    "LoadedModel",
    "Method",
    "ModelFacts",
    "ModelHit",
    "ModelId",
    "ModelStore",
    "Outcome",
    "Predicted",
    "Prediction",
    "RayRunner",
    "Top",
    "__version__",
    "activations",
    "compare",
    "describe_model",
    "errors",
    "evidence",
    "expected",
    "explain",
    "explain_dataset",
    "explain_many",
    "explain_methods",
    "list_layers",
    "load_model",
    "nearest",
    "parse_model_id",
    "predict",
    "reproduce",
    "save_to_hub",
    "search_models",
    "shared_scale",
    "suggest_layers",
    "top",
    "wrap_model",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    home = import_module(f".{_HOMES[name]}", __name__)
    value = home if name == "errors" else getattr(home, name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOMES])
