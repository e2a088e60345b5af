"""Repos of other libraries: each named for what it is."""

from __future__ import annotations

import pytest

from cam_hub.models.repo_files import not_a_model, why_other_library

FOREIGN: dict[str, tuple[set[str], str | None, object, str]] = {
    "transformers": (set(), None, {"model_type": "vit"}, "a transformers model of type 'vit'"),
    "transformers by its library": (set(), "transformers", None, "a transformers model"),
    "timm as a backbone": (set(), None, {"model_type": "timm_backbone"}, "type 'timm_backbone'"),
    "open_clip": ({"open_clip_config.json"}, None, None, "an open_clip model"),
    "open_clip by its configuration": (
        set(), None, {"model_cfg": {}, "preprocess_cfg": {}}, "an open_clip model"
    ),
    "keras": ({"saved_model.pb", "variables/variables.index"}, None, None, "a Keras model"),
    "keras by its file": ({"bread.keras"}, None, None, "a Keras model"),
    "diffusers": ({"model_index.json"}, None, None, "library diffusers"),
    "a part of a pipeline": (set(), None, {"_diffusers_version": "0.30"}, "library diffusers"),
    "sentence-transformers": (
        {"config_sentence_transformers.json"}, None, {"model_type": "bert"}, "sentence-transformers"
    ),
    "ultralytics": ({"yolo11n.pt"}, "ultralytics", None, "a detector of the library ultralytics"),
    "an adapter": ({"adapter_config.json"}, "peft", None, "an adapter of the library peft"),
    "a list": (set(), "spacy", [1, 2], "a model of the library 'spacy'"),
}  # fmt: skip


@pytest.mark.parametrize("case", FOREIGN)
def test_repos_of_other_libraries_are_named_with_what_works(case):
    files, library, config, words = FOREIGN[case]
    reason = why_other_library(files, library, config)
    assert words in reason
    assert reason.endswith(".")


def test_the_hubs_tags_tell_too():
    assert "ultralytics" in why_other_library(
        {"best.pt"}, None, None, ["object-detection", "ultralytics"]
    )


def test_a_timm_repo_is_none_of_them_whatever_else_it_holds():
    files = {"open_clip_config.json", "model.safetensors", "preprocessor_config.json"}
    assert why_other_library(files, "open_clip", {"architecture": "vit_base_patch16_224"}) is None
    assert why_other_library({"model.safetensors"}, "timm", {"architecture": "resnet18"}) is None
    assert why_other_library(files, None, None, ["timm", "transformers"]) is None


def test_a_repo_that_nothing_is_known_of_is_none_of_them():
    assert why_other_library({"model.safetensors"}, None, None) is None


@pytest.mark.parametrize(("kind", "words"), [("dataset", "a dataset"), ("space", "a Space")])
def test_what_is_no_model_at_all_is_named(kind, words):
    assert words in not_a_model(kind)
