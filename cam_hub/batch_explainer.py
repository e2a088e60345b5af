"""Explains several pictures that were read, each as ``explain`` does alone."""

from __future__ import annotations

import copy
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from cam_hub.assembly import make_cams, make_explanation
from cam_hub.batch_pass import Passed, run_together
from cam_hub.classes import ClassChoice, choose_classes
from cam_hub.engine import explain
from cam_hub.errors import CamHubError, ClassNotFound
from cam_hub.introspection.layer_info import LayerInfo
from cam_hub.introspection.selection import LayerChoice, resolve_layers
from cam_hub.methods import Method
from cam_hub.passes import Noise
from cam_hub.precision import in_double
from cam_hub.preparation import aim, prepare
from cam_hub.readahead import Ready, Refused
from cam_hub.results import Explanation
from cam_hub.sources.base import LoadedModel
from cam_hub.tasks.base import Reference, Standings, Target

__all__ = ["BatchExplainer"]

Done = Callable[[float], None]
"""Told how many pictures are done, in parts of one too."""


@dataclass(frozen=True)
class BatchExplainer:
    """What is done with each batch of pictures.

    Attributes:
        model: The model.
        method: Makes the maps.
        noise: The noisy copies that it needs; None if it needs none.
        target_layers: As for ``explain``, but nothing that can be looked at only once.
        classes: Likewise.
        reference: As for ``explain``.
        batch_size: Most images, noisy copies included, that pass the network at once.
        options: How ``explain`` is called for the same method, classes and noise.
    """

    model: LoadedModel
    method: Method
    noise: Noise | None
    target_layers: LayerChoice
    classes: ClassChoice
    reference: object
    batch_size: int
    options: dict[str, Any]
    _targets: dict[tuple[int, ...], Target] = field(default_factory=dict)

    def check(self) -> None:
        """Makes sure that nothing is wrong that would be wrong with every picture.

        Raises:
            CamHubError: What is wrong.
        """
        task = self.model.task
        if task.takes_reference:
            if self.reference is not None:
                prepare(self.model, self.reference)
        else:
            task.target(reference=Reference() if self.reference is not None else None)
            names = self.model.class_names
            try:
                choose_classes(self.classes, torch.zeros(len(names or "1")), names)
            except ClassNotFound as error:
                # How many classes there are shows only when the network has answered.
                if isinstance(error.name, str):
                    raise
        resolve_layers(self.model, self.target_layers, self.model.input_size)

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
        try:
            size = pictures[0].prepared.size
            layers = resolve_layers(self.model, self.target_layers, size)
            working = in_double(self.model) if any(each.faint for each in layers) else self.model
            pictures = [self._as_taken_by(working, picture) for picture in pictures]
            targets = [self._target(working, picture) for picture in pictures]
        except CamHubError as error:
            return [error] * len(pictures)
        passes = run_together(
            working,
            [picture.prepared.tensor for picture in pictures],
            {layer.name: layer.arrangement for layer in layers if layer.arrangement is not None},
            targets,
            self._choose,
            noise=self.noise,
            batch_size=self.batch_size,
            progress=lambda part, _: done(part * len(pictures)),
        )
        return [self._result(*each, layers) for each in zip(pictures, targets, passes, strict=True)]

    def _as_taken_by(self, working: LoadedModel, picture: Ready) -> Ready:
        tensor = picture.prepared.tensor.to(working.device, working.dtype)
        return replace(picture, prepared=replace(picture.prepared, tensor=tensor))

    def _target(self, working: LoadedModel, picture: Ready) -> Target:
        if not working.task.takes_reference:
            return aim(working, picture.prepared, None, None)
        # What features are compared with costs passes, and is the same for inputs of one size.
        key = (*picture.prepared.size, id(working))
        if key not in self._targets:
            self._targets[key] = aim(working, picture.prepared, None, self.reference)
        return copy.copy(self._targets[key])

    def _choose(self, target: Target, found: Standings) -> list[int]:
        names = target.labels or self.model.class_names
        return choose_classes(self.classes, found.ranking, names, found.eligible)

    def _result(
        self,
        picture: Ready,
        target: Target,
        passed: Passed | CamHubError | None,
        layers: Sequence[LayerInfo],
    ) -> Explanation | CamHubError:
        if isinstance(passed, CamHubError):
            return passed
        try:
            if passed is None:
                return self._alone(picture)
            prepared = picture.prepared
            cams = make_cams(self.method, passed, layers, clip=prepared.is_clip)
            if not any(cam.any() for cam in cams.values()):
                return self._alone(picture)  # which may find a layer that is not blank
            return make_explanation(
                self.model,
                prepared,
                picture.facts,
                layers,
                self.method,
                self.noise,
                target,
                passed,
                cams,
            )
        except CamHubError as error:
            return error

    def _alone(self, picture: Ready) -> Explanation:
        image = picture.picture
        if not isinstance(image, Tensor):  # read already; a stream might not be read again
            frames = picture.prepared.frames
            image = list(frames) if picture.prepared.is_clip else frames[0]
        return explain(
            self.model,
            image,
            target_layers=self.target_layers,
            classes=self.classes,
            reference=self.reference,
            batch_size=self.batch_size,
            **self.options,
        )


def _beyond(done: Done, before: int, count: float) -> None:
    done(before + count)
