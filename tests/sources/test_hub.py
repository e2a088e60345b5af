"""Models from the Hub, with the real client against a server on loopback."""

from __future__ import annotations

import json

import pytest
import timm
import torch

import cam_hub
from cam_hub.errors import HubUnavailable, ModelNotFound, ModelRefused
from tests.fakes.hub.bread import LABELS


def test_a_fine_tuned_repo_comes_with_all_that_it_declares(hub):
    model = cam_hub.load_model("baker/bread", device="cpu")
    assert (model.id, model.source) == ("baker/bread", "hub")
    assert model.revision == hub.commit("baker/bread")
    assert model.class_names == tuple(LABELS)
    assert model.input_size == (3, 96, 128)
    assert model.preprocessing.mean == (0.1, 0.2, 0.3)
    assert model.preprocessing.crop_mode == "squash"


def test_its_weights_are_those_that_were_pushed(hub, lion):
    torch.manual_seed(0)
    pushed = timm.create_model("test_resnet", num_classes=3).eval()
    model = cam_hub.load_model("baker/bread", device="cpu")
    tensor = model.preprocess(lion)
    assert torch.equal(model.module(tensor), pushed(tensor))
    result = cam_hub.explain(model, lion, classes="rye")
    assert result.manifest["model"]["revision"] == hub.commit("baker/bread")


def test_a_revision_is_kept_in_the_id(hub):
    commit = hub.commit("baker/bread")
    assert cam_hub.load_model(f"baker/bread@{commit}", device="cpu").id == f"baker/bread@{commit}"
    assert cam_hub.load_model("baker/bread", revision="main").id == "baker/bread@main"


def test_a_model_in_the_cache_loads_without_the_hub(hub):
    first = cam_hub.load_model("baker/bread", device="cpu")
    hub.broken = True
    again = cam_hub.load_model("baker/bread", device="cpu")
    assert again.revision == first.revision


@pytest.mark.parametrize(
    ("id", "error", "words"),
    [
        ("baker/bred", ModelNotFound, "no such repo"),
        ("baker/bread@v9", ModelNotFound, "no revision 'v9'"),
    ],
)
def test_unknown_ids_are_refused_with_the_reason(hub, id, error, words):
    with pytest.raises(error, match=words):
        cam_hub.load_model(id)


def test_a_gated_repo_is_refused_with_what_to_do(hub):
    hub.gated.add("baker/bread")
    with pytest.raises(ModelRefused, match="accept its terms"):
        cam_hub.load_model("baker/bread")


def test_a_server_that_fails_is_unavailable_and_the_next_try_works(hub):
    hub.broken = True
    with pytest.raises(HubUnavailable):
        cam_hub.load_model("baker/bread")
    hub.broken = False
    assert cam_hub.load_model("baker/bread").source == "hub"


def test_no_server_at_all_is_unavailable(hub_cache):
    with pytest.raises(HubUnavailable, match="cannot be reached"):
        cam_hub.load_model("baker/bread")


@pytest.mark.parametrize(
    ("config", "words"),
    [
        (
            {"model_type": "bert", "architectures": ["BertModel"]},
            "transformers model of type 'bert'",
        ),
        ({"architecture": "resnet_of_2040"}, "no architecture 'resnet_of_2040'"),
        ([1, 2], "not a timm model"),
        ({"architecture": "test_resnet", "model_args": {"bogus": 1}}, "could not build it"),
        ({"architecture": "test_resnet", "num_classes": 7}, "could not build it"),
    ],
    ids=["transformers", "unknown architecture", "no object", "model_args", "class count"],
)
def test_a_repo_that_timm_cannot_read_is_refused_with_what_it_is(hub, config, words):
    hub.repos["baker/bread"]["config.json"] = json.dumps(config).encode()
    with pytest.raises(ModelRefused, match=words):
        cam_hub.load_model("baker/bread")


def test_nothing_large_is_fetched_from_a_repo_that_is_not_a_model(hub):
    hub.repos["baker/bread"]["config.json"] = b'{"model_type": "bert"}'
    with pytest.raises(ModelRefused):
        cam_hub.load_model("baker/bread")
    assert not any("safetensors" in path for _, path in hub.requests)


@pytest.mark.parametrize("missing", ["config.json", "model.safetensors"])
def test_a_repo_without_the_files_of_a_model_is_refused(hub, missing):
    del hub.repos["baker/bread"][missing]
    with pytest.raises(ModelRefused, match=missing.replace(".", r"\.")):
        cam_hub.load_model("baker/bread")


def test_the_default_model_needs_no_request(hub):
    cam_hub.load_model(cam_hub.DEFAULT_MODEL)
    assert hub.requests == []
