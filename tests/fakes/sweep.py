"""Sweeps over parameters: a sample in the quick suite, all of them behind the marker `slow`."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from itertools import product
from typing import Any

import pytest


def sample(values: Iterable[str], quick: Collection[str]) -> list[pytest.ParameterSet]:
    """All values, of which the quick suite runs the given ones."""
    found = [
        pytest.param(value, marks=() if value in quick else pytest.mark.slow) for value in values
    ]
    names = {each.values[0] for each in found}
    assert set(quick) <= names, set(quick) - names
    return found


def diagonal(*axes: Collection[Any], shift: int = 0) -> list[pytest.ParameterSet]:
    """All combinations of values, of which the quick suite runs a sample with every value.

    Args:
        axes: The values of each parameter, the longest first.
        shift: Moves the later axes along, so that several tests sample different combinations.

    Returns:
        The parameters of each combination. Those off the diagonal, which wraps around the shorter
        axes, have the marker `slow`.
    """
    lists = [list(axis) for axis in axes]
    quick = {
        (place, *((place + shift) % len(axis) for axis in lists[1:]))
        for place in range(len(lists[0]))
    }
    assert len(lists[0]) == max(map(len, lists))
    return [
        pytest.param(
            *(axis[place] for axis, place in zip(lists, places, strict=True)),
            marks=() if places in quick else pytest.mark.slow,
        )
        for places in product(*(range(len(axis)) for axis in lists))
    ]
