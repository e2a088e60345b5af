"""Writing to repos: a commit completely or not at all, and a message for every failure."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from huggingface_hub import CommitOperationAdd, CommitOperationDelete

from cam_hub.errors import HubRefused, HubUnavailable
from cam_hub.results.upload import HubWriter, Operation, RepoInfo, files_of
from tests.conftest import HUB_PORT
from tests.fakes.hub import FakeHub, serve
from tests.fakes.hub.shelves import Shelf

TOKEN = "hf_abcdefghijklmnopqrstuvwxyz012345"
REPO = "datasets/ann/maps"
BINARY = bytes(range(256)) * 40


@pytest.fixture
def hub() -> Iterator[FakeHub]:
    hub = FakeHub()
    hub.uploads.writers[TOKEN] = {"ann"}
    hub.uploaded[REPO] = Shelf(files={"kept.txt": b"1", "old.txt": b"2"})
    with serve(hub, HUB_PORT):
        yield hub


@pytest.fixture
def writer() -> HubWriter:
    return HubWriter("ann/maps", "dataset", TOKEN)


def change(_: RepoInfo) -> list[Operation]:
    return [
        CommitOperationDelete("old.txt"),
        CommitOperationAdd("new.bin", BINARY),
        CommitOperationAdd("new.txt", b"text"),
    ]


def test_a_commit_adds_and_removes_only_its_listed_files(hub, writer):
    url = writer.commit("Change it", change)
    assert hub.uploaded[REPO].files == {"kept.txt": b"1", "new.bin": BINARY, "new.txt": b"text"}
    assert hub.uploaded[REPO].commits[-1] == "Change it"
    assert url.endswith(f"/commit/{hub.uploaded[REPO].sha}")


def test_a_commit_is_planned_again_if_another_client_was_first(hub, writer):
    hub.uploads.interrupt = [(REPO, "theirs.txt", b"3")]
    seen = []

    def plan(info: RepoInfo) -> list[Operation]:
        seen.append("theirs.txt" in files_of(info))
        return change(info)

    writer.commit("Change it", plan)
    assert seen == [False, True]
    assert hub.uploaded[REPO].files["theirs.txt"] == b"3"
    assert "new.txt" in hub.uploaded[REPO].files


def test_when_others_are_always_first_it_gives_up(hub, writer):
    hub.uploads.interrupt = [(REPO, "theirs.txt", b"%d" % count) for count in range(9)]
    with pytest.raises(HubUnavailable, match="others commit to it all the time"):
        writer.commit("Change it", change)
    assert "new.txt" not in hub.uploaded[REPO].files


def test_a_repo_that_is_not_there_is_refused(hub):
    with pytest.raises(HubRefused, match="there is none"):
        HubWriter("ann/nothing", "dataset", TOKEN).commit("Change it", change)


def test_another_owners_private_repo_looks_missing(hub):
    hub.uploaded["datasets/bob/maps"] = Shelf(private=True)
    assert HubWriter("bob/maps", "dataset", TOKEN).info() is None


def test_a_file_that_the_store_does_not_take_leaves_the_repo_as_it_was(hub, writer):
    hub.uploads.store_fails = True
    before = hub.uploaded[REPO].sha
    with pytest.raises(HubRefused, match="signature expired"):
        writer.commit("Change it", change)
    assert hub.uploaded[REPO].sha == before
    hub.uploads.store_fails = False
    writer.commit("Change it", change)


def test_a_card_that_the_hub_does_not_accept_is_refused_in_its_words(hub, writer):
    with pytest.raises(HubRefused, match="no metadata"):
        writer.commit("Card", lambda _: [CommitOperationAdd("README.md", b"# none")])


def test_a_requested_wait_is_reported_with_its_duration(hub, writer):
    hub.uploads.busy = 7
    with pytest.raises(HubUnavailable, match=r"error 429\. Try again in 7 seconds"):
        writer.info()


def test_the_token_is_in_no_message_even_if_the_hub_repeats_it(hub, writer):
    hub.uploads.full = f"no room for {TOKEN}"
    with pytest.raises(HubRefused, match="no room for …") as caught:
        writer.commit("Change it", change)
    assert TOKEN not in str(caught.value)


def test_long_words_of_the_hub_are_cut(hub, writer):
    hub.uploads.full = "full " * 1000
    with pytest.raises(HubRefused) as caught:
        writer.commit("Change it", change)
    assert len(str(caught.value)) < 600


def test_in_offline_mode_nothing_is_sent(hub, writer, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(HubUnavailable, match="HF_HUB_OFFLINE"):
        writer.info()
    assert hub.requests == []


def test_an_answer_that_is_not_the_hubs_is_unavailable(hub, writer):
    hub.broken = True
    with pytest.raises(HubUnavailable, match="could not be written to"):
        writer.create(private=True)
