"""Folders as pushed to the Hub: a configuration and the weights of a small network."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import timm
import torch
from timm.models import save_for_hf
from torch import nn


def network(architecture: str = "test_resnet", **options: Any) -> nn.Module:
    """A small timm network with the same random weights in every run."""
    torch.manual_seed(0)
    return timm.create_model(architecture, **options).eval()


def push(folder: Path, module: nn.Module, *, safe: bool = True, **config: Any) -> Path:
    """Saves a network as timm's own ``push_to_hf_hub`` does; returns its weights file."""
    save_for_hf(module, str(folder), model_config=config, safe_serialization=safe)
    return folder / ("model.safetensors" if safe else "pytorch_model.bin")


def read_back(folder: Path) -> dict[str, Any]:
    """The content of config.json."""
    content: dict[str, Any] = json.loads((folder / "config.json").read_text("utf-8"))
    return content


def rewrite(folder: Path, **changes: Any) -> Path:
    """Changes values of config.json (None removes a value); returns its path."""
    path = folder / "config.json"
    config = {**read_back(folder), **changes}
    path.write_text(json.dumps({key: value for key, value in config.items() if value is not None}))
    return path
