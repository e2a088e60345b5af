"""What is kept of one pass: maps, evidence of the clean image, and ways back that stay open."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import product
from typing import TypeVar

from cam_hub.attribution.passes.gathering import Allowance, Gathering, Map, make_map
from cam_hub.attribution.passes.job import Job, Pass
from cam_hub.attribution.passes.running import Finished, go_back
from cam_hub.attribution.passes.trace import Trace
from cam_hub.methods import Evidence, Method
from cam_hub.targets.base import Standings, Target
from cam_hub.targets.classes import Weights

__all__ = ["Kept"]

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
        traces: Ways back.
        at_hand: Methods and layers that need none.
    """

    methods: list[Method]
    samples: int
    traces: list[Trace]
    at_hand: list[tuple[Method, str, Evidence]]


@dataclass(eq=False)
class Kept:
    """What is kept of the passes of one picture in one company, under one question.

    Attributes:
        target: What was differentiated in the last pass.
        standings: How the classes stood in its clean image.
        labels: Of the scores.
        maps: All that were made.
        agreements: Of those that need noise.
        traces: Of all images, in their order, or of the first ones.
        evidence: Of the clean image.
        lock: Held while anything here is looked at or changed.
        counted: How many bytes it took when it was last looked at.
    """

    target: Target
    standings: Standings
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
        gathering = Gathering(plan.methods, plan.samples, allowance)
        for trace in plan.traces:
            go_back(trace, index, against, gathering, noisy=plan.samples > 0, keep_graph=True)
        found = {(method, index, name): cam for (method, name), cam in gathering.maps.items()}
        for method, name, evidence in plan.at_hand:
            found[method.key, index, name] = make_map(method, evidence, name)
        agreements = {
            (method, index, name): agreement
            for (method, name), agreement in gathering.agreements.items()
        }
        with self.lock:
            self.maps.update(_keyed(found, against))
            self.agreements.update(_keyed(agreements, against))
            for name, evidence in gathering.evidence.items():
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
