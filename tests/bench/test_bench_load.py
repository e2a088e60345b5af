"""The load test itself: the results that it counts as wrong, and a short run."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import pytest

from bench.load import cli
from bench.load.mix import SHARES, pick
from bench.load.tally import Tally
from bench.load.world import Asked


def test_another_map_is_a_wrong_answer_and_rounding_is_not():
    cam = np.random.default_rng(0).random((7, 7)).astype(np.float32)
    asked = Asked(Path("a.jpg"), {}, cam)
    assert asked.is_answered_by(cam)
    assert asked.is_answered_by(cam * np.float32(1 + 1e-6))
    assert not asked.is_answered_by(cam[::-1])
    assert not asked.is_answered_by(cam * np.float32(1.01))
    assert not asked.is_answered_by(cam[:6])


def test_every_kind_of_request_is_made_in_its_share():
    rng = random.Random(0)
    picked = [pick(rng).name for _ in range(5000)]
    assert sum(share for _, share in SHARES) == 100
    for deed, share in SHARES:
        assert picked.count(deed.name) / 50 == pytest.approx(share, abs=2)


def test_what_was_wrong_is_kept_apart_from_how_it_ended():
    tally = Tally()
    tally.add("/explain", "ok", 1.0, "")
    tally.add("/explain", "ok", 2.0, "another map")
    tally.add("malformed", "too_much", 0.1, "")
    assert tally.total == 3
    assert tally.codes["/explain"]["ok"] == 2
    assert tally.wrong == ["another map"]


@pytest.mark.slow  # the app in a separate process
def test_a_short_run_finds_nothing_wrong(capsys: pytest.CaptureFixture[str]):
    arguments = ["--clients", "6", "--seconds", "10", "--models", "2", "--photos", "1"]
    code = cli.main(arguments)
    told = capsys.readouterr().out
    assert code == 0, told
    assert "**0 wrong answers**" in told
    assert "exit code 0" in told
    for name in ("/explain", "malformed", "private URL"):
        assert f"| {name} |" in told
