"""The sweep's worker processes, which any model may crash."""

from __future__ import annotations

import os
import threading
import time

import pytest

from bench.zoo import pool
from bench.zoo.process import Limits, resident_bytes
from bench.zoo.row import Row
from tests.fakes.zoo_rows import candidate

STAND_INS = "tests.fakes.zoo_stand_ins:check"


def run(*names: str, limits: Limits | None = None, jobs: int = 1) -> dict[str, Row]:
    models = [candidate(name) for name in names]
    found = pool.run(models, checker=STAND_INS, limits=limits or Limits(), jobs=jobs)
    return {row.id: row for row in found}


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


@pytest.mark.skipif(resident_bytes(os.getpid()) is None, reason="the system reports no sizes")
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
    rows = list(pool.run(models, checker="tests.fakes.zoo_stand_ins:missing"))
    assert [each.status for each in rows] == ["crashed", "crashed"]
    assert "has no attribute 'missing'" in rows[0].reasons[0]


def test_who_stops_asking_leaves_no_process_behind():
    # multiprocessing keeps a thread of the same name after tensors have been sent to another
    # process.
    before = set(threading.enumerate())
    rows = pool.run([candidate("a"), candidate("hangs")], checker=STAND_INS)
    pid = int(next(rows).reasons[0])
    start = time.monotonic()
    rows.close()
    assert time.monotonic() - start < 10
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)
    left = set(threading.enumerate()) - before
    assert not [each for each in left if each.name.endswith("(_serve)")]
