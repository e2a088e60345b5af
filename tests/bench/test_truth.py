"""The benchmark of known evidence: its measures by hand, and the default on a small network."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import pytest
import torch

import cam_hub
from bench.truth.measures import TESTS, Measures, mean, truth_of
from bench.truth.networks import load, wrapped
from bench.truth.photos import BOXES, photos
from bench.truth.report import Result, ranks, report
from bench.truth.rules import RULES, Network, measured, questions
from bench.truth.world import SIDE, World

DATA = Path(__file__).parents[2] / "bench" / "truth" / "data"
NAN = float("nan")


def box(top: int, left: int, side: int) -> torch.Tensor:
    found = torch.zeros(SIDE, SIDE, dtype=torch.bool)
    found[top : top + side, left : left + side] = True
    return found


def test_a_map_is_compared_with_both_objects() -> None:
    own, other = box(0, 0, 56), box(100, 100, 56)
    heat = torch.zeros(SIDE, SIDE)
    heat[:56, :56] = 3.0
    heat[100:156, 100:156] = 1.0
    assert truth_of(heat, own, other) == Measures(hit=1, own=1, lift=pytest.approx(0.75 * 16))
    swapped = truth_of(heat, other, own)
    assert (swapped.hit, swapped.own) == (0, 0)
    assert swapped.lift == pytest.approx(0.25 * 16)
    beside = torch.zeros(SIDE, SIDE)
    beside[66, 30] = 1.0  # eleven pixels below the object
    assert truth_of(beside, own, other).hit == 1
    assert truth_of(torch.zeros(SIDE, SIDE), own, other) == Measures(0, 0, 0)


def test_means_are_of_the_maps_that_were_measured() -> None:
    found = mean([Measures(hit=1, road=NAN), Measures(hit=0, road=0.4)])
    assert (found.hit, found.road) == (0.5, pytest.approx(0.4))
    assert found.own != found.own


def result(network: str = "net") -> Result:
    measures = [
        Measures(hit=h, own=h / 2, lift=1, drop=h, plain=-h, road=0, curves=h, other=-h, focus=NAN)
        for h in (0.2, 0.4, 0.8)
    ]
    rules = dict.fromkeys(RULES, measures[1])
    candidates = {"layer": {"a": measures[0], "b": measures[1], "c": measures[2]}}
    return Result(network, 3, rules, candidates)


def test_a_test_that_orders_maps_as_the_masks_do_has_rank_correlation_1() -> None:
    found = ranks(result())
    assert found["contrast drop"] == (1, 1)
    assert found["drop in the class's score"] == (-1, -1)
    # Another map for the other class is a small correlation with it.
    assert found["another map for the other class"] == (1, 1)
    assert all(value != value for value in found["focus"])


def test_the_report_names_every_rule_test_and_network() -> None:
    data = json.loads(json.dumps([asdict(result(name)) for name in ("first", "second")]))
    text = report([Result.from_dict(each) for each in data])
    assert all(name in text for name in (*RULES, *TESTS, "first", "second"))
    assert "best hit, knowing the masks: c, layer" in text
    assert "| 0.50 0.50 |" in text, text  # the default relative to the best


def test_each_photo_with_a_box_is_installed() -> None:
    assert [path.name for path in photos()] == list(BOXES)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["mixer", "resnet10t"])
def test_the_default_marks_the_object_better_than_a_layer_by_depth(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CAM_HUB_CACHE", str(tmp_path))
    module = load(name, DATA)
    model = wrapped(module)
    network = Network(module, model, cam_hub.suggest_layers(model, "blocks"))
    composed = World(DATA).compose(60, 777, two=True)
    found = measured(name, network, questions(network, composed, 5), tested=1)
    default, by_depth = (found.rules[n] for n in ("cam_hub: default", "LayerCAM, by depth"))
    assert default.lift > by_depth.lift
    assert default.own >= by_depth.own
    assert default.own >= found.rules["torchcam: SmoothGradCAM++"].own
    assert default.road == default.road
