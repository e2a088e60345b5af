"""Weights from Xet storage: hf_xet itself, with a storage in a local folder."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

import cam_hub
from tests.fakes.hub import FakeHub
from tests.fakes.hub.bread import REPO
from tests.fakes.hub.faults import Fault
from tests.fakes.hub.state import Call, Reply

hf_xet = pytest.importorskip("hf_xet")

WEIGHTS = "model.safetensors"
ROUTE = f"/api/models/{REPO}/xet-read-token/main"


class XetStorage:
    """The hub's part of Xet: headers of the weights, and tokens for the storage.

    Attributes:
        folder: The folder of the storage.
        hash: The hash of the weights in the storage.
        host: The host of the tokens; None for the hub.
        tokens: The access token of each request for a token of the storage.
    """

    def __init__(self, folder: Path, content: bytes) -> None:
        self.folder = folder
        self.host: str | None = None
        self.tokens: list[str | None] = []
        with hf_xet.XetSession().new_upload_commit(endpoint=f"local://{folder}") as commit:
            upload = commit.start_upload_bytes(content, name=WEIGHTS)
        self.hash = upload.result().xet_info.hash

    def __call__(self, call: Call, reply: Reply) -> Reply:
        if call.path == ROUTE:
            self.tokens.append(call.token)
            expiry = int(time.time()) + 3600
            content = {"accessToken": "t", "exp": expiry, "casUrl": f"local://{self.folder}"}
            return Reply.json(content)
        if not call.path.endswith(WEIGHTS) or "/resolve/" not in call.path:
            return reply
        route = f"{self.host or call.address}{ROUTE}"
        headers = {"X-Xet-Hash": self.hash, "X-Xet-Refresh-Route": route}
        return replace(reply, headers={**reply.headers, **headers})


@pytest.fixture
def storage(hub: FakeHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[XetStorage]:
    """The hub's storage; a plain transfer of the weights is damaged."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_DISABLE_XET", False)
    (tmp_path / "xet").mkdir()
    storage = XetStorage(tmp_path / "xet", hub.repos[REPO][WEIGHTS])
    hub.faults.append(storage)
    return storage


def damage_plain_transfers(hub: FakeHub) -> None:
    hub.faults.append(Fault(rf"/resolve/.*{WEIGHTS}|/lfs/", flip=True))


def load(**options: object) -> cam_hub.LoadedModel:
    return cam_hub.load_model(REPO, device="cpu", **options)


def test_weights_come_from_xet_storage_with_the_token_of_the_caller(hub, storage):
    damage_plain_transfers(hub)
    assert load(token="hf_baker").revision == hub.commit(REPO)
    assert set(storage.tokens) == {"hf_baker"}


def test_an_interrupted_transfer_is_resumed_in_xet_storage(hub, storage, hub_cache):
    heard: list[float] = []

    def stop_in_the_weights(part: float, words: str) -> None:
        heard.append(part)
        if len(heard) > 1:
            raise KeyError(words)

    size = len(hub.repos[REPO][WEIGHTS])
    hub.faults.append(Fault(WEIGHTS, times=1, cut=size // 2))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("huggingface_hub.constants.HF_HUB_DISABLE_XET", True)
        with pytest.raises(KeyError):
            load(progress=stop_in_the_weights)
    (partial,) = hub_cache.rglob("*.incomplete")
    assert 0 < partial.stat().st_size < size
    damage_plain_transfers(hub)
    assert load().revision == hub.commit(REPO)


def test_the_progress_function_may_end_the_transfer(hub, storage):
    damage_plain_transfers(hub)
    calls: list[str] = []

    def stop(part: float, words: str) -> None:
        calls.append(words)
        if len(calls) > 1:
            raise KeyError(words)

    with pytest.raises(KeyError):
        load(progress=stop)
    assert load().revision == hub.commit(REPO)


def test_a_failure_of_xet_storage_leads_to_a_plain_transfer(hub, storage):
    storage.hash = "0" * 64
    assert load().revision == hub.commit(REPO)
    assert storage.tokens


def test_the_access_token_is_sent_to_no_other_host(hub, storage):
    storage.host = "http://127.0.0.1:9"
    assert load(token="hf_baker").revision == hub.commit(REPO)
    assert storage.tokens == []
