"""Networks from repos: the same as timm's own, and refused if files contradict each other."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from safetensors.torch import save_file
from torch import nn

from cam_hub.errors import ModelRefused
from cam_hub.models.config import read_config
from cam_hub.models.network import build
from tests.conftest import HUB_PORT
from tests.fakes.hub import FakeHub, serve
from tests.fakes.peaks import takes_at_most
from tests.fakes.repo_folders import network, push, rewrite

ID = "baker/bread"

CASES: dict[str, dict[str, Any]] = {
    "test_resnet": {"num_classes": 3},
    "test_efficientnet": {"in_chans": 1, "num_classes": 7},
    "test_convnext": {"in_chans": 4, "global_pool": "max"},
    "test_vit": {"num_classes": 5, "img_size": 128, "global_pool": "avg"},
    "test_vit2": {"dynamic_img_size": True, "num_classes": 2},
    "vit_tiny_patch16_224": {"depth": 2, "img_size": [96, 64], "in_chans": 6, "num_classes": 4},
    "swin_tiny_patch4_window7_224": {"depths": [1, 1], "num_heads": [2, 2], "embed_dim": 24,
                                     "img_size": 112, "num_classes": 3},
    "levit_128s": {"num_classes": 6},
    "mobilenetv3_small_050": {"num_classes": 0},
    "test_nfnet": {"num_classes": 9, "in_chans": 4},
    "test_mambaout": {"num_classes": 3},
    "test_byobnet": {"num_classes": 11},
    "visformer_tiny": {"num_classes": 4, "img_size": 96},
    "regnetx_002": {"num_classes": 0, "in_chans": 1},
}  # fmt: skip


def load(folder: Path, weights: Path, **options: Any) -> nn.Module:
    config = read_config(ID, folder / "config.json")
    return build(ID, config, weights, **options).eval()


@pytest.mark.parametrize("architecture", CASES)
def test_its_outputs_are_those_that_timms_own_loading_gives(architecture, tmp_path):
    weights = push(tmp_path, network(architecture, **CASES[architecture]))
    torch.manual_seed(1)
    wanted = timm.create_model(f"local-dir:{tmp_path}", pretrained=True).eval()
    torch.manual_seed(2)
    got = load(tmp_path, weights)
    shape = wanted.pretrained_cfg["input_size"]
    batch = torch.randn(2, *shape, generator=torch.Generator().manual_seed(3))
    assert torch.equal(got(batch), wanted(batch))
    assert got.state_dict().keys() == wanted.state_dict().keys()
    where = {"file", "source", "custom_load"}
    told = {name: value for name, value in wanted.pretrained_cfg.items() if name not in where}
    assert json.loads(json.dumps({**got.pretrained_cfg, **told})) == json.loads(
        json.dumps(got.pretrained_cfg)
    )


@pytest.mark.parametrize("safe", [True, False], ids=["safetensors", "pickle"])
@pytest.mark.filterwarnings("ignore::cam_hub.models.checkpoint.PickleWarning")
def test_weights_that_training_wrapped_are_unwrapped_as_timm_does(safe, tmp_path):
    module = network()
    weights = push(tmp_path, module, safe=safe)
    if not safe:
        averaged = {f"module.{name}": value * 2 for name, value in module.state_dict().items()}
        checkpoint = {"epoch": 3, "state_dict": module.state_dict(), "state_dict_ema": averaged}
        torch.save({**checkpoint, "args": argparse.Namespace(lr=0.1)}, weights)
    wanted = timm.create_model(f"local-dir:{tmp_path}", pretrained=True).state_dict()
    got = load(tmp_path, weights).state_dict()
    assert all(torch.equal(got[name], wanted[name]) for name in wanted)


def test_what_transformers_saved_of_a_timm_network_is_read(tmp_path):
    module = network(num_classes=2)
    weights = push(tmp_path, module)
    save_file({f"timm_model.{name}": v for name, v in module.state_dict().items()}, weights)
    config = rewrite(
        tmp_path,
        model_type="timm_wrapper",
        architectures=["TimmWrapperForImageClassification"],
        label_names=["rye", "wheat"],
        model_args=None,
    )
    assert read_config(ID, config).label_names == ("rye", "wheat")
    batch = torch.ones(1, 3, 64, 64)
    assert torch.equal(load(tmp_path, weights)(batch), module(batch))


def test_an_old_flat_configuration_is_read(tmp_path):
    weights = push(tmp_path, network(num_classes=2))
    (tmp_path / "config.json").write_text(json.dumps({
        "architecture": "test_resnet", "num_classes": 2, "num_features": 128, "labels": ["a", "b"],
        "input_size": [3, 64, 64], "pool_size": None, "crop_pct": 0.9, "interpolation": "bilinear",
        "mean": [0.5, 0.5, 0.5], "std": [0.2, 0.2, 0.2], "first_conv": "conv1.0",
        "classifier": "fc", "url": "",
    }))  # fmt: skip
    wanted = timm.create_model(f"local-dir:{tmp_path}", pretrained=True).eval()
    got = load(tmp_path, weights)
    assert torch.equal(got(torch.ones(1, 3, 64, 64)), wanted(torch.ones(1, 3, 64, 64)))
    assert tuple(got.pretrained_cfg["label_names"]) == ("a", "b")
    assert got.pretrained_cfg["crop_pct"] == 0.9


def test_weights_come_from_the_repos_file_whatever_the_configuration_points_to(tmp_path):
    hub = FakeHub()
    hub.repos["evil/twin"] = {"model.safetensors": b"", "pytorch_model.bin": b""}
    weights = push(tmp_path, network())
    with serve(hub, HUB_PORT) as address:
        elsewhere = {
            "hf_hub_id": "evil/twin", "hf_hub_filename": "pytorch_model.bin", "source": "hf-hub",
            "url": f"{address}/evil/twin/resolve/main/pytorch_model.bin", "file": "/etc/passwd",
            "custom_load": True, "state_dict": {"conv1.0.weight": 1},
        }  # fmt: skip
        before = json.loads((tmp_path / "config.json").read_text())["pretrained_cfg"]
        config = rewrite(tmp_path, pretrained_cfg={**before, **elsewhere}, **elsewhere)
        module = load(tmp_path, weights)
    assert hub.requests == []
    assert not elsewhere.keys() - {"custom_load"} & read_config(ID, config).pretrained_cfg.keys()
    batch = torch.ones(1, 3, 96, 96)
    assert torch.equal(module(batch), network()(batch))
    assert "state_dict" not in module.pretrained_cfg, "the weights are kept once"


MISFITS: dict[str, tuple[dict[str, Any], str]] = {
    "class count": ({"num_classes": 7, "model_args": None}, r"size mismatch for fc\.weight"),
    "architecture": (
        {"architecture": "test_vit", "model_args": None},
        "not those of 'test_vit': .* missing",
    ),
    "unknown argument": ({"model_args": {"bogus": 1}}, "TypeError.*bogus"),
    "wrong argument": ({"model_args": {"layers": "many"}}, "could not build it"),
    "layer": ({"model_args": {"layers": [1, 1, 1, 2]}}, "Missing key.*layer4"),
}


@pytest.mark.parametrize("case", MISFITS)
def test_weights_that_do_not_fit_are_refused_with_what_does_not(case, tmp_path):
    changes, words = MISFITS[case]
    weights = push(tmp_path, network())
    rewrite(tmp_path, **changes)
    with pytest.raises(ModelRefused, match=words) as caught:
        load(tmp_path, weights)
    assert str(tmp_path) not in str(caught.value)
    assert len(str(caught.value)) < 1200


ENORMOUS: dict[str, tuple[str, dict[str, Any]]] = {
    "classes": ("test_resnet", {"num_classes": 1_000_000}),
    "layers": ("test_resnet", {"layers": [60_000] * 4}),
    "width": ("vit_tiny_patch16_224", {"embed_dim": 49_152}),
    "depth": ("vit_tiny_patch16_224", {"depth": 65_000}),
    "image": ("vit_tiny_patch16_224", {"img_size": 4096, "patch_size": 1}),
    "window": ("swin_tiny_patch4_window7_224", {"window_size": 4096, "img_size": 4096}),
    "positions": ("beit_base_patch16_224", {"img_size": 4096, "depth": 1}),
}


@pytest.mark.parametrize("case", ENORMOUS)
def test_what_would_be_enormous_is_refused_before_it_takes_memory(case, tmp_path):
    weights = push(tmp_path, network())
    architecture, arguments = ENORMOUS[case]
    count = {"num_classes": arguments.get("num_classes")}
    rewrite(tmp_path, architecture=architecture, model_args=arguments, **count)
    with takes_at_most(50_000_000), pytest.raises(ModelRefused, match="asks for"):
        load(tmp_path, weights)


def broken(tmp_path: Path, name: str, value: float) -> Path:
    module = network()
    module.get_parameter(name).data.view(-1)[0] = value
    return push(tmp_path, module)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_weights_that_are_not_numbers_are_refused(value, tmp_path):
    weights = broken(tmp_path, "fc.weight", value)
    with pytest.raises(ModelRefused, match=r"NaN or infinite values, the first 'fc\.weight'"):
        load(tmp_path, weights)


def test_large_weights_whose_sum_overflows_are_not_mistaken_for_infinite(tmp_path):
    weights = broken(tmp_path, "fc.weight", 3e38)
    module = network()
    module.fc.weight.data.fill_(3e38)
    weights = push(tmp_path, module)
    assert torch.equal(load(tmp_path, weights).fc.weight, module.fc.weight)


def test_buffers_may_be_infinite_as_bounds_are(tmp_path):
    module = network()
    module.bn1.running_mean[0] = -float("inf")
    load(tmp_path, push(tmp_path, module))
    module.bn1.running_mean[0] = float("nan")
    with pytest.raises(ModelRefused, match="running_mean"):
        load(tmp_path, push(tmp_path, module))
