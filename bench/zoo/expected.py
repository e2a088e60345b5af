"""Compares results with recorded ones, so that a subset of the sweep can guard all of it.

A model that the committed ledger records as failing may fail. Any other failure is a regression. A
model that passes but is recorded as failing is reported, since the record would hide the next
regression; this is not an error, since rounding differs between processors.
"""

from __future__ import annotations

from bench.zoo.ledger import Ledger
from bench.zoo.row import Row

__all__ = ["outdated", "surprise"]

_ON_EDGE = 0.05
"""Margin below which another processor's rounding may decide whether a layer is on the image."""


def surprise(row: Row, recorded: Ledger) -> str | None:
    """The regression in a result compared with the recorded ones; None if there is none.

    Args:
        row: The result.
        recorded: The recorded results. Models without one have to pass.
    """
    before = recorded.get(row.id)
    if row.good or (before is not None and (not before.good or _on_edge(row, before))):
        return None
    return f"{row.id} {row.status}: {'; '.join(row.reasons)}"


def outdated(row: Row, recorded: Ledger) -> str | None:
    """A message for a model that passes but is recorded as failing; None for all others."""
    before = recorded.get(row.id)
    if not row.good or before is None or before.good:
        return None
    return f"{row.id} passes but is recorded as failing: refresh the ledger"


def _on_edge(row: Row, before: Row) -> bool:
    """Whether the only check that fails was passed by a tiny margin before."""
    failed = [check for check, held in row.checks.items() if not held]
    return failed == ["on_image"] and before.margin is not None and before.margin < _ON_EDGE
