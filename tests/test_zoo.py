"""The sweep as a program: its plan, its ledger, its processes that may die, its report."""

from __future__ import annotations

import json
import os
import threading
import time
from pathlib import Path

import pytest

import cam_hub
from bench.zoo import cli, plan, pool
from bench.zoo.costs import Costs
from bench.zoo.expected import surprise
from bench.zoo.ledger import Ledger, source_digest
from bench.zoo.plan import Candidate
from bench.zoo.process import Limits, resident_bytes
from bench.zoo.report import render_report
from bench.zoo.row import CHECKS, Row
from tests.test_layering import imported

ROOT = Path(__file__).resolve().parent.parent
STAND_INS = "tests.zoo_stand_ins:check"


def candidate(name: str, family: str = "f", parameters: int | None = 1) -> Candidate:
    return Candidate("timm", name, family, parameters)


def row(id: str, status: str = "passed", **more) -> Row:
    held = dict.fromkeys(CHECKS, True) if status == "passed" else {}
    fields = {"source": "timm", "family": "f", "parameters": 1, "checks": held, **more}
    return Row(id=id, status=status, **fields)


def run(*names: str, limits: Limits | None = None, jobs: int = 1) -> dict[str, Row]:
    models = [candidate(name) for name in names]
    found = pool.run(models, checker=STAND_INS, limits=limits or Limits(), jobs=jobs)
    return {row.id: row for row in found}


# The plan


def test_every_model_of_both_libraries_is_planned_with_its_module_file():
    import timm
    import torchvision

    models = {each.id: each for each in plan.every_model()}
    assert len(models) == len(timm.list_models()) + len(torchvision.models.list_models())
    assert models["levit_128s"].family == "levit"
    assert models["torchvision/resnet18"].family == "resnet"
    assert models["torchvision/ssd300_vgg16"].family == "detection.ssd"
    assert {each.family for each in models.values() if each.source == "timm"} <= set(
        timm.list_modules()
    )


def test_only_quantised_models_and_optical_flow_may_be_refused():
    refused = {
        each.family.partition(".")[0] for each in plan.every_model() if each.refusal_expected
    }
    assert refused == {"quantization", "optical_flow"}


def test_the_smallest_of_each_family_come_first_and_the_uncounted_last():
    models = [
        candidate("a-large", "a", 9),
        candidate("a-small", "a", 2),
        candidate("b-only", "b", 7),
        candidate("a-middle", "a", 3),
        candidate("a-unknown", "a", None),
    ]
    ordered = [each.id for each in plan.in_order(models)]
    assert ordered == ["a-small", "b-only", "a-middle", "a-large", "a-unknown"]


def test_families_of_the_same_name_in_both_libraries_are_two():
    models = [Candidate("timm", "x", "resnet", 1), Candidate("torchvision", "x", "resnet", 1)]
    assert len(plan.smallest_of_each_family(models)) == 2


# Costs


def test_parameters_and_multiplications_are_counted_without_building():
    costs = Costs()
    # 784 * 3 inputs and so on: known figures of ResNet-18, 11,689,512 parameters and 1.81 GMAC.
    assert costs.parameters("torchvision", "resnet18") == 11_689_512
    macs = costs.macs("torchvision", "resnet18")
    assert macs == pytest.approx(1.814e9, rel=1e-3)


def test_what_was_counted_is_kept_and_not_counted_again(tmp_path, monkeypatch):
    path = tmp_path / "costs.json"
    first = Costs(path)
    assert not first.known("timm", "test_resnet")
    counted = first.parameters("timm", "test_resnet")
    assert first.parameters("timm", "no_such_model") is None
    first.save()
    assert json.loads(path.read_text("utf-8"))["timm/test_resnet"] == {"parameters": counted}
    monkeypatch.setattr("bench.zoo.costs._build", None)  # would raise
    again = Costs(path)
    assert again.known("timm", "test_resnet")
    assert again.parameters("timm", "test_resnet") == counted
    assert again.parameters("timm", "no_such_model") is None


def test_a_damaged_file_of_costs_counts_as_empty(tmp_path):
    path = tmp_path / "costs.json"
    path.write_text('{"timm/x": {"par', "utf-8")
    assert not Costs(path).known("timm", "x")


def test_the_recorded_costs_are_those_of_the_installed_versions():
    recorded, fresh = Costs(cli.COSTS), Costs()
    for source, name in [("timm", "test_vit"), ("torchvision", "mobilenet_v2")]:
        assert recorded.known(source, name)
        assert recorded.parameters(source, name) == fresh.parameters(source, name)


# The ledger


def test_a_row_survives_the_way_through_the_ledger(tmp_path):
    kept = row("m", reasons=["ünlike | others"], grid=[7, 7], margin=0.25, seconds=1.5)
    Ledger(tmp_path / "zoo.jsonl").add(kept)
    assert Ledger(tmp_path / "zoo.jsonl").rows == [kept]


def test_the_latest_row_of_a_model_counts(tmp_path):
    ledger = Ledger(tmp_path / "zoo.jsonl")
    for status in ("failed", "passed"):
        ledger.add(row("m", status))
    assert [each.status for each in Ledger(tmp_path / "zoo.jsonl").rows] == ["passed"]
    ledger.compact()
    assert len((tmp_path / "zoo.jsonl").read_text("utf-8").splitlines()) == 1


@pytest.mark.parametrize("kept", range(1, 12, 5))
def test_a_cut_last_line_is_ignored_and_what_follows_is_not_glued_to_it(tmp_path, kept):
    path = tmp_path / "zoo.jsonl"
    Ledger(path).add(row("whole"))
    with path.open("a", encoding="utf-8") as file:
        file.write(row("cut").as_json()[:kept])
    ledger = Ledger(path)
    assert [each.id for each in ledger.rows] == ["whole"]
    ledger.add(row("next"))
    assert [each.id for each in Ledger(path).rows] == ["next", "whole"]


def test_rows_of_other_code_and_on_demand_failures_are_done_again(tmp_path):
    ledger = Ledger(tmp_path / "zoo.jsonl")
    ledger.add(row("old", digest="before"))
    ledger.add(row("new", digest="now"))
    ledger.add(row("bad", "failed", digest="now"))
    ids = ["old", "new", "bad", "never"]
    assert ledger.unfinished(ids, "now") == ["old", "never"]
    assert ledger.unfinished(ids, None) == ["never"]
    assert ledger.unfinished(ids, "now", retry_failed=True) == ["old", "bad", "never"]


def test_the_digest_changes_with_the_code_that_is_checked_and_with_the_checks(tmp_path):
    for path in ("cam_hub/a.py", "bench/zoo/report.py", *_judging()):
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text("", "utf-8")
    digests = [source_digest(tmp_path)]
    for path in ("cam_hub/a.py", "bench/zoo/check.py"):
        (tmp_path / path).write_text("changed", "utf-8")
        digests.append(source_digest(tmp_path))
    assert len(set(digests)) == 3
    (tmp_path / "bench/zoo/report.py").write_text("changed", "utf-8")
    assert source_digest(tmp_path) == digests[-1]


def _judging() -> list[str]:
    from bench.zoo import ledger

    return [f"bench/zoo/{name}" for name in ledger._JUDGING]


# Processes


def test_a_crash_is_a_row_and_the_next_model_gets_a_new_process():
    rows = run("first", "dies", "second", "third")
    assert rows["dies"].status == "crashed"
    assert rows["dies"].reasons == ["the process died (exit code 7): the last words"]
    [first], [second], [third] = (rows[name].reasons for name in ("first", "second", "third"))
    assert second == third != first


def test_a_model_that_takes_too_long_is_ended():
    rows = run("hangs", "next", limits=Limits(seconds=0.5))
    assert rows["hangs"].status == "timeout"
    assert rows["hangs"].reasons == ["it took longer than 0.5 s"]
    assert rows["next"].status == "passed"


@pytest.mark.skipif(resident_bytes(os.getpid()) is None, reason="the system tells no sizes")
def test_a_model_that_takes_too_much_memory_is_ended():
    rows = run("swells", "next", limits=Limits(memory=2**28))
    assert rows["swells"].status == "memory"
    assert rows["swells"].reasons == ["it needed more than 0.25 GB of memory"]
    assert rows["next"].status == "passed"


def test_what_a_model_prints_does_not_get_between_the_answers():
    assert run("prints", "next")["prints"].status == "passed"


def test_a_process_is_replaced_after_an_error_and_after_so_many_models():
    rows = run("a", "errs", "b", "c", "d", limits=Limits(models=2))
    a, errs, b, c, d = (each.reasons[0] for each in rows.values())
    assert a == errs
    assert errs != b
    assert b == c
    assert c != d


def test_several_processes_work_at_once():
    rows = run("a", "b", "c", "d", jobs=2)
    assert set(rows) == {"a", "b", "c", "d"}


def test_a_worker_that_cannot_start_is_a_row_per_model():
    models = [candidate("a"), candidate("b")]
    rows = list(pool.run(models, checker="tests.zoo_stand_ins:missing"))
    assert [each.status for each in rows] == ["crashed", "crashed"]
    assert "has no attribute 'missing'" in rows[0].reasons[0]


def test_who_stops_asking_leaves_no_process_behind():
    rows = pool.run([candidate("a"), candidate("hangs")], checker=STAND_INS)
    pid = int(next(rows).reasons[0])
    start = time.monotonic()
    rows.close()
    assert time.monotonic() - start < 10
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)
    assert not [each for each in threading.enumerate() if each.name.endswith("(_serve)")]


# The program


def test_the_sweep_uses_nothing_but_the_public_interface():
    for path in (ROOT / "bench").rglob("*.py"):
        for name in imported(path):
            package, _, rest = name.partition(".")
            if package == "cam_hub":
                assert rest.partition(".")[0] in {"", "errors", *cam_hub.__all__}, f"{path}: {name}"


@pytest.fixture
def sweep(tmp_path, monkeypatch):
    """Runs the program over models of our own, with stand-ins for the checker; gives its code."""
    models = [candidate("fine", "a"), candidate("dies", "b"), candidate("huge", "b")]
    sizes = {"fine": 1, "dies": 2, "huge": 500_000_000}
    costs = {f"timm/{name}": {"parameters": size, "macs": size} for name, size in sizes.items()}
    (tmp_path / "costs.json").write_text(json.dumps(costs), "utf-8")
    monkeypatch.setattr(plan, "every_model", lambda sources=(): models)
    real = pool.run
    begun: list[list[str]] = []

    def with_stand_ins(candidates, **options):
        begun.append([each.id for each in candidates])
        return real(candidates, **{**options, "checker": STAND_INS})

    monkeypatch.setattr(pool, "run", with_stand_ins)

    def start(*arguments: str) -> int:
        files = ["--out", str(tmp_path / "zoo.jsonl"), "--costs", str(tmp_path / "costs.json")]
        return cli.main([*files, *arguments])

    start.begun = begun
    return start


def test_a_sweep_goes_on_where_it_was_stopped(sweep, tmp_path, capsys):
    assert sweep("--only", "fine") == 0
    assert sweep() == 1
    assert sweep() == 1
    assert sweep("--retry", "failed") == 1
    assert sweep.begun == [["fine"], ["dies"], [], ["dies"]]
    told = capsys.readouterr().err
    assert "[1/1] fine: passed" in told
    assert "[2/2] dies: crashed (the process died (exit code 7): the last words)" in told
    assert "too costly for these options (1): huge (500 M parameters)" in told
    assert "1 of 2 good" in told


def test_code_that_changed_is_checked_again(sweep, monkeypatch):
    sweep("--only", "fine")
    monkeypatch.setattr(cli, "source_digest", lambda: "other")
    sweep("--only", "fine", "--accept-older")
    sweep("--only", "fine")
    assert sweep.begun == [["fine"], [], ["fine"]]


def test_models_are_chosen_by_family_name_size_and_cost(sweep):
    assert sweep("--family", "a") == 0
    assert sweep("--smallest", "--max-macs", "1") == 0
    assert sweep("--only", "nothing") == 2
    assert sweep("--only", "d?es", "--max-params", "1") == 2
    assert sweep("--only", "*", "--max-params", "1e9") == 1
    assert sweep.begun == [["fine"], [], ["dies", "huge"]]


def test_a_cut_fails_only_where_the_record_says_otherwise(sweep, tmp_path, capsys):
    record = tmp_path / "record.jsonl"
    against = ["--against", str(record)]
    assert sweep(*against) == 1  # nothing recorded: everything must pass
    Ledger(record).add(row("dies", "failed"))
    assert sweep(*against) == 0
    Ledger(record).add(row("fine", "failed"))
    assert sweep(*against) == 1
    assert "fine passes but is recorded as failing: refresh the ledger" in capsys.readouterr().err


def test_ctrl_c_ends_it_cleanly_and_keeps_what_is_done(sweep, tmp_path, monkeypatch):
    real = cli._say

    def interrupt(text: str) -> None:
        real(text)
        if text.startswith("[1/2]"):
            raise KeyboardInterrupt

    monkeypatch.setattr(cli, "_say", interrupt)
    assert sweep() == 130
    assert [each.id for each in Ledger(tmp_path / "zoo.jsonl").rows] == ["fine"]
    monkeypatch.setattr(cli, "_say", real)
    sweep()
    assert sweep.begun[-1] == ["dies"]


def test_the_report_is_written_and_is_the_same_each_time(sweep, tmp_path):
    page = tmp_path / "zoo.md"
    sweep("--report", str(page))
    first = page.read_text("utf-8")
    sweep("--report", str(page))
    assert page.read_text("utf-8") == first
    assert "| `dies` | `f`" not in first
    assert (
        "| `dies` | `b` | crashed | – | the process died (exit code 7): the last words |" in first
    )
    assert "Larger than 400 M parameters (1): `huge` (500 M)." in first


# The report


MODELS = [
    Candidate("timm", "vit_small", "vit", 10),
    Candidate("timm", "vit_large", "vit", 30),
    Candidate("timm", "vit_giant", "vit", 900),
    Candidate("torchvision", "flow", "optical_flow.f", 5, refusal_expected=True),
]


def found() -> list[Row]:
    small = row("vit_small", family="vit", parameters=10, layer="blocks.11.norm1", layout="NLC")
    small.grid, small.prefix_tokens, small.margin = [14, 14], 1, 0.5
    small.forward_passes, small.backward_passes = 10, 2
    small.leaves, small.leaves_after, small.block_leaves = 100, 12, 13
    small.versions = {"torch": "2.0"}
    large = row("vit_large", "failed", family="vit", parameters=30, layer="a|b", margin=-0.25)
    large.checks = {**dict.fromkeys(CHECKS, True), "on_image": False}
    large.forward_passes, large.backward_passes = 19, 2
    large.reasons = ["on_image: top left"]
    flow = row("torchvision/flow", "refused", refusal_expected=True, reasons=["it has no class"])
    flow.source, flow.family = "torchvision", "optical_flow.f"
    return [large, flow, small]


def test_the_report_counts_what_was_tried_and_what_held():
    lines = render_report(MODELS, found(), 400).splitlines()
    assert "| models that there are | 3 | 1 | 4 |" in lines
    assert "| tried | 2 | 1 | 3 |" in lines
    assert "| refused, as it should be (nothing to explain) | 0 | 1 | 1 |" in lines
    assert "| the layer lies on the image | 1 | 0 | 1 |" in lines
    assert "| the layer is from the deep end | 2 | 0 | 2 |" in lines
    assert "| … the layer itself, and not only its block, in the last tenth | 0 | 0 | 0 |" in lines
    assert "| **all checks hold** | 1 | 0 | 1 |" in lines
    assert "| **share** | 50.0 % | – | 50.0 % |" in lines
    assert "Run with torch 2.0." in lines


def test_the_report_has_a_row_per_family_and_one_per_failure():
    lines = render_report(MODELS, found(), 400).splitlines()
    assert (
        "| timm `vit` | 1 / 2 / 3 | `vit_small` | `blocks.11.norm1` | NLC | 14×14 | 1 "
        "| 10–19 (2) | -0.25 |" in lines
    )
    assert "| torchvision `optical_flow.f` | 1 / 1 / 1 | – | – | – | – | – | – | – |" in lines
    assert "| `vit_large` | `vit` | failed | `a\\|b` | on_image: top left |" in lines
    assert "| `torchvision/flow` | it has no class |" in lines


def test_the_report_depends_on_no_order_and_forgets_models_that_are_gone():
    expected = render_report(MODELS, found(), 400)
    rows = [*found()[::-1], row("gone", "failed")]
    assert render_report(MODELS[::-1], rows, 400) == expected


def test_the_report_names_what_was_not_run():
    text = render_report(MODELS, found()[:2], 400)
    assert "Larger than 400 M parameters" not in text
    assert "Not yet (1): `vit_small`." in text


def test_a_recorded_failure_may_fail_and_nothing_else():
    record = Ledger(Path("does-not-exist"))
    assert surprise(row("m"), record) is None
    assert surprise(row("m", "failed", reasons=["deep"]), record) == "m failed: deep"
