"""``explain`` if the map at the recommended layer is blank."""

from __future__ import annotations

import contextlib

import numpy as np
import pytest
import torch
from torch import nn

import cam_hub
from cam_hub import explain
from cam_hub.errors import NoMap


class Shy(nn.Module):
    """A network whose last layer is inactive for an image without contrast."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.embed, self.size, self.last = nn.Conv2d(3, 4, 8, 8), nn.Identity(), nn.ReLU()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        size = self.size(self.embed(x).square() + 0.1)
        return self.last(size - 0.2).mean((2, 3)) + size.mean((2, 3))


@pytest.mark.parametrize("method", ["layercam", "smoothgradcampp"])
def test_if_the_recommended_layer_is_blank_the_last_layer_with_evidence_is_used(method):
    model = cam_hub.wrap_model(Shy(), input_size=(3, 32, 32))
    assert cam_hub.suggest_layers(model) == ["last"]
    grey = torch.full((3, 32, 32), 0.01)
    found = explain(model, grey, method=method, std=0.0)
    assert found.layers == ("size",)
    assert found.manifest["layers"] == ["size"]
    with pytest.raises(NoMap, match="'last'"):
        explain(model, grey, method=method, std=0.0, target_layers="last")


class Steep(nn.Module):
    """A network whose scores differ so much that most float32 probabilities have no gradient."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.trunk = nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1), nn.GELU(), nn.Conv2d(8, 16, 3, 2, 1))
        self.head = nn.Sequential(nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(64, 6))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return 700 * self.head(self.trunk(x))


def test_a_class_whose_map_needs_double_precision_also_has_it_beside_others():
    model = cam_hub.wrap_model(Steep(), input_size=(3, 64, 64))
    image = torch.randn(3, 64, 64, generator=torch.Generator().manual_seed(1))
    asked = {"target": "probability", "target_layers": "trunk.2", "reuse": False}
    together = explain(model, image, classes=range(6), **asked)
    alone = {}
    for index in range(6):
        with contextlib.suppress(NoMap):
            alone[index] = explain(model, image, classes=index, **asked)
    precisions = {found.manifest["precision"] for found in alone.values()}
    assert precisions == {"float32", "float64"}
    for index in range(6):
        assert together.has_map(index, "trunk.2") == (index in alone)
        if index in alone:
            # In float32, the rest of a saturated probability's gradient is rounded coarsely.
            pair = together.cam(index).ravel(), alone[index].cam().ravel()
            assert np.corrcoef(*pair)[0, 1] > 0.999
