"""The sweep as a program."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import cam_hub
from bench.zoo import cli, plan, pool
from bench.zoo.ledger import Ledger
from tests.fakes.zoo_rows import candidate, row
from tests.test_layering import imported

ROOT = Path(__file__).resolve().parents[2]

STAND_INS = "tests.fakes.zoo_stand_ins:check"


def test_the_sweep_uses_nothing_but_the_public_interface():
    for path in (ROOT / "bench" / "zoo").rglob("*.py"):
        for name in imported(path):
            package, _, rest = name.partition(".")
            if package == "cam_hub":
                assert rest.partition(".")[0] in {"", "errors", *cam_hub.__all__}, f"{path}: {name}"


@pytest.fixture
def sweep(tmp_path, monkeypatch):
    """Runs the program on our own models, with stand-ins for the checker; returns its exit code."""
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


def test_a_sweep_resumes_where_it_was_stopped(sweep, tmp_path, capsys):
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


def test_a_subset_fails_only_if_the_record_differs(sweep, tmp_path, capsys):
    record = tmp_path / "record.jsonl"
    against = ["--against", str(record)]
    assert sweep(*against) == 1  # nothing recorded: everything must pass
    Ledger(record).add(row("dies", "failed"))
    assert sweep(*against) == 0
    Ledger(record).add(row("fine", "failed"))
    assert sweep(*against) == 0
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
        "| `dies` | `b` | crashed | – | – | – | the process died (exit code 7): the last words |"
        in first
    )
    assert "Larger than 400 M parameters (1): `huge` (500 M)." in first
