"""What is kept of one picture: maps, evidence of the clean image, and ways back that stay open."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from dataclasses import dataclass, field

from torch import Tensor

from cam_hub.methods import METHODS, Evidence, Method
from cam_hub.passes.gathering import Allowance, Gathering, Map, make_map
from cam_hub.passes.job import Job, Pass
from cam_hub.passes.noise import Noise
from cam_hub.passes.running import Finished, Start, go_back
from cam_hub.passes.trace import Trace
from cam_hub.recording import watch_writes
from cam_hub.tasks.base import Standings, Target
from cam_hub.tensors import same

__all__ = ["Kept"]

_Place = tuple[int, int | None, str]
"""What the clean image's evidence is of: class index, that of the contrast, and layer."""

_Key = tuple[str, Noise | None, int, int | None, str]
"""What a map is of: method, noise if it needs any, class index, that of the contrast, and layer."""


@dataclass(frozen=True)
class _Plan:
    """What gives the maps that are missing of one class.

    Attributes:
        methods: Those that need a way back.
        noise: That they need.
        traces: Ways back.
        at_hand: Methods and layers that need none.
    """

    methods: list[Method]
    noise: Noise | None
    traces: list[Trace]
    at_hand: list[tuple[Method, str, Evidence]]


@dataclass(eq=False)
class Kept:
    """What is kept of one picture under one question."""

    image: Tensor
    target: Target
    standings: Standings
    labels: tuple[str, ...] | None
    maps: dict[_Key, Map] = field(default_factory=dict)
    traces: dict[Noise | None, list[Trace]] = field(default_factory=dict)
    evidence: dict[_Place, Evidence] = field(default_factory=dict)
    lock: threading.Lock = field(default_factory=threading.Lock)
    counted: int = 0  # bytes when it was last looked at

    def __post_init__(self) -> None:
        # A job's image is no caller's. Whoever else writes to it is noticed, and where writes are
        # not counted (in inference mode) nobody gets at the copy.
        self._written = watch_writes(self.image)
        if self._written():
            self.image, self._written = self.image.clone(), bool

    def is_of(self, image: Tensor) -> bool:
        """Whether it is about an image of these values."""
        return not self._written() and (self.image is image or same(self.image, image))

    @property
    def bytes(self) -> int:
        """All that it takes."""
        with self.lock:
            graphs = sum(trace.bytes for traces in self.traces.values() for trace in traces)
            maps = sum(cam.nbytes for cam in self.maps.values())
        return self.image.nbytes + maps + graphs + self.evidence_bytes

    @property
    def evidence_bytes(self) -> int:
        """Of classes that share a layer's activation it is counted once."""
        with self.lock:
            kept = list(self.evidence.items())
        activations = {name: each.activation.nbytes for (*_, name), each in kept}
        return sum(activations.values()) + sum(each.gradient.nbytes for _, each in kept)

    def add(self, job: Job, finished: Finished) -> None:
        """Takes in what a pass has found; its traces replace those that say no more."""
        with self.lock:
            against = finished.found.settled.contrast
            self.maps.update(_keyed(job, finished.found.maps, against))
            for (index, name), evidence in finished.evidence.items():
                self.evidence[index, against, name] = evidence
            if not finished.traces:
                return
            whole = sum(trace.samples for trace in finished.traces) == job.samples
            self.traces[job.noise if whole else None] = finished.traces

    def start(self, job: Job) -> Start | None:
        """The clean image's part of a pass that would go on with noisy copies."""
        trace = self._clean(set(job.layers)) if job.samples else None
        return Start(self.target, self.standings, trace) if trace is not None else None

    def answer(self, job: Job, room: int) -> Pass | None:
        """A pass out of what is here; None if the network has to run.

        Args:
            job: What to find out.
            room: Bytes that evidence may take.
        """
        with self.lock:
            settled = job.settled(self.standings, self.target)
            told = self.target.describe()
        classes, against = settled.classes, settled.contrast
        plans = [self._plan(job, index, against) for index in classes]
        if any(plan is None for plan in plans):
            return None
        for step, (index, plan) in enumerate(zip(classes, plans, strict=True)):
            job.tell((step + 1) / (len(classes) + 1), step, classes)
            if plan is not None:
                self._follow(job, index, against, plan, room)
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
        at_hand = [
            (method, name, self.evidence[index, against, name])
            for method, name in missing
            if not method.needs_noise and (index, against, name) in self.evidence
        ]
        done = {(method, name) for method, name, _ in at_hand}
        missing = [each for each in missing if each not in done]
        methods = list(dict.fromkeys(method for method, _ in missing))
        noise = job.noise if any(method.needs_noise for method in methods) else None
        traces = self._covering({name for _, name in missing}, noise) if missing else []
        return None if traces is None else _Plan(methods, noise, traces, at_hand)

    def _follow(self, job: Job, index: int, against: int | None, plan: _Plan, room: int) -> None:
        noise = plan.noise
        with self.lock:
            shared = {name: each.activation for (*_, name), each in self.evidence.items()}
        allowance = Allowance(room - self.evidence_bytes, shared)
        gathering = Gathering(
            plan.methods, noise.num_samples if noise is not None else 0, allowance
        )
        for trace in plan.traces:
            go_back(trace, index, against, gathering, noisy=noise is not None, keep_graph=True)
        found = {(method, index, name): cam for (method, name), cam in gathering.maps.items()}
        for method, name, evidence in plan.at_hand:
            found[method.name, index, name] = make_map(method, evidence, name)
        with self.lock:
            self.maps.update(_keyed(job, found, against))
            for name, evidence in gathering.evidence.items():
                self.evidence[index, against, name] = evidence

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


def _key(job: Job, method: Method, index: int, against: int | None, name: str) -> _Key:
    return method.name, job.noise if method.needs_noise else None, index, against, name


def _keyed(
    job: Job, maps: Mapping[tuple[str, int, str], Map], against: int | None
) -> dict[_Key, Map]:
    return {
        _key(job, METHODS[method], index, against, name): cam
        for (method, index, name), cam in maps.items()
    }
