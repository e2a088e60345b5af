"""Passes that are kept, so that nothing about the same picture is computed twice.

Of each picture its maps stay and, where they are small enough, the graphs from the target layers
to the scores: another class or method then takes the way back alone.
"""

from __future__ import annotations

import os
import threading
import weakref
from collections import OrderedDict
from collections.abc import Hashable, Mapping
from dataclasses import dataclass, field

from torch import Tensor

from cam_hub.errors import NoMap, OutOfMemory
from cam_hub.methods import METHODS, Method
from cam_hub.passes.gathering import Gathering, Map
from cam_hub.passes.identity import sample, state
from cam_hub.passes.noise import Noise
from cam_hub.passes.running import Finished, Job, Pass, Start, go_back, run
from cam_hub.passes.trace import Trace
from cam_hub.tasks.base import Standings, Target
from cam_hub.tensors import same

__all__ = ["LIMIT", "RECENT", "VARIABLE", "RecentPasses"]

LIMIT = 256 << 20
"""Bytes that kept passes take at most, unless the environment says otherwise."""

VARIABLE = "CAM_HUB_PASSES"
"""The environment variable that sets the limit in MiB; 0 or ``off`` keeps nothing."""

_LARGEST = 4
"""One pass keeps graphs of at most this part of the limit; of a larger one only the maps stay."""

_Key = tuple[str, Noise | None, int, int | None, str]
"""What a map is of: method, noise if it needs any, class index, that of the contrast, and layer."""


@dataclass(frozen=True)
class _Plan:
    """Ways back that give the maps that are missing of one class."""

    methods: list[Method]
    noise: Noise | None
    traces: list[Trace]


@dataclass(eq=False)
class _Kept:
    """What is kept of one picture under one question."""

    image: Tensor
    target: Target
    standings: Standings
    labels: tuple[str, ...] | None
    maps: dict[_Key, Map] = field(default_factory=dict)
    traces: dict[Noise | None, list[Trace]] = field(default_factory=dict)
    lock: threading.Lock = field(default_factory=threading.Lock)

    @property
    def bytes(self) -> int:
        with self.lock:
            graphs = sum(trace.bytes for traces in self.traces.values() for trace in traces)
            maps = sum(cam.nbytes for cam in self.maps.values())
        return self.image.nbytes + maps + graphs

    def add(self, job: Job, finished: Finished) -> None:
        """Takes in what a pass has found; its traces replace those that say no more."""
        with self.lock:
            self.maps.update(_keyed(job, finished.found.maps, finished.found.settled.contrast))
            if not finished.traces:
                return
            whole = sum(trace.samples for trace in finished.traces) == job.samples
            self.traces[job.noise if whole else None] = finished.traces

    def start(self, job: Job) -> Start | None:
        """The clean image's part of a pass that would go on with noisy copies."""
        trace = self._clean(set(job.layers)) if job.samples else None
        return Start(self.target, self.standings, trace) if trace is not None else None

    def answer(self, job: Job) -> Pass | None:
        """A pass out of what is here; None if the network has to run."""
        with self.lock:
            settled = job.settled(self.standings, self.target)
            told = self.target.describe()
        classes, against = settled.classes, settled.contrast
        plans = [self._plan(job, index, against) for index in classes]
        if any(plan is None for plan in plans):
            return None
        for step, (index, plan) in enumerate(zip(classes, plans, strict=True)):
            job.tell((step + 1) / (len(classes) + 1), step, classes)
            if plan is not None and plan.traces:
                self._follow(job, index, against, plan)
        wanted = {
            (method.name, index, name): self.maps[_key(job, method, index, against, name)]
            for method in job.methods
            for index in classes
            for name in job.layers
        }
        return Pass(self.standings, settled, self.labels, told, wanted)

    def _plan(self, job: Job, index: int, against: int | None) -> _Plan | None:
        """How to make the maps of one class that are missing; None if open traces do not allow it.

        Methods that need noise and methods that do not may be missing at different layers.
        """
        missing = [
            (method, name)
            for method in job.methods
            for name in job.layers
            if _key(job, method, index, against, name) not in self.maps
        ]
        methods = list(dict.fromkeys(method for method, _ in missing))
        noise = job.noise if any(method.needs_noise for method in methods) else None
        traces = self._covering({name for _, name in missing}, noise) if missing else []
        return None if traces is None else _Plan(methods, noise, traces)

    def _follow(self, job: Job, index: int, against: int | None, plan: _Plan) -> None:
        noise = plan.noise
        gathering = Gathering(plan.methods, noise.num_samples if noise is not None else 0)
        for trace in plan.traces:
            go_back(trace, index, against, gathering, noisy=noise is not None, keep_graph=True)
        found = {(method, index, name): cam for (method, name), cam in gathering.maps.items()}
        with self.lock:
            self.maps.update(_keyed(job, found, against))

    def _covering(self, layers: set[str], noise: Noise | None) -> list[Trace] | None:
        """Open traces that all of these layers can be explained from."""
        clean = self._clean(layers)
        if noise is None:
            return [clean] if clean is not None else None
        noisy = self.traces.get(noise)
        if noisy is None or not layers <= set(noisy[0].layers):
            return None
        if noisy[0].clean:
            return noisy
        return [clean, *noisy] if clean is not None else None

    def _clean(self, layers: set[str]) -> Trace | None:
        """An open trace of the clean image with these layers."""
        with self.lock:
            firsts = [traces[0] for traces in self.traces.values() if traces]
        fitting = [trace for trace in firsts if trace.clean and layers <= set(trace.layers)]
        return min(fitting, key=lambda trace: trace.samples, default=None)


class RecentPasses:
    """Passes of any number of models, the least recently used forgotten first.

    A pass is found again by the model (the module itself, unchanged), the picture's values, the
    question and the setting. It goes when its model does, and when a weight is written to. Any
    number of threads may ask; none waits for another's pass.

    Args:
        limit: Bytes to keep at most; None for what the environment says, by default ``LIMIT``.
    """

    def __init__(self, limit: int | None = None) -> None:
        self._limit = limit
        self._kept: OrderedDict[Hashable, _Kept] = OrderedDict()
        self._states: dict[int, Hashable] = {}
        # Re-entrant: a model may be freed, and its passes with it, while the lock is held.
        self._lock = threading.RLock()

    @property
    def limit(self) -> int:
        """Bytes to keep at most."""
        return _environment() if self._limit is None else self._limit

    @property
    def bytes(self) -> int:
        """Bytes that are kept now."""
        with self._lock:
            kept = list(self._kept.values())
        return sum(entry.bytes for entry in kept)

    def __len__(self) -> int:
        return len(self._kept)

    def clear(self) -> None:
        """Forgets everything."""
        with self._lock:
            self._kept.clear()

    def run(self, job: Job, *, reuse: bool = True) -> Pass:
        """A pass, with as little of the network as what is kept allows.

        Args:
            job: What to find out.
            reuse: Whether kept passes are looked at, and this one is kept.

        Raises:
            CamHubError: As ``running.run``.
        """
        limit = self.limit if reuse else 0
        before = state(job.model) if limit > 0 else None
        if before is None:
            return run(job).found
        key = self._key(job, before)
        kept = self._find(key, job.image)
        if kept is not None:
            try:
                if (found := kept.answer(job)) is not None:
                    return found
            except NoMap as error:
                if not isinstance(error.__cause__, RuntimeError):
                    raise
                self._drop(key)  # something that the way back needs was written to
                kept = None
        start = kept.start(job) if kept is not None else None
        try:
            finished = run(job, keep=limit // _LARGEST, start=start)
        except OutOfMemory:
            if not len(self):
                raise
            del kept, start
            self.clear()  # which may be what is in the way
            finished = run(job, keep=limit // _LARGEST)
        self._keep(key, before, job, finished, limit)
        return finished.found

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

    def _find(self, key: Hashable, image: Tensor) -> _Kept | None:
        with self._lock:
            kept = self._kept.get(key)
            if kept is None or not same(kept.image, image):
                return None
            self._kept.move_to_end(key)
            return kept

    def _keep(
        self, key: Hashable, before: Hashable, job: Job, finished: Finished, limit: int
    ) -> None:
        found = finished.found
        with self._lock:
            # Written to since? Who asks next finds out, and has this forgotten. What others have
            # found out already must not mix with it.
            if self._states.get(id(job.model.module)) != before:
                return
            kept = self._find(key, job.image)
            if kept is None:
                # An image of its own: the caller's may be written to.
                image = job.image.clone()
                kept = _Kept(image, finished.target, found.standings, found.labels)
            kept.add(job, finished)
            self._kept[key] = kept
            self._kept.move_to_end(key)
            sizes = {key: self._kept[key].bytes for key in list(self._kept)}
            for oldest in list(sizes):
                if sum(sizes.values()) > limit:
                    del self._kept[oldest], sizes[oldest]

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


def _key(job: Job, method: Method, index: int, against: int | None, name: str) -> _Key:
    return method.name, job.noise if method.needs_noise else None, index, against, name


def _keyed(
    job: Job, maps: Mapping[tuple[str, int, str], Map], against: int | None
) -> dict[_Key, Map]:
    return {
        _key(job, METHODS[method], index, against, name): cam
        for (method, index, name), cam in maps.items()
    }


def _environment() -> int:
    said = os.environ.get(VARIABLE, "").strip().lower()
    if said == "off":
        return 0
    try:
        return max(0, int(said) << 20) if said else LIMIT
    except ValueError:
        return LIMIT
