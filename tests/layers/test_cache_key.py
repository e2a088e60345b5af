"""The key of the layer cache: what changes it, what does not, and which networks have none."""

from __future__ import annotations

import functools
import re
import types
from collections.abc import Callable
from dataclasses import replace
from operator import itemgetter
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
import torchvision
from torch import nn
from torch.nn import functional

import cam_hub
from cam_hub.hooks.recording import observe
from cam_hub.layers import cache

ROOT = Path(__file__).resolve().parents[2]
SIZE = (3, 32, 32)
LOADED = cam_hub.load_model("test_resnet", pretrained=False, device="cpu")


def key_of(module: nn.Module, size: tuple[int, ...] = SIZE, **fields: object) -> str | None:
    """The key of a module, as if it had been loaded by an ID."""
    return cache.cache_key(replace(LOADED, module=module, **fields), size)


def small(stride: int = 1, act: type[nn.Module] = nn.ReLU) -> nn.Sequential:
    """A network of torch's own classes, with hyper-parameters that do not affect shapes."""
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, stride=stride), act(), nn.BatchNorm2d(8), nn.Conv2d(8, 4, 1)
    )


def vit(**settings: object) -> nn.Module:
    with torch.device("meta"):
        return timm.create_model(
            "vit_tiny_patch16_224", **{"img_size": 32, "depth": 1, "num_heads": 3, **settings}
        )


def own_forward(self: nn.Module, x: torch.Tensor) -> torch.Tensor:
    return x


class Own(nn.Sequential):
    """A class whose code is not determined by the version of a package."""


# Changes that do not affect the key.


def test_it_is_a_name_for_a_file():
    key = key_of(small())
    assert len(key) == 64
    assert set(key) <= set("0123456789abcdef")


def test_other_weights_have_the_same_key():
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


def test_a_pass_does_not_change_it_even_where_the_network_stores_tensors_by_device():
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


@pytest.mark.parametrize("package", [cam_hub, torch, torchvision, timm], ids=lambda it: it.__name__)
def test_a_release_does_not_change_it(package, monkeypatch):
    key = key_of(small())
    monkeypatch.setattr(package, "__version__", "99.0")
    assert key_of(small()) == key


def test_a_method_that_others_add_to_all_modules_changes_nothing(monkeypatch):
    # Importing transformers does this: without this rule, no layer would be found in the cache
    # again.
    before = key_of(small())
    monkeypatch.setattr(nn.Module, "own_helper", own_forward, raising=False)
    assert key_of(small()) == before is not None


# Changes that affect the key.


@pytest.mark.parametrize(
    "changed",
    [
        key_of(small(), size=(3, 32, 64)),
        key_of(small(), size=(1, 3, 32, 32)),
        key_of(small(), pretrained=True),
        key_of(small(), revision="another"),
        key_of(small(), source="another"),
        key_of(small(stride=2)),
        key_of(small(act=nn.SiLU)),
        key_of(small().half()),
        key_of(small().append(nn.ReLU())),
        key_of(nn.Sequential(small())),
        key_of(nn.ModuleList(small())),
        key_of(nn.Sequential(*reversed(small()))),
    ],
    ids=[
        "input size", "input axes", "pretrained", "revision", "source", "stride", "activation",
        "type of weights", "one layer more", "one level more", "class", "order",
    ],
)  # fmt: skip
def test_another_network_or_input_has_another_key(changed):
    assert changed is not None
    assert changed != key_of(small())


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


def test_modules_that_are_one_and_the_same_are_distinguished_from_equal_ones():
    shared = nn.Conv2d(3, 3, 1)
    once = nn.Sequential(shared, nn.ReLU(), shared)
    twice = nn.Sequential(nn.Conv2d(3, 3, 1), nn.ReLU(), nn.Conv2d(3, 3, 1))
    assert key_of(once) != key_of(twice)


def test_a_raised_version_changes_it(monkeypatch):
    key = key_of(small())
    monkeypatch.setattr(cache, "VERSION", cache.VERSION + 1)
    assert key_of(small()) not in (None, key)


def test_a_method_of_the_module_itself_is_not_a_patch():
    # As in timm's FasterNet, a setting selects one of two ways to compute.
    with torch.device("meta"):
        one = timm.create_model("fasternet_t0")
    convs = [child for child in one.modules() if "forward" in vars(child)]
    assert convs
    key = key_of(one)
    convs[0].forward = convs[0].forward_slicing
    assert key_of(one) not in (None, key)


def test_every_architecture_of_a_varied_handful_has_a_key_of_its_own():
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


# Networks without a key.


def test_a_wrapped_module_has_none():
    assert key_of(small(), pretrained=None) is None


def hooked(model: nn.Module) -> None:
    model[0].register_forward_hook(lambda _module, _inputs, output: output * 0)


def hooked_before(model: nn.Module) -> None:
    model[0].register_forward_pre_hook(lambda _module, inputs: inputs)


def hooked_backwards(model: nn.Module) -> None:
    model[0].register_full_backward_hook(lambda _module, grads, _outputs: grads)


def hooked_by_torch(model: nn.Module) -> None:
    nn.utils.spectral_norm(model[0])


def patched(model: nn.Module) -> None:
    model[0].forward = types.MethodType(own_forward, model[0])


def patched_in_disguise(model: nn.Module) -> None:
    model[0].forward = functools.wraps(model[0].forward)(lambda x: x)


def patched_within(model: nn.Module) -> None:
    model[0].forward = functools.partial(functional.relu, inplace=own_forward)


def given_an_object(model: nn.Module) -> None:
    model[0].helper = types.SimpleNamespace(function=own_forward)


def given_a_module(model: nn.Module) -> None:
    model[0].aside = [Own()]


CHANGES: list[Callable[[nn.Module], None]] = [
    hooked, hooked_before, hooked_backwards, hooked_by_torch, patched, patched_in_disguise,
    patched_within, given_an_object, given_a_module,
]  # fmt: skip


@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.__name__)
def test_a_network_with_hooks_or_code_of_the_users_has_none(change):
    model = small()
    assert key_of(model) is not None
    change(model)
    assert key_of(model) is None


def test_a_class_of_the_users_has_none_wherever_it_stands():
    assert key_of(Own(nn.ReLU())) is None
    assert key_of(nn.Sequential(nn.ReLU(), nn.Sequential(Own()))) is None


def test_a_hook_for_all_modules_removes_the_key_until_it_is_removed():
    handle = nn.modules.module.register_module_forward_hook(lambda *_: None)
    try:
        assert key_of(small()) is None
    finally:
        handle.remove()
    assert key_of(small()) is not None


@pytest.mark.filterwarnings("ignore")  # tracing is deprecated, and traced models still exist
def test_graphs_whose_code_is_data_have_none():
    assert key_of(nn.Sequential(torch.fx.symbolic_trace(small()))) is None
    assert key_of(nn.Sequential(torch.jit.trace(small(), torch.zeros(1, *SIZE)))) is None


def test_a_module_in_an_odd_state_has_none_and_raises_nothing():
    assert key_of(nn.Sequential(nn.LazyConv2d(4, 3))) is None
    endless = small()
    endless.circle = []
    endless.circle.append(endless.circle)
    assert key_of(endless) is None


def test_a_method_that_was_replaced_on_a_class_of_timm_gives_no_key(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    kind = type(LOADED.module)
    before = key_of(LOADED.module)
    assert before is not None
    monkeypatch.setattr(kind, "forward_features", lambda self, x: self.layer1(self.conv1(x)))
    assert key_of(LOADED.module) is None
    # The code of another class in timm is known, but it is other code.
    other = timm.create_model("test_vit", pretrained=False)
    monkeypatch.setattr(kind, "forward_features", type(other).forward_features)
    assert key_of(LOADED.module) not in {None, before}


@pytest.mark.parametrize(
    ("one", "other"),
    [(np.int64(2), np.int64(4)), (np.arange(2), np.arange(3)), (range(2), range(4)),
     (slice(2), slice(4)), (b"2", b"4"), (2j, 4j), (itemgetter(2), itemgetter(4))],
    ids=lambda value: type(value).__name__,
)  # fmt: skip
def test_settings_of_any_type_count_or_give_no_key(one: object, other: object) -> None:
    keys = []
    for value in (one, other):
        module = small()
        module[0].stride = value
        keys.append(key_of(module))
    assert keys == [None, None] or keys[0] != keys[1]
