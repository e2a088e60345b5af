"""Checks of single values: the accepted values, and the message for all others."""

from __future__ import annotations

import pytest

from cam_hub._validation import check_fraction, check_whole
from cam_hub.errors import InvalidArgument


@pytest.mark.parametrize(
    ("value", "bounds"), [(1, ()), (7, (7,)), (7, (0, 7)), (0, (0,)), (10**30, ())]
)
def test_whole_numbers_within_their_bounds_are_returned(value, bounds):
    assert check_whole("count", value, *bounds) is value


@pytest.mark.parametrize(
    ("value", "bounds", "message"),
    [
        (0, (), "of at least 1"),
        (True, (), "of at least 1"),
        (2.0, (), "of at least 1"),
        ("2", (), "of at least 1"),
        (None, (16,), "of at least 16"),
        (8, (0, 7), "from 0 to 7"),
        (-1, (0, 7), "from 0 to 7"),
    ],
)
def test_other_values_are_refused_with_the_bounds(value, bounds, message):
    with pytest.raises(InvalidArgument, match=f"count=.* a whole number {message}"):
        check_whole("count", value, *bounds)


@pytest.mark.parametrize("zero", [True, False])
def test_a_fraction_includes_zero_only_where_it_is_valid(zero):
    assert check_fraction("alpha", 1, zero=zero) == 1.0
    for value in (*(() if zero else (0,)), -0.1, 1.1, float("nan"), 10**400, "0.5"):
        with pytest.raises(InvalidArgument, match="alpha"):
            check_fraction("alpha", value, zero=zero)
    if zero:
        assert check_fraction("alpha", 0, zero=True) == 0.0
