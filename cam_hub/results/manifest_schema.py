"""The parts of a saved result's manifest, with their types: what loading requires of a file."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

__all__ = ["COMPARISON", "check_explanation", "check_parts"]

Schema = Any
"""A type; ``[schema]`` for a list; a dict for an object; ``(schema, None)`` where null will do."""

_MOST = 2**63  # no number of ours is as large
_NAMES = {str: "text", int: "a whole number", float: "a number", bool: "true or false"}
_TEXT = (str, None)
_NUMBER = (float, None)
_PREDICTION = {"class_index": int, "label": str, "probability?": _NUMBER, "score?": _NUMBER}

_EXPLANATION: Schema = {
    "model": {
        "id": str,
        "source": str,
        "revision": _TEXT,
        "pretrained": (bool, None),
        "input_size": [int],
        "notes?": [str],
    },
    "image": {"size": [int], "sha256": str},
    "frames?": [str],
    "method": str,
    "parameters": dict,
    "layers": [str],
    "classes": [{"class_index": int, "label": str}],
    "target": {"text": str},
    "predictions": [_PREDICTION],
    "preprocessing": dict,
    "placement": {
        "photo_size": [int],
        "input_size": [int],
        "scale": [float],
        "offset": [float],
    },
    "maps": [{"class_index": int, "layer": str, "grid": [int], "steps?": int, "file": str}],
    "versions": dict,
    "options?": {"sign?": str},
    "layer_notes?": dict,
    "agreement?": dict,
}
"""The manifest of an explanation. Parts whose names end in ``?`` may be missing."""

COMPARISON: Schema = {
    "kind": str,
    "titles": [str],
    "photo": bool,
    "rows": [
        {
            "model": str,
            "predictions": [_PREDICTION],
            "notes": [str],
            "has_random_weights": bool,
            "loading_seconds": _NUMBER,
            "forward_seconds": _NUMBER,
            "cells": [
                {
                    "method": str,
                    "layer": _TEXT,
                    "class_index": (int, None),
                    "label": _TEXT,
                    "probability": _NUMBER,
                    "seconds": _NUMBER,
                    "forward_passes": _NUMBER,
                    "maps": (int, None),
                    "error": _TEXT,
                    "reason": _TEXT,
                    "folder": _TEXT,
                }
            ],
        }
    ],
}
"""The table of a comparison."""


def check_explanation(manifest: Mapping[str, Any]) -> None:
    """Checks the manifest of an explanation.

    Raises:
        ValueError: If a part is missing or of another type.
    """
    check_parts(manifest, _EXPLANATION)
    contrast, other = manifest.get("contrast"), {"class_index": int, "label": str}
    weighted = isinstance(contrast, list)
    schema = [{**other, "weight": float}] if weighted else (other, None)
    check_parts(contrast, schema, "the manifest.contrast")


def check_parts(value: object, schema: Schema, where: str = "the manifest") -> None:
    """Checks that a value has the parts that a schema names, with their types.

    Args:
        value: Parsed JSON. Parts that the schema does not name may be anything.
        schema: What it must be.
        where: What messages call the value.

    Raises:
        ValueError: If a part is missing or of another type.
    """
    if isinstance(schema, tuple):
        if value is not None:
            check_parts(value, schema[0], where)
    elif isinstance(schema, list):
        if not isinstance(value, (list, tuple)):
            raise _unfit(where, "a list", value)
        for index, item in enumerate(value):
            check_parts(item, schema[0], f"{where}[{index}]")
    elif isinstance(schema, dict):
        if not isinstance(value, Mapping):
            raise _unfit(where, "an object", value)
        for key, inner in schema.items():
            name = key.removesuffix("?")
            if name in value:
                check_parts(value[name], inner, f"{where}.{name}")
            elif name == key:
                raise ValueError(f"{where} has no {name!r}")
    elif not _is(value, schema):
        raise _unfit(where, _NAMES.get(schema, "an object"), value)


def _is(value: object, kind: type) -> bool:
    if kind not in (int, float):
        return isinstance(value, kind)
    kinds = (int,) if kind is int else (int, float)
    # False for NaN, too.
    return isinstance(value, kinds) and not isinstance(value, bool) and -_MOST < value < _MOST


def _unfit(where: str, expected: str, value: object) -> ValueError:
    shown = repr(value)
    shown = shown if len(shown) <= 60 else shown[:59] + "…"
    return ValueError(f"{where} is {shown}, not {expected}")
