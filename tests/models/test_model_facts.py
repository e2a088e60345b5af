"""Facts about a model before it is loaded: reasons for a refusal, and its input."""

from __future__ import annotations

import pytest

import cam_hub
from cam_hub.errors import ModelRefused
from cam_hub.models.loading import LoadLimits
from tests.fakes.hub.bread import REPO


def load(**options: object) -> cam_hub.LoadedModel:
    return cam_hub.load_model(REPO, device="cpu", **options)


REFUSED: dict[str, tuple[LoadLimits, str]] = {
    "parameters": (LoadLimits(parameters=1000), "at most 1,000 are loaded here"),
    "bytes": (LoadLimits(download_bytes=1000), "at most 1.0 kB are fetched here"),
}


@pytest.mark.parametrize(("limits", "words"), REFUSED.values(), ids=REFUSED)
def test_the_facts_contain_the_reason_of_a_refusal(hub, limits, words):
    refusal = cam_hub.describe_model(REPO, limits=limits).refusal
    assert refusal is not None and words in refusal
    with pytest.raises(ModelRefused) as caught:
        load(limits=limits)
    assert caught.value.reason == refusal
    assert cam_hub.describe_model(REPO).refusal is None


def test_the_facts_report_a_repo_of_another_library_or_without_readable_weights(hub):
    files = hub.repos[REPO]
    hub.repos[REPO] = {"model_index.json": b"{}", "unet/config.json": b"{}"}
    hub.facts[REPO] = {"library_name": "diffusers", "tags": ["diffusers"]}
    assert "diffusers" in (cam_hub.describe_model(REPO).refusal or "")
    hub.facts.clear()
    hub.repos[REPO] = {"config.json": files["config.json"], "pytorch_model.bin": b"x"}
    refusal = cam_hub.describe_model(REPO, limits=LoadLimits(pickles=False)).refusal
    assert "only as a pickle" in (refusal or "")
    assert cam_hub.describe_model(REPO).refusal is None


def test_the_facts_report_whether_a_gated_repo_is_open_to_the_caller(hub):
    hub.gated.add(REPO)
    hub.accepted[REPO] = {"hf_baker"}
    assert "accept its terms" in (cam_hub.describe_model(REPO, token=False).refusal or "")
    assert "has not been let in" in (cam_hub.describe_model(REPO, token="hf_guest").refusal or "")
    assert cam_hub.describe_model(REPO, token="hf_baker").refusal is None


def test_the_input_is_known_from_timm_torchvision_or_cached_files(hub):
    hub.repos["timm/test_vit.r160_in1k"] = hub.repos[REPO]
    assert cam_hub.describe_model("timm/test_vit.r160_in1k").input_size == (3, 160, 160)
    assert cam_hub.describe_model("torchvision/resnet50").input_size == (3, 224, 224)
    assert cam_hub.describe_model("torchvision/ssd300_vgg16").input_size is None
    assert cam_hub.describe_model(cam_hub.DEFAULT_MODEL).input_size == (3, 224, 224)
    assert cam_hub.describe_model(REPO).input_size is None
    load()
    assert cam_hub.describe_model(REPO).input_size == (3, 96, 128)


def test_files_fetched_for_one_caller_reveal_no_input_or_labels_to_others(hub):
    hub.gated.add(REPO)
    hub.accepted[REPO] = {"hf_baker"}
    load(token="hf_baker")
    nobody = cam_hub.describe_model(REPO, token=False)
    assert nobody.input_size is None
    assert nobody.class_names is None


@pytest.mark.parametrize("id", [cam_hub.DEFAULT_MODEL, "torchvision/mobilenet_v3_small"])
def test_the_labels_are_those_of_the_loaded_model(id):
    facts = cam_hub.describe_model(id, pretrained=False)
    model = cam_hub.load_model(id, pretrained=False, device="cpu")
    assert facts.class_names == model.class_names
    assert len(facts.class_names) == 1000


def test_features_have_no_labels_and_a_large_label_set_is_complete():
    features = cam_hub.describe_model("vit_small_patch14_dinov2", pretrained=False)
    assert features.class_names is None
    large = cam_hub.describe_model("convnext_tiny.in12k", pretrained=False)
    assert len(large.class_names) == 11821
