"""Keeps and finds again, on disk, what an examination told about a model's layers."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import fields
from typing import Any

import torch

from cam_hub.hooks.recording import modules_by_name
from cam_hub.layers import cache
from cam_hub.layers.fingerprint import fingerprint
from cam_hub.layers.layer_info import LayerInfo
from cam_hub.models.loaded_model import LoadedModel

__all__ = ["key_of", "known_key", "recall", "remember"]

_SAMPLE = 64
"""Values per tensor that tell the weights of one module from another's."""


def key_of(model: LoadedModel, size: tuple[int, ...]) -> str | None:
    """The key under which a model's layers are kept; None if they cannot be.

    Models by ID are told apart by source and revision; random weights count as one another's
    like. Of a wrapped module nobody knows where the weights come from: a sample of them counts.

    Args:
        model: The model.
        size: Of the input, without the batch.
    """
    head = model.task.head
    if head is not None and callable(head.choice):  # whose code may change unseen
        return None
    weights = _weights(model) if model.pretrained is None else ""
    extra = {
        "source": model.source,
        "pretrained": str(model.pretrained),
        "revision": str(model.revision),
        "weights": weights,
        "task": model.task.name,
        "head": "" if head is None else head.name,
    }
    key = fingerprint(model.module, size, dtype=model.dtype, extra=extra)
    model.facts.setdefault("keys", {})[size] = key
    return key


def known_key(model: LoadedModel, size: tuple[int, ...]) -> str | None:
    """The key that was found for this model and size, if any was asked for."""
    keys: dict[tuple[int, ...], str | None] = model.facts.get("keys", {})
    return keys.get(size)


def recall(key: str | None, model: LoadedModel) -> list[LayerInfo] | None:
    """What was kept under a key, or None if there is nothing, or nothing that fits the model."""
    payload = cache.read(key) if key else None
    if not isinstance(payload, dict) or payload.get("fields") != _FIELDS:
        return None
    try:
        layers = [_layer(row) for row in payload["layers"]]
    except (KeyError, TypeError, ValueError):
        return None
    names = modules_by_name(model.module)
    return layers if all(layer.name in names for layer in layers) else None


def remember(key: str | None, layers: Sequence[LayerInfo]) -> None:
    """Keeps layers under a key."""
    if key:
        rows = [[getattr(layer, name) for name in _FIELDS] for layer in layers]
        cache.write(key, {"fields": _FIELDS, "layers": rows})


_FIELDS = [field.name for field in fields(LayerInfo)]


def _layer(row: list[Any]) -> LayerInfo:
    values = dict(zip(_FIELDS, row, strict=True))
    if values["grid"] is not None:
        rows, cols = values["grid"]
        values["grid"] = (int(rows), int(cols))
    values["readable_calls"] = tuple(map(int, values["readable_calls"]))
    values["extent"] = tuple(map(float, values["extent"]))
    layer = LayerInfo(**values)
    if not isinstance(layer.name, str) or not isinstance(layer.reason, str):
        raise TypeError("a layer's name and reason are texts")
    return layer


def _weights(model: LoadedModel) -> str:
    parts = [weight.detach().flatten()[:_SAMPLE] for weight in model.module.parameters()]
    if not parts:
        return ""
    sample = torch.cat([part.to(torch.float32) for part in parts]).cpu()
    return hashlib.sha256(sample.numpy().tobytes()).hexdigest()
