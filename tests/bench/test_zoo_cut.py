"""A subset of the sweep: the smallest member of every timm module file, without the expensive ones.

``pytest -m zoo`` runs it, ``-k levit`` one family. Models that ``bench/results/zoo.jsonl`` records
as failing may fail, and must: see ``bench/zoo/expected.py``. ``.ci/run`` does the same with the
program itself, in separate processes, and also for torchvision.
"""

from __future__ import annotations

import pytest

pytestmark = [pytest.mark.zoo, pytest.mark.usefixtures("one_thread")]

MAX_MACS = 1e9
"""The maximum cost of one pass. More expensive models are left to the sweep."""


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """One test per module file; timm is imported only if these tests are requested."""
    models: list = []
    if "zoo" in (metafunc.config.option.markexpr or "").replace("not zoo", ""):
        from bench.zoo import cli, plan
        from bench.zoo.costs import Costs

        costs = Costs(cli.COSTS)
        for each in plan.smallest_of_each_family(plan.counted(plan.every_model(["timm"]), costs)):
            macs = costs.macs("timm", each.name)
            if macs is not None and macs <= MAX_MACS:
                models.append(each)
    metafunc.parametrize("model", models, ids=lambda model: model.family)


def test_the_smallest_member_is_as_recorded(model):
    from bench.zoo import cli
    from bench.zoo.check import check_model
    from bench.zoo.expected import surprise
    from bench.zoo.ledger import Ledger

    assert surprise(check_model(model), Ledger(cli.LEDGER)) is None
