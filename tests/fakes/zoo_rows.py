"""Models and rows for the tests of the sweep."""

from __future__ import annotations

from bench.zoo.plan import Candidate
from bench.zoo.row import CHECKS, Row


def candidate(name: str, family: str = "f", parameters: int | None = 1) -> Candidate:
    """A model of a family."""
    return Candidate("timm", name, family, parameters)


def row(id: str, status: str = "passed", **more) -> Row:
    """A result; one that passed has passed every check."""
    held = dict.fromkeys(CHECKS, True) if status == "passed" else {}
    fields = {"source": "timm", "family": "f", "parameters": 1, "checks": held, **more}
    return Row(id=id, status=status, **fields)
