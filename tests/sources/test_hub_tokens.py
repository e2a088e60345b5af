"""Access tokens: which is used, where it is sent, and that its files are not shared."""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

import cam_hub
from cam_hub.errors import CamHubError, HubUnavailable, InvalidArgument, ModelNotFound, ModelRefused
from cam_hub.models.loading import LoadLimits
from cam_hub.sources.store import ModelStore
from tests.fakes.hub import Call, FakeHub
from tests.fakes.hub.bread import REPO
from tests.fakes.hub.cdn import serve_cdn
from tests.fakes.hub.faults import Fault

BAKER, GUEST, WRONG = "hf_baker", "hf_guest", "hf_wrong"
"""A token that may read the repo, one that may not, and an unknown one."""

Token = str | bool | None


def load(token: Token, id: str = REPO, **options: object) -> cam_hub.LoadedModel:
    return cam_hub.load_model(id, device="cpu", token=token, **options)


@pytest.fixture
def private(hub: FakeHub) -> FakeHub:
    """The hub, with a private repo of the baker."""
    hub.tokens |= {BAKER, GUEST}
    hub.private[REPO] = {BAKER}
    return hub


@pytest.fixture
def gated(hub: FakeHub) -> FakeHub:
    """The hub, with a gated repo whose terms the baker has accepted."""
    hub.tokens |= {BAKER, GUEST}
    hub.gated.add(REPO)
    hub.accepted[REPO] = {BAKER}
    return hub


REFUSALS: dict[str, tuple[str, Token, type[CamHubError], str]] = {
    "private, no token": ("private", None, ModelNotFound, r"private: then sign in.*HF_TOKEN"),
    "private, another's": ("private", GUEST, ModelNotFound, "this token may not read it"),
    "private, unknown": ("private", WRONG, ModelRefused, "wrong, expired or revoked"),
    "gated, no token": ("gated", None, ModelRefused, r"accept its terms.*sign in"),
    "gated, another's": ("gated", GUEST, ModelRefused, "has not been let in"),
    "gated, unknown": ("gated", WRONG, ModelRefused, "wrong, expired or revoked"),
}


@pytest.mark.parametrize(("kind", "token", "error", "words"), REFUSALS.values(), ids=REFUSALS)
def test_a_caller_without_access_to_a_repo_gets_instructions(request, kind, token, error, words):
    request.getfixturevalue(kind)
    with pytest.raises(error, match=words):
        load(token)
    assert load(BAKER).source == "hub"


def test_a_token_that_lacks_a_right_is_distinguished_from_a_wrong_one(hub):
    hub.faults.append(Fault("/resolve/", status=403))
    with pytest.raises(ModelRefused, match="Let the token read this repo"):
        load(BAKER)


@pytest.mark.parametrize(
    ("given", "sent"), [(None, GUEST), (True, GUEST), (BAKER, BAKER), (False, None)]
)
def test_an_argument_goes_before_the_environment(hub, monkeypatch, given, sent):
    monkeypatch.setenv("HF_TOKEN", GUEST)
    load(given)
    assert {call.token for call in hub.calls} == {sent}


def test_insisting_on_a_token_where_there_is_none_is_an_error(hub):
    with pytest.raises(InvalidArgument, match="HF_TOKEN"):
        load(True)


@pytest.mark.parametrize("token", ["", "hf_line\nbreak", "hf_ümlaut", " hf_space", "x" * 5000])
def test_what_cannot_be_a_token_is_refused_without_being_shown(hub, token):
    with pytest.raises(InvalidArgument, match="token") as caught:
        load(token)
    assert not token or token not in str(caught.value)
    assert hub.calls == []


@pytest.fixture
def cdn(private: FakeHub) -> Iterator[list[Call]]:
    with serve_cdn(private) as calls:
        yield calls


def test_weights_come_from_another_host_which_never_sees_the_token(private, cdn):
    size = len(private.repos[REPO]["model.safetensors"])
    private.faults.append(Fault(r"^/baker/bread/\w{64}$", times=1, cut=size // 2))
    load(BAKER)
    assert [call.headers["Range"] for call in cdn] == [None, f"bytes={size // 2}-"]
    assert [call.headers["Authorization"] for call in cdn] == [None, None]
    assert {call.token for call in private.calls} == {BAKER}


def texts_on_disk(folder: Path) -> str:
    return "\n".join(
        f"{path} {path.read_bytes().decode('latin-1') if path.is_file() else ''}"
        for path in folder.rglob("*")
    )


def test_a_token_leaves_no_trace(private, hub_cache, tmp_path, caplog, lion):
    caplog.set_level(logging.DEBUG)
    model = load(BAKER)
    result = cam_hub.explain(model, lion, classes="rye")
    result.save(tmp_path / "explanation")
    assert BAKER not in f"{model!r} {vars(model)} {result.manifest} {caplog.text}"
    assert BAKER not in texts_on_disk(tmp_path)


FAULTS = {
    "500": Fault(status=500),
    "403": Fault(status=403),
    "429": Fault(status=429, headers={"Retry-After": "60"}),
    "page": Fault("/api", body=b"<html>"),
    "cut": Fault(cut=0),
    "damaged": Fault("/resolve/", flip=True),
    "reported by the server": Fault(status=400, headers={"X-Error-Message": f"no {BAKER}"}),
}


@pytest.mark.parametrize("fault", FAULTS.values(), ids=FAULTS)
def test_no_error_shows_the_token(private, caplog, fault):
    caplog.set_level(logging.INFO)
    private.faults.append(fault)
    with pytest.raises(CamHubError) as caught:
        load(BAKER)
    assert BAKER not in f"{caught.value} {vars(caught.value)} {caplog.text}"


@pytest.mark.parametrize("kind", ["private", "gated"])
@pytest.mark.parametrize("pinned", [False, True])
def test_what_one_token_fetched_is_not_served_to_others(request, monkeypatch, kind, pinned):
    hub: FakeHub = request.getfixturevalue(kind)
    id = f"{REPO}@{hub.commit(REPO)}" if pinned else REPO
    load(BAKER, id)
    for token in (False, GUEST, WRONG):
        with pytest.raises((ModelNotFound, ModelRefused)):
            load(token, id)
    hub.broken = True
    for token in (False, GUEST, WRONG, BAKER):
        with pytest.raises(HubUnavailable, match="whether this caller may"):
            load(token, id)
    # With this machine's account, cached files may be used, as in huggingface_hub itself.
    assert load(None, id).revision == hub.commit(REPO)


def test_a_new_commit_opens_no_way_to_files_of_a_gated_repo_that_are_cached(gated):
    load(BAKER)
    gated.repos[REPO]["README.md"] = b"Now with a card."
    for token in (False, GUEST):
        with pytest.raises(ModelRefused, match="gated"):
            load(token)


def test_what_is_public_is_served_to_all_while_the_hub_is_silent(hub):
    load(None)
    hub.broken = True
    for token in (False, GUEST, None):
        assert load(token).revision == hub.commit(REPO)


def test_repos_that_are_no_longer_public_are_not_served_to_all(hub):
    load(None)
    hub.private[REPO] = {BAKER}
    assert load(BAKER).source == "hub"
    hub.broken = True
    with pytest.raises(HubUnavailable, match="whether this caller may"):
        load(False)


@pytest.mark.parametrize("kind", ["private", "gated"])
def test_an_app_keeps_no_files_of_restricted_repos(request, hub_cache, tmp_path, monkeypatch, kind):
    request.getfixturevalue(kind)
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(scratch))
    for _ in range(2):
        model = load(BAKER, limits=LoadLimits(keep_restricted=False))
        assert model.class_names
    assert not list(hub_cache.rglob("*"))
    assert not list(scratch.rglob("*"))


def test_an_app_keeps_what_the_machines_own_token_opened(private, hub_cache, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", BAKER)
    load(None, limits=LoadLimits(keep_restricted=False))
    assert list(hub_cache.rglob("model.safetensors"))


def test_an_app_keeps_files_of_public_repos(hub, hub_cache):
    load(BAKER, limits=LoadLimits(keep_restricted=False))
    assert list(hub_cache.rglob("model.safetensors"))


def test_the_store_keeps_no_model_that_was_loaded_with_a_given_token(private):
    store = ModelStore()
    model = store.get(REPO, device="cpu", token=BAKER)
    assert store.get(REPO, device="cpu", token=BAKER) is not model
    with pytest.raises(ModelNotFound):
        store.get(REPO, device="cpu")


def test_a_given_token_is_not_used_to_load_what_is_public_so_that_all_share_it(hub):
    store = ModelStore()
    model = store.get(REPO, device="cpu", token=BAKER)
    assert store.get(REPO, device="cpu", token=GUEST) is model
    assert store.get(REPO, device="cpu", token=False) is model
    assert {call.token for call in hub.calls if "/resolve/" in call.path} == {None}


def test_the_store_does_not_give_what_the_machines_token_opened_to_callers_without(
    private, monkeypatch
):
    monkeypatch.setenv("HF_TOKEN", BAKER)
    store = ModelStore()
    model = store.get(REPO, device="cpu")
    assert store.get(REPO, device="cpu") is model
    with pytest.raises(ModelNotFound):
        store.get(REPO, device="cpu", token=False)
