"""The images of a job as rows of a batch: the picture, then its noisy copies."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from cam_hub.attribution.passes.job import Job

__all__ = ["Row", "rows_of", "stacked"]

Row = tuple[Tensor, Tensor | None]
"""An image ``(1, …)``, and the noise that is added to it."""


def rows_of(job: Job) -> Iterator[Row]:
    """The images that pass the network for a job, in their order: the picture itself first."""
    yield job.image, None
    if job.noise is not None:
        layout = _layout(job)
        # Laid out once rather than with every copy.
        image = job.image.contiguous(memory_format=layout)
        for drawn in job.noise.draws(image, layout):
            yield image, drawn


def stacked(rows: Sequence[Row], job: Job) -> Tensor:
    """A batch of rows, written once, in the memory format in which a job's network is run.

    Args:
        rows: At least one; of one shape.
        job: The job, or one of several that are alike.

    Returns:
        ``(N, …)``, in memory of its own.
    """
    image, _ = rows[0]
    batch = torch.empty(
        (len(rows), *image.shape[1:]),
        dtype=image.dtype,
        device=image.device,
        memory_format=_layout(job),
    )
    for place, (image, drawn) in enumerate(rows):
        row = batch[place : place + 1]
        if drawn is None:
            row.copy_(image)
        else:
            torch.add(image, drawn, out=row)
    return batch


def _layout(job: Job) -> torch.memory_format:
    return job.setting.memory_format if job.image.ndim == 4 else torch.contiguous_format
