"""The process that checks models, one at a time; any of them may crash it.

``process`` starts it: ``python -m bench.zoo.worker MODULE:FUNCTION``, where the function returns
the row of a candidate. The first output line reports that all imports are done. The process then
reads candidates in JSON lines and writes one row per line.
"""

from __future__ import annotations

import gc
import json
import os
import queue
import sys
import threading
import warnings
from collections.abc import Callable
from importlib import import_module

from bench.zoo.plan import Candidate
from bench.zoo.row import Row

__all__ = ["main"]


def main(checker: str) -> None:
    """Checks candidates until the input ends.

    Args:
        checker: ``module:function``.
    """
    # Rows are written to a separate descriptor, so that output printed by models is not mixed in.
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    warnings.simplefilter("ignore")
    check = _load(checker)
    print("ready", file=answers, flush=True)
    orders: queue.Queue[str] = queue.Queue()
    threading.Thread(target=_listen, args=(orders,), daemon=True).start()
    while True:
        row = check(Candidate(**json.loads(orders.get())))
        print(row.as_json(), file=answers, flush=True)
        gc.collect()


def _listen(orders: queue.Queue[str]) -> None:
    """Queues the input lines; when the input ends, the process exits immediately."""
    for line in sys.stdin:
        orders.put(line)
    os._exit(0)


def _load(checker: str) -> Callable[[Candidate], Row]:
    module, _, name = checker.partition(":")
    function: Callable[[Candidate], Row] = getattr(import_module(module), name)
    if "torch" in sys.modules:
        sys.modules["torch"].set_num_threads(1)
    return function


if __name__ == "__main__":
    main(sys.argv[1])
