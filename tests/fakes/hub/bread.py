"""A repo with a fine-tuned small network, as users push them."""

from __future__ import annotations

import json

import timm
import torch
from safetensors.torch import save

LABELS = ["sourdough", "rye", "pumpernickel"]
REPO = "baker/bread"


def bread_repo() -> dict[str, bytes]:
    """The files of a small network, fine-tuned on three classes and pushed to the Hub."""
    torch.manual_seed(0)
    module = timm.create_model("test_resnet", num_classes=3)
    config = {
        "architecture": "test_resnet",
        "num_classes": 3,
        "pretrained_cfg": {
            "input_size": [3, 96, 128],
            "mean": [0.1, 0.2, 0.3],
            "std": [0.4, 0.5, 0.6],
            "crop_pct": 1.0,
            "crop_mode": "squash",
            "interpolation": "bilinear",
            "num_classes": 3,
            "label_names": LABELS,
            "first_conv": "conv1.0",
            "classifier": "fc",
        },
    }
    return {
        "config.json": json.dumps(config).encode(),
        "model.safetensors": save(module.state_dict()),
    }
