"""Checks many models in several worker processes, and yields rows as they are finished."""

from __future__ import annotations

import queue
import threading
from collections.abc import Generator, Sequence

from bench.zoo.plan import Candidate
from bench.zoo.process import Limits, Process
from bench.zoo.row import Row

__all__ = ["CHECKER", "run"]

CHECKER = "bench.zoo.check:check_model"


def run(
    candidates: Sequence[Candidate],
    *,
    jobs: int = 1,
    limits: Limits | None = None,
    checker: str = CHECKER,
) -> Generator[Row]:
    """Checks models and yields each row as soon as it is available.

    If the caller stops iterating or is interrupted, the workers are ended.

    Args:
        candidates: In the order in which their checks start.
        jobs: Number of concurrent processes.
        limits: Limits for the check of one model.
        checker: ``module:function`` that returns the row of a candidate.
    """
    waiting: queue.SimpleQueue[Candidate] = queue.SimpleQueue()
    for candidate in candidates:
        waiting.put(candidate)
    done: queue.SimpleQueue[Row | BaseException] = queue.SimpleQueue()
    stop = threading.Event()
    threads = [
        threading.Thread(target=_serve, args=(waiting, done, checker, limits or Limits(), stop))
        for _ in range(min(jobs, len(candidates)))
    ]
    for thread in threads:
        thread.start()
    try:
        for _ in candidates:
            row = done.get()
            if isinstance(row, BaseException):
                raise row
            yield row
    finally:
        stop.set()
        for thread in threads:
            thread.join()


def _serve(
    waiting: queue.SimpleQueue[Candidate],
    done: queue.SimpleQueue[Row | BaseException],
    checker: str,
    limits: Limits,
    stop: threading.Event,
) -> None:
    process = Process(checker, limits, stop.is_set)
    try:
        while not stop.is_set():
            try:
                candidate = waiting.get_nowait()
            except queue.Empty:
                return
            row = process.check(candidate)
            if row is not None:
                done.put(row)
    except BaseException as error:  # noqa: BLE001 - it must reach the owner, who waits
        done.put(error)
    finally:
        process.close()
