"""Time in clips: which frames are taken, which map belongs to which frame."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

__all__ = ["evenly", "over_frames"]


def evenly(count: int, wanted: int) -> list[int]:
    """Indices spread evenly: the middle one of each of ``wanted`` equal parts of ``count``.

    Where fewer are there than wanted, they are repeated; where as many, each is taken once.

    Args:
        count: How many there are, at least 1.
        wanted: How many to name, at least 1.

    Example:
        >>> evenly(16, 4)
        [2, 6, 10, 14]
        >>> evenly(2, 4)
        [0, 0, 1, 1]
    """
    return [(2 * part + 1) * count // (2 * wanted) for part in range(wanted)]


def over_frames(steps: NDArray[np.float32], frames: int) -> NDArray[np.float32]:
    """One map per frame out of one per step of time, linearly between the steps' middles.

    Args:
        steps: ``(steps, rows, cols)``; step ``i`` covers the frames from ``i * frames / steps`` to
            ``(i + 1) * frames / steps``.
        frames: How many frames there are.

    Returns:
        ``(frames, rows, cols)``, within the range of the steps; before the first middle and after
        the last one as there.
    """
    count = len(steps)
    place = np.clip((np.arange(frames) + 0.5) * count / frames - 0.5, 0, count - 1)
    before = np.minimum(place.astype(int), max(count - 2, 0))
    after = np.minimum(before + 1, count - 1)
    part = (place - before).astype(np.float32)[:, None, None]
    between: NDArray[np.float32] = steps[before] * (1 - part) + steps[after] * part
    return between
