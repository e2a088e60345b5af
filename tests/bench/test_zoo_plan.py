"""The sweep's plan, the sizes of models, and its ledger."""

from __future__ import annotations

import json

import pytest
from torch import nn

from bench.zoo import cli, plan
from bench.zoo.costs import Costs
from bench.zoo.ledger import Ledger, source_digest
from bench.zoo.plan import Candidate
from tests.fakes.interfaces import add_network
from tests.fakes.zoo_rows import candidate, row


def test_every_model_of_both_libraries_is_planned_with_its_module_file():
    import timm
    import torchvision

    models = {each.id: each for each in plan.every_model()}
    own = [n for n in timm.list_models() if timm.model_entrypoint(n).__module__.startswith("timm.")]
    assert len(models) == len(own) + len(torchvision.models.list_models())
    assert models["levit_128s"].family == "levit"
    assert models["torchvision/resnet18"].family == "resnet"
    assert models["torchvision/ssd300_vgg16"].family == "detection.ssd"
    assert {each.family for each in models.values() if each.source == "timm"} <= set(
        timm.list_modules()
    )


def test_what_others_registered_with_timm_is_not_planned():
    import timm

    name = add_network("cam_hub_test_planned", nn.Identity)
    assert timm.is_model(name)
    assert name not in {each.id for each in plan.every_model()}


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


def test_the_others_come_from_cheap_to_costly_where_that_is_known():
    models = [
        Candidate("timm", name, "a", parameters, macs=macs)
        for name, parameters, macs in [
            ("smallest", 1, None),
            ("many-pixels", 2, 9),
            ("few-pixels", 3, 5),
            ("clip", 4, None),
        ]
    ]
    ordered = [each.name for each in plan.in_order(models)]
    assert ordered == ["smallest", "few-pixels", "many-pixels", "clip"]


def test_families_of_the_same_name_in_both_libraries_are_two():
    models = [Candidate("timm", "x", "resnet", 1), Candidate("torchvision", "x", "resnet", 1)]
    assert len(plan.smallest_of_each_family(models)) == 2


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
    for path in ("cam_hub/layers/a.py", "bench/zoo/report.py", *_judging()):
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text("", "utf-8")
    digests = [source_digest(tmp_path)]
    for path in ("cam_hub/layers/a.py", "bench/zoo/check.py"):
        (tmp_path / path).write_text("changed", "utf-8")
        digests.append(source_digest(tmp_path))
    assert len(set(digests)) == 3
    for path in ("bench/zoo/report.py", "cam_hub/cli.py"):
        (tmp_path / path).write_text("changed", "utf-8")
    assert source_digest(tmp_path) == digests[-1]


def _judging() -> list[str]:
    from bench.zoo import ledger

    return [f"bench/zoo/{name}" for name in ledger._JUDGING]
