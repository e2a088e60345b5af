"""How an activation may lie on the image: hypotheses, and the way to a common layout.

To add a layout, write a class with the members of ``Layout`` and list it in ``LAYOUTS``: the probe
then tries it on every output, and maps of such layers come out by themselves.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

__all__ = ["LAYOUTS", "Arrangement", "Layout", "arrangements", "to_maps"]

MIN_EXTRA_TOKENS, MAX_EXTRA_TOKENS = 8, 32
"""A sequence is tried with up to a fifth of its tokens without a place (class token, registers…),
but at least and at most with these."""


@dataclass(frozen=True)
class Arrangement:
    """One way of reading a tensor as maps over the image.

    Attributes:
        layout: Name of the layout, such as ``"NCHW"``.
        grid: Rows and columns.
        channels: How many maps there are.
        prefix_tokens: How many tokens before the grid's belong to no place.
        suffix_tokens: How many tokens after the grid's belong to no place.
    """

    layout: str
    grid: tuple[int, int]
    channels: int
    prefix_tokens: int = 0
    suffix_tokens: int = 0


class Layout(Protocol):
    """A family of arrangements."""

    name: str

    def arrangements(self, shape: tuple[int, ...], aspect: float) -> Iterator[Arrangement]:
        """The ways in which a tensor could be read.

        Args:
            shape: The tensor's, batch first.
            aspect: Rows by columns of the input; grids whose shape is not written into the
                tensor's are tried where they have this aspect.
        """

    def to_maps(self, tensor: Tensor, arrangement: Arrangement) -> Tensor:
        """The tensor as ``(N, channels, rows, cols)``, laid out as the image is."""


class _NCHW:
    """Channels first: convolutions."""

    name = "NCHW"

    def arrangements(self, shape: tuple[int, ...], aspect: float) -> Iterator[Arrangement]:
        if len(shape) == 4:
            yield Arrangement(self.name, (shape[2], shape[3]), shape[1])

    def to_maps(self, tensor: Tensor, arrangement: Arrangement) -> Tensor:
        return tensor


class _NHWC:
    """Channels last: Swin and its kin."""

    name = "NHWC"

    def arrangements(self, shape: tuple[int, ...], aspect: float) -> Iterator[Arrangement]:
        if len(shape) == 4:
            yield Arrangement(self.name, (shape[1], shape[2]), shape[3])

    def to_maps(self, tensor: Tensor, arrangement: Arrangement) -> Tensor:
        return tensor.permute(0, 3, 1, 2)


class _NLC:
    """A sequence of tokens, row by row: vision transformers and mixers."""

    name = "NLC"

    def arrangements(self, shape: tuple[int, ...], aspect: float) -> Iterator[Arrangement]:
        if len(shape) == 3:
            for grid, prefix, suffix in _grids(shape[1], aspect):
                yield Arrangement(self.name, grid, shape[2], prefix, suffix)

    def to_maps(self, tensor: Tensor, arrangement: Arrangement) -> Tensor:
        stop = tensor.shape[1] - arrangement.suffix_tokens
        places = tensor[:, arrangement.prefix_tokens : stop]
        return places.transpose(1, 2).reshape(len(tensor), -1, *arrangement.grid)


class _NCL:
    """Channels first, places as a sequence, row by row."""

    name = "NCL"

    def arrangements(self, shape: tuple[int, ...], aspect: float) -> Iterator[Arrangement]:
        if len(shape) == 3:
            for grid, prefix, suffix in _grids(shape[2], aspect):
                yield Arrangement(self.name, grid, shape[1], prefix, suffix)

    def to_maps(self, tensor: Tensor, arrangement: Arrangement) -> Tensor:
        stop = tensor.shape[2] - arrangement.suffix_tokens
        places = tensor[:, :, arrangement.prefix_tokens : stop]
        return places.reshape(*places.shape[:2], *arrangement.grid)


LAYOUTS: dict[str, Layout] = {layout.name: layout for layout in (_NCHW(), _NHWC(), _NLC(), _NCL())}
"""All layouts by name. Where two readings follow the image alike, the earlier one is taken."""


def arrangements(shape: tuple[int, ...], aspect: float) -> Iterator[Arrangement]:
    """All ways, over all layouts, in which a tensor of this shape could lie on the image."""
    for layout in LAYOUTS.values():
        yield from layout.arrangements(shape, aspect)


def to_maps(tensor: Tensor, arrangement: Arrangement) -> Tensor:
    """Brings an activation, or a gradient, into the common layout.

    Args:
        tensor: As the layer returned it.
        arrangement: How it lies on the image.

    Returns:
        ``(N, channels, rows, cols)``.
    """
    return LAYOUTS[arrangement.layout].to_maps(tensor, arrangement)


def _grids(length: int, aspect: float) -> Iterator[tuple[tuple[int, int], int, int]]:
    """Grids of the input's aspect that a sequence has room for, with the tokens left over.

    Tokens without a place stand all before or all after the grid's; the fewer, the earlier.
    """
    for extra in range(min(MAX_EXTRA_TOKENS, max(MIN_EXTRA_TOKENS, length // 5), length - 1) + 1):
        places = length - extra
        rows = round((places * aspect) ** 0.5)
        # An input that is no multiple of the patch leaves each side short by less than a cell.
        if rows < 1 or places % rows or abs(rows - places // rows * aspect) >= max(1.0, aspect):
            continue
        yield (rows, places // rows), extra, 0
        if extra:
            yield (rows, places // rows), 0, extra
