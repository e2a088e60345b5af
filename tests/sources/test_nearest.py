"""Suggestions for unknown and ambiguous IDs."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest

import cam_hub
from cam_hub.errors import CamHubError, HubUnavailable, ModelNotFound
from tests.conftest import HUB_PORT
from tests.fakes.hub import FakeHub, serve
from tests.fakes.hub.bakery import bakery
from tests.fakes.hub.bread import bread_repo
from tests.fakes.hub.listing import WithoutList


@pytest.fixture
def hub() -> Iterator[FakeHub]:
    hub = bakery()
    hub.repos["baker/bread"] = bread_repo()
    with serve(hub, HUB_PORT):
        yield hub


@pytest.fixture(autouse=True)
def empty_cache(tmp_path, monkeypatch, fresh_listing):
    """Without files and responses of other tests."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))


def refused(id: str, **options: object) -> ModelNotFound:
    with pytest.raises(ModelNotFound) as caught:
        cam_hub.load_model(id, **options)  # type: ignore[arg-type]
    return caught.value


@pytest.mark.parametrize(
    ("id", "first"),
    [
        ("torchvision/resnt50", "torchvision/resnet50"),
        ("resnet50.a9_in1k", "timm/resnet50.a1_in1k"),
        ("resnt50.a1_in1k", "timm/resnet50.a1_in1k"),
        ("torchvision/resnet50@WRONG", "torchvision/resnet50@IMAGENET1K_V1"),
        ("ResNet50.a9_in1k", "timm/resnet50.a1_in1k"),
        ("squeezenet1_1", "torchvision/squeezenet1_1"),
    ],
)
def test_the_nearest_that_the_libraries_know_is_named_first(id: str, first: str):
    assert refused(id).nearest[0] == first


def test_names_that_begin_with_the_words_come_before_names_that_contain_them():
    nearest = refused("vit_base").nearest
    assert all(id.startswith("timm/vit_base_") for id in nearest)


def test_a_name_of_both_libraries_is_offered_from_both():
    assert {"torchvision/resnet50", "timm/resnet50.a1_in1k"} <= set(refused("resnt50").nearest)


@pytest.mark.parametrize("id", ["resnet50", "timm/resnet50"])
def test_an_architecture_with_several_weights_is_ambiguous(id: str, hub: FakeHub):
    error = refused(id)
    assert "add the tag" in error.hint
    assert {"timm/resnet50.a1_in1k", "timm/resnet50.tv_in1k"} <= set(error.nearest)


@pytest.mark.parametrize("id", ["bakr/bread", "baker/bred", "cook/bread", "baker/Breads"])
def test_a_repo_that_the_hub_does_not_have_is_compared_with_those_that_it_has(id, hub: FakeHub):
    hub.facts["baker/unrelated_thing"] = {"library_name": "timm", "tags": ["timm"]}
    error = refused(id)
    assert error.nearest[0] == "baker/bread"
    assert "baker/unrelated_thing" not in error.nearest
    assert "no such repo" in error.hint


def test_a_repo_that_resembles_nothing_gets_no_suggestions(hub: FakeHub):
    assert refused("qqqq/zzzz").nearest == ()


def test_a_wrong_revision_names_the_repo(hub: FakeHub):
    assert refused("baker/bread@v9").nearest == ("baker/bread",)


def test_random_weights_ask_no_hub(hub: FakeHub):
    assert refused("bakr/bread", pretrained=False).nearest == ()
    assert "resnet50" in refused("resnt50", pretrained=False).nearest
    assert hub.requests == []


def test_a_list_that_fails_leaves_the_error_as_it_was():
    hub = WithoutList()
    with serve(hub, HUB_PORT):
        error = refused("baker/bred")
    assert "no such repo" in error.hint
    assert sum(path.startswith("/api/models?") for _, path in hub.requests) == 1


@pytest.mark.slow  # the client itself waits and tries five times
def test_without_a_network_the_error_reports_this_and_takes_no_longer():
    with pytest.raises(HubUnavailable):
        cam_hub.load_model("timm/resnt50")


@pytest.mark.parametrize("id", ["x" * 96, "x_" * 40 + "x", "a.b.c.d.e.f", "9" * 90])
def test_suggestions_for_nonsense_take_no_time(id: str):
    start = time.perf_counter()
    with pytest.raises(CamHubError):
        cam_hub.load_model(id)
    assert time.perf_counter() - start < 3
