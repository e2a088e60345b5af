"""Networks, hubs and disks that fail: the error of each, and that nothing is left behind."""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

import cam_hub
from cam_hub.errors import HubUnavailable
from tests.conftest import HUB_PORT
from tests.fakes.hub import FakeHub, serve
from tests.fakes.hub.bread import REPO, bread_repo
from tests.fakes.hub.faults import Fault

WEIGHTS = r"/resolve/.*safetensors"
Setting = Callable[[str, object], None]


@pytest.fixture
def setting(monkeypatch: pytest.MonkeyPatch) -> Setting:
    """Sets what huggingface_hub has read from the environment at its import."""
    return lambda name, value: monkeypatch.setattr(f"huggingface_hub.constants.{name}", value)


def load() -> cam_hub.LoadedModel:
    return cam_hub.load_model(REPO, device="cpu")


def whole_files(cache: Path) -> list[Path]:
    """Files that later calls would mistake for those of a model."""
    return [path for path in cache.rglob("*") if path.parent.name == "blobs" and not path.suffix]


def status(code: int, **headers: str) -> Fault:
    return Fault(
        status=code, headers={key.replace("_", "-"): text for key, text in headers.items()}
    )


UNREACHABLE = {
    "500": (status(500), r"error 500 \(Internal Server Error\)"),
    "502": (status(502), r"error 502 \(Bad Gateway\)"),
    "503": (status(503), r"error 503 \(Service Unavailable\)"),
    "418": (status(418), r"error 418"),
    "429 with a long wait": (status(429, Retry_After="120"), r"429.*Try again in 120 seconds"),
    "429 with a rate limit": (status(429, RateLimit='"api";r=0;t=55'), r"in 55 seconds"),
    "429 without a word": (status(429), r"429.*Try again in a few minutes"),
    "redirects in circles": (status(302, Location=f"/api/models/{REPO}"), r"in circles"),
    "a page to log in": (Fault("/api", body=b"<html>Welcome"), r"page to log in"),
    "JSON of something else": (Fault("/api", body=b'{"id": "baker/bread"}'), r"not the Hub's"),
    "no answer in time": (Fault(delay=1.0), r"no answer in time"),
    "connection cut at once": (Fault("/api", cut=0), r"connection broke off"),
}
"""Faults of a reachable hub, and the words of the error."""


@pytest.mark.parametrize(("fault", "words"), UNREACHABLE.values(), ids=UNREACHABLE)
def test_a_failure_of_the_hub_is_reported_and_the_next_try_works(hub, setting, fault, words):
    setting("HF_HUB_ETAG_TIMEOUT", 0.2)
    hub.faults.append(fault)
    with pytest.raises(HubUnavailable, match=rf"{words}.*not in the local cache"):
        load()
    hub.faults.clear()
    assert load().revision == hub.commit(REPO)


@pytest.mark.parametrize("fault", [fault for fault, _ in UNREACHABLE.values()], ids=UNREACHABLE)
def test_a_model_in_the_cache_loads_quickly_whatever_the_hub_does(hub, setting, fault):
    setting("HF_HUB_ETAG_TIMEOUT", 0.2)
    first = load()
    hub.faults.append(fault)
    start = time.monotonic()
    assert load().revision == first.revision
    assert time.monotonic() - start < 2


SILENT = {
    "refused": ("ENDPOINT", f"http://127.0.0.1:{HUB_PORT}", "connection was refused"),
    "unknown host": ("ENDPOINT", "http://hub.invalid", r"host name is not known \(DNS\)"),
    "offline mode": ("HF_HUB_OFFLINE", True, "Unset HF_HUB_OFFLINE"),
}
"""Settings with which no hub can be reached, and the words of the error."""


@pytest.mark.parametrize(("name", "value", "words"), SILENT.values(), ids=SILENT)
def test_without_a_hub_cached_models_load_and_others_are_refused_with_the_reason(
    hub_cache, setting, name, value, words
):
    hub = FakeHub()
    hub.repos[REPO] = bread_repo()
    with serve(hub, HUB_PORT):
        first = load()
    setting(name, value)
    start = time.monotonic()
    assert load().revision == first.revision
    with pytest.raises(HubUnavailable, match=f"{words}.*not in the local cache"):
        cam_hub.load_model("baker/other")
    assert time.monotonic() - start < 2


def test_a_short_wait_that_the_hub_asks_for_is_waited(hub):
    hub.faults.append(Fault(times=1, status=429, headers={"Retry-After": "0"}))
    assert load().revision == hub.commit(REPO)


def test_a_cached_model_notices_a_new_commit_and_fetches_only_what_changed(hub):
    first = load()
    hub.repos[REPO]["config.json"] += b"\n"
    hub.requests.clear()
    assert load().revision == hub.commit(REPO) != first.revision
    assert [path for _, path in hub.requests if "resolve" in path] == [
        f"/{REPO}/resolve/{hub.commit(REPO)}/config.json"
    ]


def test_a_connection_that_is_cut_is_taken_up_where_it_was(hub):
    size = len(hub.repos[REPO]["model.safetensors"])
    hub.faults.append(Fault(WEIGHTS, times=1, cut=size // 2))
    load()
    asked = [call.headers["Range"] for call in hub.calls if "safetensors" in call.path]
    assert asked == [None, f"bytes={size // 2}-"]


def test_what_arrived_before_the_cut_is_not_fetched_again_by_the_next_call(hub, hub_cache):
    size = len(hub.repos[REPO]["model.safetensors"])
    hub.faults += [Fault(WEIGHTS, cut=0), Fault(WEIGHTS, times=1, cut=size // 2)]
    with pytest.raises(HubUnavailable, match="goes on where it was cut"):
        load()
    assert [path.name for path in whole_files(hub_cache) if path.stat().st_size > 10_000] == []
    hub.faults.clear()
    hub.calls.clear()
    assert load().revision == hub.commit(REPO)
    assert [call.headers["Range"] for call in hub.calls if "safetensors" in call.path] == [
        f"bytes={size // 2}-"
    ]


def test_a_server_without_resumption_is_asked_for_the_whole_file(hub):
    body = hub.repos[REPO]["model.safetensors"]
    hub.faults.append(Fault(WEIGHTS, times=1, cut=len(body) // 2))

    def ignores_ranges(call, reply):
        return type(reply)(200, {}, body) if reply.status == 206 else reply

    hub.faults.append(ignores_ranges)
    assert load().revision == hub.commit(REPO)


DAMAGED = {
    "another byte": (Fault(WEIGHTS, flip=True), "damaged.*checksum"),
    "another byte of the configuration": (Fault("config.json", flip=True), "damaged.*checksum"),
    "fewer bytes declared": (Fault(WEIGHTS, headers={"Content-Length": "10"}), "with 10 bytes"),
    "more bytes sent": (Fault(WEIGHTS, body=bytes(10**7)), "with 10,000,000 bytes"),
    "a page instead of the weights": (Fault(WEIGHTS, body=b"<html>"), "with 6 bytes"),
    "an error instead of the weights": (Fault(WEIGHTS, status=503), "error 503"),
}
"""Faults of files, and the words of the error."""


@pytest.mark.parametrize(("fault", "words"), DAMAGED.values(), ids=DAMAGED)
def test_damaged_files_are_thrown_away_and_the_next_try_works(hub, hub_cache, fault, words):
    hub.faults.append(fault)
    with pytest.raises(HubUnavailable, match=words):
        load()
    assert not list(hub_cache.rglob("*.incomplete"))
    assert not list(hub_cache.rglob("model.safetensors"))
    hub.faults.clear()
    assert load().revision == hub.commit(REPO)


def test_a_file_without_a_known_size_is_not_fetched(hub):
    hub.facts[REPO] = {
        "siblings": [{"rfilename": "config.json"}, {"rfilename": "model.safetensors"}]
    }
    with pytest.raises(HubUnavailable, match=r"states no size or no digest of config\.json"):
        load()


def test_a_file_that_was_cut_short_in_the_cache_is_fetched_again(hub, hub_cache):
    load()
    weights = max(whole_files(hub_cache), key=lambda path: path.stat().st_size)
    os.truncate(weights, 100)
    assert load().revision == hub.commit(REPO)
    assert weights.read_bytes() == hub.repos[REPO]["model.safetensors"]


def test_a_weights_server_that_falls_silent_is_given_up(hub, setting):
    setting("HF_HUB_DOWNLOAD_TIMEOUT", 0.1)
    hub.faults.append(Fault(WEIGHTS, delay=0.5))
    with pytest.raises(HubUnavailable, match="no answer in time"):
        load()


@contextmanager
def small_files_only(size: int) -> Iterator[None]:
    """Limits the size of files, like a full disk."""
    resource = pytest.importorskip("resource")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_full_disk_is_named_and_not_left_full(hub, hub_cache):
    with small_files_only(100_000), pytest.raises(HubUnavailable, match="disk is full"):
        load()
    assert sum(path.stat().st_size for path in hub_cache.rglob("*") if path.is_file()) < 10_000
    assert load().revision == hub.commit(REPO)


@contextmanager
def as_nobody() -> Iterator[None]:
    """Drops the rights of root, for whom no folder is closed."""
    root = os.geteuid() == 0
    if root:
        os.seteuid(65534)
    try:
        yield
    finally:
        if root:
            os.seteuid(0)


@pytest.fixture
def open_cache(hub: FakeHub, setting: Setting) -> Iterator[Path]:
    """A cache whose parent folders every user may enter, unlike pytest's folders."""
    with tempfile.TemporaryDirectory() as folder:
        cache = Path(folder) / "cache"
        cache.mkdir()
        cache.parent.chmod(0o755)
        setting("HF_HUB_CACHE", str(cache))
        setting("HF_TOKEN_PATH", str(cache.parent / "token"))
        yield cache


def close(cache: Path) -> None:
    """Removes the write permissions."""
    for folder in [cache, *(path for path in cache.rglob("*") if path.is_dir())]:
        folder.chmod(0o555)


def test_a_cache_that_cannot_be_written_is_named_without_its_path(open_cache):
    close(open_cache)
    words = r"cache cannot be written.*HF_HOME"
    with as_nobody(), pytest.raises(HubUnavailable, match=words) as caught:
        load()
    assert str(open_cache) not in str(caught.value)


def test_a_cache_that_can_only_be_read_is_still_a_cache(open_cache):
    first = load()
    close(open_cache)
    with as_nobody():
        assert load().revision == first.revision


def test_a_token_file_that_cannot_be_read_is_named(open_cache):
    token = open_cache.parent / "token"
    token.write_text("hf_secret")
    token.chmod(0o000)
    with as_nobody(), pytest.raises(HubUnavailable, match="token of this machine cannot be read"):
        load()
