"""Some images through the network and back, and maps of the gradients, layer by layer."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from itertools import accumulate, filterfalse
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from cam_hub._text import first_line
from cam_hub.attribution.passes.job import Job, Key, Map, Pass
from cam_hub.errors import CamHubError, ModelRefused, NoMap
from cam_hub.hooks.frozen_eval import ModuleTree, frozen_eval
from cam_hub.hooks.memory import is_out_of_memory
from cam_hub.hooks.recording import Taps, observe
from cam_hub.layers.layouts import LayerInfo, batch_axes, to_maps
from cam_hub.methods import Evidence, Method, MomentSum
from cam_hub.methods.evidence import agreement
from cam_hub.methods.registry import needs_noise
from cam_hub.models.loaded_model import LoadedModel
from cam_hub.targets.base import ClassScores, Target, main_output
from cam_hub.targets.classes import ResolvedClasses, Weights

__all__ = [
    "Accumulator",
    "Allowance",
    "JobState",
    "Segment",
    "Trace",
    "Wanted",
    "anatomy",
    "forward",
]


def anatomy(model: LoadedModel) -> ModuleTree:
    """The parts of a model as it is now."""
    found: ModuleTree | None = model.facts.get("anatomy")
    if found is None or not found.current:
        found = model.facts["anatomy"] = ModuleTree(model.module)
    return found


@dataclass
class Allowance:
    """What of the clean image's evidence may be kept for other methods.

    Attributes:
        bytes: How much memory it may take.
        activations: Those that are kept already, by layer: all classes share them.
    """

    bytes: int = 0
    activations: dict[str, Tensor] = field(default_factory=dict)

    def keep(self, name: str, activation: Tensor, gradient: Tensor) -> Evidence | None:
        """Evidence that keeps nothing else in memory; None where it would be too large."""
        known = self.activations.get(name)
        size = gradient.nbytes + (activation.nbytes if known is None else 0)
        if size > self.bytes:
            return None
        self.bytes -= size
        kept = [activation if known is None else known, gradient]
        for place, tensor in enumerate(kept):
            if tensor.untyped_storage().nbytes() != tensor.nbytes:  # it would keep a whole batch
                kept[place] = tensor.clone()
        self.activations[name] = kept[0]
        return Evidence(kept[0], kept[1])


@dataclass(eq=False)
class Accumulator:
    """Accumulates the gradients of each class and layer, and makes each map as soon as it can.

    Where all gradients of a layer arrive at once, they are freed before the next layer's are
    computed. Those that arrive in several chunks are summed up.

    Attributes:
        methods: The methods.
        samples: How many noisy copies will arrive in all.
        allowance: For the clean image's evidence, from which other methods can be had.
        maps: By method, class index and layer.
        agreements: By the same keys, for methods that need noise: how far another seed's map can be
            expected to agree, see ``methods.evidence.agreement``. A single copy has none.
        cancellation: By the same keys, for methods that have it: the share of the paper's weights
            that comes from cancelling denominators, see ``methods.Method``.
        evidence: That of the clean image, by class index and layer, as far as the allowance goes.
        error: The reason why a map is missing, if one was not finite; later gradients are ignored.
    """

    methods: Sequence[Method]
    samples: int
    allowance: Allowance = field(default_factory=Allowance)
    maps: dict[Key, Map] = field(default_factory=dict, init=False)
    agreements: dict[Key, float] = field(default_factory=dict, init=False)
    cancellation: dict[Key, float] = field(default_factory=dict, init=False)
    evidence: dict[tuple[int, str], Evidence] = field(default_factory=dict, init=False)
    error: NoMap | None = field(default=None, init=False)
    _clean: dict[tuple[int, str], tuple[Tensor, Tensor]] = field(default_factory=dict, init=False)
    _sums: dict[tuple[int, str], MomentSum] = field(default_factory=dict, init=False)

    @torch.no_grad()
    def take(self, index: int, name: str, activation: Tensor | None, gradients: Tensor) -> None:
        """Takes in one class's gradients of a chunk at one layer.

        Args:
            index: The class.
            name: The layer.
            activation: ``(1, channels, rows, cols)`` of the clean image, if its gradient comes
                first; else None.
            gradients: ``(N, channels, rows, cols)``.
        """
        place, noisy, own = (index, name), gradients, [(index, self)]
        smooth = list(filter(needs_noise, self.methods))
        if activation is not None:
            clean, noisy = gradients[:1], gradients[1:]
            if smooth:
                self._clean[place] = activation, clean.clone()
            plain = list(filterfalse(needs_noise, self.methods))
            _make_maps(own, name, plain, activation, clean[None])
        if len(noisy) and self.samples:
            self._sums.setdefault(place, MomentSum()).add(noisy[:, None])
        total = self._sums.get(place)
        if place in self._clean and total is not None and total.count >= self.samples:
            del self._sums[place]
            activation, clean = self._clean.pop(place)
            _make_maps(own, name, smooth, activation, clean[None], total)


@torch.no_grad()
def _make_maps(
    places: Sequence[tuple[int, Accumulator]],
    name: str,
    methods: Sequence[Method],
    activation: Tensor,
    gradients: Tensor,
    noise: MomentSum | None = None,
) -> None:
    """Makes the maps of B classes at one layer, as one batch.

    Args:
        places: The classes, and the accumulator that gets the maps of each.
        name: The layer.
        methods: The methods.
        activation: ``(B, channels, rows, cols)`` of the clean images.
        gradients: ``(B, 1 + S, channels, rows, cols)`` of the clean images and S noisy copies.
        noise: The sums over the noisy copies, if these have come in chunks.
    """
    clean = noisy = Evidence(activation, gradients[:, 0])
    for row, (index, made) in enumerate(places if noise is None else ()):
        own = activation[row : row + 1], gradients[row, :1]
        if (kept := made.allowance.keep(name, *own)) is not None:
            made.evidence[index, name] = kept
    if noise is None and gradients.shape[1] > 1:
        noise = MomentSum()
        noise.add(gradients[:, 1:].transpose(0, 1))
    if noise is not None:
        parts: dict[str, list[Tensor]] = {}  # before the means take memory, too
        for without in noise.without_each():
            noisy = replace(clean, noisy=without)
            for method in filter(needs_noise, methods):
                parts.setdefault(method.key, []).append(method.compute(noisy))
        for key, cams in parts.items():
            for (index, made), each in zip(places, torch.stack(cams, dim=1).cpu(), strict=True):
                made.agreements[key, index, name] = agreement(each)
        noisy = replace(clean, noisy=noise.mean())
    for method in methods:
        used = noisy if method.needs_noise else clean
        maps: Map = method.compute(used).float().cpu().numpy()
        shares = None if method.cancellation is None else method.cancellation(used).tolist()
        for row, (index, made) in enumerate(places):
            if not np.isfinite(maps[row]).all():
                made.error = made.error or NoMap(_BROKEN, layer=name)
            made.maps[method.key, index, name] = maps[row].copy()
            if shares is not None:
                made.cancellation[method.key, index, name] = shares[row]


_BROKEN = "its map holds values that are not finite (NaN or infinity)"

_NO_CLASSES = ResolvedClasses(())

_NOT_FINITE = "the model's scores for this picture are not finite (NaN or infinity)"


@dataclass(eq=False)
class JobState:
    """A job while its images pass: its target and classes, and what has come back for it.

    Attributes:
        job: The job.
        accumulator: Makes its maps.
        target: What is differentiated; None until its first image passes.
        standings: How the classes stand in its clean image; None until that has passed.
        settled: The classes that are explained.
        error: The reason why a result is missing.
        alone: Whether its images must pass without those of other jobs.
    """

    job: Job
    accumulator: Accumulator
    target: Target | None = None
    standings: ClassScores | None = None
    settled: ResolvedClasses = _NO_CLASSES
    error: CamHubError | None = None
    alone: bool = False

    def score(self, output: object, images: int) -> Tensor:
        """``(images, K)`` scores. Those of its first image resolve the classes.

        Args:
            output: The network's output for some of the job's images.
            images: How many.

        Raises:
            CamHubError: If there are no such scores or classes.
        """
        model, target = self.job.model, self.target
        if target is None:
            raise AssertionError("a job has a target before its images pass")
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
                raise NoMap(_NOT_FINITE)
            standings = target.class_scores(output)
            self.settled = self.job.settled(standings, target)
            self.standings = standings
        return scores

    def stand(self, output: object, *, finite: bool) -> None:
        """Resolves the classes where each score depends on its own row of the output alone.

        Args:
            output: The network's output for the clean image, on the CPU.
            finite: Whether its scores are.

        Raises:
            CamHubError: If there are no such scores or classes.
        """
        if self.target is None:
            raise AssertionError("a job has a target before its images pass")
        if not finite:
            raise NoMap(_NOT_FINITE)
        standings = self.target.class_scores(output)
        self.settled = self.job.settled(standings, self.target)
        self.standings = standings

    def result(self) -> Pass:
        """What has come back.

        Raises:
            CamHubError: Why there is nothing.
        """
        if (error := self.error or self.accumulator.error) is not None:
            raise error
        if self.target is None or self.standings is None:
            raise AssertionError("there is always a chunk with the clean image")
        return Pass(
            self.standings,
            self.settled,
            self.target.labels,
            self.target.describe(),
            self.accumulator.maps,
            self.accumulator.agreements,
            self.accumulator.cancellation,
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


Wanted = tuple[Segment, int, Weights | None, Accumulator]
"""The images of a job, the class, the classes whose scores are taken off with their weights, and
what takes the gradients."""


class _Turn(NamedTuple):
    """Classes whose maps are made together.

    Attributes:
        steps: As for ``Trace.backward``.
        noisy: As for ``Trace.backward``.
        keep_graph: Whether another backward pass follows.
        held: By layer the gradients of the steps so far; a layer goes when it has all of them.
    """

    steps: Sequence[Sequence[Wanted]]
    noisy: bool
    keep_graph: bool
    held: dict[str, tuple[Tensor, ...]]


@dataclass(eq=False)
class Trace:
    """One forward pass, with the graph back to the target layers.

    Attributes:
        layers: The target layers.
        segments: The images of each job, in the order of the batch; None for a job in error.
        images: How many images there are in the batch.
        scores: ``(images, K)``, of which those of the segments are parts; None if they are not.
    """

    layers: Mapping[str, LayerInfo]
    segments: Sequence[Segment | None]
    images: int
    _taps: Taps
    scores: Tensor | None = None
    _lock: threading.Lock = field(default_factory=threading.Lock, init=False)

    def backward(
        self,
        steps: Sequence[Sequence[Wanted]],
        *,
        noisy: bool = True,
        keep_graph: bool,
        before: Callable[[int], None] | None = None,
    ) -> None:
        """The backward passes of the classes of each job, for the images of the batch together.

        In evaluation mode one image's score does not depend on another, so every image receives
        the gradient of its own. As far as memory goes, the maps of several classes are computed as
        one batch, and on accelerators their gradients are found in one pass.

        Args:
            steps: In each at most one class of each job: its images, the class, the classes whose
                scores are taken off with their weights, and the accumulator that takes the
                gradients, the last layer's first.
            noisy: Whether gradients of the noisy copies are wanted, too; else those of each job's
                first image alone.
            keep_graph: Whether another backward pass follows.
            before: Called with the number of a step before it; what it raises stops the work.

        Raises:
            NoMap: If the scores depend on none of the layers; with torch's error as its cause where
                the network has overwritten what the backward pass needs.
        """
        room = 1
        if len(steps) > 1:
            recorded = self._taps.activations.values()
            each = self.images * sum(tensor[:1].nbytes for tensor in recorded)
            room = max(1, _TOGETHER // max(1, each))
        for first in range(0, len(steps), room):
            group = steps[first : first + room]
            kept = keep_graph or first + len(group) < len(steps)
            if before is not None:
                before(first)
            turn = _Turn(group, noisy, kept, dict.fromkeys(self.layers, ()))
            if len(group) > 1 and self._at_once(turn):
                continue
            take = partial(self._take, turn)
            for number, wanted in enumerate(group):
                if before is not None and number:
                    before(first + number)
                keep = kept or number + 1 < len(group)
                # On a caller's thread, where autograd may be off.
                with torch.inference_mode(False):
                    outputs, weights = self._weights(wanted, noisy=noisy)
                try:
                    with self._lock, self._taps.visiting(outputs[0], take) as seed:
                        torch.autograd.grad(
                            outputs, seed, weights, retain_graph=keep, allow_unused=True
                        )
                except RuntimeError as error:
                    if is_out_of_memory(error):
                        raise
                    raise NoMap(f"the backward pass failed: {first_line(error)}") from error
                for name in list(turn.held):
                    if len(turn.held[name]) == number:  # on which the scores do not depend
                        take(name, self._nothing(name))

    def _at_once(self, turn: _Turn) -> bool:
        """All steps in one backward pass, where that is faster and torch can.

        An accelerator waits for the host, which starts as many kernels for one class as for all. On
        a CPU there is nothing to gain, and zeros among the gradients of tokens are left out there.

        Returns:
            Whether it has happened.
        """
        device = next(iter(self._taps.activations.values())).device
        if device.type in _IN_TURN:
            return False
        with torch.inference_mode(False):
            found = [self._weights(wanted, noisy=turn.noisy) for wanted in turn.steps]
        outputs = found[0][0]
        if any(list(map(id, own)) != list(map(id, outputs)) for own, _ in found):
            return False  # not all jobs have as many classes
        weights = [torch.stack(each) for each in zip(*(own for _, own in found), strict=True)]
        with self._lock:
            gradients = self._taps.gradients(outputs, weights)
        if gradients is None:
            return False
        for name in self.layers:
            whole = gradients.pop(name, None)
            for step in range(len(turn.steps)):
                self._take(turn, name, self._nothing(name) if whole is None else whole[step])
        return True

    def _nothing(self, name: str) -> Tensor:
        """The gradient at a layer on which the scores do not depend."""
        shape = self._taps.activations[name].shape[1:]
        nothing = self._taps.activations[name].new_zeros((1, *shape))
        return nothing.expand(self.images, *shape)

    def _take(self, turn: _Turn, name: str, gradients: Tensor) -> None:
        """Takes the gradients of one step at one layer; with the last one, maps are made of all."""
        parts, rows = (*turn.held[name], gradients), len(gradients)
        turn.held[name] = parts
        if len(parts) < len(turn.steps):
            return
        del turn.held[name]
        arrangement = self.layers[name].arrangement
        if arrangement is None:
            raise AssertionError("target layers lie on the image")
        if len(self.segments) > 1 and rows != self.images:
            raise NoMap("it did not answer once per image", layer=name)
        recorded = self._taps.activations[name].detach()
        gradients = torch.cat(parts) if len(parts) > 1 else gradients
        whole: list[Wanted] = []
        for number, step in enumerate(turn.steps):
            for segment, index, contrast, made in step:
                own = segment._replace(start=segment.start + number * rows)
                count, clean = min(len(segment.scores) if turn.noisy else 1, rows), segment.clean
                alike = not whole or made.methods == whole[0][3].methods
                if alike and clean is not None and count == 1 + made.samples:
                    whole.append((own, index, contrast, made))
                    continue
                first = None if clean is None else to_maps(recorded[clean : clean + 1], arrangement)
                found = to_maps(gradients[own.start : own.start + count], arrangement)
                made.take(index, name, first, found)
        room = max(1, _TOGETHER // max(1, MomentSum.BYTES * gradients[0].numel()))
        for begin in range(0, len(whole), room):
            places: list[tuple[int, Accumulator]] = []
            cleans: list[int] = []
            copies: list[int] = []
            for segment, index, _, made in whole[begin : begin + room]:
                places.append((index, made))
                cleans.append(segment.clean or 0)
                copies += range(segment.start, segment.start + 1 + made.samples)
            picked = []
            for tensor, wanted in ((recorded, cleans), (gradients, copies)):
                start, end = wanted[0], wanted[-1] + 1  # a view where they follow each other
                part = tensor[start:end] if wanted == list(range(start, end)) else tensor[wanted]
                picked.append(to_maps(part, arrangement))
            found = picked[1].reshape(len(places), -1, *picked[1].shape[1:])
            _make_maps(places, name, whole[0][3].methods, picked[0], found)
        if not turn.keep_graph:
            del self._taps.activations[name]  # as the graph goes, so do the records

    def _weights(
        self, wanted: Sequence[Wanted], *, noisy: bool
    ) -> tuple[list[Tensor], list[Tensor]]:
        """The scores that are differentiated, and the weight of each of them."""
        whole = None if self.scores is None else np.zeros(self.scores.shape)
        outputs, found = [], []
        for segment, index, contrast, _ in wanted:
            count = len(segment.scores) if noisy else 1
            each = np.zeros(segment.scores.shape) if whole is None else whole[segment.start :]
            each[:count, index] += 1
            for other, weight in contrast or ():
                each[:count, other] -= weight
            if whole is None and segment.scores.requires_grad:
                outputs.append(segment.scores)
                found.append(torch.from_numpy(each).to(segment.scores))
        if whole is not None and self.scores is not None:
            return [self.scores], [torch.from_numpy(whole).to(self.scores)]
        return outputs or [wanted[0][0].scores], found

    @cached_property
    def bytes(self) -> int:
        """What graph and records keep in memory before the backward pass, without weights."""
        tensors: list[Any] = list(self._taps.activations.values())
        pending: list[Any] = []
        for segment in self.segments:
            if segment is not None:
                tensors.append(segment.scores)
                pending.append((segment.scores.grad_fn, 0))
        seen = set()
        while pending:
            node, _ = pending.pop()
            if node is None or node in seen:
                continue
            seen.add(node)
            pending += node.next_functions
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
                tensors += found if isinstance(found, (tuple, list)) else (found,)
        sizes: dict[int, int] = {}
        for tensor in tensors:
            if isinstance(tensor, Tensor) and not isinstance(tensor, nn.Parameter):
                storage = tensor.untyped_storage()
                sizes[storage.data_ptr()] = storage.nbytes()
        return sum(sizes.values())


_TOGETHER = 64 << 20
"""Gradients of classes whose maps are computed together take at most so many bytes, and so do the
sums over their noisy copies."""

_IN_TURN = ("cpu",)
"""Devices on which each class has a backward pass of its own."""


_saved_names: dict[type, list[str]] = {}
"""Under which attributes nodes of a kind keep tensors."""


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
    starts, fresh = list(accumulate(counts, initial=0)), []
    for start, state in zip(starts, states, strict=False):
        if state.target is None:
            state.target = state.job.aim()  # before the pass takes any memory
        if state.standings is None:
            fresh.append(start)
    tokens, written, chosen = False, set(), {}
    for name, layer in layers.items():
        tokens = tokens or layer.prefix_tokens + layer.suffix_tokens > 0
        if layer.overwritten:
            written.add(name)
        if layer.calls > 1:
            chosen[name] = layer.call
    overwritten = None if copying else written
    with frozen_eval(model.module, anatomy(model)):
        while True:
            rows = None if copying or model.execution.one_by_one else fresh
            taps = Taps(overwritten, rows, **batch_axes(layers), chosen=chosen)
            autocast = setting.autocast and torch.autocast(batch.device.type, setting.autocast)
            with observe(model.module, taps.record, layers), autocast or nullcontext():
                output = model.run(batch, tokens=tokens)
            if taps.intact:
                break
            overwritten = None  # something else is written to than when the layers were found
        for name in layers:
            if name not in taps.activations:
                raise NoMap("it did not run, or returned no floating-point tensor", layer=name)
        scores, segments = _segments(states, counts, starts, fresh, output)
    return Trace(layers, segments, len(batch), taps, scores)


def _segments(
    states: Sequence[JobState],
    counts: Sequence[int],
    starts: Sequence[int],
    fresh: Sequence[int],
    output: object,
) -> tuple[Tensor | None, list[Segment | None]]:
    """The scores of all images, where they can be computed as one, and those of each job.

    Args:
        states: The jobs; those without classes get theirs here.
        counts: How many images of each.
        starts: The place of the first image of each in the batch.
        fresh: Those of the clean images.
        output: The network's output for the batch.
    """
    several = len(states) > 1
    outputs = states[0].job.model.task.split(output, counts) if several else [output]
    scores, hosts, finite = _scores_of_all(states, counts, output) if several else _ALONE
    segments: list[Segment | None] = []
    for place, (start, state) in enumerate(zip(starts, states, strict=False)):
        clean = fresh.index(start) if state.standings is None else None
        try:
            if scores is None:
                own = state.score(outputs[place], counts[place])
            else:
                own = scores[start : start + counts[place]]
                if clean is not None:
                    state.stand(hosts[place], finite=finite[start])
            segments.append(Segment(own, start, clean))
        except CamHubError as error:
            state.error = error
            segments.append(None)
    return scores, segments


_ScoresOfAll = tuple[Tensor | None, Sequence[Tensor], Sequence[bool]]

_ALONE: _ScoresOfAll = None, (), ()


def _scores_of_all(
    states: Sequence[JobState], counts: Sequence[int], output: object
) -> _ScoresOfAll:
    """The scores of a batch, where those of each image depend on its own row alone.

    One transfer to the host instead of one for each image.

    Args:
        states: The jobs.
        counts: How many images of each.
        output: The network's output for the batch.

    Returns:
        ``(images, K)`` scores with their graph, None if there are none; the output of each job on
        the CPU; and for each image whether it is finite.
    """
    target, main = states[0].target, main_output(output)
    if target is None or main is None:
        return _ALONE
    if not all(state.target is not None and state.target.by_row for state in states):
        return _ALONE
    try:
        scores = target.scores(output)
    except CamHubError:  # each job raises its own
        return _ALONE
    if len(scores) != sum(counts):
        return _ALONE
    host = main.detach().cpu()
    finite = host.flatten(1).isfinite().all(dim=1) if host.ndim > 1 else host.isfinite()
    return scores, torch.split(host, list(counts)), finite.tolist()
