"""Stand-ins for the checker in the sweep's worker processes, which end in the ways of real
models."""

from __future__ import annotations

import os
import sys
import time

from bench.zoo.plan import Candidate
from bench.zoo.row import Row


def check(candidate: Candidate) -> Row:
    """Performs the action that the candidate's name states."""
    row = Row(candidate.id, candidate.source, candidate.family, candidate.parameters, "passed")
    match candidate.name:
        case "dies":
            sys.stderr.write("the last words\n")
            os._exit(7)
        case "hangs":
            time.sleep(600)
        case "swells":
            held = []
            while True:
                held.append(bytearray(b"x" * 2**24))
                time.sleep(0.01)
        case "prints":
            sys.stdout.write("what a model prints on standard output\n")
        case "errs":
            row.status = "error"
    row.reasons = [str(os.getpid())]
    return row
