"""Listing the Hub's models: failures, waits, and concurrent requests."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from cam_hub.errors import HubUnavailable
from cam_hub.sources.hub.listing import HubListing, ModelHit
from cam_hub.sources.registry import find_models
from tests.conftest import HUB_PORT
from tests.fakes.hub import FakeHub, serve
from tests.fakes.hub.bakery import bakery
from tests.fakes.hub.strangers import stranger


@pytest.fixture
def hub() -> Iterator[FakeHub]:
    hub = bakery()
    with serve(hub, HUB_PORT):
        yield hub


def trouble_of(listing: HubListing, search: str = "bread") -> str:
    """The reason why the Hub did not respond."""
    with pytest.raises(HubUnavailable) as caught:
        listing.find(search)
    return caught.value.reason


def test_names_of_the_libraries_are_found_without_a_hub_and_the_reason_is_reported():
    start = time.perf_counter()
    found = find_models("resnet50", listing=HubListing())
    assert {"torchvision/resnet50", "timm/resnet50.a1_in1k"} <= {hit.id for hit in found.hits}
    assert found.trouble is not None
    assert "cannot be reached" in found.trouble
    assert time.perf_counter() - start < 2


def test_a_silent_server_is_not_waited_for_beyond_the_timeout():
    listing = HubListing(patience=0.5)
    with stranger(HUB_PORT, None) as heard:
        start = time.perf_counter()
        assert trouble_of(listing)
        assert time.perf_counter() - start < 2
        start = time.perf_counter()
        assert trouble_of(listing, "rye")
        assert time.perf_counter() - start < 0.4, "the second search does not wait again"
        assert len(heard) == 1


@pytest.mark.parametrize(
    ("body", "words"),
    [(b"<html>Sign in to the Wi-Fi</html>", "not JSON"), (b'{"error": "x"}', "not a list")],
)
def test_a_server_that_is_not_a_hub_is_reported(body: bytes, words: str):
    with stranger(HUB_PORT, body):
        assert words in trouble_of(HubListing())


def test_a_hub_that_fails_is_left_alone_for_a_while_and_then_asked_again(hub: FakeHub):
    hub.broken = True
    listing = HubListing(pause=0.4)
    assert "status 500" in trouble_of(listing)
    assert "status 500" in trouble_of(listing, "rye")
    assert len(hub.requests) == 1, "no retries, and no second question"
    hub.broken = False
    time.sleep(0.5)
    assert [hit.id for hit in listing.find("bread")] == ["baker/bread"]


def test_results_from_before_a_failure_are_still_used(hub: FakeHub):
    listing = HubListing()
    before = listing.find("bread")
    hub.broken = True
    assert trouble_of(listing, "rye")
    assert listing.find("bread") == before


def test_an_answer_is_remembered_for_a_while_and_only_so_many_are(hub: FakeHub):
    listing = HubListing(keep_seconds=0.3, keep=2)
    for search in ("bread", "food", "bread", "tiny", "bread"):
        listing.find(search)
    assert len(hub.requests) == 3
    listing.find("food")
    assert len(hub.requests) == 4, "the one that was asked for longest ago was forgotten"
    time.sleep(0.4)
    listing.find("bread")
    assert len(hub.requests) == 5


def test_a_question_that_many_ask_at_once_is_put_once():
    listing = HubListing(patience=5)
    barrier = threading.Barrier(12)
    hub = bakery()

    def ask() -> tuple[ModelHit, ...]:
        barrier.wait()
        return listing.find("bread")

    with serve(hub, HUB_PORT), ThreadPoolExecutor(12) as pool:
        answers = [future.result() for future in [pool.submit(ask) for _ in range(12)]]
    assert {answer[0].id for answer in answers} == {"baker/bread"}
    assert len(hub.requests) == 1


def test_no_more_than_four_questions_wait_for_the_hub():
    listing = HubListing(patience=1, pause=0)
    barrier = threading.Barrier(12)

    def ask(number: int) -> str:
        barrier.wait()
        return trouble_of(listing, f"word{number}")

    with stranger(HUB_PORT, None) as heard, ThreadPoolExecutor(12) as pool:
        reasons = list(pool.map(ask, range(12)))
    assert len(heard) <= 4
    assert sum("too many searches" in reason for reason in reasons) == 8


def test_an_offline_search_sends_no_request_and_reports_this(
    hub: FakeHub, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    assert trouble_of(HubListing()) == "HF_HUB_OFFLINE is set."
    assert hub.requests == []
