"""Layer and method chosen by evidence: on networks trained on images whose evidence is known."""

from __future__ import annotations

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from itertools import product
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from torch import Tensor

import cam_hub
from bench.truth.networks import load, wrapped
from bench.truth.world import World
from cam_hub import LoadedModel
from cam_hub.attribution.choice import _best
from cam_hub.errors import CamHubError, InvalidArgument, MethodNotFound
from cam_hub.faithfulness import blurred
from cam_hub.layers import cache

DATA = Path(__file__).parents[2] / "bench" / "truth" / "data"


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """What other tests have learnt about the networks does not count."""
    monkeypatch.setenv("CAM_HUB_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture(scope="module")
def mixer() -> LoadedModel:
    """An MLP-Mixer whose recommended layer hardly distinguishes between objects."""
    return wrapped(load("mixer", DATA))


@pytest.fixture
def model(trained: LoadedModel) -> LoadedModel:
    """A small network that remembers nothing of other tests."""
    trained.facts.pop("choices", None)
    return trained


@pytest.fixture(scope="module")
def trained() -> LoadedModel:
    return wrapped(load("resnet10t", DATA))


@pytest.fixture(scope="module")
def images() -> Tensor:
    return World(DATA).compose(4, 11, two=True).images


def test_evidence_leads_away_from_a_layer_at_chance(mixer: LoadedModel):
    """Of the heat on the two objects, more lies on the explained one."""
    composed = World(DATA).compose(6, 11, two=True)
    own: dict[str, list[float]] = {"auto": [], "layercam": []}
    for place, which in product(range(3), range(2)):
        image, masks = composed.images[place], composed.masks[place].numpy()
        for method, shares in own.items():
            index = int(composed.classes[place, which])
            heat = cam_hub.explain(mixer, image, method=method, classes=index).heatmap()
            right, wrong = float(heat[masks[which]].sum()), float(heat[masks[1 - which]].sum())
            shares.append(right / (right + wrong))
    assert min(own["auto"]) > 0.75
    assert min(own["layercam"]) < 0.6


def test_the_choice_is_recorded_bounded_and_made_once(model: LoadedModel, images: Tensor):
    first = cam_hub.explain(model, images[0], method="auto")
    choice = first.manifest["choice"]
    assert choice["method"] == first.method
    assert [choice["layer"]] == list(first.layers)
    assert 0 < choice["passes"] <= 25
    assert choice["drop"] > choice["random"]
    assert choice["reason"].startswith("chosen by evidence among")
    with counted(model) as passed:
        again = cam_hub.explain(model, images[0], method="auto")
    assert sum(passed) <= 5  # no covers: one image, with its noisy copies if it needs some
    assert again.manifest["choice"] == choice
    assert np.allclose(first.cam(), again.cam(), atol=1e-6)
    # In another process, with the weights loaded anew.
    anew = wrapped(load("resnet10t", DATA))
    cam_hub.suggest_layers(anew, "best")
    with counted(anew) as passed:
        other = cam_hub.explain(anew, images[0], method="auto")
    assert sum(passed) <= 5  # one image, with its noisy copies
    assert other.manifest["choice"] == choice
    assert np.allclose(first.cam(), other.cam(), atol=1e-6)


@contextmanager
def counted(model: LoadedModel) -> Iterator[list[int]]:
    """The sizes of the batches that pass the network."""
    found: list[int] = []
    handle = model.module.register_forward_pre_hook(lambda _, given: found.append(len(given[0])))
    try:
        yield found
    finally:
        handle.remove()


def test_a_choice_takes_25_images_at_most(model: LoadedModel, images: Tensor):
    cam_hub.suggest_layers(model, "best")  # the layers are found once
    with counted(model) as passed:
        result = cam_hub.explain(model, images[1], method="auto", reuse=False)
    own = 1 if result.method != "smoothgradcampp" else result.manifest["maps"][0]["num_samples"] + 1
    # And those of the explanation itself, which does not reuse the passes of the choice here.
    assert sum(passed) == result.manifest["choice"]["passes"] + own <= 25 + own


def test_many_noisy_copies_are_those_of_the_chosen_map(model: LoadedModel, images: Tensor):
    asked = {"method": "smoothgradcampp", "target_layers": "faithful", "sampling": "fixed"}
    cam_hub.suggest_layers(model, "best")
    with counted(model) as passed:
        result = cam_hub.explain(model, images[1], num_samples=30, reuse=False, **asked)
    assert result.manifest["choice"]["passes"] <= 25
    assert sum(passed) == result.manifest["choice"]["passes"] + 31
    assert result.manifest["maps"][0]["num_samples"] == 30


def test_a_question_in_other_words_is_the_same_question(model: LoadedModel, images: Tensor):
    """It costs no covers, and no image judges itself."""
    first = cam_hub.explain(model, images[0])
    index = first.classes[0]
    for words in (cam_hub.top(1), index, [index], str(index), np.array([index])):
        with counted(model) as passed:
            again = cam_hub.explain(model, images[0], classes=words)
        assert again.manifest["choice"] == first.manifest["choice"]
        assert sum(passed) <= 4 + 1  # and the map itself
        with counted(model) as passed:
            cam_hub.explain(model, images[0], classes=words)
        assert sum(passed) <= 1
    other = cam_hub.explain(model, images[0], classes=(index + 1) % 20)
    assert "this image alone" in other.manifest["choice"]["reason"]


@pytest.mark.parametrize("covers", ["blurred as a whole", "in part"])
@pytest.mark.parametrize("fails", [True, False])
def test_a_model_that_refuses_covered_images_is_explained_by_depth(
    images: Tensor, covers: str, fails: bool
):
    """Or that has no finite scores for them."""
    model = wrapped(load("resnet10t", DATA))
    by_depth = cam_hub.explain(model, images[0], method="smoothgradcampp")
    whole = images[0].std() * 0.9
    batches = []

    def refuse(_: object, given: tuple[Tensor], scores: Tensor) -> Tensor:
        batches.append(len(given[0]))
        flat = given[0].std((1, 2, 3)) < whole
        if covers == "in part":  # which come after those four
            same = (given[0] == images[0]).all(1).double().mean((1, 2))
            flat = (same > 0.3) & (same < 1) & (sum(batches) > 4)
        if fails and bool(flat.any()):
            raise ValueError("too flat")
        return torch.where(flat[:, None], torch.nan, scores)

    model.module.register_forward_hook(refuse)
    result = cam_hub.explain(model, images[0], evidence="cover", reuse=False)
    choice = result.manifest["choice"]
    reason = choice["reason"]
    assert reason.startswith("recommended by depth")
    assert "too flat" in reason if fails else "finite" in reason or "no map" in reason
    assert choice["passes"] <= 25
    assert (result.method, result.layers) == (by_depth.method, by_depth.layers)
    assert np.allclose(result.cam(), by_depth.cam(), atol=1e-6)
    assert result.evidence.verdict.startswith("not tested: ")
    assert "too flat" in result.evidence.verdict if fails else "finite" in result.evidence.verdict


def test_several_classes_cost_no_more(model: LoadedModel, images: Tensor):
    result = cam_hub.explain(model, images[0], method="auto", classes=cam_hub.top(3))
    assert len(result.classes) == 3
    assert result.manifest["choice"]["passes"] <= 25


def test_a_named_method_gets_the_best_layer_for_it(model: LoadedModel, images: Tensor):
    result = cam_hub.explain(model, images[0], method="layercam", target_layers="faithful")
    assert result.method == "layercam"
    assert len(result.layers) == 1
    assert result.manifest["choice"]["layer"] == result.layers[0]
    assert result.layers[0] in cam_hub.suggest_layers(model, "blocks")


def test_auto_is_spelled_as_freely_as_methods(model: LoadedModel, images: Tensor):
    first = cam_hub.explain(model, images[0])
    for word in ("Auto", " AUTO "):
        assert cam_hub.explain(model, images[0], method=word).manifest == first.manifest
    with pytest.raises(MethodNotFound, match="and auto"):
        cam_hub.explain(model, images[0], method="automatic")


def test_named_layers_stay_and_the_method_is_chosen(model: LoadedModel, images: Tensor):
    layers = ["layer2", "layer3"]
    result = cam_hub.explain(model, images[0], method="auto", target_layers=layers)
    assert list(result.layers) == layers
    assert result.manifest["choice"]["layer"] is None
    assert result.manifest["choice"]["drop"] is not None


def test_random_weights_are_explained_by_depth(images: Tensor):
    torch.manual_seed(0)
    model = cam_hub.wrap_model(timm.create_model("resnet10t", pretrained=False).eval())
    result = cam_hub.explain(model, images[0], method="auto")
    choice = result.manifest["choice"]
    assert list(result.layers) == cam_hub.suggest_layers(model, "best")
    assert choice["reason"].startswith("recommended by depth: ")
    assert "random weights" in choice["reason"]
    assert choice["passes"] == 4


def test_other_weights_are_another_network(model: LoadedModel, images: Tensor):
    cam_hub.explain(model, images[0], method="auto")
    weight = next(model.module.parameters())
    with torch.no_grad():
        weight.mul_(2)
        again = cam_hub.explain(model, images[0], method="auto")
        weight.div_(2)
    assert again.manifest["choice"]["passes"] > 0
    assert again.manifest["choice"]["images"] == 1


def test_the_same_weights_in_another_network_are_another_network(
    model: LoadedModel, images: Tensor
):
    """Its scores, which are those of the sentence, are others."""
    first = cam_hub.explain(model, images[0]).manifest["choice"]
    chain = torch.nn.Sequential()
    for name, part in model.module.named_children():
        chain.add_module(name, part)
    other = cam_hub.explain(wrapped(chain), images[0]).manifest["choice"]
    assert other["drop"] == pytest.approx(first["drop"], rel=1e-3)  # it computes the same
    chain.add_module("sharper", _Sharper())
    sharper = cam_hub.explain(wrapped(chain), images[0]).manifest["choice"]
    assert sharper["images"] == 1
    assert sharper["random"] == pytest.approx(10 * first["random"], rel=1e-3)


class _Sharper(torch.nn.Module):
    def forward(self, scores: Tensor) -> Tensor:
        return 10 * scores


def test_without_a_disk_the_choice_is_remembered_by_the_model(
    model: LoadedModel, images: Tensor, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("CAM_HUB_CACHE", "off")
    cam_hub.explain(model, images[0], method="auto")
    with counted(model) as passed:
        cam_hub.explain(model, images[0], method="auto")
    assert sum(passed) <= 5


def test_a_damaged_file_is_ignored(model: LoadedModel, images: Tensor, own_cache: Path):
    cam_hub.explain(model, images[0], method="auto")
    for path in own_cache.rglob("*.json"):
        path.write_bytes(path.read_bytes()[:-40])
    again = cam_hub.explain(wrapped(load("resnet10t", DATA)), images[0], method="auto")
    assert again.manifest["choice"]["passes"] > 0


def test_tests_of_the_map_and_more_copies_of_it_leave_the_choice(
    model: LoadedModel, images: Tensor
):
    cam_hub.explain(model, images[1])
    first = cam_hub.explain(model, images[0])
    for option in ({"evidence": "focus"}, {"sampling": "fixed"}, {"batch_size": 2}):
        with counted(model) as passed:
            again = cam_hub.explain(model, images[0], **option)
        assert again.manifest["choice"] == first.manifest["choice"]
        assert sum(passed) <= 1


def test_threads_discard_nothing_of_each_other(model: LoadedModel, images: Tensor):
    """The same image has the same choice in all of them, and later."""
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda turn: cam_hub.explain(model, images[turn % 4]), range(16)))
    choices = [each.manifest["choice"] for each in found]
    for turn, choice in enumerate(choices):
        assert choice == choices[turn % 4]
    for image, choice in zip(images, choices, strict=False):
        with counted(model) as passed:
            assert cam_hub.explain(model, image).manifest["choice"] == choice
        assert sum(passed) <= 5


@pytest.mark.parametrize(
    "changed",
    [{"method": "nothing"}, {"method": ["gradcam"]}, {"layer": ["layer1"]}, {"layer": "layer9"}],
)
def test_a_choice_of_another_version_is_made_anew(
    model: LoadedModel, images: Tensor, own_cache: Path, changed: dict
):
    first = cam_hub.explain(model, images[0]).manifest["choice"]
    for path in own_cache.rglob("*.json"):
        payload = json.loads(path.read_text())["payload"]
        if "chosen" in payload:
            chosen = {key: {**each, **changed} for key, each in payload["chosen"].items()}
            cache.write(path.stem, {"images": {}, "chosen": chosen})
    again = cam_hub.explain(wrapped(load("resnet10t", DATA)), images[0])
    assert again.manifest["choice"] == first


def test_the_manifest_makes_the_same_map_again(model: LoadedModel, images: Tensor):
    result = cam_hub.explain(model, images[0], method="auto")
    again = cam_hub.reproduce(result.manifest, images[0], model=model)
    assert np.array_equal(result.cam(), again.cam())


def test_without_reuse_nothing_is_stored(model: LoadedModel, images: Tensor, own_cache: Path):
    result = cam_hub.explain(model, images[0], method="auto", reuse=False)
    assert result.manifest["choice"]["passes"] > 0
    assert not list(own_cache.rglob("*.json"))


def test_the_model_is_left_as_it_was(model: LoadedModel, images: Tensor):
    before = {name: value.clone() for name, value in model.module.state_dict().items()}
    cam_hub.explain(model, images[0], method="auto")
    after = model.module.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert not any(part._forward_hooks for part in model.module.modules())
    assert all(weight.grad is None for weight in model.module.parameters())


@pytest.mark.parametrize(
    "call",
    [
        lambda model, image: cam_hub.suggest_layers(model, "faithful"),
        lambda model, image: cam_hub.activations(model, image, "faithful"),
    ],
)
def test_where_nothing_is_explained_the_words_are_refused(call, model, images):
    with pytest.raises(CamHubError) as caught:
        call(model, images[0])
    assert isinstance(caught.value, (InvalidArgument, MethodNotFound))


def test_many_images_are_each_chosen_for(model: LoadedModel, images: Tensor):
    outcomes = list(cam_hub.explain_many(model, list(images[:2]), method="auto"))
    for image, outcome in zip(images, outcomes, strict=False):
        alone = cam_hub.explain(model, image, method="auto")
        assert outcome.explanation.manifest["choice"] == alone.manifest["choice"]
        assert np.allclose(outcome.explanation.cam(), alone.cam(), atol=1e-5)


def test_several_methods_get_a_layer_each(model: LoadedModel, images: Tensor):
    found = cam_hub.explain_methods(
        model, images[0], ["layercam", "auto"], target_layers="faithful"
    )
    assert list(found) == ["layercam", "auto"]
    assert found["layercam"].method == "layercam"
    assert all("choice" in each.manifest for each in found.values())


def test_a_comparison_chooses_for_each_model(model: LoadedModel, images: Tensor):
    alone = cam_hub.explain(model, images[0])
    assert alone.manifest["choice"]["layer"] is not None
    found = cam_hub.compare(model, images[0], methods=["auto", "layercam"])
    auto, named = found.rows[0].cells
    assert found.titles == ("Auto", "LayerCAM")
    assert (auto.method, auto.layer) == (alone.method, alone.layers[0])
    assert named.method == "layercam"
    (by_layer,) = cam_hub.compare(
        model, images[0], methods="layercam", target_layers="faithful"
    ).rows
    assert [cell.method for cell in by_layer.cells] == ["layercam"]


def test_blocks_are_spread_over_the_depth(model: LoadedModel):
    blocks = cam_hub.suggest_layers(model, "blocks")
    assert [f"layer{index}" for index in range(1, 5)] == [n for n in blocks if len(n) == 6]
    assert set(cam_hub.suggest_layers(model, "best")) <= set(blocks)
    deep = cam_hub.wrap_model(timm.create_model("resnet26", pretrained=False).eval())
    names = cam_hub.suggest_layers(deep, "blocks")
    assert len(names) <= 8
    assert set(cam_hub.suggest_layers(deep, "best")) <= set(names)
    assert names[0].startswith(("act1", "layer1", "bn1", "maxpool"))


def test_all_images_of_a_batch_are_tested_before_the_first_choice(
    model: LoadedModel, images: Tensor
):
    outcomes = list(cam_hub.explain_many(model, list(images[:3])))
    assert [each.explanation.manifest["choice"]["images"] for each in outcomes] == [3, 3, 3]
    assert "(this image and 2 others)" in outcomes[0].explanation.manifest["choice"]["reason"]


def test_maps_that_mark_the_same_pixels_are_ties_of_depth_and_cost():
    values = {("smoothgradcampp", "b"): 1.0, ("layercam", "b"): 1.0, ("layercam", "a"): 1.0}
    assert _best(values, ["a", "b"], free=True) == ("layercam", "b")
    assert _best({**values, ("layercam", "a"): 1.01}, ["a", "b"], free=True) == ("layercam", "a")


def test_two_scores_that_a_blur_changes_alike_do_not_look_like_random_weights(
    model: LoadedModel, images: Tensor
):
    with torch.no_grad():
        scores, blur = (model.module(each)[0] for each in (images[:1], blurred(images[:1])))
    drops = scores - blur
    first, second = scores.topk(2).indices.tolist()
    weight = float(drops[first] / drops[second])
    assert weight > 0  # the contrast itself stays as it was
    result = cam_hub.explain(model, images[0], classes=first, contrast=[(second, weight)])
    assert result.manifest["choice"]["passes"] > 4
    assert "random weights" not in result.manifest["choice"]["reason"]
