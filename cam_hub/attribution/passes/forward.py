"""Some images through the network, with the graph for the backward pass, and back."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from functools import cached_property
from itertools import accumulate
from typing import NamedTuple

import torch
from torch import Tensor, nn

from cam_hub._text import first_line
from cam_hub.attribution.passes.accumulator import Accumulator
from cam_hub.attribution.passes.job import Job, Pass
from cam_hub.errors import CamHubError, ModelRefused, NoMap
from cam_hub.hooks.frozen_eval import ModuleTree, frozen_eval
from cam_hub.hooks.memory import is_out_of_memory
from cam_hub.hooks.recording import Taps, tap
from cam_hub.layers.layouts import LayerInfo, tap_options, to_maps
from cam_hub.models.loaded_model import LoadedModel
from cam_hub.targets.base import ClassScores, Target
from cam_hub.targets.classes import ResolvedClasses, Weights

__all__ = ["JobState", "Segment", "Trace", "anatomy", "forward"]


def anatomy(model: LoadedModel) -> ModuleTree:
    """The parts of a model as it is now."""
    found: ModuleTree | None = model.facts.get("anatomy")
    if found is None or not found.current:
        found = model.facts["anatomy"] = ModuleTree(model.module)
    return found


@dataclass(eq=False)
class JobState:
    """A job while its images pass: its target and classes, and what has come back for it.

    Attributes:
        job: The job.
        accumulator: Makes its maps.
        standings: How the classes stand in its clean image; None until that has passed.
        settled: The classes that are explained.
        error: The reason why a result is missing.
        alone: Whether its images must pass without those of other jobs.
    """

    job: Job
    accumulator: Accumulator
    standings: ClassScores | None = None
    settled: ResolvedClasses = field(default_factory=lambda: ResolvedClasses(()))
    error: CamHubError | None = None
    alone: bool = False

    @cached_property
    def target(self) -> Target:
        """What is differentiated; it may cost passes of its own."""
        return self.job.aim()

    def score(self, target: Target, output: object, images: int) -> Tensor:
        """``(images, K)`` scores. Those of its first image resolve the classes.

        Args:
            target: Its target.
            output: The network's output for some of the job's images.
            images: How many.

        Raises:
            CamHubError: If there are no such scores or classes.
        """
        model = self.job.model
        try:
            scores = target.scores(output)
        except ModelRefused as error:  # tasks do not know the model's ID
            raise ModelRefused(model.id, error.reason) from error
        if len(scores) != images:
            raise ModelRefused(
                model.id, f"it returns scores of {len(scores)} images for a batch of {images}."
            )
        if self.standings is None:
            if not bool(scores[0].isfinite().all()):
                raise NoMap("the model's scores for this picture are not finite (NaN or infinity)")
            standings = target.class_scores(output)
            self.settled = self.job.settled(standings, target)
            self.standings = standings
        return scores

    def result(self) -> Pass:
        """What has come back.

        Raises:
            CamHubError: Why there is nothing.
        """
        if (error := self.error or self.accumulator.error) is not None:
            raise error
        if self.standings is None:
            raise AssertionError("there is always a chunk with the clean image")
        return Pass(
            self.standings,
            self.settled,
            self.target.labels,
            self.target.describe(),
            self.accumulator.maps,
            self.accumulator.agreements,
        )


class Segment(NamedTuple):
    """One job's images in a batch.

    Attributes:
        scores: ``(images, K)``, with their graph.
        start: The place of the first of them in the batch.
        clean: If that is the clean image, its place among the recorded activations; else None.
    """

    scores: Tensor
    start: int
    clean: int | None


@dataclass(eq=False)
class Trace:
    """One forward pass, with the graph back to the target layers.

    Attributes:
        layers: The target layers.
        segments: The images of each job, in the order of the batch; None for a job in error.
        images: How many images there are in the batch.
    """

    layers: Mapping[str, LayerInfo]
    segments: Sequence[Segment | None]
    images: int
    _taps: Taps
    _lock: threading.Lock = field(default_factory=threading.Lock, init=False)

    def backward(
        self,
        wanted: Sequence[tuple[Segment, int, Weights | None, Accumulator]],
        *,
        noisy: bool = True,
        keep_graph: bool,
    ) -> None:
        """The backward pass of one class of each job, for the images of the batch together.

        In evaluation mode one image's score does not depend on another, so every image receives
        the gradient of its own.

        Args:
            wanted: For each job its images, the class, the classes whose scores are taken off with
                their weights, and the accumulator that takes the gradients, the last layer's first.
            noisy: Whether gradients of the noisy copies are wanted, too; else those of each job's
                first image alone.
            keep_graph: Whether another backward pass follows.

        Raises:
            NoMap: If the scores depend on none of the layers; with torch's error as its cause where
                the network has overwritten what the backward pass needs.
        """
        counts = [len(segment.scores) if noisy else 1 for segment, *_ in wanted]
        # On a caller's thread, where autograd may be off.
        with torch.inference_mode(False), torch.enable_grad():
            scores = [
                score_of(segment.scores[:count], index, contrast)
                for (segment, index, contrast, _), count in zip(wanted, counts, strict=True)
            ]
            score = torch.stack(scores).sum()
        missing = dict.fromkeys(self.layers)

        def visit(name: str, gradients: Tensor) -> None:
            arrangement = self.layers[name].arrangement
            if arrangement is None:
                raise AssertionError("target layers lie on the image")
            if len(self.segments) > 1 and len(gradients) != self.images:
                raise NoMap("it did not answer once per image", layer=name)
            recorded = self._taps.activations[name].detach()
            for (segment, index, _, accumulator), count in zip(wanted, counts, strict=True):
                rows = gradients[segment.start : segment.start + count]
                activation = None
                if (clean := segment.clean) is not None:
                    activation = to_maps(recorded[clean : clean + 1], arrangement)
                accumulator.take(index, name, activation, to_maps(rows, arrangement))
            missing.pop(name)
            if not keep_graph:
                del self._taps.activations[name]  # as the graph goes, so do the records

        try:
            with self._lock:
                self._taps.visit_gradients(score, visit, keep_graph=keep_graph)
        except RuntimeError as error:
            if is_out_of_memory(error):
                raise
            raise NoMap(f"the backward pass failed: {first_line(error)}") from error
        for name in list(missing):  # on which the scores do not depend
            shape = self._taps.activations[name].shape[1:]
            nothing = self._taps.activations[name].new_zeros((1, *shape))
            visit(name, nothing.expand(self.images, *shape))

    @cached_property
    def bytes(self) -> int:
        """What graph and records keep in memory before the backward pass, without weights."""
        scores = [segment.scores for segment in self.segments if segment is not None]
        tensors = [*scores, *self._taps.activations.values()]
        pending, seen = [each.grad_fn for each in scores], set()
        while pending:
            node = pending.pop()
            if node is None or node in seen:
                continue
            seen.add(node)
            pending += [parent for parent, _ in node.next_functions]
            kind = type(node)
            if kind not in _saved_names:
                _saved_names[kind] = [
                    name for name in dir(kind) if name.startswith(("_saved_", "saved_tensors"))
                ]
            for name in _saved_names[kind]:
                try:
                    found = getattr(node, name)
                except RuntimeError:  # overwritten since: the backward pass raises
                    continue
                parts = found if isinstance(found, (tuple, list)) else (found,)
                tensors += [part for part in parts if isinstance(part, Tensor)]
        storages = [
            tensor.untyped_storage() for tensor in tensors if not isinstance(tensor, nn.Parameter)
        ]
        return sum({each.data_ptr(): each.nbytes() for each in storages}.values())


_saved_names: dict[type, list[str]] = {}
"""Under which attributes nodes of a kind keep tensors."""


def score_of(scores: Tensor, index: int, contrast: Weights | None) -> Tensor:
    """The sum over images of a class's score, or of how far it is above those of others.

    Args:
        scores: ``(N, K)``.
        index: The class.
        contrast: The other classes with their weights, or None.
    """
    score = scores[:, index].sum()
    for other, weight in contrast or ():
        taken_off = scores[:, other].sum()
        score = score - (taken_off if weight == 1 else weight * taken_off)
    return score


def forward(
    states: Sequence[JobState], counts: Sequence[int], batch: Tensor, *, copying: bool = False
) -> Trace:
    """Runs a batch through the network, held in frozen eval mode, and scores its images.

    Args:
        states: The jobs whose images are in the batch, in their order; of the same model, layers
            and setting. What is wrong with one of them is noted in its ``error``.
        counts: How many images of each; the clean one comes first.
        batch: ``(N, channels, rows, cols)`` or ``(N, channels, frames, rows, cols)``, on the
            model's device, in the memory format of the setting.
        copying: Whether every record is a copy, and the network goes on with another: slow and
            large, but safe with networks that overwrite what the backward pass needs.

    Raises:
        ModelRefused: If the model raises on this input, or its output does not hold one answer for
            each of several jobs.
        NoMap: If a layer did not run.
    """
    job = states[0].job
    model, layers, setting = job.model, job.layers, job.setting
    targets = [state.target for state in states]  # before the pass takes any memory
    starts = list(accumulate(counts, initial=0))
    fresh = [start for start, state in zip(starts, states, strict=False) if state.standings is None]
    options = tap_options(layers)
    lies = (layer.arrangement for layer in layers.values())
    tokens = any(each and (each.prefix_tokens or each.suffix_tokens) for each in lies)
    overwritten = None if copying else {name for name in layers if layers[name].overwritten}
    with frozen_eval(model.module, anatomy(model)):
        while True:
            taken = tap(
                model.module,
                list(layers),
                overwritten=overwritten,
                rows=None if copying or model.execution.one_by_one else fresh,
                **options,
            )
            autocast = setting.autocast and torch.autocast(batch.device.type, setting.autocast)
            with taken as taps, autocast or nullcontext():
                output = model.run(batch, tokens=tokens)
            if taps.intact:
                break
            overwritten = None  # something else is written to than when the layers were found
        for name in layers:
            if name not in taps.activations:
                raise NoMap("it did not run, or returned no floating-point tensor", layer=name)
        outputs = model.task.split(output, counts) if len(states) > 1 else [output]
        segments: list[Segment | None] = []
        for place, (state, target) in enumerate(zip(states, targets, strict=True)):
            clean = fresh.index(starts[place]) if state.standings is None else None
            try:
                scores = state.score(target, outputs[place], counts[place])
                segments.append(Segment(scores, starts[place], clean))
            except CamHubError as error:
                state.error = error
                segments.append(None)
    return Trace(layers, segments, len(batch), taps)
