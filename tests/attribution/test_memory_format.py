"""Channels first or last: chosen by the network alone, without converting a user's own weights."""

from __future__ import annotations

import timm
import torch
from torch import nn

from cam_hub import explain, load_model, wrap_model
from cam_hub.attribution.passes import RECENT
from cam_hub.attribution.preparation import suited_format
from tests.fakes.engine_nets import apart
from tests.fakes.interfaces import add_network

SIZE = (3, 64, 64)


def picture() -> torch.Tensor:
    return torch.randn(1, *SIZE, generator=torch.Generator().manual_seed(0))


def strides(module: nn.Module) -> list[tuple[int, ...]]:
    return [weight.stride() for weight in module.parameters()]


class Convolutions(nn.Module):
    def __init__(self, count: int = 4, *, viewed: bool = False) -> None:
        super().__init__()
        self.convs = nn.Sequential(
            *[nn.Conv2d(3 if not at else 8, 8, 3, padding=1) for at in range(count)]
        )
        self.fc = nn.Linear(8, 4)
        self.viewed = viewed

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.viewed:
            x.view(-1)
        return self.fc(self.convs(x).mean((2, 3)))


MANY = add_network("cam_hub_test_convolutions", Convolutions, 64)
FEW = add_network("cam_hub_test_few_convolutions", lambda: Convolutions(3), 64)
VIEWED = add_network("cam_hub_test_viewed", lambda: Convolutions(viewed=True), 64)


def loaded(name: str):
    return load_model(name, pretrained=False, device="cpu")


def test_convolutions_of_a_loaded_model_run_with_channels_last():
    model = loaded(MANY)
    assert suited_format(model, picture()) == torch.channels_last
    weights = [conv.weight for conv in model.module.convs]
    assert all(each.is_contiguous(memory_format=torch.channels_last) for each in weights)


def test_it_is_tried_once_per_model_and_the_same_in_every_process_and_mode():
    model, passes = loaded(MANY), []
    model.module.register_forward_pre_hook(lambda *_: passes.append(1))
    found = [suited_format(model, picture()) for _ in range(2)]
    torch.use_deterministic_algorithms(True)
    try:
        found += [suited_format(model, picture()), suited_format(loaded(MANY), picture())]
    finally:
        torch.use_deterministic_algorithms(False)
    assert found == [torch.channels_last] * 4
    assert passes == [1]


def test_networks_of_hardly_any_convolutions_and_clips_are_left_alone():
    model = loaded(FEW)
    before = strides(model.module)
    assert suited_format(model, picture()) == torch.contiguous_format
    assert suited_format(loaded(MANY), picture()[:, :, None]) == torch.contiguous_format
    assert strides(model.module) == before


def test_weights_of_a_wrapped_module_are_not_changed():
    module = timm.create_model("test_resnet").eval()
    before = strides(module)
    model = wrap_model(module, input_size=SIZE)
    explain(model, picture(), target_layers="layer3")
    assert suited_format(model, picture()) == torch.contiguous_format
    assert strides(module) == before


def test_a_network_that_takes_only_contiguous_tensors_is_run_on_these():
    model = loaded(VIEWED)
    assert suited_format(model, picture()) == torch.contiguous_format
    explain(model, picture(), target_layers="convs.1")


def test_a_loaded_model_gives_the_same_scores_and_maps_in_either_format():
    RECENT.clear()
    model = loaded("test_resnet")
    plain = model.module(picture()).detach()
    found = []
    for last in (False, True):
        suited_format(model, picture())
        model.facts["channels_last"] = last
        found.append(explain(model, picture(), method="layercam", reuse=False).cam())
    assert apart(*found) < 1e-5
    torch.testing.assert_close(model.module(picture()).detach(), plain, rtol=1e-4, atol=1e-5)
