"""Compares outcomes with recorded ones, so that a cut of the sweep can guard the whole.

What the committed ledger records as failing is known, and may fail. Whatever else fails is a
regression. What is recorded as failing but passes is worth a word, since the record would hide the
next regression; it is no fault, since another processor rounds otherwise.
"""

from __future__ import annotations

from bench.zoo.ledger import Ledger
from bench.zoo.row import Row

__all__ = ["outdated", "surprise"]

_ON_EDGE = 0.05
"""Margin below which another processor's rounding may decide whether a layer lies on the image."""


def surprise(row: Row, recorded: Ledger) -> str | None:
    """What is wrong with an outcome in the light of the recorded ones; None if nothing.

    Args:
        row: The outcome.
        recorded: The recorded ones. A model that they do not have must pass.
    """
    before = recorded.get(row.id)
    if row.good or (before is not None and (not before.good or _on_edge(row, before))):
        return None
    return f"{row.id} {row.status}: {'; '.join(row.reasons)}"


def outdated(row: Row, recorded: Ledger) -> str | None:
    """A word on a model that passes but is recorded as failing; None for all others."""
    before = recorded.get(row.id)
    if not row.good or before is None or before.good:
        return None
    return f"{row.id} passes but is recorded as failing: refresh the ledger"


def _on_edge(row: Row, before: Row) -> bool:
    """Whether the one check that fails held by a hair before."""
    failed = [check for check, held in row.checks.items() if not held]
    return failed == ["on_image"] and before.margin is not None and before.margin < _ON_EDGE
