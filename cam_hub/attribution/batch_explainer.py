"""Explains several pictures that were read, each as ``explain`` does alone."""

from __future__ import annotations

import copy
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial

import torch

from cam_hub.attribution.composing import compose
from cam_hub.attribution.explaining import explain_otherwise, explain_prepared, is_blank, steadied
from cam_hub.attribution.jobs import make_job
from cam_hub.attribution.passes import Job, Pass, Room, run_together
from cam_hub.attribution.prefetch import Ready, Refused
from cam_hub.attribution.preparation import prepare
from cam_hub.attribution.request import Request
from cam_hub.errors import CamHubError, ClassNotFound
from cam_hub.hooks.modes import default_modes
from cam_hub.layers.selection import resolve_layers
from cam_hub.methods import Method
from cam_hub.models.loaded_model import LoadedModel
from cam_hub.results.explanation import Explanation
from cam_hub.targets.base import Reference, Target
from cam_hub.targets.classes import (
    ClassChoice,
    Expected,
    choose_classes,
    expected,
    find_contrast,
    names_expected,
    with_expected,
)

__all__ = ["BatchExplainer"]

Done = Callable[[float], None]
"""Told how many pictures are done, in parts of one too."""


@dataclass(frozen=True)
class BatchExplainer:
    """What is done with each batch of pictures.

    Attributes:
        model: The model.
        method: Makes the maps.
        request: What is asked about each picture, by nothing that can be looked at only once.
        room: Most images, noisy copies included, that pass the network at once.
    """

    model: LoadedModel
    method: Method
    request: Request
    room: Room
    _targets: dict[tuple[int, ...], Target] = field(default_factory=dict)

    @classmethod
    def checked(cls, model: LoadedModel, method: Method, request: Request) -> BatchExplainer:
        """Makes sure that nothing is wrong that would be wrong with every picture.

        Raises:
            CamHubError: What is wrong.
        """
        task = model.task
        task.check_contrast(request.contrast)
        if task.takes_reference:
            if request.reference is not None:
                request = replace(request, reference=prepare(model, request.reference))
        else:
            task.target(reference=Reference() if request.reference is not None else None)
            task.check_target(request.target)
            names = model.class_names
            count = len(names or "1")
            try:
                if not callable(request.classes):
                    choose_classes(_without_labels(request.classes), torch.zeros(count), names)
                find_contrast(request.contrast, count, names)
            except ClassNotFound as error:
                # How many classes there are shows only when the network has answered.
                if isinstance(error.name, str):
                    raise
        resolve_layers(model, request.target_layers, model.input_size)
        return cls(model, method, request, Room(request.batch_size))

    @default_modes()
    def explain(
        self, pictures: Sequence[Ready | Refused], done: Done
    ) -> list[Explanation | CamHubError]:
        """An explanation of each picture, or why there is none.

        Args:
            pictures: Any; those of one size pass the network together.
            done: What it raises stops the work.
        """
        alike: dict[tuple[int, ...], list[int]] = defaultdict(list)
        found: dict[int, Explanation | CamHubError] = {}
        for position, picture in enumerate(pictures):
            if isinstance(picture, Ready):
                alike[picture.prepared.size].append(position)
            else:
                found[position] = picture.error
        for positions in alike.values():
            chosen = [picture for p in positions if isinstance(picture := pictures[p], Ready)]
            results = self._together(chosen, partial(_beyond, done, len(found)))
            found.update(zip(positions, results, strict=True))
        return [found[position] for position in range(len(pictures))]

    def _together(self, pictures: list[Ready], done: Done) -> list[Explanation | CamHubError]:
        """The same for pictures of one size."""
        found: dict[int, Explanation | CamHubError] = {}
        jobs: dict[int, tuple[Job, Request]] = {}
        for position, picture in enumerate(pictures):
            try:
                request = self._request(picture)
                jobs[position] = self._job(picture, request), request
            except CamHubError as error:
                found[position] = error
        count = len(pictures)
        passes = run_together(
            [job for job, _ in jobs.values()],
            self.room,
            progress=lambda part: done(part * count),
        )
        tick = partial(done, count)
        for (position, (job, request)), passed in zip(jobs.items(), passes, strict=True):
            found[position] = self._result(pictures[position], job, request, passed, tick)
        return [found[position] for position in range(count)]

    def _request(self, picture: Ready) -> Request:
        """The request for one picture, with its own label where that is to be explained."""
        sample, classes = picture.sample, self.request.classes
        if classes is None and sample.explain_label:
            classes = expected
        classes = with_expected(classes, sample.expected)
        return replace(self.request, classes=classes)

    def _job(self, picture: Ready, request: Request) -> Job:
        job = make_job(self.model, picture.prepared, [self.method], request)
        if not self.model.task.takes_reference:
            return job
        return replace(job, aim=partial(self._shared_target, job))

    def _shared_target(self, job: Job) -> Target:
        """What features are compared with costs passes, and is the same for inputs of one size."""
        key = (*job.image.shape, id(job.model))
        if key not in self._targets:
            self._targets[key] = job.aim()
        return copy.copy(self._targets[key])

    def _result(
        self,
        picture: Ready,
        job: Job,
        request: Request,
        passed: Pass | CamHubError | None,
        tick: Callable[[], None],
    ) -> Explanation | CamHubError:
        if isinstance(passed, CamHubError):
            return passed
        asked = replace(request, progress=lambda *_: tick())
        try:
            if passed is not None:
                prepared = picture.prepared
                found = compose(self.model, prepared, self.method, job, passed)
                if is_blank(found):
                    found = explain_otherwise(self.model, prepared, found, self.method, asked)
                return steadied(self.model, prepared, found, self.method, asked)
            # Alone it may be passed with more care.
            alone = explain_prepared(self.model, picture.prepared, [self.method], asked)
            return alone[self.method.name]
        except CamHubError as error:
            return error


def _without_labels(choice: ClassChoice) -> ClassChoice:
    """The classes that are the same for all pictures; None where there are none."""
    if not names_expected(choice):
        return choice
    listed = choice if isinstance(choice, (list, tuple)) else ()
    return [item for item in listed if not isinstance(item, Expected)] or None


def _beyond(done: Done, before: int, count: float) -> None:
    done(before + count)
