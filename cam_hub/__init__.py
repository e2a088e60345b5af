"""cam_hub: which pixels spoke for which class, for any timm or torchvision model.

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
    from .batches import Outcome, explain_many
    from .classes import Top, expected, top
    from .comparison.grid import compare
    from .comparison.result import Comparison
    from .engine import activations, explain, explain_methods
    from .introspection.layers import LayerInfo, list_layers, suggest_layers
    from .limits import LoadLimits
    from .maps import shared_scale
    from .methods import METHODS, Method
    from .model_id import ModelId, parse_model_id
    from .prediction import Predicted, predict
    from .ranking import Prediction
    from .reproduction import reproduce
    from .results import Explanation
    from .search import ModelHit, search_models
    from .sharing import save_to_hub
    from .sources.base import LoadedModel
    from .sources.embedded import DEFAULT_MODEL
    from .sources.facts import ModelFacts
    from .sources.module import wrap_model
    from .sources.registry import describe_model, load_model
    from .store import ModelStore

# What is chosen, halved or computed in double precision is reported to this logger; nothing is
# printed unless the program that uses the package configures logging.
logging.getLogger("cam_hub").addHandler(logging.NullHandler())

_HOMES = {
    "errors": "errors",
    "Outcome": "batches",
    "explain_many": "batches",
    "Prediction": "ranking",
    "Top": "classes",
    "expected": "classes",
    "top": "classes",
    "compare": "comparison.grid",
    "Comparison": "comparison.result",
    "activations": "engine",
    "explain": "engine",
    "explain_methods": "engine",
    "reproduce": "reproduction",
    "LayerInfo": "introspection.layers",
    "list_layers": "introspection.layers",
    "suggest_layers": "introspection.layers",
    "LoadLimits": "limits",
    "METHODS": "methods",
    "shared_scale": "maps",
    "Method": "methods",
    "ModelId": "model_id",
    "parse_model_id": "model_id",
    "Predicted": "prediction",
    "predict": "prediction",
    "Explanation": "results",
    "save_to_hub": "sharing",
    "ModelHit": "search",
    "search_models": "search",
    "LoadedModel": "sources.base",
    "DEFAULT_MODEL": "sources.embedded",
    "ModelFacts": "sources.facts",
    "wrap_model": "sources.module",
    "describe_model": "sources.registry",
    "load_model": "sources.registry",
    "ModelStore": "store",
}

__all__ = [
    "DEFAULT_MODEL",
    "METHODS",
    "Comparison",
    "Explanation",
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
    "Top",
    "__version__",
    "activations",
    "compare",
    "describe_model",
    "errors",
    "expected",
    "explain",
    "explain_many",
    "explain_methods",
    "list_layers",
    "load_model",
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
