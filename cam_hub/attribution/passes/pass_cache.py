"""Recent passes, so that nothing is computed twice."""

from __future__ import annotations

import os
import threading
import weakref
from collections import OrderedDict
from collections.abc import Hashable, Mapping
from dataclasses import dataclass, field
from itertools import product
from typing import TypeVar

from torch import Tensor

from cam_hub.attribution.passes.accumulator import Accumulator, Allowance, Map, make_map
from cam_hub.attribution.passes.forward import Trace
from cam_hub.attribution.passes.job import BatchContext, Job, Pass
from cam_hub.attribution.passes.model_state import sample, state
from cam_hub.attribution.passes.runner import EVIDENCE, Finished, run, run_backward
from cam_hub.errors import NoMap, OutOfMemory
from cam_hub.hooks.recording import watch_writes
from cam_hub.images.preprocessing import same
from cam_hub.methods import Evidence, Method
from cam_hub.targets.base import ClassScores, Target
from cam_hub.targets.classes import Weights

__all__ = ["LIMIT", "RECENT", "VARIABLE", "PassEntry", "RecentPasses"]


T = TypeVar("T")

_Place = tuple[int, Weights | None, str]
"""What the clean image's evidence is of: class index, that of the contrast, and layer."""

_Key = tuple[str, int, Weights | None, str]
"""What a map is of: method, class index, that of the contrast, and layer."""


@dataclass(frozen=True)
class _Plan:
    """What gives the maps that are missing of one class.

    Attributes:
        methods: Those that need a way back.
        samples: How many noisy copies they need.
        traces: Graphs that are kept.
        at_hand: Methods and layers that need none.
    """

    methods: list[Method]
    samples: int
    traces: list[Trace]
    at_hand: list[tuple[Method, str, Evidence]]


@dataclass(eq=False)
class PassEntry:
    """The cached passes of one picture in one batch context, under one question.

    Attributes:
        target: What was differentiated in the last pass.
        standings: How the classes stood in its clean image.
        labels: Names of the scores.
        maps: All that were made.
        agreements: Of those that need noise.
        traces: Of all images, in their order, or of the first ones.
        evidence: That of the clean image.
        lock: Held while anything here is looked at or changed.
        counted: How many bytes it took when it was last looked at.
    """

    target: Target
    standings: ClassScores
    labels: tuple[str, ...] | None
    maps: dict[_Key, Map] = field(default_factory=dict)
    agreements: dict[_Key, float] = field(default_factory=dict)
    traces: list[Trace] = field(default_factory=list)
    evidence: dict[_Place, Evidence] = field(default_factory=dict)
    lock: threading.Lock = field(default_factory=threading.Lock)
    counted: int = 0

    @property
    def bytes(self) -> int:
        """All that it takes."""
        with self.lock:
            graphs = sum(trace.bytes for trace in self.traces)
            maps = sum(cam.nbytes for cam in self.maps.values())
        return maps + graphs + self.evidence_bytes

    @property
    def evidence_bytes(self) -> int:
        """Of classes that share a layer's activation it is counted once."""
        with self.lock:
            kept = list(self.evidence.items())
        activations = {name: each.activation.nbytes for (*_, name), each in kept}
        return sum(activations.values()) + sum(each.gradient.nbytes for _, each in kept)

    def add(self, finished: Finished) -> None:
        """Takes in what a pass has found; but for maps and evidence, in place of earlier ones."""
        found = finished.found
        with self.lock:
            self.target, self.standings = finished.target, found.standings
            against = found.settled.contrast
            self.maps.update(_keyed(found.maps, against))
            self.agreements.update(_keyed(found.agreements, against))
            for (index, name), evidence in finished.evidence.items():
                self.evidence[index, against, name] = evidence
            if finished.traces:
                self.traces = finished.traces

    def answer(self, job: Job, room: int) -> Pass | None:
        """A pass out of what is here; None if the network has to run.

        Args:
            job: What to find out.
            room: Bytes that evidence may take.
        """
        with self.lock:
            standings = self.standings
            settled = job.settled(standings, self.target)
            told = self.target.describe()
        classes, against = settled.classes, settled.contrast
        plans = [self._plan(job, index, against) for index in classes]
        if any(plan is None for plan in plans):
            return None
        for step, (index, plan) in enumerate(zip(classes, plans, strict=True)):
            job.tell((step + 1) / (len(classes) + 1), step, classes)
            if plan is not None:
                self._follow(job, index, against, plan, room)
        wanted = list(product((method.key for method in job.methods), classes, job.layers))
        maps = {
            (key, index, name): self.maps[key, index, against, name] for key, index, name in wanted
        }
        agreements = {
            (key, index, name): self.agreements[key, index, against, name]
            for key, index, name in wanted
            if (key, index, against, name) in self.agreements
        }
        return Pass(standings, settled, self.labels, told, maps, agreements)

    def _plan(self, job: Job, index: int, against: Weights | None) -> _Plan | None:
        """How to make the maps of one class that are missing; None if open traces do not allow it.

        Methods that need noise and methods that do not may be missing at different layers.
        """
        missing = [
            (method, name)
            for method in job.methods
            for name in job.layers
            if (method.key, index, against, name) not in self.maps
        ]
        at_hand = [
            (method, name, self.evidence[index, against, name])
            for method, name in missing
            if not method.needs_noise and (index, against, name) in self.evidence
        ]
        done = {(method, name) for method, name, _ in at_hand}
        missing = [each for each in missing if each not in done]
        methods = list(dict.fromkeys(method for method, _ in missing))
        samples = job.samples if any(method.needs_noise for method in methods) else 0
        traces = self._covering({name for _, name in missing}, samples) if missing else []
        return None if traces is None else _Plan(methods, samples, traces, at_hand)

    def _follow(
        self, job: Job, index: int, against: Weights | None, plan: _Plan, room: int
    ) -> None:
        with self.lock:
            shared = {name: each.activation for (*_, name), each in self.evidence.items()}
        allowance = Allowance(room - self.evidence_bytes, shared)
        found = Accumulator(plan.methods, plan.samples, allowance)
        for trace in plan.traces:
            run_backward(trace, index, against, found, noisy=plan.samples > 0, keep_graph=True)
        for method, name, evidence in plan.at_hand:
            found.maps[method.key, index, name] = make_map(method, evidence, name)
        with self.lock:
            self.maps.update(_keyed(found.maps, against))
            self.agreements.update(_keyed(found.agreements, against))
            for (_, name), evidence in found.evidence.items():
                self.evidence[index, against, name] = evidence

    def _covering(self, layers: set[str], samples: int) -> list[Trace] | None:
        """Open traces of the clean image and so many noisy copies, which hold all of these layers.

        The first alone if no noisy copies are asked for; None if they are not here.
        """
        with self.lock:
            traces = self.traces
        if not traces or not layers <= set(traces[0].layers):
            return None
        if not samples:
            return traces[:1]
        return traces if sum(trace.samples for trace in traces) == samples else None


def _keyed(found: Mapping[tuple[str, int, str], T], against: Weights | None) -> dict[_Key, T]:
    return {(method, index, against, name): each for (method, index, name), each in found.items()}


LIMIT = 256 << 20
"""The most bytes that cached passes take, unless the environment variable is set."""

VARIABLE = "CAM_HUB_PASSES"
"""The environment variable that sets the limit in MiB; 0 or ``off`` keeps nothing."""

_LARGEST = 4
"""One pass keeps graphs of at most this part of the limit; of a larger one only the maps stay."""


@dataclass(eq=False)
class _Picture:
    """The cached passes of one picture, by batch context."""

    image: Tensor
    passes: OrderedDict[BatchContext, PassEntry] = field(default_factory=OrderedDict)

    def __post_init__(self) -> None:
        # A job's image belongs to the job. A write to it by other code is noticed; where writes are
        # not counted (in inference mode), a copy is kept.
        self._written = watch_writes(self.image)
        if self._written():
            self.image, self._written = self.image.clone(), bool

    def is_of(self, image: Tensor) -> bool:
        """Whether it is about an image of these values."""
        return not self._written() and (self.image is image or same(self.image, image))

    @property
    def counted(self) -> int:
        """The bytes that were counted last."""
        return self.image.nbytes + sum(kept.counted for kept in self.passes.values())

    def fitting(self, job: Job) -> list[PassEntry]:
        """The passes that may have an answer, the one in the job's own company first."""
        own = self.passes.get(job.company)
        found = [own] if own is not None else []
        if job.noise is None:
            found += [kept for kept in reversed(self.passes.values()) if kept is not own]
        return found


class RecentPasses:
    """Passes of any number of models, the least recently used forgotten first.

    A pass is found again by the model (the module itself, unchanged), the picture's values, the
    question and the setting. It goes when its model does, and when a weight is written to. Any
    number of threads may ask; none waits for another's pass.

    Args:
        limit: Bytes to keep at most; None for the environment variable's, by default ``LIMIT``.
    """

    def __init__(self, limit: int | None = None) -> None:
        self._limit = limit
        self._kept: OrderedDict[Hashable, _Picture] = OrderedDict()
        self._states: dict[int, Hashable] = {}
        self._most = 0  # Bytes that are kept at most: what was forgotten may still be counted.
        # Re-entrant: a model may be freed, and its passes with it, while the lock is held.
        self._lock = threading.RLock()

    @property
    def limit(self) -> int:
        """The most bytes to keep."""
        return _environment() if self._limit is None else self._limit

    @property
    def bytes(self) -> int:
        """The bytes that are kept now."""
        with self._lock:
            pictures = [(each.image, list(each.passes.values())) for each in self._kept.values()]
        return sum(image.nbytes + sum(kept.bytes for kept in all_) for image, all_ in pictures)

    def __len__(self) -> int:
        return len(self._kept)

    def clear(self) -> None:
        """Forgets everything."""
        with self._lock:
            self._kept.clear()

    def run(self, job: Job, *, reuse: bool = True) -> Pass:
        """A pass, which runs only those parts of the network that are not cached.

        Args:
            job: What to find out.
            reuse: Whether kept passes are looked at, and this one is kept.

        Raises:
            CamHubError: As ``runner.run``.
        """
        limit = self.limit if reuse else 0
        before = state(job.model) if limit > 0 else None
        if before is None:
            return run(job).found
        key = self._key(job, before)
        known = self._answer(key, job, limit)
        if known is not None:
            return known
        try:
            finished = run(job, keep=limit // _LARGEST)
        except OutOfMemory:
            if not len(self):
                raise
            self.clear()  # which may be what is in the way
            finished = run(job, keep=limit // _LARGEST)
        self._keep(key, before, job, finished, limit)
        return finished.found

    def _answer(self, key: Hashable, job: Job, limit: int) -> Pass | None:
        """What can be had without the network; None if it has to run."""
        with self._lock:
            picture = self._find(key, job.image)
            fitting = picture.fitting(job) if picture is not None else []
        try:
            for kept in fitting:
                found = kept.answer(job, limit // _LARGEST // EVIDENCE)
                if found is not None:
                    self._trim(kept, limit)
                    return found
        except NoMap as error:
            if not isinstance(error.__cause__, RuntimeError):
                raise
            self._drop(key)  # something that the backward pass needs was written to
        return None

    def _key(self, job: Job, before: Hashable) -> Hashable:
        """Under what a job's pass is kept; passes of earlier states of its model are dropped."""
        module = job.model.module
        place = id(module)
        with self._lock:
            if place not in self._states:
                weakref.finalize(module, self._forget_model, place).atexit = False
            if self._states.get(place) != before:
                self._forget_passes(place)
                self._states[place] = before
        return place, job.model.task, job.question, job.setting, sample(job.image)

    def _find(self, key: Hashable, image: Tensor) -> _Picture | None:
        with self._lock:
            picture = self._kept.get(key)
            if picture is None or not picture.is_of(image):
                return None
            self._kept.move_to_end(key)
            return picture

    def _keep(
        self, key: Hashable, before: Hashable, job: Job, finished: Finished, limit: int
    ) -> None:
        found = finished.found
        with self._lock:
            # Written to since? Who asks next finds out, and has this forgotten. What others have
            # found out already must not mix with it.
            if self._states.get(id(job.model.module)) != before:
                return
            picture = self._find(key, job.image)
            if picture is None:
                picture = self._kept[key] = _Picture(job.image)
                self._most += job.image.nbytes
            kept = picture.passes.get(job.company)
            if kept is None:
                kept = PassEntry(finished.target, found.standings, found.labels)
                picture.passes[job.company] = kept
            picture.passes.move_to_end(job.company)
            kept.add(finished)
            self._kept.move_to_end(key)
        self._trim(kept, limit)

    def _trim(self, changed: PassEntry, limit: int) -> None:
        """Forgets the least recently used, after one has grown."""
        before, changed.counted = changed.counted, changed.bytes
        with self._lock:
            self._most += max(0, changed.counted - before)
            if self._most <= limit:
                return
            total = sum(picture.counted for picture in self._kept.values())
            while self._kept and total > limit:
                total -= self._forget_oldest()
            self._most = total

    def _forget_oldest(self) -> int:
        """Forgets the oldest pass of the oldest picture; how many bytes it took."""
        key, picture = next(iter(self._kept.items()))
        size = picture.passes.popitem(last=False)[1].counted
        if picture.passes:
            return size
        del self._kept[key]
        return size + picture.image.nbytes

    def _drop(self, key: Hashable) -> None:
        with self._lock:
            self._kept.pop(key, None)

    def _forget_model(self, place: int) -> None:
        with self._lock:
            self._states.pop(place, None)
            self._forget_passes(place)

    def _forget_passes(self, place: int) -> None:
        for key in list(self._kept):
            if isinstance(key, tuple) and key[0] == place:
                self._kept.pop(key, None)


RECENT = RecentPasses()
"""The passes of this process."""


def _environment() -> int:
    said = os.environ.get(VARIABLE, "").strip().lower()
    if said == "off":
        return 0
    try:
        return max(0, int(said) << 20) if said else LIMIT
    except ValueError:
        return LIMIT
