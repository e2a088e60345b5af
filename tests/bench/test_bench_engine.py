"""The engine benchmark: its timing, its comparisons and its report."""

from __future__ import annotations

import mmap
import os
import signal
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from PIL import Image

from bench.engine import cases, cli, floor, memory, timing
from bench.engine.cases import CASES, OURS, Case, Goal
from bench.engine.contenders import PLAIN
from bench.engine.floor import FLOOR
from bench.engine.memory import MemoryCase, peak_beyond
from bench.engine.pictures import write_pictures
from bench.engine.report import Findings, Timed, Weighed, render
from bench.engine.subjects import load
from bench.engine.timing import Contender, Spread, Times, measure
from tests.fakes.gradients import gradients_of, tap

TINY = "test_resnet.r160_in1k"
"""timm's smallest architecture with residual blocks."""


def image(number: int) -> torch.Tensor:
    return torch.full((1,), float(number))


def case(*goals: Goal, images: int = 5) -> Case:
    return Case("both", "both methods", images, goals, lambda _: {})


class TestTiming:
    def test_each_round_has_its_own_image_and_begins_with_another_contender(self):
        seen: list[tuple[str, float]] = []
        ways = {
            name: Contender(lambda x, name=name: seen.append((name, float(x)))) for name in "abc"
        }
        times = measure(ways, image, rounds=3)
        order = ["".join(name for name, x in seen if x == number) for number in range(4)]
        assert order == ["abc", "bca", "cab", "abc"]
        assert {name: len(found) for name, found in times.seconds.items()} == dict.fromkeys(
            "abc", 3
        )

    def test_what_comes_before_is_not_timed_and_has_the_same_image(self):
        told: list[float] = []
        way = Contender(lambda x: told.append(float(x)), before=lambda x: told.append(float(x)))
        measure({"a": way}, image, rounds=1)
        assert told == [0, 0, 1, 1]

    def test_one_that_raises_is_left_out_and_its_words_are_kept(self):
        calls = []

        def fail(x: torch.Tensor) -> None:
            calls.append(x)
            raise ValueError("no such layer\nand more")

        times = measure({"a": Contender(fail), "b": Contender(lambda x: x)}, image, rounds=2)
        assert len(calls) == 1
        assert times.failures == {"a": "ValueError: no such layer"}
        assert times.spread("a") is None
        assert times.ratio("a", "b") is None
        assert times.spread("b") is not None

    def test_what_takes_long_has_few_rounds_and_its_first_one_counts(self, monkeypatch):
        monkeypatch.setattr(timing, "SLOW", 0.0)
        seen: list[float] = []
        way = Contender(lambda x: seen.append(float(x)))
        times = measure({"a": way}, image, rounds=9, seconds=0.0)
        assert seen == [0, 1, 2]
        assert len(times.seconds["a"]) == timing.LEAST

    def test_interrupted_it_has_whole_rounds_alone(self):
        def stop(x: torch.Tensor) -> None:
            if x == 3:
                raise KeyboardInterrupt

        times = Times()
        ways = {"a": Contender(stop), "b": Contender(lambda x: x)}
        with pytest.raises(KeyboardInterrupt):
            measure(ways, image, rounds=9, into=times)
        assert {name: len(found) for name, found in times.seconds.items()} == {"a": 2, "b": 2}

    def test_ratios_are_taken_round_by_round(self):
        times = Times({"a": [1.0, 4.0, 9.0], "b": [1.0, 2.0, 3.0]})
        assert times.ratio("a", "b") == Spread(2.0, 1.0, 3.0)
        assert times.best(["a", "b", "c"]) == "b"


@pytest.mark.parametrize(
    ("goal", "ratio", "held"),
    [
        (Goal("plain", 1.1), 1.1, True),
        (Goal("plain", 1.1), 1.11, False),
        (Goal("torchcam", 1.5), 1.5, True),
        (Goal("torchcam", 1.5), 1.49, False),
    ],
)
def test_plain_inference_bounds_from_above_and_other_libraries_from_below(goal, ratio, held):
    assert goal.held_by(ratio) == held


def test_every_case_has_a_name_of_its_own_and_a_goal():
    names = [each.name for each in (*CASES, *memory.CASES)]
    assert len(names) == len(set(names))
    assert all(each.goals for each in CASES)


class TestReport:
    def findings(self) -> Findings:
        found = Findings(["a machine"])
        goals = case(Goal("plain", 1.1), Goal("torchcam", 1.5))
        for name, ours, theirs in (("resnet18", 0.105, 0.4), ("vgg19", 0.2, 0.28)):
            seconds = {PLAIN[0]: [0.2], PLAIN[1]: [0.1], OURS: [ours], "torchcam": [theirs]}
            seconds[FLOOR] = [0.103]
            found.timed.append(Timed(goals, name, Times(seconds)))
        failures = {"torchcam": "RuntimeError: not connected"}
        lost = Times({PLAIN[0]: [0.1], OURS: [0.1]}, failures)
        found.timed.append(Timed(goals, "swin", lost))
        heavy = MemoryCase("m", "LayerCAM, big", "big", 384, 0.2, "torchcam")
        sizes: dict[str, int | str] = {
            "plain": 75_000_000,
            FLOOR: 78_000_000,
            OURS: 80_000_000,
            "torchcam": 704_000_000,
        }
        found.weighed.append(Weighed(heavy, sizes))
        found.folders["resnet18"] = Times({PLAIN[0]: [0.02], OURS: [0.04]})
        found.importing = Spread(0.02, 0.01, 0.03)
        found.cold["resnet18"] = (Spread(2, 2, 2), Spread(1, 1, 1), Spread(2, 1.5, 2.5))
        return found

    def test_goals_stand_beside_what_was_measured(self):
        lines = render(self.findings()).splitlines()
        assert "| both methods | ≤ 1.1 × 5 forwards | 1.00 × to 2.00 × | 2 of 3 |" in lines
        assert (
            "| both methods | ≥ 1.5 × faster than torchcam | 1.40 × to torchcam failed | 2 of 3 |"
            in lines
        )
        assert "| extra memory, LayerCAM, big | ≤ 0.2 × torchcam | 0.11 × | 1 of 1 |" in lines
        assert "| `import cam_hub` | ≤ 0.15 s | 0.020 s | 1 of 1 |" in lines

    def test_goals_that_are_not_reached_are_listed_with_their_networks(self):
        text = render(self.findings())
        missed = text.partition("## Not reached")[2].partition("##")[0].split("\n- ")[1:]
        assert [line.strip() for line in missed] == [
            "both methods, ≤ 1.1 × 5 forwards: VGG-19 2.00 × (floor 1.03 ×)",
            "both methods, ≥ 1.5 × faster than torchcam: VGG-19 1.40 × (plain inference 2.80 ×)",
            "a folder of images, LayerCAM, ≥ 0.9 × plain inference, decoding included: "
            "ResNet-18 0.50 ×",
            "first map of a cold process, ≤ 1.3 × torch, timm, building, reading and one forward: "
            "ResNet-18 2.00 ×",
        ]

    def test_tables_have_the_faster_plain_inference_and_every_failure(self):
        text = render(self.findings())
        assert (
            "| ResNet-18 | 100.0 (100.0–100.0) (channels-last) | 105.0 (105.0–105.0) "
            "| 1.05 (1.05–1.05) | 1.03 (1.03–1.03) | 1.02 (1.02–1.02) | 3.81 (3.81–3.81) |" in text
        )
        assert "- torchcam on swin: RuntimeError: not connected" in text
        assert "| LayerCAM, big | 75 | 78 | 80 | 704 |" in text

    def test_a_failure_of_ours_is_never_a_goal_reached(self):
        lost = Times({PLAIN[0]: [0.1], "torchcam": [0.1]}, {OURS: "NoMap: blank"})
        found = Findings([], [Timed(case(Goal("plain", 1.1), Goal("torchcam", 1.5)), "x", lost)])
        assert render(found).count("| 0 of 1 |") == 2


def test_images_are_the_same_in_every_run_and_compress_like_photos(tmp_path):
    one, other = (
        write_pictures(tmp_path / "a", 2, (320, 240)),
        write_pictures(tmp_path / "b", 2, (320, 240)),
    )
    assert [path.read_bytes() for path in one] == [path.read_bytes() for path in other]
    assert one[0].read_bytes() != one[1].read_bytes()
    assert Image.open(one[0]).size == (320, 240)
    assert 5_000 < one[0].stat().st_size < 60_000


def test_the_peak_counts_what_was_let_go_again():
    # Pages of its own: the heap may contain as much free memory.
    def work() -> None:
        np.frombuffer(mmap.mmap(-1, 50_000_000), np.uint8).fill(1)

    try:
        grown = peak_beyond(work)
    except OSError:
        pytest.skip("this system does not report a process's peak memory")
    assert 45_000_000 < grown < 70_000_000


def test_a_ratio_that_was_not_measured_is_none():
    assert cases.ratio_of(Times({PLAIN[0]: [1.0]}), Goal("plain", 1.1), PLAIN[0]) is None


@pytest.fixture
def threads() -> Iterator[None]:
    """The benchmark sets torch's threads to one, for its process."""
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def test_a_case_runs_from_the_command_line_to_the_report(threads, tmp_path):
    report = tmp_path / "performance.md"
    arguments = ["--models", TINY, "--cases", "layercam", "warm-threshold"]
    assert cli.main([*arguments, "--repeats", "1", "--report", str(report)]) == 0
    text = report.read_text("utf-8")
    assert "failed" not in text
    for title in ("LayerCAM, recommended layer", "Another threshold"):
        assert f"## {title}" in text


def test_ended_from_outside_it_reports_what_it_has_found(threads, tmp_path, monkeypatch):
    report = tmp_path / "performance.md"

    def stopped(*_: object, **__: object) -> None:
        os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(cli, "measure_import", lambda _: Spread(0.02, 0.01, 0.03))
    monkeypatch.setattr(cli, "measure", stopped)
    arguments = ["--models", TINY, "--cases", "import", "layercam", "--report", str(report)]
    before = signal.getsignal(signal.SIGTERM)
    assert cli.main(arguments) == 130
    assert signal.getsignal(signal.SIGTERM) is before
    text = report.read_text("utf-8")
    assert "| `import cam_hub` | ≤ 0.15 s | 0.020 s | 1 of 1 |" in text
    assert "interrupted" in text


@pytest.mark.parametrize("layers", [None, ["layer1", "layer3"]])
def test_the_floor_takes_the_gradients_that_maps_are_made_of(layers):
    subject = load(TINY)
    x = subject.image(0)
    way = floor.whole(subject, 2, layers, classes=2)
    assert way.before is not None
    way.before(x)
    found = way.run(x)
    names = layers or [subject.recommended]
    with (
        torch.enable_grad(),
        tap(subject.model.module, names, overwritten=None) as taps,
    ):
        scores = subject.model.module(x)
    for index, gradients in zip(scores[0].topk(2).indices.tolist(), found, strict=True):
        expected = gradients_of(taps, scores[:, index].sum(), names, keep_graph=True)
        for name, gradient in zip(names, gradients, strict=True):
            assert torch.allclose(gradient, expected[name].expand_as(gradient), atol=1e-6)


@pytest.mark.slow
def test_memory_folders_and_cold_processes_are_measured_in_processes(threads, tmp_path):
    report = tmp_path / "performance.md"
    arguments = ["--models", TINY, "--cases", "memory-layercam", "folder", "import", "cold"]
    assert cli.main([*arguments, "--repeats", "1", "--quick", "--report", str(report)]) == 0
    text = report.read_text("utf-8")
    assert "failed" not in text
    for title in ("Extra memory", "A folder of images", "Cold processes"):
        assert f"## {title}" in text
