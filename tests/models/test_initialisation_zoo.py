"""Every architecture loads as in timm and torchvision, and none has to be built twice."""

from __future__ import annotations

from pathlib import Path

import pytest
import timm
import torch
import torchvision.models as zoo
from timm.data import resolve_model_data_config
from torch import nn

from bench.zoo import cli
from bench.zoo.costs import Costs
from bench.zoo.plan import Candidate, counted, every_model, smallest_of_each_family
from cam_hub.models.initialisation import build_without_initialisation
from tests.fakes.checkpoints import by_timm, everything, same, save, tensors_of

pytestmark = pytest.mark.usefixtures("one_thread")

SMALL, MEDIUM = 1_000_000, 60_000_000
"""Limits on parameters: for families whose smallest member is always tested, and for ``-m
slow``."""

MAX_MACS = 5e9

PECULIAR = [
    "coat_tiny",  # one module under several names
    pytest.param("hiera_tiny_224", marks=pytest.mark.slow),  # draws values and reads them
    "vit_tiny_patch16_dinov3_qkvb",  # buffers that no checkpoint contains
    "vit_tiny_r_s16_p8_224",  # runs an image through its stem to determine a shape
]
"""Architectures that do more than draw their weights when they are built."""

LARGER = [
    *("convnext_tiny", "densenet121", "efficientnet_b0", "googlenet", "inception_v3", "maxvit_t"),
    *("mnasnet0_5", "regnet_y_400mf", "resnet18", "squeezenet1_1", "swin_t", "swin_v2_t"),
    "vit_b_16",
]
"""Networks of torchvision that ``-m slow`` tests."""


def models() -> list[object]:
    every = counted(every_model(), Costs(cli.COSTS))
    small = [
        each.name
        for each in smallest_of_each_family(every)
        if each.source == "timm" and each.parameters is not None and each.parameters <= SMALL
    ]
    chosen: list[object] = [*small, *PECULIAR]
    return chosen + [
        pytest.param(each.name, marks=pytest.mark.slow)
        for each in every
        if each.source == "timm" and each.name not in chosen and is_tried(each)
    ]


def is_tried(each: Candidate) -> bool:
    return (each.parameters or 0) <= MEDIUM and (each.macs or 0) <= MAX_MACS


def assert_same(ours: nn.Module, theirs: nn.Module, picture: torch.Tensor) -> None:
    one, other = everything(ours), everything(theirs)
    assert one.keys() == other.keys()
    assert [name for name in one if not torch.equal(one[name], other[name])] == []
    with torch.no_grad():
        expected = theirs.eval()(picture)
        assert torch.isfinite(torch.cat([each.flatten() for each in tensors_of(expected)])).all()
        assert same(ours.eval()(picture), expected)


@pytest.mark.parametrize("name", models())
def test_a_network_of_timm_is_the_same_as_when_timm_loads_it(tmp_path, name):
    torch.manual_seed(0)
    save(timm.create_model(name), tmp_path)
    builds = []

    def build() -> nn.Module:
        builds.append(name)
        return by_timm(tmp_path)

    ours = build_without_initialisation(build)
    picture = torch.randn(1, *resolve_model_data_config(ours)["input_size"])
    assert_same(ours, by_timm(tmp_path), picture)
    assert builds == [name]


@pytest.mark.parametrize(
    "name",
    [
        "mobilenet_v3_small",
        "shufflenet_v2_x0_5",
        *(pytest.param(name, marks=pytest.mark.slow) for name in LARGER),
    ],
)
def test_a_network_of_torchvision_is_the_same_as_when_torchvision_loads_it(
    tmp_path, monkeypatch, name
):
    torch.manual_seed(0)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    weights = zoo.get_model_weights(name).DEFAULT
    folder = tmp_path / "hub" / "checkpoints"
    folder.mkdir(parents=True)
    options = {"aux_logits": True} if name in ("googlenet", "inception_v3") else {}
    trained = zoo.get_model(name, weights=None, **options)
    torch.save(trained.state_dict(), folder / Path(weights.url).name)
    builds = []

    def build() -> nn.Module:
        builds.append(name)
        return zoo.get_model(name, weights=weights)

    ours = build_without_initialisation(build)
    assert_same(ours, zoo.get_model(name, weights=weights), torch.randn(1, 3, 224, 224))
    assert builds == [name]
