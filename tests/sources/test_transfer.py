"""Rules for every file that is downloaded, from the Hub or from elsewhere."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from huggingface_hub.errors import OfflineModeIsEnabled

from cam_hub.errors import HubUnavailable
from cam_hub.sources.download import FileServer, RemoteFile, download, file_lock, translated_errors
from tests.fakes.hub.files import git_sha1, sha256
from tests.fakes.mirror import Mirror, serve

BODY = bytes(range(256)) * 40
SERVER = FileServer(
    "the bakery", "the pantry", "PANTRY", unreachable_hint="Is the door open?", advice="Bake."
)


@pytest.fixture
def mirror(monkeypatch) -> Iterator[tuple[Mirror, str]]:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_DOWNLOAD_TIMEOUT", 0.3)
    mirror = Mirror({"/file": BODY})
    with serve(mirror) as address:
        yield mirror, f"{address}/file"


def remote_file(
    address: str, digest: str = sha256(BODY), size: int = len(BODY), **more
) -> RemoteFile:
    return RemoteFile("baker/bread", "file", address, size, digest, SERVER, **more)


def fetch(remote_file: RemoteFile, folder: Path) -> list[int]:
    heard: list[int] = []
    with translated_errors(remote_file.id, SERVER):
        download(remote_file, folder / "file", heard.append)
    return heard


@pytest.mark.parametrize("digest", [sha256(BODY), sha256(BODY)[:8], git_sha1(BODY)])
def test_a_file_gets_its_place_when_it_adds_up_to_its_digest(digest, mirror, tmp_path):
    heard = fetch(remote_file(mirror[1], digest), tmp_path)
    assert (tmp_path / "file").read_bytes() == BODY
    assert heard == sorted(heard)
    assert heard[-1] == len(BODY)


@pytest.mark.parametrize("digest", [sha256(b"x"), sha256(b"x")[:8], git_sha1(b"x")])
def test_a_file_that_does_not_is_thrown_away(digest, mirror, tmp_path):
    words = f"begins with .{{8}} instead of {digest[:8]}"
    with pytest.raises(HubUnavailable, match=words):
        fetch(remote_file(mirror[1], digest), tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_server_that_drips_for_ever_is_given_up_and_what_it_sent_is_kept(mirror, tmp_path):
    mirror[0].drip = 5  # every tenth of a second: never silent, and finished in three minutes
    start = time.monotonic()
    with pytest.raises(HubUnavailable, match=r"the bakery sends next to nothing.*are kept"):
        fetch(remote_file(mirror[1]), tmp_path)
    assert time.monotonic() - start < 10, "seconds"
    assert mirror[0].requests[0] == ("/file", None)
    assert len({asked for _, asked in mirror[0].requests}) == 3, "each try goes on with the last"
    mirror[0].drip = None
    fetch(remote_file(mirror[1]), tmp_path)
    assert (tmp_path / "file").read_bytes() == BODY


def test_a_slow_server_is_waited_for(mirror, tmp_path):
    mirror[0].drip = 600
    fetch(remote_file(mirror[1]), tmp_path)  # takes two windows
    assert (tmp_path / "file").read_bytes() == BODY
    assert len(mirror[0].requests) == 1


def test_a_listener_that_takes_its_time_is_not_held_against_the_server(mirror, tmp_path):
    body = mirror[0].files["/file"] = BODY[:200]
    mirror[0].drip = 100
    order = remote_file(mirror[1], sha256(body), len(body))
    pauses = iter([1.0])  # longer than the window
    download(order, tmp_path / "file", lambda count: time.sleep(next(pauses, 0)))
    assert len(mirror[0].requests) == 1


@pytest.mark.parametrize("exact", [True, False])
def test_bytes_beyond_the_size_are_not_received(exact, mirror, tmp_path):
    mirror[0].files["/file"] = bytes(3_000_000)
    mirror[0].headers = {"Content-Length": ""}
    with pytest.raises(HubUnavailable, match="more bytes than the file has"):
        fetch(remote_file(mirror[1], exact=exact), tmp_path)
    assert not list(tmp_path.iterdir())


def test_compression_that_was_not_asked_for_is_not_undone(mirror, tmp_path):
    """Data of which a few compressed bytes expand to any size."""
    mirror[0].headers = {"Content-Encoding": "gzip"}
    fetch(remote_file(mirror[1]), tmp_path)
    assert (tmp_path / "file").read_bytes() == BODY
    assert mirror[0].heads[0]["Accept-Encoding"] == "identity"


def test_a_server_that_has_less_than_it_had_is_asked_for_all_of_it(mirror, tmp_path):
    (tmp_path / "file.incomplete").write_bytes(bytes(len(BODY) - 1))
    mirror[0].status = 416
    with pytest.raises(HubUnavailable, match="error 416"):
        fetch(remote_file(mirror[1]), tmp_path)
    assert [asked for _, asked in mirror[0].requests] == [f"bytes={len(BODY) - 1}-", None]


def test_what_is_whole_already_is_only_checked(mirror, tmp_path):
    (tmp_path / "file.incomplete").write_bytes(BODY)
    assert fetch(remote_file(mirror[1]), tmp_path) == [len(BODY)]
    assert mirror[0].requests == []


def test_offline_mode_sends_nothing_and_keeps_what_there_is(mirror, tmp_path, monkeypatch):
    (tmp_path / "file.incomplete").write_bytes(BODY[:100])
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(HubUnavailable, match=r"Unset HF_HUB_OFFLINE.*Bake\.") as caught:
        fetch(remote_file(mirror[1]), tmp_path)
    assert isinstance(caught.value.__cause__, OfflineModeIsEnabled)
    assert (tmp_path / "file.incomplete").read_bytes() == BODY[:100]
    assert mirror[0].requests == []


def test_only_the_headers_of_the_parcel_go_along(mirror, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    (tmp_path / "netrc").write_text("default login baker password rye\n")
    fetch(remote_file(mirror[1], headers={"User-Agent": "cam_hub"}), tmp_path)
    (head,) = mirror[0].heads
    assert head["User-Agent"] == "cam_hub"
    assert head["Authorization"] is head["Cookie"] is None


def test_a_proxy_of_the_environment_is_used(mirror, tmp_path, monkeypatch):
    from huggingface_hub import close_session  # the client reads the environment when it is created

    mirror[0].files["http://weights.invalid/file"] = BODY
    monkeypatch.setenv("http_proxy", mirror[1].removesuffix("/file"))
    close_session()
    try:
        fetch(remote_file("http://weights.invalid/file"), tmp_path)
    finally:
        close_session()
    assert (tmp_path / "file").read_bytes() == BODY


def test_a_waiting_caller_gets_progress_and_may_give_up(tmp_path):
    class EnoughError(Exception):
        pass

    def stop(count: int) -> None:
        raise EnoughError(count)

    target, lock = tmp_path / "file", tmp_path / "locks" / "file"
    with file_lock(target, lock, print):
        (tmp_path / "file.incomplete").write_bytes(BODY[:77])
        with pytest.raises(EnoughError, match="77"), file_lock(target, lock, stop):
            raise AssertionError("two at once")
