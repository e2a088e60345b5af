"""The type of a model's weights: as stored, or as asked for; and models that do not fit."""

from __future__ import annotations

import pickle
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import cam_hub
from cam_hub.errors import InvalidArgument, ModelRefused
from cam_hub.models import loading
from cam_hub.models.loading import pick_stored
from tests.fakes.hub.repos import pushed
from tests.fakes.repo_folders import network, push

HALF = [torch.float16, torch.bfloat16]


def stored(folder: Path, kind: torch.dtype, architecture: str = "test_vit") -> Path:
    push(folder, network(architecture).to(kind))
    return folder


def load(folder: Path, **options: object) -> cam_hub.LoadedModel:
    return cam_hub.load_model(folder, device="cpu", **options)


def kinds(model: cam_hub.LoadedModel) -> set[torch.dtype]:
    tensors = [*model.module.parameters(), *model.module.buffers()]
    return {tensor.dtype for tensor in tensors if tensor.is_floating_point()}


@pytest.fixture
def photo() -> Image.Image:
    return Image.fromarray(np.random.default_rng(0).integers(0, 255, (160, 160, 3), np.uint8))


@pytest.mark.parametrize("kind", HALF)
def test_a_small_network_in_half_precision_is_computed_in_float32(kind, tmp_path):
    model = load(stored(tmp_path, kind))
    assert kinds(model) == {torch.float32}
    weight = network("test_vit").head.weight
    assert torch.equal(model.module.head.weight, weight.to(kind).float())


@pytest.mark.parametrize("architecture", ["test_vit", "test_resnet", "test_convnext"])
@pytest.mark.parametrize("kind", HALF)
def test_a_large_one_keeps_the_type_that_it_is_stored_in(
    kind, architecture, tmp_path, monkeypatch, photo
):
    monkeypatch.setattr(loading, "_LARGE", 1000)
    model = load(stored(tmp_path, kind, architecture))
    assert kinds(model) == {kind}
    expected = network(architecture).to(kind)
    for name, tensor in model.module.state_dict().items():
        assert torch.equal(tensor, expected.state_dict()[name]), name
    result = cam_hub.explain(model, photo)
    assert result.manifest["precision"] == str(kind).removeprefix("torch.")
    assert np.isfinite(result.heatmap()).all()


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux lists what is mapped")
def test_no_copy_is_made_of_mapped_weights_in_half_precision(hub, tmp_path, monkeypatch):
    monkeypatch.setattr(loading, "_LARGE", 1000)
    hub.repos["baker/half"] = pushed(tmp_path / "half", network("test_vit").bfloat16())
    model = cam_hub.load_model("baker/half", device="cpu")
    lines = [line.split() for line in Path("/proc/self/maps").read_text("utf-8").splitlines()]
    mapped = [line[0] for line in lines if "blobs" in line[-1]]
    spans = [tuple(int(end, 16) for end in line.split("-")) for line in mapped]
    starts = [weight.data_ptr() for weight in model.module.parameters()]
    assert all(any(low <= start < high for low, high in spans) for start in starts)
    assert pickle.loads(pickle.dumps(model)).dtype == torch.bfloat16


@pytest.mark.parametrize("word", ["float32", "bfloat16", "float16", "stored"])
def test_the_type_can_be_asked_for(word, tmp_path, photo):
    model = load(stored(tmp_path, torch.bfloat16), dtype=word)
    kind = torch.bfloat16 if word == "stored" else getattr(torch, word)
    assert kinds(model) == {kind}
    # By its ID, another process would get float32.
    assert pickle.loads(pickle.dumps(model)).dtype == kind
    again = cam_hub.reproduce(cam_hub.explain(model, photo, classes=0).manifest, photo)
    assert again.manifest["precision"] == str(kind).removeprefix("torch.")


@pytest.mark.parametrize("kind", HALF)
def test_random_weights_can_have_any_of_them(kind):
    assert kinds(cam_hub.load_model("test_resnet", pretrained=False, dtype=kind)) == {kind}


@pytest.mark.parametrize("wrong", ["int8", "half precision", torch.int64, 16])
def test_other_types_are_refused(wrong, tmp_path):
    with pytest.raises(InvalidArgument, match="'auto', 'stored', 'float32', 'float16'"):
        load(tmp_path, dtype=wrong)


def test_a_mixture_has_the_type_of_most_of_its_values():
    most, few = torch.zeros(100), torch.zeros(3)
    assert pick_stored("stored", [most.half(), few]) == torch.float16
    assert pick_stored("stored", [most, few.half(), most.long(), most.long()]) == torch.float32
    assert pick_stored("stored", [most.double()]) == torch.float32
    assert pick_stored("stored", [most.to(torch.float8_e4m3fn)]) == torch.float32
    assert pick_stored("stored", []) == torch.float32


class TestMemory:
    @pytest.fixture
    def free(self, monkeypatch):
        """Sets the free memory, in bytes."""

        def set_free(count: int) -> None:
            monkeypatch.setattr(loading, "free_bytes", lambda device: count)

        return set_free

    def test_a_refusal_states_what_is_needed_and_what_is_free(self, free, tmp_path):
        folder = stored(tmp_path, torch.float32)
        free(1_000_000)
        told = r"take 1\.\d MB, and 1\.0 MB of memory are free on 'cpu'"
        with pytest.raises(ModelRefused, match=told):
            load(folder)
        assert kinds(load(folder, dtype="bfloat16")) == {torch.bfloat16}

    def test_of_the_hub_nothing_is_fetched_before(self, free, hub, tmp_path):
        hub.repos["baker/large"] = pushed(tmp_path / "large", network("test_vit"))
        free(1_000_000)
        with pytest.raises(ModelRefused, match="of memory are free"):
            cam_hub.load_model("baker/large", device="cpu")
        assert [call.method for call in hub.calls] == ["GET"]

    @pytest.mark.parametrize("id", ["test_vit", "torchvision/squeezenet1_1"])
    def test_random_weights_are_not_drawn_before(self, id, free):
        free(1_000_000)
        with pytest.raises(ModelRefused, match="of memory are free"):
            # They are drawn in float32.
            cam_hub.load_model(id, pretrained=False, dtype="float16")

    def test_where_nothing_is_known_of_the_memory_the_model_is_loaded(self, monkeypatch):
        monkeypatch.setattr(loading, "free_bytes", lambda device: None)
        cam_hub.load_model("test_vit", pretrained=False)
