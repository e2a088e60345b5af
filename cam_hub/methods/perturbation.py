"""Methods that cover parts of the input and watch the score: occlusion and RISE.

They need no gradient and no layer, and work on any network. Zero stands for what is covered, as in
both papers: the mean colour of a normalised input.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.nn.functional import interpolate

from cam_hub.methods.evidence import BlackBox
from cam_hub.methods.registry import METHODS, Method, Passes

__all__ = ["RandomMasks", "occlusion", "rise"]

_CELLS = 14
"""Occlusion's map has so many rows and columns; a window covers two by two cells."""

_WINDOW = 2

_MASKS = 512
"""The number of RISE's masks. With the 4000 to 8000 of the paper, the standard error of a pixel is
a third to a quarter of that with 512."""

_GRID = 7
"""Rows and columns of RISE's binary masks, as in the paper."""

_VISIBLE = 0.5
"""The probability that a cell of such a mask is visible, as in the paper."""


def occlusion(box: BlackBox) -> Tensor:
    """Occlusion (Zeiler & Fergus 2014): how far the score drops where a window is covered.

    Each side of the input is divided into 14 cells (into its pixels, if it has fewer), and a window
    of two by two cells moves cell by cell: 13 x 13 positions. The map of a cell is the mean drop
    over the windows that contain it, ``M = ReLU(mean of S(x) - S(x without the window))``. Of a
    clip, the window covers the same place in every frame.

    For a score that is linear in the input, ``S = Σ w x``, the drop of a window is the sum of w x
    over its pixels.

    The paper draws the score itself at each position of the window. captum's ``Occlusion`` draws
    the drop, as here.

    Args:
        box: The network.

    Returns:
        M, ``(B, rows, cols)``, of a clip ``(B, 1, rows, cols)``; at least 0.
    """
    image = box.image
    rows, cols = (min(_CELLS, side) for side in image.shape[-2:])
    windows = list(_windows(rows, cols, (image.shape[-2], image.shape[-1])))
    clean = box.score(image)
    total = clean.new_zeros((box.scores, rows, cols))
    count = clean.new_zeros((rows, cols))
    for part in box.batches(len(windows)):
        chosen = windows[part]
        covered = image.repeat(len(chosen), *[1] * (image.ndim - 1))
        for place, (_, pixels) in enumerate(chosen):
            covered[(place, ..., *pixels)] = 0
        drops = clean - box.score(covered)
        for (cells, _), drop in zip(chosen, drops, strict=True):
            total[(..., *cells)] += drop[:, None, None]
            count[cells] += 1
    maps = torch.relu(total / count)
    return maps if image.ndim == 4 else maps[:, None]


def _windows(
    rows: int, cols: int, sides: tuple[int, int]
) -> Iterator[tuple[tuple[slice, slice], tuple[slice, slice]]]:
    """The positions of the window: its cells, and its pixels."""
    for row in range(max(1, rows - _WINDOW + 1)):
        for col in range(max(1, cols - _WINDOW + 1)):
            cells = slice(row, min(row + _WINDOW, rows)), slice(col, min(col + _WINDOW, cols))
            down, right = (
                slice(cell.start * side // count, cell.stop * side // count)
                for cell, side, count in zip(cells, sides, (rows, cols), strict=True)
            )
            yield cells, (down, right)


@dataclass(frozen=True, eq=False)
class RandomMasks:
    """Masks as RISE draws them: coarse binary grids, enlarged bilinearly and shifted at random.

    A slice of them is ``(count, rows, cols)`` in [0, 1]: 1 is visible, each pixel 0.5 on average.
    All is drawn at once, so that a mask does not depend on the slices.

    Args:
        count: How many.
        sides: Rows and columns of the input.
        seed: Of what is drawn.
        cells: Rows and columns of a grid.
    """

    count: int
    sides: tuple[int, int]
    seed: int
    cells: int = _GRID
    _grids: Tensor = field(init=False, repr=False)
    _shifts: list[tuple[int, int]] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        generator = torch.Generator().manual_seed(self.seed)
        drawn = torch.rand((self.count, 1, self.cells, self.cells), generator=generator)
        down, right = (
            torch.randint(step, (self.count,), generator=generator).tolist() for step in self._steps
        )
        object.__setattr__(self, "_grids", (drawn < _VISIBLE).float())
        object.__setattr__(self, "_shifts", list(zip(down, right, strict=True)))

    @property
    def _steps(self) -> list[int]:
        """Rows and columns of a cell in pixels: the paper's ceil(H / h)."""
        return [-(-side // self.cells) for side in self.sides]

    def __getitem__(self, part: slice) -> Tensor:
        larger = [(self.cells + 1) * step for step in self._steps]
        masks = interpolate(self._grids[part], larger, mode="bilinear", align_corners=False)[:, 0]
        rows, cols = self.sides
        cut = [
            mask[down : down + rows, right : right + cols]
            for mask, (down, right) in zip(masks, self._shifts[part], strict=True)
        ]
        return torch.stack(cut)


def rise(box: BlackBox) -> Tensor:
    """RISE (Petsiuk et al. 2018): how much higher the score is on average where a pixel is visible.

    ``M(p) = ReLU(Σ_i (S(x ⊙ m_i) - S̄) m_i(p) / Σ_i m_i(p))`` over 512 random masks, with S̄ the
    mean score over the masks. In expectation, ``M(p)`` is the score given that pixel p is visible
    less the score on average.

    The paper does not subtract S̄, as it explains probabilities: a constant is added to all pixels
    there. For scores before softmax, whose zero has no meaning, that constant would be arbitrary,
    and with it the ReLU. For a divisor, the paper takes the masks' expectation, 0.5, for their sum.

    Of a clip, a mask covers the same places in every frame.

    Args:
        box: The network.

    Returns:
        M, ``(B, rows, cols)``, of a clip ``(B, 1, rows, cols)``; at least 0.
    """
    image = box.image
    sides = image.shape[-2], image.shape[-1]
    drawn = RandomMasks(_MASKS, sides, box.seed)
    # In double precision, since large sums are subtracted; on the CPU, where all devices have it.
    weighted = torch.zeros((box.scores, *sides), dtype=torch.float64)
    visible = torch.zeros(sides, dtype=torch.float64)
    total = torch.zeros(box.scores, dtype=torch.float64)
    for part in box.batches(_MASKS):
        masks = drawn[part]
        placed = masks.to(image).view(len(masks), *[1] * (image.ndim - 3), *sides)
        found, masks = box.score(image * placed).cpu().double(), masks.double()
        weighted += torch.einsum("nb,nrc->brc", found, masks)
        visible += masks.sum(0)
        total += found.sum(0)
    mean = (total / _MASKS)[:, None, None]
    maps = torch.relu((weighted - mean * visible) / visible).to(image)
    return maps if image.ndim == 4 else maps[:, None]


METHODS.register(
    Method(
        name="occlusion",
        title="Occlusion",
        paper=("Zeiler & Fergus 2014. Visualizing and Understanding Convolutional Networks. ECCV."),
        url="https://arxiv.org/abs/1311.2901",
        attribute=occlusion,
        summary=(
            "How far the score drops where a window is covered: any model, no layer, no gradient; "
            "the map is the experiment itself, in coarse cells."
        ),
        level="pixel",
        passes=Passes(1 + (_CELLS - _WINDOW + 1) ** 2, 0),
    )
)

METHODS.register(
    Method(
        name="rise",
        title="RISE",
        paper=(
            "Petsiuk et al. 2018. RISE: Randomized Input Sampling for Explanation of Black-box "
            "Models. BMVC."
        ),
        url="https://arxiv.org/abs/1806.07421",
        attribute=rise,
        seeded=True,
        summary=(
            "How much higher the score is where a pixel stays visible under random masks: any "
            "model, no layer, no gradient; smooth, and slightly different with another seed."
        ),
        level="pixel",
        passes=Passes(1 + _MASKS, 0),
    )
)
