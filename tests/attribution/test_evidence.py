"""``cam_hub.evidence``: explanations of small networks, tested against these."""

from __future__ import annotations

import json
import pickle
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import softplus

import cam_hub
from cam_hub import Evidence, Explanation
from cam_hub.attribution.evidence import CHECKS, add_evidence
from cam_hub.errors import ClassNotFound, InvalidArgument
from cam_hub.options import OPTIONS
from cam_hub.results.serialization import write_manifest

SIDE = 64


class Colours(nn.Module):
    """Class 0, 1 and 2: how much red, green and blue there is, as far as it is bright."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Conv2d(3, 3, 8, stride=8, bias=True)
        with torch.no_grad():
            self.features.weight.zero_()
            for channel in range(3):
                self.features.weight[channel, channel] = 1 / 64
            self.features.bias.fill_(-0.5)
        self.scale = nn.Parameter(torch.tensor(40.0))

    def forward(self, images: Tensor) -> Tensor:
        return self.scale * softplus(4 * self.features(images)).mean((2, 3))


def photo() -> Tensor:
    """A red square at the upper left, and a smaller green one at the lower right, on noise."""
    found = 0.2 * torch.rand((3, SIDE, SIDE), generator=torch.Generator().manual_seed(0))
    found[0, 8:24, 8:24] = torch.rand((16, 16), generator=torch.Generator().manual_seed(1)) * 4
    found[1, 40:52, 40:52] = torch.rand((12, 12), generator=torch.Generator().manual_seed(2)) * 4
    return found


@pytest.fixture(scope="module")
def model() -> cam_hub.LoadedModel:
    return cam_hub.wrap_model(
        Colours().eval(),
        input_size=(3, SIDE, SIDE),
        mean=(0.0,) * 3,
        std=(1.0,) * 3,
        class_names=["red", "green", "blue"],
    )


@pytest.fixture(scope="module")
def explained(model: cam_hub.LoadedModel) -> Explanation:
    return cam_hub.explain(
        model, photo(), method="gradcam", target_layers="features", classes=["red", "green"]
    )


def test_a_map_of_the_red_square_is_faithful_and_specific(explained: Explanation):
    found = cam_hub.evidence(explained, checks=["cover", "class_check"])
    assert found.verdict == "class-specific and faithful"
    assert found["cover"].value > 3 * max(found["cover"].baselines.values())
    assert found["cover"].details["rivals"] == [[1, 1.0]]
    assert "red" in str(found)
    green = cam_hub.evidence(explained, class_index=1)
    assert green.class_index == 1
    assert green.faithful
    assert "green" in green["cover"].sentence


class Shaded(Colours):
    """Its channels are brightness and, faintly, one colour each; brightness supports no class."""

    def __init__(self) -> None:
        super().__init__()
        with torch.no_grad():
            self.features.weight.fill_(0.3 / 64)
            for channel in range(3):
                self.features.weight[channel, channel] += 0.02 / 64
            self.features.bias.zero_()
        self.scores = nn.Linear(3, 3, bias=False)
        self.scores.weight = nn.Parameter(1.5 * torch.eye(3) - 0.5)

    def forward(self, images: Tensor) -> Tensor:
        return 400 * self.scores(torch.relu(self.features(images)).mean((2, 3)))


@pytest.mark.parametrize("contrast", [None, "green"])
def test_a_map_that_is_the_same_for_any_class_names_one_that_is_not(contrast: str | None):
    """LayerCAM adds up channels that support the class, all of which are mostly brightness."""
    model = cam_hub.wrap_model(
        Shaded().eval(),
        input_size=(3, SIDE, SIDE),
        mean=(0.0,) * 3,
        std=(1.0,) * 3,
        class_names=["red", "green", "blue"],
    )
    asked = {"target_layers": "features", "classes": ["red"], "contrast": contrast}
    found = cam_hub.evidence(
        cam_hub.explain(model, photo(), method="layercam", **asked), checks=["cover", "class_check"]
    )
    assert found.class_specific is False
    instead = found["class_check"].details["instead"]
    assert instead["words"] in found["class_check"].sentence
    assert instead["value"] < 0.5
    if found.faithful:
        assert found.verdict.endswith(f"use {instead['words']}")
    other = cam_hub.explain(
        model,
        photo(),
        method=instead["method"],
        **{**asked, "target_layers": instead["layer"]},
        evidence="class_check",
    )
    assert other.evidence.class_specific
    assert found["class_check"].passes > other.evidence["class_check"].passes


def test_evidence_that_is_added_later_is_in_the_manifest(model: cam_hub.LoadedModel):
    result = cam_hub.explain(model, photo(), method="gradcam", target_layers="features")
    assert "evidence" not in result.manifest
    add_evidence(result, ["cover", "class_check"])
    assert [test["name"] for test in result.manifest["evidence"]["tests"]] == [
        "cover",
        "class_check",
    ]
    assert "class_check" in result.evidence


@pytest.mark.parametrize("name", CHECKS)
def test_every_check_has_value_baselines_passes_and_a_sentence(explained: Explanation, name: str):
    found = cam_hub.evidence(explained, checks=name, region=(8, 8, 24, 24))
    (test,) = found.tests
    assert test.name == name
    assert test.value is not None
    assert test.baselines
    assert test.passes >= 0
    assert test.sentence.endswith(".")
    assert Evidence.from_dict(found.to_dict()) == found


@pytest.mark.parametrize("name", sorted(set(CHECKS) - {"pointing_game", "energy"}))
def test_the_passes_are_those_of_the_network(model: cam_hub.LoadedModel, name: str):
    """Of a method whose passes are not cached."""
    result = cam_hub.explain(model, photo(), method="occlusion", classes=["red"])
    passed: list[int] = []
    handle = model.module.register_forward_pre_hook(lambda _, given: passed.append(len(given[0])))
    try:
        found = cam_hub.evidence(result, checks=name)[name]
    finally:
        handle.remove()
    assert found.value is not None
    assert found.passes == sum(passed)


def test_the_same_call_gives_the_same_numbers(explained: Explanation):
    first, again = (cam_hub.evidence(explained, checks=["cover", "road"], seed=3) for _ in "12")
    assert first == again
    assert cam_hub.evidence(explained, checks=["road"], seed=4) != first


def test_without_a_region_the_pointing_game_is_not_played(explained: Explanation):
    found = cam_hub.evidence(explained, checks=["pointing_game", "energy"])
    assert [test.value for test in found.tests] == [None, None]
    assert "region" in found.tests[0].sentence


def test_an_explanation_tests_itself_once(model: cam_hub.LoadedModel, tmp_path: Path):
    result = cam_hub.explain(model, photo(), method="gradcam", target_layers="features")
    assert "evidence" not in repr(result)
    assert result.evidence is result.evidence
    assert result.evidence is not None
    assert result.evidence.verdict in repr(result)
    result.save(tmp_path / "result")
    loaded = Explanation.load(tmp_path / "result")
    assert loaded.evidence == result.evidence
    copied = pickle.loads(pickle.dumps(result))
    assert copied.evidence == result.evidence


def test_results_from_files_cannot_be_tested(model: cam_hub.LoadedModel, tmp_path: Path):
    result = cam_hub.explain(model, photo(), method="gradcam", target_layers="features")
    result.save(tmp_path / "result")
    loaded = Explanation.load(tmp_path / "result")
    assert loaded.evidence is None
    with pytest.raises(InvalidArgument, match="reproduce"):
        cam_hub.evidence(loaded)


@pytest.mark.parametrize(
    ("arguments", "argument"),
    [
        ({"checks": "covers"}, "checks"),
        ({"checks": []}, "checks"),
        ({"checks": 3}, "checks"),
        ({"baseline": "black hole"}, "baseline"),
        ({"seed": -1}, "seed"),
        ({"region": (900, 900, 950, 950)}, "region"),
    ],
)
def test_bad_arguments_are_refused(explained: Explanation, arguments: dict, argument: str):
    with pytest.raises(InvalidArgument, match=argument):
        cam_hub.evidence(explained, **arguments)


@pytest.mark.parametrize("given", [None, "cat.jpg", {}, [1]], ids=str)
def test_what_is_no_explanation_is_refused(given: object):
    with pytest.raises(InvalidArgument, match=r"explain\(\)"):
        cam_hub.evidence(given)  # type: ignore[arg-type]


def test_tests_are_named_as_in_every_interface(explained: Explanation):
    for named in ("cover, focus", ["cover", "focus"], ("cover", "focus", "cover")):
        found = cam_hub.evidence(explained, checks=named)
        assert [test.name for test in found.tests] == ["cover", "focus"]
    with pytest.raises(InvalidArgument, match="nearest: cover"):
        cam_hub.evidence(explained, checks="covr,focus")


def test_a_detector_is_checked_for_the_classes_that_it_finds(explained: Explanation):
    """It has no map for others."""
    tested = explained.origin
    for found, classes in (([True, False, True], [2]), ([True, False, False], None)):
        standings = replace(tested.standings, eligible=torch.tensor(found))
        explained.__dict__["_origin"] = replace(tested, standings=standings)
        try:
            check = cam_hub.evidence(explained, checks="class_check")["class_check"]
        finally:
            explained.__dict__["_origin"] = tested
        if classes is None:
            assert check.value is None
            assert "finds no other class" in check.sentence
        else:
            assert check.details["classes"] == classes


def test_only_explained_classes_are_tested(explained: Explanation):
    with pytest.raises(ClassNotFound):
        cam_hub.evidence(explained, class_index=2)


def test_evidence_against_and_contrasts_are_tested_as_such(model: cam_hub.LoadedModel):
    against = cam_hub.explain(
        model,
        photo(),
        method="gradcam",
        target_layers="features",
        classes="red",
        contrast="green",
        sign="against",
    )
    found = cam_hub.evidence(against)["cover"]
    assert found.value is not None
    assert found.value > 0  # covering green raises red less green
    assert found.details["rivals"] == [[1, 1.0]]


def test_values_without_classes_have_no_rivals():
    regression = cam_hub.wrap_model(
        Colours().eval(),
        input_size=(3, SIDE, SIDE),
        mean=(0.0,) * 3,
        std=(1.0,) * 3,
        task="regression",
    )
    result = cam_hub.explain(
        regression, photo(), method="gradcam", target_layers="features", classes=0
    )
    found = cam_hub.evidence(result, checks=["cover", "class_check", "road"])
    assert found["cover"].details["rivals"] == []
    assert found["class_check"].value is None
    assert found["road"].details["measure"] == "score"
    assert found.verdict == "faithful"


@pytest.mark.parametrize(
    "name", ["cover", "class_check", "road", "curves", "stability", "randomised"]
)
def test_every_test_can_be_stopped(explained: Explanation, name: str):
    """Also by an error that looks like one of torch's."""

    def stop(part: float, what: str) -> None:
        if part > 0:
            raise RuntimeError("stopped")

    with pytest.raises(RuntimeError, match="stopped"):
        cam_hub.evidence(explained, checks=name, progress=stop)
    assert cam_hub.evidence(explained, checks=name)[name].value is not None


def test_progress_rises_to_the_end_of_the_tests(model: cam_hub.LoadedModel):
    seen: list[float] = []
    cam_hub.explain(
        model,
        photo(),
        method="gradcam",
        target_layers="features",
        evidence="all",
        reuse=False,
        progress=lambda part, _: seen.append(part),
    )
    assert seen == sorted(seen)
    assert seen[-1] == 1
    assert any(0.5 < part < 1 for part in seen)


def test_the_class_check_of_a_costly_method_is_bounded(model: cam_hub.LoadedModel, monkeypatch):
    """Score-CAM makes a pass for each of three channels and class."""
    result = cam_hub.explain(
        model, photo(), method="scorecam", target_layers="features", classes=["red"]
    )
    whole = cam_hub.evidence(result, checks="class_check")["class_check"]
    monkeypatch.setattr(cam_hub.attribution.evidence, "_MOST_PASSES", 4)
    found = cam_hub.evidence(result, checks="class_check")["class_check"]
    assert len(whole.details["classes"]) == 2
    assert len(found.details["classes"]) == 1
    assert found.value is not None


def test_the_model_is_left_as_it_was(model: cam_hub.LoadedModel, explained: Explanation):
    before = {name: value.clone() for name, value in model.module.state_dict().items()}
    cam_hub.evidence(explained, checks="all", region=(8, 8, 24, 24))
    after = model.module.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert not any(module._forward_hooks for module in model.module.modules())
    assert all(weight.grad is None for weight in model.module.parameters())


def test_the_options_table_names_every_check():
    assert list(OPTIONS["evidence"].choices) == list(CHECKS)


def test_explain_makes_and_records_the_evidence_that_it_is_asked_for(model):
    asked = {"method": "gradcam", "target_layers": "features", "classes": ["red", "green"]}
    found = cam_hub.explain(model, photo(), **asked, evidence="cover,class_check")
    direct = cam_hub.evidence(cam_hub.explain(model, photo(), **asked), checks=["cover"])
    assert found.manifest["evidence"] == found.evidence.to_dict()
    assert found.evidence["cover"] == direct["cover"]
    assert found.evidence.verdict == "class-specific and faithful"
    assert found.manifest["options"]["evidence"] == ["cover", "class_check"]
    again = cam_hub.reproduce(found.manifest, photo(), model=model)
    assert again.evidence == found.evidence
    (outcome,) = cam_hub.explain_many(model, [photo()], **asked, evidence="cover")
    assert outcome.explanation.evidence["cover"].sentence == direct["cover"].sentence
    plain = cam_hub.explain(model, photo(), **asked)
    assert "evidence" not in plain.manifest


def test_the_evidence_is_that_of_the_first_class_with_a_map(model):
    white = torch.zeros(3, SIDE, SIDE)
    white[1, 8:24, 8:24] = 4
    asked = {"method": "gradcam", "target_layers": "features", "classes": ["red", "green"]}
    found = cam_hub.explain(model, white, **asked, evidence="focus")
    assert [found.has_map(index) for index in found.classes] == [False, True]
    assert found.evidence.class_index == 1
    assert found.evidence["focus"].value > 0
    later = cam_hub.explain(model, white, **asked)
    assert later.evidence.class_index == cam_hub.evidence(later).class_index == 1


def test_a_map_of_other_weights_is_not_tested():
    module = Colours().eval()
    model = cam_hub.wrap_model(module, input_size=(3, SIDE, SIDE), mean=(0.0,) * 3, std=(1.0,) * 3)
    result = cam_hub.explain(model, photo(), method="gradcam", target_layers="features")
    assert cam_hub.evidence(result).tests
    module.load_state_dict({**module.state_dict(), "scale": torch.tensor(10.0)})
    with pytest.raises(InvalidArgument, match="weights"):
        cam_hub.evidence(result)


def test_saved_evidence_that_makes_no_sense_is_refused(explained, tmp_path):
    explained.save_data(tmp_path)
    manifest = json.loads((tmp_path / "manifest.json").read_text("utf-8"))
    del manifest["files"]
    write_manifest(tmp_path / "manifest.json", {**manifest, "evidence": {"tests": 3}})
    with pytest.raises(InvalidArgument, match="evidence"):
        Explanation.load(tmp_path)


def test_an_image_that_was_left_on_an_accelerator_is_prepared_again(model: cam_hub.LoadedModel):
    pixels = (photo().clamp(0, 1) * 255).byte().permute(1, 2, 0).numpy()
    result = cam_hub.explain(model, pixels, method="gradcam", target_layers="features")
    expected = cam_hub.evidence(result)
    tested: Any = result.origin
    without = replace(tested.job, image=tested.job.image.new_empty(0))
    result.__dict__["_origin"] = replace(tested, job=without)
    assert cam_hub.evidence(result) == expected
