"""A transform that ends the worker process in which it meets a photo of some size."""

from __future__ import annotations

import multiprocessing
import os
import signal
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

DEADLY = (61, 40)
DEADLY_ONCE = (62, 40)


class Deadly:
    """Pixels in [0, 1] of the photo at 32 by 32 pixels.

    Args:
        folder: Where it is noted that a photo of ``DEADLY_ONCE`` has ended a process.
    """

    def __init__(self, folder: Path) -> None:
        self.noted = folder / "ended"

    def __call__(self, photo: Image.Image) -> Tensor:
        if multiprocessing.parent_process() is not None:
            if photo.size == DEADLY:
                os.kill(os.getpid(), signal.SIGKILL)
            if photo.size == DEADLY_ONCE and not self.noted.exists():
                self.noted.touch()
                os.kill(os.getpid(), signal.SIGKILL)
        return torch.from_numpy(np.array(photo.resize((32, 32)))).permute(2, 0, 1) / 255


class Unreadable:
    """A transform that is pickled, but cannot be read in another process."""

    def __call__(self, photo: Image.Image) -> Tensor:
        return Deadly(Path())(photo)

    def __reduce__(self) -> tuple[object, tuple[int]]:
        return _read_only_in, (os.getpid(),)


def _read_only_in(process: int) -> Unreadable:
    if os.getpid() != process:
        raise LookupError("there is nothing like it here")
    return Unreadable()
