"""Colour maps as tables of 256 colours, and a short list of good ones.

Any name that matplotlib knows works; ``COLORMAPS`` is what a menu should offer.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from types import MappingProxyType
from typing import Final, Literal, NamedTuple

import numpy as np
import numpy.typing as npt

from cam_hub.errors import InvalidArgument, nearest_names

__all__ = ["COLORMAPS", "DIVERGING", "Colormap", "colormap_names", "colormap_table", "fitting"]


class Colormap(NamedTuple):
    """What a menu needs to know about a colour map.

    Attributes:
        name: Matplotlib's name of it.
        kind: "rainbow" runs through the hues, "sequential" from dark to light, "diverging" from
            one hue over a pale middle to another.
        colour_blind_safe: Its lightness never falls from cold to hot, so it is read rightly
            without seeing hue at all: with any colour vision, and in grey print. Diverging maps
            fail this test, though many viewers tell their two ends apart by hue.
    """

    name: str
    kind: Literal["rainbow", "sequential", "diverging"]
    colour_blind_safe: bool


COLORMAPS: Final[Mapping[str, Colormap]] = MappingProxyType(
    {
        entry.name: entry
        for entry in (
            Colormap("jet", "rainbow", colour_blind_safe=False),
            Colormap("turbo", "rainbow", colour_blind_safe=False),
            Colormap("viridis", "sequential", colour_blind_safe=True),
            Colormap("cividis", "sequential", colour_blind_safe=True),
            Colormap("inferno", "sequential", colour_blind_safe=True),
            Colormap("magma", "sequential", colour_blind_safe=True),
            Colormap("plasma", "sequential", colour_blind_safe=True),
            Colormap("hot", "sequential", colour_blind_safe=True),
            Colormap("gray", "sequential", colour_blind_safe=True),
            Colormap("coolwarm", "diverging", colour_blind_safe=False),
        )
    }
)
"""The curated colour maps by name, in the order a menu should show them."""


DIVERGING: Final = frozenset(
    [
        *("PiYG", "PRGn", "BrBG", "PuOr", "RdGy", "RdBu", "RdYlBu", "RdYlGn", "Spectral"),
        *("coolwarm", "bwr", "seismic", "berlin", "managua", "vanimo"),
    ]
)
"""Matplotlib's diverging colour maps; each also has a reversed form, ``<name>_r``."""


def fitting(name: str, *, signed: bool) -> str:
    """The colour map for a map of evidence.

    Args:
        name: The colour map that was asked for.
        signed: Whether the map holds evidence of both signs. In a rainbow or sequential colour map
            its zero would look like some evidence, so that ``"coolwarm"`` takes its place.
    """
    diverging = isinstance(name, str) and name.removesuffix("_r") in DIVERGING
    return name if diverging or not signed else "coolwarm"


def colormap_names() -> tuple[str, ...]:
    """Names of the curated colour maps, in the order a menu should show them."""
    return tuple(COLORMAPS)


def colormap_table(name: str) -> npt.NDArray[np.uint8]:
    """The 256 colours of a colour map.

    Args:
        name: One of ``colormap_names()``, or any other name in ``matplotlib.colormaps``.

    Returns:
        Read-only uint8 array ``(256, 3)``: RGB in [0, 255], from the coldest colour to the
        hottest, each channel rounded to the nearest level (matplotlib itself cuts it off).

    Raises:
        InvalidArgument: matplotlib has no colour map of this name.
    """
    if not isinstance(name, str):
        raise InvalidArgument("colormap", name, "the name of a colour map, such as 'jet'")
    return _table(name)


@lru_cache(maxsize=64)
def _table(name: str) -> npt.NDArray[np.uint8]:
    # Imported here because it takes longer than everything else in this module together.
    from matplotlib import colormaps  # noqa: PLC0415

    if name not in colormaps:
        # The curated names come first: of two names equally near, the better map is offered.
        nearest = nearest_names(name, [*COLORMAPS, *colormaps]) or list(COLORMAPS)
        raise InvalidArgument("colormap", name, f"a colour map such as {', '.join(nearest)}")
    colours = np.asarray(colormaps[name](np.linspace(0.0, 1.0, 256)), dtype=np.float64)
    table = np.rint(colours[:, :3] * 255.0).astype(np.uint8)
    table.setflags(write=False)  # one array serves every caller
    return table
