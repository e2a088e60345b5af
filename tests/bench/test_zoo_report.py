"""The report of the sweep, and the comparison with recorded results."""

from __future__ import annotations

from bench.zoo.expected import outdated, surprise
from bench.zoo.ledger import Ledger
from bench.zoo.plan import Candidate
from bench.zoo.report import render_report
from bench.zoo.row import CHECKS, Row
from tests.fakes.zoo_rows import row

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
    large.reasons, large.best_late_margin = ["on_image: top left"], -0.125
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
    assert (
        "| `vit_large` | `vit` | failed | `a\\|b` | -0.25 | -0.12 | on_image: top left |" in lines
    )
    assert "| `torchvision/flow` | it has no class |" in lines


def test_the_report_depends_on_no_order_and_forgets_models_that_are_gone():
    expected = render_report(MODELS, found(), 400)
    rows = [*found()[::-1], row("gone", "failed")]
    assert render_report(MODELS[::-1], rows, 400) == expected


def test_the_report_names_what_was_not_run():
    text = render_report(MODELS, found()[:2], 400)
    assert "Larger than 400 M parameters" not in text
    assert "Not yet (1): `vit_small`." in text


def test_a_recorded_failure_may_fail_and_nothing_else(tmp_path):
    record = Ledger(tmp_path / "zoo.jsonl")
    record.add(row("known", "failed"))
    record.add(row("good"))
    assert surprise(row("known", "failed"), record) is None
    assert surprise(row("new"), record) is None
    for name in ("good", "new"):
        failed = row(name, "failed", reasons=["deep"], checks={"deep": False})
        assert surprise(failed, record) == f"{name} failed: deep"


def test_what_held_by_a_hair_may_be_turned_by_rounding(tmp_path):
    record = Ledger(tmp_path / "zoo.jsonl")
    record.add(row("hair", margin=0.01))
    record.add(row("clear", margin=0.4))
    off = {"checks": {"on_image": False, "deep": True}, "reasons": ["on_image: moved"]}
    assert surprise(row("hair", "failed", **off), record) is None
    assert surprise(row("clear", "failed", **off), record) == "clear failed: on_image: moved"
    both = {"checks": {"on_image": False, "deep": False}, "reasons": ["both"]}
    assert surprise(row("hair", "failed", **both), record) == "hair failed: both"


def test_a_recorded_failure_that_passes_is_worth_a_word(tmp_path):
    record = Ledger(tmp_path / "zoo.jsonl")
    record.add(row("known", "failed"))
    assert surprise(row("known"), record) is None
    assert "refresh the ledger" in outdated(row("known"), record)
    assert outdated(row("known", "failed"), record) is None
    assert outdated(row("new"), record) is None
