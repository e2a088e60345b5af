"""Networks whose signals vanish in single precision are computed in double precision."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

import cam_hub
from cam_hub.attribution.preparation import as_double
from cam_hub.errors import NoMap, OutOfMemory
from cam_hub.models.loaded_model import in_double


class Faint(nn.Module):
    """Adds the image, far below the rounding error, to a constant."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.embed, self.sum = nn.Conv2d(3, 4, 8, 8), nn.Identity()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.sum(1 + 1e-9 * self.embed(x)).mean((2, 3))


@pytest.fixture(scope="module")
def faint() -> cam_hub.LoadedModel:
    return cam_hub.wrap_model(Faint(), input_size=(3, 64, 64))


def test_a_faint_layer_shows_what_single_precision_would_lose(faint):
    image = torch.randn(3, 64, 64, generator=torch.Generator().manual_seed(0))
    changed = image.clone()
    changed[:, :8, :8] += 1
    before, after = (cam_hub.activations(faint, x, ["sum"])["sum"] for x in (image, changed))
    moved = (after - before).abs().sum(0) > 0
    assert before.dtype == torch.float64
    assert moved.nonzero().tolist() == [[0, 0]]


def test_the_manifest_records_the_precision_and_the_model_keeps_its_own(faint):
    image = torch.randn(3, 64, 64, generator=torch.Generator().manual_seed(0))
    assert cam_hub.explain(faint, image, target_layers="sum").manifest["precision"] == "float64"
    plain = cam_hub.explain(faint, image, target_layers="embed", method="layercam")
    assert plain.manifest["precision"] == "float32"
    assert faint.dtype == torch.float32


def test_the_copy_is_made_once_and_a_double_model_is_its_own(faint):
    twin = in_double(faint)
    assert twin is in_double(faint)
    assert twin is in_double(twin)
    assert twin.module is not faint.module


def test_a_copy_that_would_not_fit_is_not_made(monkeypatch):
    model = cam_hub.wrap_model(Faint(), input_size=(3, 64, 64))
    monkeypatch.setattr("cam_hub.models.loaded_model.free_bytes", lambda device: 1000)
    # Layers are judged by what single precision shows of them.
    assert [layer.name for layer in cam_hub.list_layers(model) if layer.usable] == ["embed"]
    with pytest.raises(OutOfMemory, match="does not fit twice"):
        as_double(model, torch.zeros(1, 3, 64, 64))


class Sure(nn.Module):
    """Detects one box, with a score that increases with the contrast."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.embed = nn.Conv2d(3, 4, 8, 8)

    def forward(self, images: list[torch.Tensor]) -> list[dict[str, torch.Tensor]]:
        scores = self.embed(torch.stack(images)).square().mean((1, 2, 3)).sigmoid()
        box, labels = torch.tensor([[0.0, 0.0, 16.0, 16.0]]), torch.tensor([1])
        return [{"boxes": box, "labels": labels, "scores": score} for score in scores[:, None]]


@pytest.fixture(scope="module")
def sure() -> cam_hub.LoadedModel:
    return cam_hub.wrap_model(Sure(), input_size=(3, 64, 64), task="detection")


@pytest.mark.parametrize("method", ["layercam", "smoothgradcampp"])
@pytest.mark.parametrize(("contrast", "precision"), [(1, "float32"), (8, "float64")])
def test_a_detector_that_is_too_certain_for_a_gradient_runs_in_double_precision(
    sure, method, contrast, precision
):
    image = contrast * torch.randn(3, 64, 64, generator=torch.Generator().manual_seed(0))
    found = cam_hub.explain(sure, image, method=method)
    assert found.manifest["precision"] == precision
    assert found.cam().any()
    assert found.classes == (1,)
    (outcome,) = cam_hub.explain_many(sure, [image], method=method)
    assert np.allclose(outcome.explanation.cam(), found.cam(), rtol=1e-4, atol=0)
    assert sure.dtype == torch.float32


def test_a_detector_that_is_too_certain_even_for_double_precision_has_no_map(sure):
    image = 40 * torch.randn(3, 64, 64, generator=torch.Generator().manual_seed(0))
    with pytest.raises(NoMap, match="blank"):
        cam_hub.explain(sure, image, method="layercam")
