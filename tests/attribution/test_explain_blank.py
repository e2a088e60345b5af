"""What ``explain`` does where the recommended layer has nothing to show."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import cam_hub
from cam_hub import explain
from cam_hub.errors import NoMap


class Shy(nn.Module):
    """Its last layer is silent for a picture without contrast."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.embed, self.size, self.last = nn.Conv2d(3, 4, 8, 8), nn.Identity(), nn.ReLU()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        size = self.size(self.embed(x).square() + 0.1)
        return self.last(size - 0.2).mean((2, 3)) + size.mean((2, 3))


@pytest.mark.parametrize("method", ["layercam", "smoothgradcampp"])
def test_where_the_recommended_layer_is_blank_the_last_one_that_speaks_is_taken(method):
    model = cam_hub.wrap_model(Shy(), input_size=(3, 32, 32))
    assert cam_hub.suggest_layers(model) == ["last"]
    grey = torch.full((3, 32, 32), 0.01)
    found = explain(model, grey, method=method, std=0.0)
    assert found.layers == ("size",)
    assert found.manifest["layers"] == ["size"]
    with pytest.raises(NoMap, match="'last'"):
        explain(model, grey, method=method, std=0.0, target_layers="last")
