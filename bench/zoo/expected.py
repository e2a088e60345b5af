"""Compares outcomes with recorded ones, so that a cut of the sweep can guard the whole.

What the committed ledger records as failing is known, and may fail. Whatever else fails is a
regression. And what is recorded as failing but passes is reported, too: the record is out of date,
and would hide the next regression.
"""

from __future__ import annotations

from bench.zoo.ledger import Ledger
from bench.zoo.row import Row

__all__ = ["surprise"]


def surprise(row: Row, recorded: Ledger) -> str | None:
    """What is wrong with an outcome in the light of the recorded ones; None if nothing.

    Args:
        row: The outcome.
        recorded: The recorded ones. A model that they do not have must pass.
    """
    before = recorded.get(row.id)
    known = before is not None and not before.good
    if row.good:
        return f"{row.id} passes but is recorded as failing: refresh the ledger" if known else None
    return None if known else f"{row.id} {row.status}: {'; '.join(row.reasons)}"
