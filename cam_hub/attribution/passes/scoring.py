"""Scores of changed images, without a graph: what the tests of a map ask the network."""

from __future__ import annotations

from contextlib import nullcontext, suppress

import torch
from torch import Tensor

from cam_hub.attribution.passes.forward import anatomy
from cam_hub.attribution.passes.job import Job
from cam_hub.attribution.passes.runner import BatchLimit
from cam_hub.errors import CamHubError, InvalidArgument, OutOfMemory
from cam_hub.faithfulness import Scores
from cam_hub.hooks.frozen_eval import frozen_eval
from cam_hub.hooks.memory import is_out_of_memory

__all__ = ["score_images"]

_TOO_LARGE = "a forward pass of one image does not fit. A smaller input or device needs less."


def score_images(job: Job, images: Tensor) -> Scores:
    """Scores images by the model and the target of a job.

    They pass in batches of the job's size; smaller ones where memory does not suffice.

    Args:
        job: The job.
        images: ``(N, channels, *sides)``. The first one is the explained image, which fixes what
            a target looks for (a box, reference features).

    Raises:
        ModelRefused: If the model raises on these images.
        NoMap: If there is nothing to score, as where a detector finds nothing.
        OutOfMemory: If memory does not suffice for one image at a time.
    """
    model = job.model
    room = BatchLimit(1 if model.execution.one_by_one else max(1, job.batch_size))
    while True:
        try:
            return _scored(job, images, room.images)
        except (RuntimeError, MemoryError) as error:
            if isinstance(error, CamHubError) or not is_out_of_memory(error):
                raise
            if room.images == 1:
                raise OutOfMemory(model.id, _TOO_LARGE) from None
            room.halve(model)


def _scored(job: Job, images: Tensor, size: int) -> Scores:
    model, target, setting = job.model, job.aim(), job.setting
    autocast = setting.autocast and torch.autocast(images.device.type, setting.autocast)
    scores: list[Tensor] = []
    probabilities: list[Tensor] = []
    with frozen_eval(model.module, anatomy(model)), torch.no_grad(), autocast or nullcontext():
        for chunk in torch.split(images, size):
            laid = chunk.contiguous(memory_format=setting.memory_format)
            output = model.run(laid)
            scores.append(target.scores(output).float().cpu())
            with suppress(InvalidArgument):  # a target without probabilities
                probabilities.append(target.probabilities(output).float().cpu())
    found = torch.cat(probabilities) if len(probabilities) == len(scores) else None
    return Scores(torch.cat(scores), found)
