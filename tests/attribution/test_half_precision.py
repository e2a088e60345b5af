"""Maps from weights in half precision, and within autocast, against those in float32.

The bounds are those of docs/engine.md, for maps stretched to [0, 1].
"""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest
import torch
from scipy.stats import spearmanr

import cam_hub
from cam_hub.methods.evidence import normalise
from cam_hub.sources.timm import DEFAULT_MODEL

BOUNDS = {"bfloat16": 0.06, "float16": 0.01}


@cache
def load(id: str, dtype: str) -> cam_hub.LoadedModel:
    """The same weights in every type."""
    torch.manual_seed(0)
    return cam_hub.load_model(id, pretrained=id == DEFAULT_MODEL, device="cpu", dtype=dtype)


def distance(one: cam_hub.Explanation, other: cam_hub.Explanation) -> float:
    first, second = normalise(torch.from_numpy(np.stack([one.cam(), other.cam()])))
    return float((first - second).abs().max())


@pytest.mark.parametrize("method", ["layercam", "smoothgradcampp"])
@pytest.mark.parametrize("kind", BOUNDS)
@pytest.mark.parametrize("id", [DEFAULT_MODEL, "test_vit", "test_convnext"])
def test_maps_of_the_recommended_layer_stay_near_those_in_float32(id, kind, method, lion):
    exact = cam_hub.explain(load(id, "float32"), lion, method=method)
    asked = {"method": method, "classes": exact.classes[0], "target_layers": list(exact.layers)}
    for model, autocast in ((load(id, kind), None), (load(id, "float32"), kind)):
        near = cam_hub.explain(model, lion, autocast=autocast, **asked)
        assert 0 < distance(near, exact) < BOUNDS[kind]
        assert spearmanr(near.cam().ravel(), exact.cam().ravel()).statistic > 0.98


@pytest.mark.parametrize("kind", BOUNDS)
@pytest.mark.parametrize("id", [DEFAULT_MODEL, "test_vit"])
def test_the_same_layers_are_found(id, kind):
    found = [
        [(layer.name, layer.grid, layer.usable, layer.recommended, layer.faint) for layer in layers]
        for layers in map(cam_hub.list_layers, (load(id, "float32"), load(id, kind)))
    ]
    assert found[0] == found[1]


@pytest.mark.parametrize("kind", BOUNDS)
def test_many_images_have_the_maps_of_single_ones(kind, photos):
    model, images = load(DEFAULT_MODEL, kind), [photos["lion"], photos["cheetah"]]
    outcomes = cam_hub.explain_many(model, images, method="layercam")
    for image, result in zip(images, [each.result for each in outcomes], strict=True):
        alone = cam_hub.explain(model, image, method="layercam", classes=result.classes[0])
        assert distance(result, alone) < BOUNDS[kind]
