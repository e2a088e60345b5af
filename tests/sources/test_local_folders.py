"""Folders on this machine, as timm saves models to them."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import timm
import torch

import cam_hub
from cam_hub.errors import ModelNotFound, ModelRefused
from cam_hub.models.checkpoint import PickleWarning
from cam_hub.models.loaded_model import LoadedModel
from cam_hub.models.loading import LoadLimits
from tests.fakes.repo_folders import network, push, read_back, rewrite


def load(folder: Path, *, pretrained: bool = True, **limits: Any) -> LoadedModel:
    return cam_hub.load_model(
        folder, pretrained=pretrained, device="cpu", limits=LoadLimits(**limits)
    )


@pytest.fixture
def folder(tmp_path) -> Path:
    push(tmp_path / "bread", network(num_classes=3), label_names=["rye", "oat", "wheat"])
    return tmp_path / "bread"


def test_a_folder_comes_with_all_that_timm_saved(folder, lion):
    model = load(folder)
    assert (model.id, model.source) == (f"local-dir:{folder}", "local")
    assert model.class_names == ("rye", "oat", "wheat")
    wanted = timm.create_model(f"local-dir:{folder}", pretrained=True).eval()
    batch = model.preprocess(lion)
    assert torch.equal(model.module(batch), wanted(batch))
    assert cam_hub.explain(model, lion, classes="oat").manifest["model"]["id"] == model.id


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({}, {"crop_mode": "squash", "interpolation": "bilinear", "mean": [0.1, 0.2, 0.3]}),
        ({"in_chans": 1}, {"crop_pct": 0.7, "interpolation": "nearest"}),
        ({}, {"crop_mode": "border", "input_size": [3, 64, 96], "std": [0.5]}),
    ],
    ids=["squashed", "one channel", "with a border"],
)
def test_photos_are_prepared_as_timm_does_it(options, told, tmp_path, lion):
    push(tmp_path, network(**options), pretrained_cfg=told)
    rewrite(tmp_path, pretrained_cfg={**read_back(tmp_path)["pretrained_cfg"], **told})
    theirs = timm.create_model(f"local-dir:{tmp_path}", pretrained=True)
    config = timm.data.resolve_model_data_config(theirs)
    photo = lion.convert("L") if options else lion
    wanted = timm.data.create_transform(**config, is_training=False)(photo)
    assert torch.equal(load(tmp_path).preprocess(lion), wanted[None])


def test_the_revision_identifies_what_was_loaded(folder):
    first = load(folder).revision
    assert first.startswith("sha256:")
    assert load(folder).revision == first
    rewrite(folder, label_names=["a", "b", "c"])
    assert load(folder).revision != first


def test_a_folder_of_the_hubs_cache_is_read_through_its_links(folder, tmp_path):
    repo = tmp_path / "models--baker--bread"
    snapshot = repo / "snapshots" / "abc"
    snapshot.mkdir(parents=True)
    (repo / "blobs").mkdir()
    for file in folder.iterdir():
        shutil.move(file, repo / "blobs" / f"blob-{file.stem}")
        (snapshot / file.name).symlink_to(f"../../blobs/blob-{file.stem}")
    assert load(snapshot).class_names == ("rye", "oat", "wheat")


@pytest.mark.parametrize("name", ["config.json", "model.safetensors"])
def test_a_link_that_leads_out_of_the_folder_is_refused(name, folder, tmp_path):
    shutil.move(folder / name, tmp_path / "elsewhere")
    (folder / name).symlink_to(tmp_path / "elsewhere")
    with pytest.raises(ModelRefused, match=f"{name} is a link to a file outside"):
        load(folder)


def test_a_link_that_leads_nowhere_is_refused(folder):
    (folder / "model.safetensors").unlink()
    (folder / "model.safetensors").symlink_to("nothing")
    with pytest.raises(ModelRefused, match=r"model\.safetensors is not a file"):
        load(folder)


def test_a_pickle_is_read_with_a_warning_where_there_is_nothing_safer(tmp_path):
    push(tmp_path, network(), safe=False)
    with pytest.warns(PickleWarning) as heard:
        model = load(tmp_path)
    # Unclosed event loops of other tests may be collected, and warned of, just now.
    ours = [each for each in heard if each.category is PickleWarning]
    assert model.notes == tuple(str(warning.message) for warning in ours)
    assert len(ours) == 1
    with pytest.raises(ModelRefused, match="only as a pickle"):
        load(tmp_path, pickles=False)


def test_limits_hold(folder):
    with pytest.raises(ModelRefused, match="at most 1,000"):
        load(folder, parameters=1000)
    with pytest.raises(ModelNotFound, match="folder") as caught:
        load(folder, local=False)
    assert str(folder) not in str(caught.value)


def test_a_folder_has_no_random_weights(folder):
    with pytest.raises(ModelRefused, match="for random ones"):
        load(folder, pretrained=False)


def test_a_missing_folder_is_not_found(tmp_path):
    with pytest.raises(ModelNotFound, match="no such folder"):
        load(tmp_path / "nowhere")
    (tmp_path / "file").write_text("")
    with pytest.raises(ModelNotFound, match="It is a file"):
        load(tmp_path / "file")


def test_a_folder_of_something_else_is_refused_with_what_it_is(tmp_path):
    with pytest.raises(ModelRefused, match=r"no config\.json"):
        load(tmp_path)
    (tmp_path / "saved_model.pb").write_bytes(b"")
    with pytest.raises(ModelRefused, match="a Keras model"):
        load(tmp_path)


def test_a_folder_without_weights_is_refused(folder):
    (folder / "model.safetensors").unlink()
    with pytest.raises(ModelRefused, match="no weights"):
        load(folder)


def test_a_folder_that_is_written_to_leaves_what_was_loaded_as_it_was(folder, lion):
    model = load(folder)
    before = model.module(model.preprocess(lion))
    weights = folder / "model.safetensors"
    with weights.open("r+b") as file:  # in place, like some programs
        file.seek(-4096, 2)
        file.write(b"\xff" * 4096)
    assert torch.equal(model.module(model.preprocess(lion)), before)


def test_a_text_that_is_a_path_is_also_a_folder_for_explain(folder, lion):
    result = cam_hub.explain(f"local-dir:{folder}", lion, classes="oat")
    assert result.manifest["model"]["source"] == "local"


def test_a_folder_can_be_described_without_being_read(folder):
    facts = cam_hub.describe_model(folder)
    assert (facts.source, facts.fetch_bytes) == ("local", 0)
    assert facts.weights_bytes == (folder / "model.safetensors").stat().st_size
