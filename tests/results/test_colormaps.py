"""Colour maps by name: their tables and their properties."""

from __future__ import annotations

import matplotlib
import numpy as np
import pytest

from cam_hub.errors import InvalidArgument
from cam_hub.results.overlay import COLORMAPS, colormap_table


@pytest.mark.parametrize("name", [*COLORMAPS, "tab10", "jet_r", "Greys"])
def test_a_table_holds_matplotlibs_colours_to_the_nearest_level(name):
    table = colormap_table(name)
    expected = matplotlib.colormaps[name](np.linspace(0, 1, 256))[:, :3] * 255
    assert table.shape == (256, 3)
    assert table.dtype == np.uint8
    assert np.abs(table - expected).max() <= 0.5 + 1e-9


def test_every_curated_map_is_filed_under_its_own_name():
    assert next(iter(COLORMAPS)) == "jet"
    assert all(entry.name == name for name, entry in COLORMAPS.items())


@pytest.mark.parametrize("entry", COLORMAPS.values(), ids=lambda entry: entry.name)
def test_a_map_called_colour_blind_safe_is_one_whose_lightness_never_falls(entry):
    linear = (colormap_table(entry.name) / 255) ** 2.2
    lightness = (linear @ [0.2126, 0.7152, 0.0722]) ** (1 / 3)
    # One level of rounding in one channel does not count as a fall.
    assert entry.colour_blind_safe == bool(np.diff(lightness).min() > -0.002)


def test_a_table_cannot_be_spoilt_for_the_next_caller():
    with pytest.raises(ValueError, match="read-only"):
        colormap_table("jet")[0] = 0


@pytest.mark.parametrize(
    ("name", "hint"), [("virids", "viridis"), ("JET", "jet"), ("", "jet"), ("no such", "turbo")]
)
def test_an_unknown_map_is_refused_with_the_nearest_names(name, hint):
    with pytest.raises(InvalidArgument, match=hint) as caught:
        colormap_table(name)
    assert (caught.value.argument, caught.value.value) == ("colormap", name)


@pytest.mark.parametrize("name", [None, 3, ["jet"]])
def test_an_invalid_name_is_refused(name):
    with pytest.raises(InvalidArgument, match="name of a colour map"):
        colormap_table(name)
