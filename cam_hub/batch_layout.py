"""Whether batches pass a network faster channels-last, found out on the work itself."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from cam_hub.sources.base import LoadedModel

__all__ = ["laid_out"]

_TRIALS = 2
_LAYOUTS = (torch.contiguous_format, torch.channels_last)


@contextmanager
def laid_out(model: LoadedModel, batch: Tensor) -> Iterator[Tensor]:
    """Yields a batch in the memory layout in which it passes the network faster.

    The network is not touched: convolutions go on in the layout of their input, and bring their
    weights into it call by call, which large batches hardly feel. Which layout is faster depends on
    the network, the machine and the batch; so the first batches of a shape take turns, their time
    is taken, and the faster layout stays. Nothing is computed for that alone. Results differ by
    rounding only.

    Only networks of images with convolutions, on a CPU, have a choice; and only batches of several.

    Args:
        model: The model; what was found out is kept with it.
        batch: ``(N, channels, rows, cols)``, or a batch of clips.
    """
    if not _has_choice(model, batch):
        yield batch
        return
    with model.lock:
        known: dict[tuple[int, ...], _Trials] = model.facts.setdefault("layout", {})
        trials = known.setdefault(tuple(batch.shape), _Trials())
    layout = trials.next()
    start = time.perf_counter()
    yield batch.contiguous(memory_format=layout)
    trials.took(layout, time.perf_counter() - start)


class _Trials:
    """The least time that each layout has taken so far."""

    def __init__(self) -> None:
        self._seconds: dict[torch.memory_format, list[float]] = {each: [] for each in _LAYOUTS}

    def next(self) -> torch.memory_format:
        """The layout that was tried too seldom, else the faster one."""
        for layout, seconds in sorted(self._seconds.items(), key=lambda entry: len(entry[1])):
            if len(seconds) < _TRIALS:
                return layout
        return min(self._seconds, key=lambda layout: min(self._seconds[layout]))

    def took(self, layout: torch.memory_format, seconds: float) -> None:
        """Notes how long a batch took, as long as that is a question."""
        if len(self._seconds[layout]) < _TRIALS:
            self._seconds[layout].append(seconds)


def _has_choice(model: LoadedModel, batch: Tensor) -> bool:
    if batch.ndim != 4 or len(batch) < 2 or batch.device.type != "cpu":
        return False
    if "convolutional" not in model.facts:
        model.facts["convolutional"] = any(
            isinstance(child, nn.Conv2d) and child.kernel_size != child.stride
            for child in model.module.modules()
        )
    return bool(model.facts["convolutional"])
