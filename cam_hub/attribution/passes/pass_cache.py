"""Recent passes, so that nothing is computed twice."""

from __future__ import annotations

import os
import threading
import weakref
from collections import OrderedDict
from collections.abc import Hashable
from dataclasses import dataclass, field
from itertools import product
from typing import Any, NamedTuple

import torch
from torch import Tensor

from cam_hub.attribution.passes.forward import Accumulator, Allowance, Trace, anatomy
from cam_hub.attribution.passes.job import BatchContext, Job, Key, Map, Pass
from cam_hub.errors import NoMap
from cam_hub.hooks.memory import is_out_of_memory
from cam_hub.images.preprocessing import same
from cam_hub.methods import Evidence, Method
from cam_hub.methods.registry import needs_noise
from cam_hub.targets.base import ClassScores, Target
from cam_hub.targets.classes import Weights

__all__ = ["EVIDENCE", "LIMIT", "RECENT", "VARIABLE", "Finished", "RecentPasses", "Slot"]


@dataclass(frozen=True)
class Finished:
    """A pass, and what of it can be kept.

    Attributes:
        found: What it has brought back.
        target: The target.
        traces: Those whose graph is still there, in the order of their images: all of them, or
            the first alone, which holds the clean image, or none.
        accumulator: What has made its maps, with the clean image's evidence as far as it is kept.
    """

    found: Pass
    target: Target
    traces: list[Trace]
    accumulator: Accumulator


@dataclass(frozen=True)
class _Plan:
    """What gives the maps that are missing of one class.

    Attributes:
        methods: Those that need a backward pass.
        samples: How many noisy copies they need.
        traces: Graphs that are kept.
        at_hand: Methods and layers that need none.
    """

    methods: list[Method]
    samples: int
    traces: list[Trace]
    at_hand: list[tuple[Method, str, Evidence]]


@dataclass(eq=False)
class _Findings:
    """What was found out of one contrast.

    Attributes:
        maps: All that were made.
        agreements: Of those that need noise.
        cancellation: Of those that have it.
        evidence: That of the clean image, by class index and layer.
    """

    maps: dict[Key, Map] = field(default_factory=dict)
    agreements: dict[Key, float] = field(default_factory=dict)
    cancellation: dict[Key, float] = field(default_factory=dict)
    evidence: dict[tuple[int, str], Evidence] = field(default_factory=dict)


@dataclass(eq=False)
class PassEntry:
    """The cached passes of one picture in one batch context, under one question.

    Attributes:
        target: What was differentiated in the last pass.
        standings: How the classes stood in its clean image.
        findings: What was found out, by contrast.
        traces: Of all images, in their order, or of the first ones.
        lock: Held while anything here is looked at or changed.
        counted: How many bytes it took when it was last looked at.
    """

    target: Target
    standings: ClassScores
    findings: dict[Weights | None, _Findings] = field(default_factory=dict)
    traces: list[Trace] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)
    counted: int = 0

    @property
    def bytes(self) -> int:
        """All that it takes. A layer's activation, which classes share, is counted once."""
        total, activations = 0, {}
        with self.lock:
            for trace in self.traces:
                total += trace.bytes
            for known in self.findings.values():
                for cam in known.maps.values():
                    total += cam.nbytes
                for (_, name), evidence in known.evidence.items():
                    total += evidence.gradient.nbytes
                    activations[name] = evidence.activation.nbytes
        return total + sum(activations.values())

    def add(self, contrast: Weights | None, made: Accumulator) -> None:
        """Takes in the maps and the evidence of a contrast, beside those that are here."""
        with self.lock:
            known = self.findings.setdefault(contrast, _Findings())
            known.maps.update(made.maps)
            known.agreements.update(made.agreements)
            known.cancellation.update(made.cancellation)
            known.evidence.update(made.evidence)

    def answer(self, job: Job, room: int) -> Pass | None:
        """A pass out of what is here; None if the network has to run.

        Args:
            job: What to find out.
            room: Bytes that evidence may take.
        """
        with self.lock:
            standings = self.standings
            settled = job.settled(standings, self.target)
            labels, described = self.target.labels, self.target.describe()
            known = self.findings.setdefault(settled.contrast, _Findings())
        classes = settled.classes
        plans = [self._plan(job, index, known) for index in classes]
        if any(plan is None for plan in plans):
            return None
        for step, (index, plan) in enumerate(zip(classes, plans, strict=True)):
            if job.progress is not None:
                part = (step + 1) / (len(classes) + 1)
                job.progress(part, f"class {step + 1} of {len(classes)}")
            if plan is not None:
                self._follow(index, settled.contrast, plan, room)
        wanted = list(product((method.key for method in job.methods), classes, job.layers))
        maps = {key: known.maps[key] for key in wanted}
        agreements = {key: known.agreements[key] for key in wanted if key in known.agreements}
        shares = {key: known.cancellation[key] for key in wanted if key in known.cancellation}
        return Pass(standings, settled, labels, described, maps, agreements, shares)

    def _plan(self, job: Job, index: int, known: _Findings) -> _Plan | None:
        """How to make the maps of one class that are missing; None if open traces do not allow it.

        Methods that need noise and methods that do not may be missing at different layers.
        """
        missing = [
            (method, name)
            for method in job.methods
            for name in job.layers
            if (method.key, index, name) not in known.maps
        ]
        at_hand = [
            (method, name, known.evidence[index, name])
            for method, name in missing
            if not method.needs_noise and (index, name) in known.evidence
        ]
        done = {(method, name) for method, name, _ in at_hand}
        missing = [each for each in missing if each not in done]
        methods = list(dict.fromkeys(method for method, _ in missing))
        samples = job.samples if any(map(needs_noise, methods)) else 0
        traces = self._covering({name for _, name in missing}, samples) if missing else []
        return None if traces is None else _Plan(methods, samples, traces, at_hand)

    def _follow(self, index: int, contrast: Weights | None, plan: _Plan, room: int) -> None:
        shared: dict[str, Tensor] = {}
        with self.lock:
            for known in self.findings.values():
                for (_, name), evidence in known.evidence.items():
                    room -= evidence.gradient.nbytes
                    shared[name] = evidence.activation
        room -= sum(activation.nbytes for activation in shared.values())
        allowance = Allowance(room, shared)
        found = Accumulator(plan.methods, plan.samples, allowance)
        for trace in plan.traces:
            wanted = [
                (segment, index, contrast, found)
                for segment in trace.segments
                if segment is not None
            ]
            trace.backward([wanted], noisy=plan.samples > 0, keep_graph=True)
        made = [found]
        for method, name, evidence in plan.at_hand:
            made.append(Accumulator([method], 0))
            made[-1].take(index, name, evidence.activation, evidence.gradient)
        for each in made:
            if each.error is not None:
                raise each.error
            self.add(contrast, each)

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
        return traces if sum(trace.images for trace in traces) == 1 + samples else None


LIMIT = 256 << 20
"""The most bytes that cached passes take, unless the environment variable is set."""

VARIABLE = "CAM_HUB_PASSES"
"""The environment variable that sets the limit in MiB; 0 or ``off`` keeps nothing."""

_VALUES = 64
"""So many values of an image are part of its key."""

EVIDENCE = 4
"""Evidence may take this part of what traces may."""

_LARGEST = 4
"""One pass keeps graphs of at most this part of the limit; of a larger one only the maps stay."""


@dataclass(eq=False)
class _Picture:
    """The cached passes of one picture, by batch context.

    Attributes:
        image: The picture. It belongs to the job: a write to it by other code is noticed.
        version: torch's count of writes to it.
        passes: The passes.
    """

    image: Tensor
    version: int
    passes: OrderedDict[BatchContext, PassEntry] = field(default_factory=OrderedDict)

    def is_of(self, image: Tensor) -> bool:
        """Whether it is about an image of these values."""
        if self.image._version != self.version:
            return False
        return self.image is image or same(self.image, image)

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


class Slot(NamedTuple):
    """Where a pass is kept.

    Attributes:
        key: Differs from that of every other model, picture, question and setting.
        state: That of its model before it runs.
        largest: Bytes that its graphs may take.
    """

    key: tuple[Hashable, ...]
    state: Hashable
    largest: int


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
        if self._limit is not None:
            return self._limit
        said = os.environ.get(VARIABLE, "").strip().lower()
        if said == "off":
            return 0
        try:
            return max(0, int(said) << 20) if said else LIMIT
        except ValueError:
            return LIMIT

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

    def slot(self, job: Job) -> Slot | None:
        """Where a job's pass is kept; None if it cannot be.

        Passes of earlier states of its model are dropped.
        """
        limit = self.limit
        state = anatomy(job.model).state() if limit > 0 else None
        if state is None:
            return None
        module = job.model.module
        place = id(module)
        with self._lock:
            if place not in self._states:
                weakref.finalize(module, self._forget_model, place).atexit = False
            if self._states.get(place) != state:
                self._forget_passes(place)
                self._states[place] = state
        image = job.image.detach()
        values = image.flatten()
        few = tuple(values[:: -(-len(values) // _VALUES)].tolist())
        look = tuple(image.shape), image.dtype, image.device, few
        backends: Any = torch.backends
        precision = (
            backends.cuda.matmul.fp32_precision,
            backends.cudnn.conv.fp32_precision,
            backends.mkldnn.matmul.fp32_precision,
            backends.mkldnn.conv.fp32_precision,
        )
        key = place, job.model.task, job.question, job.setting, precision, look
        return Slot(key, state, limit // _LARGEST)

    def answer(self, slot: Slot, job: Job) -> Pass | None:
        """What can be had without the network; None if it has to run.

        Raises:
            CamHubError: If the job has no such classes, or a map is not finite.
        """
        with self._lock:
            picture, fitting = self._kept.get(slot.key), []
            if picture is not None and picture.is_of(job.image):
                self._kept.move_to_end(slot.key)
                fitting = picture.fitting(job)
        try:
            for kept in fitting:
                found = kept.answer(job, slot.largest // EVIDENCE)
                if found is not None:
                    self._trim(kept)
                    return found
        except NoMap as error:
            if not isinstance(error.__cause__, RuntimeError):
                raise
            with self._lock:  # something that the backward pass needs was written to
                self._kept.pop(slot.key, None)
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            self.clear()  # what is cached may be what is in the way
        return None

    def keep(self, slot: Slot, job: Job, finished: Finished) -> None:
        """Keeps a pass, as far as there is room."""
        found = finished.found
        with self._lock:
            # Written to since? Who asks next finds out, and has this forgotten. What others have
            # found out already must not mix with it.
            if self._states.get(id(job.model.module)) != slot.state:
                return
            picture = self._kept.get(slot.key)
            if picture is None or not picture.is_of(job.image):
                image = job.image
                if image.is_inference():  # writes to which are not counted
                    with torch.inference_mode(False):
                        image = image.clone()
                picture = self._kept[slot.key] = _Picture(image, image._version)
                self._most += image.nbytes
            kept = picture.passes.get(job.company)
            if kept is None:
                kept = PassEntry(finished.target, found.standings)
                picture.passes[job.company] = kept
            picture.passes.move_to_end(job.company)
            kept.add(found.settled.contrast, finished.accumulator)
            with kept.lock:
                kept.target, kept.standings = finished.target, found.standings
                kept.traces = finished.traces or kept.traces
            self._kept.move_to_end(slot.key)
        self._trim(kept)

    def _trim(self, changed: PassEntry) -> None:
        """Forgets the least recently used, after one has grown."""
        limit = self.limit
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
