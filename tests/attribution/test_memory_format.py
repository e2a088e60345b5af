"""Channels first or last: measured once, kept, and nobody's own weights laid out anew."""

from __future__ import annotations

from itertools import pairwise

import timm
import torch
from torch import nn

import cam_hub
from cam_hub import explain, load_model, wrap_model
from cam_hub.attribution.memory_format import suited_format
from cam_hub.attribution.passes import RECENT
from tests.fakes.engine_nets import apart

SIZE = (3, 64, 64)


def picture() -> torch.Tensor:
    return torch.randn(1, *SIZE, generator=torch.Generator().manual_seed(0))


def strides(module: nn.Module) -> list[tuple[int, ...]]:
    return [weight.stride() for weight in module.parameters()]


class Counting(nn.Module):
    def __init__(self, convolutions: int) -> None:
        super().__init__()
        sizes = [3] + [8] * convolutions
        self.convs = nn.Sequential(*[nn.Conv2d(*pair, 3, padding=1) for pair in pairwise(sizes)])
        self.passes = 0

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.passes += 1
        return self.convs(x).mean((2, 3))


def test_it_is_found_out_once_per_size():
    model = wrap_model(Counting(4), input_size=SIZE)
    first = suited_format(model, picture())
    assert model.module.passes > 0
    model.module.passes = 0
    assert suited_format(model, picture()) == first
    assert model.module.passes == 0
    suited_format(model, picture()[..., :32])
    assert model.module.passes > 0


def test_networks_of_hardly_any_convolutions_and_clips_are_left_alone():
    model = wrap_model(Counting(1), input_size=SIZE)
    assert suited_format(model, picture()) == torch.contiguous_format
    assert suited_format(model, picture()[:, :, None]) == torch.contiguous_format
    assert model.module.passes == 0


def test_weights_of_a_wrapped_module_stay_as_they_are():
    module = timm.create_model("test_resnet").eval()
    before = strides(module)
    explain(wrap_model(module, input_size=SIZE), picture(), target_layers="layer3")
    assert strides(module) == before


def test_a_network_that_takes_only_contiguous_tensors_is_run_on_these():
    class Viewing(Counting):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x.view(-1)
            return super().forward(x)

    model = wrap_model(Viewing(4), input_size=SIZE)
    assert suited_format(model, picture()) == torch.contiguous_format
    explain(model, picture(), target_layers="convs.1")


def test_a_loaded_model_gives_the_same_scores_and_maps_in_either_format():
    RECENT.clear()
    model = load_model("test_resnet", pretrained=False, device="cpu")
    plain = model.module(picture()).detach()
    found = []
    for word in ("contiguous", "channels_last"):
        suited_format(model, picture())
        model.facts["memory_formats"] = dict.fromkeys(model.facts["memory_formats"], word)
        found.append(explain(model, picture(), method="layercam", reuse=False).cam())
    assert apart(*found) < 1e-5
    torch.testing.assert_close(model.module(picture()).detach(), plain, rtol=1e-4, atol=1e-5)


def test_the_answer_is_found_again_on_disk(tmp_path, monkeypatch):
    monkeypatch.setenv("CAM_HUB_CACHE", str(tmp_path))
    first = load_model("test_resnet", pretrained=False, device="cpu")
    cam_hub.list_layers(first, input_size=SIZE)
    found = suited_format(first, picture())
    again = load_model("test_resnet", pretrained=False, device="cpu")
    cam_hub.list_layers(again, input_size=SIZE)
    passes = []
    again.module.register_forward_pre_hook(lambda *_: passes.append(1))
    assert suited_format(again, picture()) == found
    assert passes == []


def test_nothing_is_timed_where_deterministic_algorithms_are_wanted():
    model = load_model("test_resnet", pretrained=False, device="cpu")
    plain = strides(model.module)
    place = (tuple(SIZE), torch.float32, torch.device("cpu"))
    suited_format(model, picture())
    for weight in model.module.parameters():  # as if that had been found faster
        if weight.ndim == 4:
            weight.data = weight.data.contiguous(memory_format=torch.channels_last)
    model.facts["memory_formats"] = {place: "channels_last"}
    passes = []
    model.module.register_forward_pre_hook(lambda *_: passes.append(1))
    torch.use_deterministic_algorithms(True)
    try:
        assert suited_format(model, picture()) == torch.contiguous_format
    finally:
        torch.use_deterministic_algorithms(False)
    assert (passes, strides(model.module)) == ([], plain)
    laid_out = [weight for weight in model.module.parameters() if weight.ndim == 4]
    for _ in range(2):  # afterwards as before, without another measurement
        assert suited_format(model, picture()) == torch.channels_last
        assert all(w.is_contiguous(memory_format=torch.channels_last) for w in laid_out)
    assert passes == []
