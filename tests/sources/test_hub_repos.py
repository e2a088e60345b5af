"""Repos as users push them, from the ID to the network: everything that they declare is used."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch

import cam_hub
from cam_hub.models.checkpoint import PickleWarning
from tests.fakes.hub import FakeHub
from tests.fakes.hub.bread import REPO
from tests.fakes.hub.repos import changed, content, pushed
from tests.fakes.repo_folders import network, push, read_back, rewrite

LABELS = ["rye", "oat", "wheat"]


def load() -> cam_hub.LoadedModel:
    return cam_hub.load_model(REPO, device="cpu")


def asked_for(hub: FakeHub) -> list[str]:
    """The files that were fetched, in order."""
    return [path.rpartition("/")[2] for _, path in hub.requests if "/resolve/" in path]


DECLARED: dict[str, tuple[str, dict[str, Any], dict[str, Any]]] = {
    "one channel": ("test_resnet", {"in_chans": 1, "num_classes": 3}, {}),
    "four channels": ("test_efficientnet", {"in_chans": 4, "num_classes": 3}, {}),
    "one class": ("test_resnet", {"num_classes": 1}, {}),
    "features alone": ("test_resnet", {"num_classes": 0}, {}),
    "another pool": ("test_convnext", {"num_classes": 3, "global_pool": "max"}, {}),
    "another size": ("test_vit", {"num_classes": 3, "img_size": 128}, {}),
    "another size, not square": ("test_vit", {"num_classes": 3, "img_size": [96, 64]}, {}),
    "any size": (
        "test_vit", {"num_classes": 3, "img_size": 96, "dynamic_img_size": True},
        {"input_size": [3, 64, 96], "crop_mode": "squash"},
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", DECLARED)
def test_what_a_repo_declares_gives_the_network_that_timm_makes_of_it(case, hub, tmp_path, lion):
    architecture, options, told = DECLARED[case]
    push(tmp_path, network(architecture, **options))
    rewrite(tmp_path, pretrained_cfg={**read_back(tmp_path)["pretrained_cfg"], **told})
    hub.repos[REPO] = content(tmp_path)
    wanted = timm.create_model(f"local-dir:{tmp_path}", pretrained=True).eval()
    model = load()
    size = timm.data.resolve_model_data_config(wanted)["input_size"]
    assert model.input_size == tuple(size)
    if size[0] == 4:
        batch = torch.rand(1, *size, generator=torch.Generator().manual_seed(0))
    else:
        batch = model.preprocess(lion)
        assert batch.shape == (1, *size)
    assert torch.equal(model.module(batch), wanted(batch))
    assert np.isfinite(cam_hub.explain(model, batch, method="layercam").cam()).all()


def test_a_single_class_is_explained_as_labelled(hub, tmp_path, lion):
    hub.repos[REPO] = pushed(tmp_path, network(num_classes=1), label_names=["is bread"])
    result = cam_hub.explain(load(), lion, method="layercam")
    assert {prediction.label for prediction in result.predictions} == {"is bread", "not is bread"}
    assert cam_hub.explain(load(), lion, method="layercam", classes="is bread").classes == (1,)


def test_a_repo_is_itself_whatever_its_configuration_calls_it(hub, tmp_path):
    hub.repos["evil/twin"] = {"model.safetensors": b"", "pytorch_model.bin": b""}
    other = {
        "hf_hub_id": "evil/twin", "hf_hub_filename": "pytorch_model.bin", "source": "hf-hub",
        "url": "http://evil.invalid/x.pth", "file": "/etc/passwd", "custom_load": True,
    }  # fmt: skip
    push(tmp_path, network(num_classes=3))
    rewrite(
        tmp_path,
        pretrained_cfg={**read_back(tmp_path)["pretrained_cfg"], **other},
        **other,
        id="evil/twin",
        name="evil/twin",
        _name_or_path="evil/twin",
    )
    hub.repos[REPO] = content(tmp_path)
    model = load()
    assert (model.id, model.revision) == (REPO, hub.commit(REPO))
    assert not [path for _, path in hub.requests if "evil" in path]
    wanted = network(num_classes=3).state_dict()
    assert all(
        torch.equal(wanted[name], value) for name, value in model.module.state_dict().items()
    )


CARD = f"---\nlicense: mit\nlabels: {json.dumps(LABELS)}\n---\n# Bread\n".encode()


def test_labels_are_fetched_from_the_card_if_nothing_else_has_them(hub, tmp_path):
    hub.repos[REPO] = {**pushed(tmp_path), "README.md": CARD}
    assert load().class_names == tuple(LABELS)
    assert asked_for(hub) == ["config.json", "README.md", "model.safetensors"]


@pytest.mark.parametrize(
    ("options", "config"),
    [
        ({"num_classes": 3}, {"label_names": LABELS}),
        ({"num_classes": 1000}, {}),
        ({"num_classes": 0}, {}),
    ],
    ids=["labels in the configuration", "those of ImageNet", "no classes"],
)
def test_the_card_is_not_fetched_where_it_is_not_needed(options, config, hub, tmp_path):
    hub.repos[REPO] = {**pushed(tmp_path, network(**options), **config), "README.md": CARD}
    load()
    assert asked_for(hub) == ["config.json", "model.safetensors"]


def test_a_card_of_megabytes_is_not_fetched(hub, tmp_path):
    hub.repos[REPO] = {**pushed(tmp_path), "README.md": CARD + bytes(5_000_000)}
    assert load().class_names is None
    assert asked_for(hub) == ["config.json", "model.safetensors"]


def averaged(folder: Path) -> dict[str, bytes]:
    """The file that timm's training program writes: plain and averaged weights in one pickle."""
    plain = network(num_classes=3).state_dict()
    weights = push(folder, network(num_classes=3), safe=False)
    half = {f"module.{name}": value / 2 for name, value in plain.items()}
    torch.save({"epoch": 3, "state_dict": plain, "state_dict_ema": half}, weights)
    return content(folder)


def test_averaged_weights_go_before_plain_ones_and_a_pickle_is_read_with_a_warning(hub, tmp_path):
    hub.repos[REPO] = averaged(tmp_path)
    with pytest.warns(PickleWarning, match=REPO):
        model = load()
    plain = network(num_classes=3).get_parameter("fc.weight")
    assert torch.equal(model.module.get_parameter("fc.weight"), plain / 2)


def test_safetensors_are_preferred_to_a_pickle(hub, tmp_path):
    hub.repos[REPO] = {**averaged(tmp_path / "one"), **pushed(tmp_path / "other")}
    load()
    assert asked_for(hub) == ["config.json", "model.safetensors"]


def test_an_index_of_parts_beside_a_whole_file_does_no_harm(hub, tmp_path):
    parts = {"model-00001-of-00002.safetensors": b"", "model.safetensors.index.json": b"{}"}
    hub.repos[REPO] = {**pushed(tmp_path), **parts}
    load()
    assert asked_for(hub) == ["config.json", "model.safetensors"]


def test_a_configuration_of_old_and_without_preprocessing_is_enough(hub, tmp_path):
    hub.repos[REPO] = changed(tmp_path, pretrained_cfg=None, model_args=None)
    assert load().input_size == (3, 224, 224)
