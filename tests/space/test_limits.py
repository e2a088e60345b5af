"""The models that the app loads for visitors, and the tokens that it uses."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

import cam_hub
from cam_hub.errors import ModelNotFound, ModelRefused
from cam_hub.models.loading import LoadLimits
from space.config.settings import FREE_SPACE, Settings
from space.service.explainer import Explainer
from tests.fakes.hub.bread import REPO


def ignore(part: float, words: str) -> None:
    """Receives progress."""


def test_the_app_refuses_what_a_free_space_cannot_carry(hub):
    app = Explainer(Settings(device="cpu"))
    hub.facts[REPO] = {"safetensors": {"parameters": {"F32": 10**9}, "total": 10**9}}
    with pytest.raises(ModelRefused, match=r"1,000,000,000 parameters, and at most 700,000,000"):
        app.layers(REPO, ignore)


def test_the_environment_changes_what_the_app_loads(monkeypatch):
    monkeypatch.setenv("CAM_HUB_PARAMETERS", "none")
    assert Settings().load_limits.parameters is None
    assert Settings().load_limits.download_bytes == FREE_SPACE.download_bytes
    assert Settings(load_limits=LoadLimits()).load_limits == LoadLimits()


def test_the_page_receives_the_progress_of_a_download(hub):
    heard: list[str] = []
    Explainer(Settings(device="cpu")).layers(REPO, lambda part, words: heard.append(words))
    assert any(words.startswith(f"Fetching {REPO}: ") for words in heard)


def test_visitors_of_a_space_do_not_use_its_owners_token(hub, monkeypatch, hub_cache: Path):
    monkeypatch.setenv("HF_TOKEN", "hf_owner")
    hub.private[REPO] = {"hf_owner"}
    cam_hub.load_model(REPO, device="cpu")  # the owner has it in the cache
    with pytest.raises(ModelNotFound):
        Explainer(Settings(device="cpu", space_id="owner/space")).layers(REPO, ignore)
    assert Explainer(Settings(device="cpu")).layers(REPO, ignore).layers


def test_refused_models_do_not_fill_the_disk_for_good(hub, hub_cache: Path):
    hub.repos[REPO]["model.safetensors"] = b"no weights" * 1000
    app = Explainer(Settings(device="cpu", disk_bytes=0))
    with pytest.raises(ModelRefused, match=r"model\.safetensors was not read"):
        app.layers(REPO, ignore)
    blobs = list(hub_cache.rglob("blobs/*"))
    assert sum(blob.stat().st_size for blob in blobs) > 10_000
    for blob in blobs:
        os.utime(blob, (0, 0))  # recently fetched files are kept
    with pytest.raises(ModelNotFound):
        app.layers("baker/other", ignore)
    assert not list(hub_cache.rglob("blobs/*"))
