"""Scores of changed images, without a graph, and the pixels that a map marks: for tests of maps."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext, suppress
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import interpolate

from cam_hub.attribution.passes.forward import anatomy
from cam_hub.attribution.passes.job import Job, Map
from cam_hub.attribution.passes.runner import BatchLimit
from cam_hub.errors import InvalidArgument
from cam_hub.faithfulness import Scores, hottest
from cam_hub.hooks.frozen_eval import frozen_eval
from cam_hub.layers.layouts import on_input
from cam_hub.targets.base import ClassScores
from cam_hub.targets.classes import ResolvedClasses

__all__ = ["Answer", "ask", "marked_pixels", "score_images"]


class Answer(NamedTuple):
    """The model's answer for the explained image and changed copies of it.

    Attributes:
        scores: Of all images.
        standings: How the classes stand in the explained image.
        settled: The classes that the job is about.
        labels: Names of the scores, or None.
    """

    scores: Scores
    standings: ClassScores
    settled: ResolvedClasses
    labels: Sequence[str] | None


def score_images(job: Job, images: Tensor) -> Scores:
    """The scores of ``ask``; arguments and errors as there."""
    return ask(job, images, settle=False).scores


def ask(job: Job, images: Tensor, *, settle: bool = True) -> Answer:
    """Scores images by the model and the target of a job.

    They pass in batches of the job's size; smaller ones where memory does not suffice.

    Args:
        job: The job.
        images: ``(N, channels, *sides)``. The first one is the explained image, which fixes what
            a target looks for (a box, reference features).
        settle: Whether the classes of the job are resolved; else ``settled`` is empty.

    Raises:
        ModelRefused: If the model raises on these images.
        NoMap: If there is nothing to score, as where a detector finds nothing.
        OutOfMemory: If memory does not suffice for one image at a time.
    """
    model = job.model
    room = BatchLimit(1 if model.execution.one_by_one else max(1, min(job.batch_size, len(images))))
    return room.fit(model, lambda size: _asked(job, images, size, settle))


def _asked(job: Job, images: Tensor, size: int, settle: bool) -> Answer:
    model, target, setting = job.model, job.aim(), job.setting
    autocast = setting.autocast and torch.autocast(images.device.type, setting.autocast)
    scores: list[Tensor] = []
    probabilities: list[Tensor] = []
    standings = None
    with frozen_eval(model.module, anatomy(model)), torch.no_grad(), autocast or nullcontext():
        chunks = torch.split(images, size)
        report = job.progress or (lambda part, what: None)
        report(0.1 / len(chunks), "testing")  # which may stop it before anything passes
        for number, chunk in enumerate(chunks, start=1):
            laid = chunk.contiguous(memory_format=setting.memory_format)
            output = model.run(laid)
            scores.append(target.scores(output).float().cpu())
            if standings is None:
                standings = target.class_scores(output)
            with suppress(InvalidArgument):  # a target without probabilities
                probabilities.append(target.probabilities(output).float().cpu())
            report(number / len(chunks), "testing")
    found = torch.cat(probabilities) if len(probabilities) == len(scores) else None
    if standings is None:
        raise InvalidArgument("images", 0, "at least one image")
    settled = job.settled(standings, target) if settle else ResolvedClasses(())
    labels = target.labels or model.class_names
    return Answer(Scores(torch.cat(scores), found), standings, settled, labels)


def marked_pixels(job: Job, name: str, cam: Map) -> Tensor | None:
    """The hottest pixels of a map that a pass has brought back.

    Args:
        job: The job of the pass.
        name: The layer.
        cam: The map, as in ``Pass.maps``.

    Returns:
        ``(*sides)`` of the input, bool; None for a map that is blank or not finite.
    """
    layer, sides = job.layers[name], tuple(job.image.shape[2:])
    if len(sides) == 3 or layer.frames > 1:
        cam = cam.reshape(layer.frames, -1, cam.shape[1])
    heat = torch.from_numpy(on_input(cam, layer.extent).copy()).clamp(min=0)
    if not bool(heat.isfinite().all()) or not bool(heat.any()):
        return None
    heat = heat / heat.amax()
    volume = heat.view(1, 1, -1, *heat.shape[-2:])
    frames = sides[0] if len(sides) == 3 else 1
    resized = interpolate(volume, (frames, *sides[-2:]), mode="trilinear", align_corners=False)
    return hottest(resized.view(1, *sides))[0]
