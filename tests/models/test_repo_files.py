"""The files of a repo: the chosen weights, the reason if there are none, other libraries."""

from __future__ import annotations

import pytest

from cam_hub.models.repo_files import (
    choose_weights,
    not_a_model,
    why_no_weights,
    why_other_library,
)


@pytest.mark.parametrize(
    ("files", "pickles", "wanted"),
    [
        (["config.json", "pytorch_model.bin", "model.safetensors"], True, "model.safetensors"),
        (["pytorch_model.bin", "other.safetensors"], False, "other.safetensors"),
        (["pytorch_model.bin"], True, "pytorch_model.bin"),
        (["pytorch_model.bin"], False, None),
        (["last.pth", "best.pth.tar", "z.safetensors"], True, "z.safetensors"),
        (["my own weights (2).pth"], True, "my own weights (2).pth"),
        (["config.json", "training_args.json"], True, None),
        (["weights/model.safetensors", "best.pth"], True, "best.pth"),
        (["model-00001-of-00002.safetensors", "best.pth"], True, "best.pth"),
    ],
)
def test_the_safe_file_at_the_top_is_chosen_where_there_is_one(files, pickles, wanted):
    assert choose_weights(files, pickles=pickles) == wanted


@pytest.mark.parametrize(
    "name",
    [
        "../m.pth",
        "/m.pth",
        "..\\m.pth",
        "C:m.pth",
        "m\0.pth",
        "m\n.pth",
        "a/m.pth",
        "x" * 300 + ".pth",
    ],
)
def test_no_name_is_chosen_that_is_more_than_a_name_on_any_system(name):
    assert choose_weights([name], pickles=True) is None


@pytest.mark.parametrize(
    ("files", "words"),
    [
        (["model.safetensors.index.json"], "in several files (model.safetensors.index.json)"),
        (["model-00001-of-00002.safetensors"], "in several files (model-00001-of-00002"),
        (["best.pth"], "only as a pickle (best.pth)"),
        (["best.pth", "weights/model.safetensors"], "only as a pickle (best.pth)"),
        (["a/b/model.safetensors"], "in a folder (a/b/model.safetensors)"),
    ],
)
def test_the_reason_names_the_file_and_what_would_work(files, words):
    reason = why_no_weights(files)
    assert words in reason
    assert "model.safetensors they work" in reason


@pytest.mark.parametrize(
    "files", [[], ["config.json"], ["../x.safetensors"], ["..\\x.pth"], ["/etc/x.pth"]]
)
def test_nothing_like_weights_has_no_reason(files):
    assert why_no_weights(files) is None


# Repos of other libraries: each refusal names the library.

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


def test_the_hubs_tags_are_also_used():
    assert "ultralytics" in why_other_library(
        {"best.pt"}, None, None, ["object-detection", "ultralytics"]
    )


def test_a_timm_repo_is_none_of_them_with_any_other_files():
    files = {"open_clip_config.json", "model.safetensors", "preprocessor_config.json"}
    assert why_other_library(files, "open_clip", {"architecture": "vit_base_patch16_224"}) is None
    assert why_other_library({"model.safetensors"}, "timm", {"architecture": "resnet18"}) is None
    assert why_other_library(files, None, None, ["timm", "transformers"]) is None


def test_an_unknown_repo_is_none_of_them():
    assert why_other_library({"model.safetensors"}, None, None) is None


@pytest.mark.parametrize(("kind", "words"), [("dataset", "a dataset"), ("space", "a Space")])
def test_an_object_that_is_not_a_model_is_named(kind, words):
    assert words in not_a_model(kind)
