"""Verdicts, and results as plain data."""

from __future__ import annotations

import json

import pytest
import torch

from cam_hub.errors import InvalidArgument
from cam_hub.faithfulness import Evidence, EvidenceTest, energy, focus, pointing_game

BASELINES = {"elsewhere": 0.2, "centre": 0.5, "random": 0.1}


def made(value: float | None, check: float | None = None) -> Evidence:
    tests = [EvidenceTest("cover", value, BASELINES, 8)]
    if check is not None:
        tests.append(EvidenceTest("class_check", check, {"same": 0.85, "chance": 0.4}))
    return Evidence(tuple(tests), 3, "features")


def with_test(evidence: Evidence, *test: object) -> Evidence:
    return Evidence((*evidence.tests, EvidenceTest(*test)))  # type: ignore[arg-type]


BLIND = Evidence((EvidenceTest("cover", None, sentence="Not tested (cover): Why."),))


@pytest.mark.parametrize(
    ("evidence", "verdict"),
    [
        (made(0.9), "faithful"),
        (made(0.9, 0.1), "class-specific and faithful"),
        (made(0.9, 0.95), "faithful, but the same for any class"),
        (made(0.5), "no better than a spot in the middle"),
        (made(-1.0, 0.1), "no better than a spot in the middle"),
        (with_test(made(0.9, 0.1), "road", 0.6, BASELINES), "class-specific and faithful"),
        (
            with_test(made(0.9, 0.1), "road", 0.3, BASELINES),
            "class-specific and faithful; but by ROAD no better than a spot in the middle",
        ),
        (
            with_test(made(0.9), "randomised", 0.9, {"same": 0.85}),
            "faithful; but it hardly depends on what the model has learnt",
        ),
        (
            with_test(made(0.9), "stability", 0.5, {"steady": 0.97}),
            "faithful; but it changes with invisible noise or another seed",
        ),
        (with_test(made(0.5), "road", 0.6, BASELINES), "no better than a spot in the middle"),
        (with_test(BLIND, "road", 0.6, BASELINES), "faithful"),
        (with_test(BLIND, "road", 0.4, BASELINES), "no better than a spot in the middle"),
        (
            with_test(BLIND, "class_check", 0.95, {"same": 0.85}),
            "the same for any class; whether it is faithful was not tested: Why.",
        ),
        (
            with_test(made(0.9), "class_check", 0.7, {"same": 0.5}, 1, "", {"classes": []}),
            "faithful, but the same for the opposite contrast",
        ),
        (
            with_test(Evidence(()), "class_check", 0.1, {"same": 0.85}),
            "class-specific; whether it is faithful was not tested",
        ),
        (Evidence((EvidenceTest("focus", 0.4),)), "not tested"),
        (Evidence((EvidenceTest("cover", None, sentence="Why."),)), "not tested: Why."),
    ],
)
def test_the_verdict_is_in_words(evidence: Evidence, verdict: str):
    assert evidence.verdict == verdict
    assert str(evidence).startswith(verdict.rstrip(".") + ".")


@pytest.mark.parametrize("name", ["cover", "road"])
def test_a_map_with_the_opposite_effect_is_never_faithful(name: str):
    """Even where every baseline does more harm: zero is where a test knows nothing."""
    worse = {"elsewhere": -3.0, "centre": -2.0, "random": -1.0}
    found = Evidence((EvidenceTest(name, -0.5, worse),))
    assert found.faithful is False
    assert found.verdict.startswith("not faithful")


def test_results_survive_json():
    found = made(0.9, 0.1)
    again = Evidence.from_dict(json.loads(json.dumps(found.to_dict())))
    assert again == found
    assert again["cover"].baselines["centre"] == 0.5
    assert "road" not in again
    assert again.passes == 8


@pytest.mark.parametrize(
    "entry",
    [
        None,
        {},
        {"layer": None, "class_index": "x", "tests": []},
        {"layer": None, "class_index": 0, "tests": [{"name": "cover"}]},
        {
            "layer": None,
            "class_index": 0,
            "tests": [
                {
                    "name": "class_check",
                    "value": 0.9,
                    "baselines": {},
                    "passes": 1,
                    "sentence": "",
                }
            ],
        },
        {
            "layer": None,
            "class_index": 0,
            "tests": [
                {
                    "name": "cover",
                    "value": float("nan"),
                    "baselines": {},
                    "passes": 1,
                    "sentence": "",
                }
            ],
        },
    ],
)
def test_what_is_no_result_is_refused(entry: object):
    with pytest.raises(InvalidArgument):
        Evidence.from_dict(entry)


def test_focus_is_one_for_a_point_and_zero_for_a_flat_map():
    point = torch.zeros(8, 8)
    point[2, 3] = 4
    assert focus(point).value == pytest.approx(1)
    assert focus(torch.ones(8, 8)).value == pytest.approx(0)
    halves = torch.zeros(8, 8)
    halves[:4] = 1
    assert focus(halves).value == pytest.approx(1 - 5 / 6)  # log 32 / log 64
    assert focus(torch.zeros(8, 8)).value is None


def test_pointing_and_energy_compare_with_the_object():
    inside = torch.zeros(56, 56, dtype=torch.bool)
    inside[10:20, 10:20] = True
    heat = torch.zeros(56, 56)
    heat[12, 12], heat[40, 40] = 3, 1
    assert pointing_game(heat, inside).value == 1
    assert pointing_game(heat.flip(0).flip(1), inside).value == 0
    assert energy(heat, inside).value == pytest.approx(0.75)
    assert energy(heat, inside).baselines["flat map"] == pytest.approx(100 / 56**2)
    with pytest.raises(InvalidArgument, match="inside"):
        energy(heat, torch.zeros(56, 56, dtype=torch.bool))
    with pytest.raises(InvalidArgument, match="inside"):
        pointing_game(heat, inside[:5])


def test_the_reason_why_nothing_was_tested_is_written_once():
    found = Evidence((EvidenceTest("cover", None, sentence="Why."),))
    assert str(found) == "not tested: Why."
    assert str(BLIND) == "not tested: Why."
    assert found._repr_html_().count("Why.") == 1
