"""Several threads that load one model, and a process in offline mode."""

from __future__ import annotations

import subprocess
import sys
import threading
from pathlib import Path

import pytest
import torch
from huggingface_hub import hf_hub_download, scan_cache_dir, try_to_load_from_cache

import cam_hub
from cam_hub.models.loading import FileFacts, LoadRequest
from cam_hub.models.model_id import parse_model_id
from cam_hub.sources.hub.source import _open_snapshot
from tests.fakes.hub.bread import REPO
from tests.fakes.hub.files import git_sha1


def test_threads_that_want_the_same_model_fetch_it_once(hub):
    start, found = threading.Barrier(6), []

    def work() -> None:
        start.wait(10)
        found.append(cam_hub.load_model(REPO, device="cpu").revision)

    threads = [threading.Thread(target=work) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [hub.commit(REPO)] * 6
    assert [path for _, path in hub.requests if "safetensors" in path] == [
        f"/{REPO}/resolve/{hub.commit(REPO)}/model.safetensors"
    ]


def test_a_file_that_another_is_reading_stays_where_it_is(hub, hub_cache):
    """A thread that waited for another's download finds it finished, with or without links."""
    cam_hub.load_model(REPO, device="cpu")
    (config,) = hub_cache.rglob("snapshots/*/config.json")
    body = hub.repos[REPO]["config.json"]
    file = FileFacts("config.json", len(body), git_sha1(body))
    before = config.lstat().st_ino
    request = LoadRequest(parse_model_id(REPO), True, torch.device("cpu"))
    with _open_snapshot(request, REPO) as snapshot:
        hub.requests.clear()
        assert snapshot._fetch(file, git_sha1(body), len(body)) == config
    assert config.lstat().st_ino == before
    assert hub.requests == []


def test_the_hubs_own_client_finds_what_was_fetched(hub, hub_cache):
    cam_hub.load_model(REPO, device="cpu")
    hub.requests.clear()
    for name, body in hub.repos[REPO].items():
        for revision in (None, "main", hub.commit(REPO)):
            assert try_to_load_from_cache(REPO, name, revision=revision, cache_dir=hub_cache)
        path = hf_hub_download(REPO, name, local_files_only=True, cache_dir=hub_cache)
        assert Path(path).read_bytes() == body
    assert hub.requests == []
    report = scan_cache_dir(hub_cache)
    assert not report.warnings
    assert [repo.repo_id for repo in report.repos] == [REPO]
    assert report.size_on_disk == sum(map(len, hub.repos[REPO].values()))


def test_what_the_hubs_own_client_fetched_is_not_fetched_again(hub, hub_cache):
    for name in hub.repos[REPO]:
        hf_hub_download(REPO, name, cache_dir=hub_cache)
    hub.requests.clear()
    cam_hub.load_model(REPO, device="cpu")
    assert hub.requests == [("GET", f"/api/models/{REPO}?blobs=true")]


def test_a_commit_that_is_in_the_cache_needs_no_request(hub):
    id = f"{REPO}@{hub.commit(REPO)}"
    cam_hub.load_model(id, device="cpu")
    hub.requests.clear()
    assert cam_hub.load_model(id, device="cpu").id == id
    assert hub.requests == []


@pytest.mark.parametrize("links", [True, False])
def test_a_disk_without_links_does_as_well(hub, hub_cache, monkeypatch, links):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_DISABLE_SYMLINKS", not links)
    for _ in range(2):
        cam_hub.load_model(REPO, device="cpu")
    (weights,) = hub_cache.rglob("snapshots/*/model.safetensors")
    assert weights.is_symlink() is links
    assert len([path for _, path in hub.requests if "safetensors" in path]) == 1


CODE = f"""
import cam_hub
print(cam_hub.load_model({REPO!r}, device="cpu").revision)
try:
    cam_hub.load_model("baker/other")
except cam_hub.errors.HubUnavailable as error:
    print(error)
"""


@pytest.mark.slow  # a fresh process imports torch
def test_a_process_with_offline_mode_in_its_environment_sends_nothing(hub, hub_cache, monkeypatch):
    cam_hub.load_model(REPO, device="cpu")
    hub.requests.clear()
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HF_HUB_CACHE", str(hub_cache))
    done = subprocess.run([sys.executable, "-c", CODE], capture_output=True, text=True, check=True)
    revision, message = done.stdout.splitlines()
    assert revision == hub.commit(REPO)
    assert "Unset HF_HUB_OFFLINE" in message
    assert hub.requests == []
