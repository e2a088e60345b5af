"""Search for models, with the real client against a server on loopback."""

from __future__ import annotations

import re
from dataclasses import astuple
from pathlib import Path
from typing import Any

import pytest

import cam_hub
from cam_hub.cli import main
from cam_hub.errors import InvalidArgument, ModelNotFound
from cam_hub.sources.registry import find_models
from tests.fakes.hub import FakeHub
from tests.fakes.hub.bakery import COOKS_TOKEN
from tests.fakes.hub.listing import EXPIRED

pytestmark = pytest.mark.usefixtures("fresh_listing")


def ids(query: str, **options: Any) -> list[str]:
    return [hit.id for hit in cam_hub.search_models(query, **options)]


# Results


def test_all_words_must_stand_in_the_id_in_any_order(bakery_hub: FakeHub):
    expected = ["baker/convnext_food", "cook/food-101_convnext_tiny"]
    assert ids("convnext food") == expected
    assert sorted(ids("FOOD convnext")) == expected
    assert ids("convnext food pizza") == []


def test_the_most_downloaded_come_first_with_torchvisions_models_in_between(bakery_hub: FakeHub):
    found = ids("convnext", limit=8)
    assert found[:2] == ["timm/convnext_tiny.in12k_ft_in1k", "timm/convnext_base.fb_in22k_ft_in1k"]
    assert found.index("baker/convnext_food") < found.index("cook/convnext_gated")
    assert any(id.startswith("torchvision/convnext") for id in found)
    assert len(found) == len(set(found)) == 8


def test_the_very_name_comes_before_what_contains_it(bakery_hub: FakeHub):
    bakery_hub.facts["zoo/resnet50_cats"] = {
        "library_name": "timm",
        "downloads": 10**9,
        "tags": ["timm"],
    }
    found = ids("resnet50", limit=100)
    assert found[0] == "torchvision/resnet50"
    assert found.index("timm/resnet50.a1_in1k") < found.index("zoo/resnet50_cats")
    assert found.index("zoo/resnet50_cats") < found.index("timm/seresnet50.a1_in1k")


def test_whole_words_come_before_pieces_of_words(bakery_hub: FakeHub):
    assert ids("swin t")[0] == "torchvision/swin_t"


def test_a_hit_contains_the_hubs_facts(bakery_hub: FakeHub):
    (hit,) = cam_hub.search_models("cook/food-101_convnext_tiny")
    assert hit == cam_hub.ModelHit(
        id="cook/food-101_convnext_tiny",
        source="hub",
        downloads=5_200,
        likes=31,
        parameters=28_500_000,
        bytes=28_000_000 * 4 + 500_000 * 2,
        licence="apache-2.0",
        gated=False,
        private=False,
        task="image-classification",
        library="timm",
    )


def test_torchvisions_facts_about_its_weights_are_included(bakery_hub: FakeHub):
    (hit,) = cam_hub.search_models("torchvision/resnet50", limit=1)
    assert (hit.source, hit.parameters, hit.library) == ("torchvision", 25_557_032, "torchvision")
    assert hit.bytes is not None
    assert abs(hit.bytes - 102.5e6) < 0.1e6
    assert hit.downloads is hit.licence is None


def test_gated_repos_are_marked_and_features_are_listed(bakery_hub: FakeHub):
    hits = {hit.id: hit for hit in cam_hub.search_models("", limit=100)}
    assert hits["cook/convnext_gated"].gated
    assert not hits["baker/convnext_food"].gated
    assert hits["timm/vit_small_patch14_dinov2.lvd142m"].task == "image-feature-extraction"
    assert hits["baker/bread"].task is None


@pytest.mark.parametrize("id", ["detr_convnext", "convnext_segmenter", "gone", "keras"])
def test_what_cannot_be_explained_is_not_listed(bakery_hub: FakeHub, id: str):
    assert not [found for found in ids(id) if found.startswith("doctor/")]


def test_a_url_finds_the_repo_that_it_names(bakery_hub: FakeHub):
    assert ids("https://huggingface.co/baker/bread/tree/main") == ["baker/bread"]
    assert ids("hf-hub:baker/bread@v1") == ["baker/bread"]
    with pytest.raises(ModelNotFound, match="a dataset"):
        cam_hub.search_models("https://huggingface.co/datasets/baker/bread")


def test_untrusted_text_in_cards_does_no_harm(bakery_hub: FakeHub):
    bakery_hub.facts["mallory/bread"] = {
        "library_name": "timm",
        "tags": ["timm", "license:" + "x" * 10_000],
        "cardData": {"license": ["mit", {"a": 1}]},
        "safetensors": {"parameters": {"F32": "many", "?": -1, "F16": 7}, "total": None},
        "likes": "lots",
        "downloads": True,
        "pipeline_tag": None,
    }
    bakery_hub.facts["mallory/../bread"] = {"library_name": "timm", "tags": ["timm"]}
    hits = {hit.id: hit for hit in cam_hub.search_models("bread")}
    assert set(hits) == {"baker/bread", "mallory/bread"}
    odd = hits["mallory/bread"]
    assert (odd.downloads, odd.likes, odd.parameters, odd.bytes) == (None, None, 7, 14)
    assert odd.licence is not None
    assert len(odd.licence) <= 60


def test_the_search_in_the_docs_runs(bakery_hub: FakeHub, capsys: pytest.CaptureFixture[str]):
    page = (Path(__file__).parents[2] / "docs" / "models.md").read_text("utf-8")
    (block,) = [
        part for part in re.findall(r"```python\n(.*?)```", page, re.DOTALL) if "search" in part
    ]
    exec(compile(block, "docs", "exec"), {"cam_hub": cam_hub})
    rows = capsys.readouterr().out.splitlines()
    assert rows[0] == "baker/convnext_food 900 113000000 apache-2.0 False"


# Requests


def test_the_hub_is_asked_once_for_the_timm_models_and_their_facts(bakery_hub: FakeHub):
    cam_hub.search_models("bread", limit=5)
    (call,) = bakery_hub.calls
    assert call.path == "/api/models"
    query = dict(call.query)
    assert {"downloads", "safetensors", "gated", "private", "cardData"} <= set(query.pop("expand"))
    assert query == {"filter": ["timm"], "search": ["bread"], "sort": ["downloads"], "limit": ["5"]}


def test_words_that_do_not_stand_side_by_side_are_found_by_the_longest(bakery_hub: FakeHub):
    assert "cook/food-101_convnext_tiny" in ids("food tiny")
    assert [call.query["search"][0] for call in bakery_hub.calls] == ["food tiny", "food"]


def test_the_same_query_is_not_put_again(bakery_hub: FakeHub):
    assert ids("bread") == ids("  BREAD ") == ["baker/bread"]
    assert len(bakery_hub.calls) == 1


# Tokens


def test_private_repos_are_found_with_their_owners_token_only(bakery_hub: FakeHub):
    assert ids("secret") == []
    (hit,) = cam_hub.search_models("secret", token=COOKS_TOKEN)
    assert (hit.id, hit.private) == ("cook/convnext_secret", True)
    assert ids("secret", token=False) == []


def test_answers_to_a_token_are_not_remembered(bakery_hub: FakeHub):
    for _ in range(2):
        assert ids("secret", token=COOKS_TOKEN) == ["cook/convnext_secret"]
        assert ids("secret", token=False) == []
    assert [call.token for call in bakery_hub.calls].count(COOKS_TOKEN) == 2


def test_a_token_that_the_hub_does_not_accept_is_refused_without_being_repeated(
    bakery_hub: FakeHub,
):
    with pytest.raises(InvalidArgument, match="token") as caught:
        cam_hub.search_models("bread", token=EXPIRED)
    assert EXPIRED not in str(caught.value) + str(vars(caught.value))


@pytest.mark.parametrize("token", ["", "hf_line\nbreak", "hf_ümlaut"])
def test_an_invalid_token_is_refused_without_being_shown(bakery_hub: FakeHub, token: str):
    with pytest.raises(InvalidArgument, match="token") as caught:
        cam_hub.search_models("bread", token=token)
    assert not token or token not in str(caught.value)
    assert bakery_hub.calls == []
    assert find_models("bread", token=False).trouble is None
    assert ids("bread") == ["baker/bread"]


# Bad input


@pytest.mark.parametrize(
    ("query", "limit"),
    [("x" * 201, 20), (None, 20), ("a", 0), ("a", 101), ("a", 2.5), ("a", True)],
)
def test_a_value_that_cannot_work_is_refused(query: Any, limit: Any):
    with pytest.raises(InvalidArgument):
        cam_hub.search_models(query, limit=limit)


@pytest.mark.parametrize(
    "query", ["bread\0", "\ud800bread", "bread\x1b", "\tbread\n", "\u202ebread"]
)
def test_letters_that_no_id_has_are_passed_over(bakery_hub: FakeHub, query: str):
    assert ids(query) == ["baker/bread"]


# The command line


def test_the_command_line_prints_a_row_per_model(
    bakery_hub: FakeHub, capsys: pytest.CaptureFixture[str]
):
    assert main(["search", "convnext", "gated"]) == 0
    head, row = capsys.readouterr().out.splitlines()
    assert head.split() == ["model", "downloads", "parameters", "size", "licence", "access"]
    facts = ["70", "28.5", "M", "113", "MB", "apache-2.0", "gated"]
    assert row.split() == ["cook/convnext_gated", *facts]


def test_the_command_line_reports_a_search_without_the_hub(capsys: pytest.CaptureFixture[str]):
    assert main(["search", "resnet50", "--limit", "1"]) == 0
    printed = capsys.readouterr()
    assert printed.out.splitlines()[1].startswith("torchvision/resnet50 ")
    assert printed.err.startswith("without the Hub: ")


def test_a_hit_is_a_value(bakery_hub: FakeHub):
    one, other = (cam_hub.search_models("bread")[0] for _ in range(2))
    assert one == other
    assert hash(one) == hash(other)
    assert len(astuple(one)) == 11
