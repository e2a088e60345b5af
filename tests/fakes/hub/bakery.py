"""A hub for search: repos with networks fine-tuned on food, and others."""

from __future__ import annotations

from typing import Any

from tests.fakes.hub.state import FakeHub

REPOS: dict[str, dict[str, Any]] = {
    "baker/convnext_food": {"downloads": 900, "likes": 7},
    "cook/food-101_convnext_tiny": {"downloads": 5_200, "likes": 31},
    "baker/bread": {"downloads": 40, "pipeline_tag": None},
    "timm/convnext_tiny.in12k_ft_in1k": {"downloads": 310_000, "likes": 12},
    "timm/convnext_base.fb_in22k_ft_in1k": {"downloads": 88_000, "likes": 4},
    "timm/vit_small_patch14_dinov2.lvd142m": {
        "downloads": 150_000,
        "pipeline_tag": "image-feature-extraction",
    },
    "cook/convnext_secret": {"downloads": 3},
    "cook/convnext_gated": {"downloads": 70},
    "doctor/detr_convnext": {"library_name": "transformers", "pipeline_tag": "object-detection"},
    "doctor/convnext_segmenter": {"pipeline_tag": "image-segmentation"},
    "doctor/convnext_gone": {"disabled": True},
    "doctor/convnext_keras": {"library_name": "keras", "tags": ["keras"]},
}

COOKS_TOKEN = "hf_cook"


def bakery() -> FakeHub:
    """The hub, with a private repo of the owner cook and a gated one."""
    hub = FakeHub()
    for repo, facts in REPOS.items():
        hub.facts[repo] = {
            "library_name": "timm",
            "pipeline_tag": "image-classification",
            "tags": ["timm", "safetensors", "license:apache-2.0"],
            "safetensors": {"parameters": {"F32": 28_000_000, "BF16": 500_000}},
            **facts,
        }
    hub.private["cook/convnext_secret"] = {COOKS_TOKEN}
    hub.gated.add("cook/convnext_gated")
    return hub
