"""Whole passes: chunks of images forwards, classes backwards, maps of layers and methods.

``run`` does one job, with smaller chunks or more careful records where it has to. ``run_together``
does several at once, and leaves those that need such care to be run alone.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import filterfalse
from typing import TypeVar

from torch import Tensor

from cam_hub.attribution.passes.forward import (
    Accumulator,
    Allowance,
    JobState,
    Trace,
    Wanted,
    anatomy,
    forward,
)
from cam_hub.attribution.passes.job import Job, Pass, Progress, Row, rows_of, stacked
from cam_hub.attribution.passes.pass_cache import EVIDENCE, RECENT, Finished, RecentPasses
from cam_hub.errors import CamHubError, ModelRefused, NoMap, OutOfMemory
from cam_hub.hooks.memory import is_out_of_memory
from cam_hub.methods.registry import own_passes
from cam_hub.models.loaded_model import LoadedModel

__all__ = ["TOO_LARGE", "BatchLimit", "run", "run_together"]

_LOG = logging.getLogger("cam_hub")

TOO_LARGE = "a forward pass of one image does not fit. A smaller input or device needs less."
"""The reason of ``OutOfMemory`` where there is no backward pass."""

T = TypeVar("T")


@dataclass
class BatchLimit:
    """How many images pass the network at once; fewer from when memory did not suffice.

    Attributes:
        images: How many, at most.
    """

    images: int

    def halve(self, model: LoadedModel) -> None:
        """Halves it, since the memory did not suffice for a model."""
        self.images = max(1, self.images // 2)
        _LOG.warning("%s: out of memory; at most %d images pass at once", model.id, self.images)

    def fit(self, model: LoadedModel, work: Callable[[int], T]) -> T:
        """The result of forward passes in batches, which are halved until memory suffices.

        Args:
            model: The model.
            work: Makes the passes, given the largest batch.

        Raises:
            OutOfMemory: If memory does not suffice for one image at a time.
        """
        while True:
            try:
                return work(self.images)
            except (RuntimeError, MemoryError) as error:
                if isinstance(error, CamHubError) or not is_out_of_memory(error):
                    raise
                if self.images == 1:
                    raise OutOfMemory(model.id, TOO_LARGE) from None
                self.halve(model)


def run(job: Job, *, reuse: bool = True, recent: RecentPasses = RECENT) -> Pass:
    """A pass of one picture, which runs only those parts of the network that are not cached.

    Where memory does not suffice, chunks are halved.

    Args:
        job: What to find out.
        reuse: Whether cached passes are looked at, and this one is cached.
        recent: The cache.

    Raises:
        ModelRefused: If the model raises on this input or returns what its task cannot read.
        NoMap: If the scores are not finite, nothing can be explained, a layer did not run, no
            score depends on it, or a map is not finite.
        OutOfMemory: If memory does not suffice for one image at a time.
    """
    if any(map(own_passes, job.methods)):
        return _run_own_passes(job, reuse=reuse, recent=recent)
    slot = recent.slot(job) if reuse else None
    if slot is not None and (known := recent.answer(slot, job)) is not None:
        return known
    largest = job.company.size
    if job.model.execution.one_by_one:
        largest = 1
    room, copying, keep = BatchLimit(largest), False, slot.largest if slot is not None else 0
    while True:
        try:
            finished = _run_in_chunks(job, room, keep, copying=copying)
            break
        except NoMap as error:
            if copying or not isinstance(error.__cause__, RuntimeError):
                raise
            copying = True
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            if room.images > 1:
                room.halve(job.model)
            elif slot is not None and len(recent):
                recent.clear()  # which may be what is in the way
                slot, room.images = None, largest
            else:
                raise OutOfMemory(job.model.id, _too_large(job)) from None
        keep = 0
    if slot is not None:
        recent.keep(slot, job, finished)
    return finished.found


def _run_own_passes(job: Job, *, reuse: bool, recent: RecentPasses) -> Pass:
    """The pass of a job with methods that make passes of their own; arguments as for ``run``."""
    from cam_hub.attribution.passes.black_box import run_black_box  # noqa: PLC0415 - a cycle

    found = run_black_box(replace(job, methods=list(filter(own_passes, job.methods))))
    others = list(filterfalse(own_passes, job.methods))
    if not others:
        return found
    passed = run(replace(job, methods=others), reuse=reuse, recent=recent)
    return replace(passed, maps={**passed.maps, **found.maps}, images=found.images)


def _run_in_chunks(job: Job, room: BatchLimit, keep: int, *, copying: bool) -> Finished:
    """Runs the network forwards once per chunk and backwards once per chunk and class.

    Args:
        job: What to find out.
        room: Most images per chunk.
        keep: Bytes of traces to keep; evidence takes a part of as many more.
        copying: As for ``forward``.

    Raises:
        CamHubError: As ``run``, for which lack of memory is torch's own error.
    """
    target = job.aim()  # before the pass takes any memory: it may cost passes of its own
    made = Accumulator(job.methods, job.samples, Allowance(keep // EVIDENCE))
    state = JobState(job, made, target)
    traces: list[Trace] = []
    total = -(-(1 + job.samples) // room.images)
    for number, (owners, batch) in enumerate(_chunks([state], room)):
        trace = forward([state], [len(owners)], batch, copying=copying)
        (segment,) = trace.segments
        if segment is None:
            break
        classes, contrast = state.settled.classes, state.settled.contrast
        kept = keep > 0 and len(traces) == number and trace.bytes <= keep
        if kept:
            keep -= trace.bytes
            traces.append(trace)
        before = None
        if job.progress is not None:
            before = partial(_report, job.progress, number, total, len(classes))
        steps: list[list[Wanted]] = []
        for index in classes:
            steps += [[(segment, index, contrast, made)]]
        trace.backward(steps, keep_graph=kept, before=before)
    traces = traces if len(traces) == total else traces[:1]
    return Finished(state.result(), target, traces, made)


def _report(progress: Progress, chunk: int, chunks: int, classes: int, step: int) -> None:
    """Reports which class of which chunk is next."""
    part = (chunk + (step + 1) / (classes + 1)) / chunks
    progress(part, f"class {step + 1} of {classes}")


def run_together(
    jobs: Sequence[Job], room: BatchLimit, *, progress: Callable[[float], None] | None = None
) -> list[Pass | CamHubError | None]:
    """Runs the network forwards once per chunk, and backwards as often as classes are asked for.

    The clean pictures and their noisy copies form one row, which is cut into chunks.

    Args:
        jobs: One per picture; of the same model, layers, noise and setting, and of inputs of one
            size. Their own batch size and progress do not matter here.
        room: Most images per chunk.
        progress: Called after each chunk with the part that is done; what it raises stops the
            work.

    Returns:
        Per picture what came back, or an error that is about this picture; None if it could not
        be passed along with the others, and must be passed alone.
    """
    if not jobs or any(map(own_passes, jobs[0].methods)):
        return [None] * len(jobs)
    model = jobs[0].model
    if model.execution.one_by_one:
        room = BatchLimit(1)
    states = [JobState(job, Accumulator(job.methods, job.samples)) for job in jobs]
    known = anatomy(model).state()
    images = len(jobs) * (1 + jobs[0].samples)
    passed = 0
    for owners, batch in _chunks(states, room):
        counts = Counter(owners)  # which keeps the order
        chunk = [states[owner] for owner in counts]
        try:
            _run_chunk(chunk, list(counts.values()), batch)
        except (CamHubError, RuntimeError, MemoryError) as error:
            if not isinstance(error, CamHubError):
                if not is_out_of_memory(error):
                    raise
                room.halve(model)
            for state in chunk:
                state.alone, state.accumulator = True, Accumulator((), 0)  # which frees its own
        passed += len(owners)
        if progress is not None:
            progress(min(passed / images, 1.0))
    return [_outcome(state, known) for state in states]


def _run_chunk(states: Sequence[JobState], counts: Sequence[int], batch: Tensor) -> None:
    """Runs one chunk forwards, and backwards as often as one of the jobs has classes.

    Raises:
        CamHubError: If the chunk does not work as one; its message is not shown.
    """
    trace = forward(states, counts, batch)
    scored = [
        (state.settled, segment, state.accumulator)
        for state, segment in zip(states, trace.segments, strict=True)
        if segment is not None
    ]
    count = max((len(settled.classes) for settled, *_ in scored), default=0)
    steps = [
        [
            (segment, settled.classes[step], settled.contrast, accumulator)
            for settled, segment, accumulator in scored
            if step < len(settled.classes)
        ]
        for step in range(count)
    ]
    trace.backward(steps, keep_graph=False)


def _outcome(state: JobState, network: tuple[Hashable, ...] | None) -> Pass | CamHubError | None:
    """What ``run_together`` returns for a job that has passed a network in some state."""
    error = state.error or state.accumulator.error
    if state.alone or isinstance(error, ModelRefused):  # alone, its error names the input
        return None
    return error if error is not None else replace(state.result(), state=network)


def _chunks(states: Sequence[JobState], room: BatchLimit) -> Iterator[tuple[list[int], Tensor]]:
    """Each picture and then its noisy copies, cut into chunks, with whose they are.

    A picture's are kept together where a chunk holds all of them: then the maps of a chunk are made
    as one. Pictures of which nothing more can come are left out.
    """
    owners: list[int] = []
    rows: list[Row] = []
    for owner, state in enumerate(states):
        own = 1 + state.job.samples
        if rows and len(rows) + own > room.images >= own:
            yield owners, stacked(rows, state.job)
            owners, rows = [], []
        for row in rows_of(state.job):
            if state.alone or state.error is not None or state.accumulator.error is not None:
                break
            owners.append(owner)
            rows.append(row)
            if len(rows) >= room.images:
                yield owners, stacked(rows, state.job)
                owners, rows = [], []
    if rows:
        yield owners, stacked(rows, states[0].job)


def _too_large(job: Job) -> str:
    layers = f"{len(job.layers)} layers" if len(job.layers) > 1 else "the layer"
    return (
        f"one image of {tuple(job.image.shape[1:])} at a time, with the backward pass to {layers}, "
        f"does not fit into the memory of {job.image.device}. Fewer or later layers, a smaller "
        "input or another device would need less."
    )
