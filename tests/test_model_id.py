"""The grammar of model IDs."""

from __future__ import annotations

import pytest

from cam_hub import ModelId, parse_model_id
from cam_hub.errors import ModelNotFound

GOOD = {
    "timm/resnet50.a1_in1k": ModelId("hub", "timm/resnet50.a1_in1k"),
    "owner/name@main": ModelId("hub", "owner/name", "main"),
    "owner/name@refs/pr/3": ModelId("hub", "owner/name", "refs/pr/3"),
    "hf-hub:owner/name@v1.0": ModelId("hub", "owner/name", "v1.0"),
    "  owner/name \n": ModelId("hub", "owner/name"),
    "torchvision/resnet50": ModelId("torchvision", "resnet50"),
    "torchvision/resnet50@IMAGENET1K_V2": ModelId("torchvision", "resnet50", "IMAGENET1K_V2"),
    "resnet50.a1_in1k": ModelId("timm", "resnet50.a1_in1k"),
    "vit_base_patch16_224": ModelId("timm", "vit_base_patch16_224"),
}

BAD = [
    "",
    " ",
    "/",
    "owner/",
    "/name",
    "a/b/c",
    "../../etc/passwd",
    "owner/../name",
    "owner//name",
    "owner/na me",
    "owner/name@",
    "owner/name@../x",
    "owner/name@a//b",
    "owner/name@.git",
    "owner/name@a@b",
    "owner/name\0",
    "-owner/name",
    "owner/name-",
    "owner/na--me",
    "https://example.org/owner/name",
    "file:///etc/passwd",
    "torchvision/",
    "torchvision/a/b",
    "hf-hub:",
    "hf-hub:resnet50",
    "resnet50@main",
    "owner/" + "x" * 300,
    "ＴＩＭＭ/resnet",
]


@pytest.mark.parametrize(("text", "expected"), GOOD.items())
def test_an_id_is_read(text: str, expected: ModelId):
    assert parse_model_id(text) == expected


@pytest.mark.parametrize("expected", GOOD.values(), ids=str)
def test_an_id_survives_the_way_through_its_text(expected: ModelId):
    assert parse_model_id(str(expected)) == expected


@pytest.mark.parametrize("text", BAD)
def test_what_is_not_in_the_grammar_is_refused_with_the_grammar(text: str):
    with pytest.raises(ModelNotFound, match="IDs look like"):
        parse_model_id(text)


def test_what_is_not_text_is_refused():
    with pytest.raises(ModelNotFound):
        parse_model_id(None)  # type: ignore[arg-type]


def test_an_id_built_by_hand_is_checked_too():
    with pytest.raises(ModelNotFound):
        ModelId("hub", "no-slash")
    with pytest.raises(ModelNotFound):
        ModelId("timm", "resnet50", "main")


def test_the_repo_is_the_id_without_its_revision():
    assert parse_model_id("owner/name@main").repo == "owner/name"
    assert parse_model_id("torchvision/resnet50@IMAGENET1K_V2").repo == "torchvision/resnet50"
