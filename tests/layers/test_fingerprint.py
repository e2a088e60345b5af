"""The name of an experiment: what changes it, and what does not."""

from __future__ import annotations

import functools
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import timm
import torch
import torchvision
from torch import nn
from torch.nn import functional

from cam_hub.hooks.recording import observe
from cam_hub.layers import fingerprint
from tests.fakes.fingerprint_nets import SIZE, key_of, small, vit

ROOT = Path(__file__).resolve().parents[2]
# What does not change the name.


def test_it_is_a_name_for_a_file():
    key = key_of(small())
    assert len(key) == 64
    assert set(key) <= set("0123456789abcdef")


def test_other_weights_have_the_same_name():
    torch.manual_seed(0)
    one, other = small(), small()
    assert not torch.equal(one[0].weight, other[0].weight)
    assert key_of(one) == key_of(other)


def test_modes_frozen_weights_and_gradients_do_not_change_it():
    model = small()
    key = key_of(model)
    model.eval().requires_grad_(False)
    assert key_of(model) == key
    model.train().requires_grad_(True)(torch.ones(2, *SIZE)).sum().backward()
    assert key_of(model) == key


def test_the_device_does_not_change_it():
    with torch.device("meta"):
        model = small()
    assert key_of(model) == key_of(small())


def test_another_process_gives_the_same_name():
    code = (
        "import torch, timm, torchvision\n"
        "from tests.layers.test_fingerprint import key_of, vit\n"
        "with torch.device('meta'): resnet = torchvision.models.resnet18()\n"
        "print(key_of(vit()), key_of(resnet))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONHASHSEED": "12345"},
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    with torch.device("meta"):
        resnet = torchvision.models.resnet18()
    assert done.stdout.split() == [key_of(vit()), key_of(resnet)]


def test_a_pass_does_not_change_it_even_where_the_network_keeps_tensors_by_device():
    torch.manual_seed(0)
    model = timm.create_model("levit_128s").eval()
    key = key_of(model)
    with torch.no_grad():
        model(torch.zeros(1, 3, 224, 224))
    assert model.stages[0].blocks[0].attn.attention_bias_cache
    assert key_of(model) == key


def test_hooks_of_our_own_passes_do_not_change_it():
    model = small()
    key = key_of(model)
    with observe(model, lambda _name, _output: None):
        assert key_of(model) == key


def test_where_timm_has_its_weights_from_does_not_change_it():
    assert key_of(vit()) == key_of(vit(pretrained_cfg_overlay={"url": "elsewhere"}))


# What changes it.


@pytest.mark.parametrize(
    "changed",
    [
        key_of(small(), size=(3, 32, 64)),
        key_of(small(), size=(1, 3, 32, 32)),
        key_of(small(), dtype=torch.float16),
        key_of(small(), pretrained="True"),
        key_of(small(stride=2)),
        key_of(small(act=nn.SiLU)),
        key_of(small().half()),
        key_of(small().append(nn.ReLU())),
        key_of(nn.Sequential(small())),
        key_of(nn.ModuleList(small())),
        key_of(nn.Sequential(*reversed(small()))),
    ],
    ids=[
        "input size", "input axes", "dtype", "extra", "stride", "activation", "type of weights",
        "one layer more", "one level more", "class", "order",
    ],
)  # fmt: skip
def test_another_experiment_has_another_name(changed):
    assert changed is not None
    assert changed != key_of(small())


def test_extra_facts_count_by_name_and_value_but_not_by_order():
    keys = [
        key_of(small(), a="1", b="2"),
        key_of(small(), a="2", b="1"),
        key_of(small(), a="12", b=""),
        key_of(small(), a="1"),
    ]
    assert len(set(keys)) == 4
    assert key_of(small(), b="2", a="1") == keys[0]


@pytest.mark.parametrize(
    "settings",
    [{"num_heads": 6}, {"class_token": False, "global_pool": "avg"}, {"global_pool": "avg"},
     {"pre_norm": True}, {"dynamic_img_size": True}, {"patch_size": 8}, {"depth": 2}],
    ids=str,
)  # fmt: skip
def test_a_setting_of_timms_changes_it(settings):
    assert key_of(vit(**settings)) not in (None, key_of(vit()))


def test_a_setting_counts_that_shows_in_no_shape_and_no_repr():
    one, other = nn.MultiheadAttention(8, 2), nn.MultiheadAttention(8, 4)
    assert repr(one) == repr(other)
    assert key_of(one) != key_of(other)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (1, 2), (1, 1.0), (1, True), (None, False), ("1", 1), ((1, 2), (2, 1)),
        ([1, [2]], [[1], 2]), ({"a": 1}, {"a": 2}), ({1, 2}, {1, 3}), (torch.tanh, torch.relu),
        (functional.relu, functional.gelu), (torch.float16, torch.float32), (nn.ReLU, nn.GELU),
        (functools.partial(functional.pad, pad=1), functools.partial(functional.pad, pad=2)),
        (small(), small(stride=2)), ([small()], [small(stride=2)]),
    ],
    ids=lambda value: re.sub(r" at 0x\w+", "", str(value)),
)  # fmt: skip
def test_any_plain_attribute_counts(one, other):
    keys = []
    for value in (one, other, one):
        model = small()
        model[1].setting = value
        keys.append(key_of(model))
    assert None not in keys
    assert keys[0] == keys[2]
    assert keys[0] != keys[1]


def test_modules_that_are_one_and_the_same_are_told_from_equal_ones():
    shared = nn.Conv2d(3, 3, 1)
    once = nn.Sequential(shared, nn.ReLU(), shared)
    twice = nn.Sequential(nn.Conv2d(3, 3, 1), nn.ReLU(), nn.Conv2d(3, 3, 1))
    assert key_of(once) != key_of(twice)


@pytest.mark.parametrize("package", ["cam_hub", "torch", "torchvision", "timm", "source"])
def test_another_version_changes_it(package, monkeypatch):
    key = key_of(small())
    found = fingerprint.versions()
    monkeypatch.setattr(fingerprint, "versions", lambda: {**found, package: "0"})
    assert key_of(small()) not in (None, key)


def test_the_versions_are_those_in_use():
    found = fingerprint.versions()
    assert found["torch"] == torch.__version__
    assert found["torchvision"] == torchvision.__version__
    assert found["timm"] == timm.__version__
    assert len(found["source"]) == 64


def test_a_hook_of_torchs_own_changes_it():
    model = small()
    key = key_of(model)
    nn.utils.spectral_norm(model[0])
    assert model[0]._forward_pre_hooks
    normed = key_of(model)
    model[3].register_forward_hook(functional.relu)
    assert len({key, normed, key_of(model), None}) == 4


def test_a_method_of_the_module_itself_is_no_patch():
    # As timm's FasterNet picks one of two ways to compute by a setting.
    with torch.device("meta"):
        one = timm.create_model("fasternet_t0")
    convs = [child for child in one.modules() if "forward" in vars(child)]
    assert convs
    key = key_of(one)
    convs[0].forward = convs[0].forward_slicing
    assert key_of(one) not in (None, key)


def test_every_architecture_of_a_varied_handful_has_a_name_of_its_own():
    names = [
        "resnet18", "convnext_atto", "swin_tiny_patch4_window7_224", "mixer_s32_224",
        "sequencer2d_s", "naflexvit_base_patch16_gap", "hiera_tiny_224", "maxvit_rmlp_pico_rw_256",
    ]  # fmt: skip
    with torch.device("meta"):
        models = [timm.create_model(name) for name in names]
        models.append(torchvision.models.vit_b_16())
        models.append(torchvision.models.detection.ssdlite320_mobilenet_v3_large(
            weights=None, weights_backbone=None))  # fmt: skip
    keys = {key_of(model) for model in models}
    assert None not in keys
    assert len(keys) == len(models)
