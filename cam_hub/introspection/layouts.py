"""How an activation may lie on the image: hypotheses, and the way to a common layout.

To add a layout, write a class with the three members of ``Layout`` and list it in ``LAYOUTS``:
the probe then tries it on every output, and maps of such layers come out by themselves.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

__all__ = ["LAYOUTS", "Arrangement", "Layout", "arrangements", "to_maps"]


@dataclass(frozen=True)
class Arrangement:
    """One way of reading a tensor as maps over the image.

    Attributes:
        layout: Name of the layout, such as ``"NCHW"``.
        grid: Rows and columns.
        channels: How many maps there are.
        prefix_tokens: How many tokens do not belong to any place.
    """

    layout: str
    grid: tuple[int, int]
    channels: int
    prefix_tokens: int = 0


class Layout(Protocol):
    """A family of arrangements."""

    name: str

    def arrangements(self, shape: tuple[int, ...]) -> Iterator[Arrangement]:
        """The ways in which a tensor of this shape (batch first) could be read."""

    def to_maps(self, tensor: Tensor, arrangement: Arrangement) -> Tensor:
        """The tensor as ``(N, channels, rows, cols)``, laid out as the image is."""


class _NCHW:
    name = "NCHW"

    def arrangements(self, shape: tuple[int, ...]) -> Iterator[Arrangement]:
        if len(shape) == 4:
            yield Arrangement(self.name, (shape[2], shape[3]), shape[1])

    def to_maps(self, tensor: Tensor, arrangement: Arrangement) -> Tensor:
        return tensor


LAYOUTS: dict[str, Layout] = {layout.name: layout for layout in (_NCHW(),)}
"""All layouts by name."""


def arrangements(shape: tuple[int, ...]) -> Iterator[Arrangement]:
    """All ways, over all layouts, in which a tensor of this shape could lie on the image."""
    for layout in LAYOUTS.values():
        yield from layout.arrangements(shape)


def to_maps(tensor: Tensor, arrangement: Arrangement) -> Tensor:
    """Brings an activation, or a gradient, into the common layout.

    Args:
        tensor: As the layer returned it.
        arrangement: How it lies on the image.

    Returns:
        ``(N, channels, rows, cols)``.
    """
    return LAYOUTS[arrangement.layout].to_maps(tensor, arrangement)
