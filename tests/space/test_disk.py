"""The app keeps its downloads within a limit."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest
import timm
from huggingface_hub import hf_hub_download

from space.config.settings import Settings
from space.service.explainer import Explainer
from tests.conftest import HUB_PORT
from tests.fakes.checkpoints import save
from tests.fakes.hub import FakeHub, serve


@pytest.fixture
def cache(tmp_path, monkeypatch) -> Path:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    return tmp_path / "cache"


@pytest.fixture
def hub(tmp_path, cache):
    """A folder with two models, one of which has been cached for long."""
    hub = FakeHub()
    for name in ("baker/bread", "baker/old"):
        folder = tmp_path / name
        folder.mkdir(parents=True)
        save(timm.create_model("test_resnet"), folder)
        hub.repos[name] = {path.name: path.read_bytes() for path in folder.iterdir()}
    with serve(hub, HUB_PORT):
        old = Path(hf_hub_download("baker/old", "model.safetensors", cache_dir=cache)).resolve()
        os.utime(old, (time.time() - 9000,) * 2)
        yield hub


def repos(cache: Path) -> list[str]:
    return sorted(path.name for path in cache.glob("models--*"))


@pytest.mark.parametrize(
    ("bytes", "left"),
    [
        (0, ["models--baker--bread"]),
        (10**9, ["models--baker--bread", "models--baker--old"]),
        (None, ["models--baker--bread", "models--baker--old"]),
    ],
)
def test_a_new_model_makes_old_ones_go_as_far_as_the_bound_asks(hub, cache, bytes, left):
    explainer = Explainer(Settings(device="cpu", disk_bytes=bytes))
    explainer.layers("baker/bread", lambda *_: None)
    assert repos(cache) == left


def test_models_that_are_loaded_stay_on_the_disk(hub, cache):
    explainer = Explainer(Settings(device="cpu", disk_bytes=0))
    explainer.layers("baker/bread", lambda *_: None)
    for path in cache.rglob("blobs/*"):
        os.utime(path, (time.time() - 9000,) * 2)
    explainer.layers("baker/old", lambda *_: None)
    assert repos(cache) == ["models--baker--bread", "models--baker--old"]
