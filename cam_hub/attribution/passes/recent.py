"""Passes that are kept, so that nothing about the same picture is computed twice.

Of each picture its maps stay and, where they are small enough, the clean image's activations and
gradients, from which other methods are had, and the graphs from the target layers to the scores:
another class then takes the way back alone.

How numbers are rounded depends on how many images pass the network at once. So what is found in one
company (``Job.company``) is kept apart from what is found in another, and a question is answered in
its own: then the answer is a new pass's, bit for bit. (Networks with torch's own
``nn.MultiheadAttention`` are an exception where fewer layers are asked for than before: it computes
differently where a graph is built.) Only what needs no noise is taken from a pass with noise, too,
where the picture has not passed alone: a pass of its own would cost as much as all else, and the
answer is the same but for rounding.
"""

from __future__ import annotations

import os
import threading
import weakref
from collections import OrderedDict
from collections.abc import Hashable
from dataclasses import dataclass, field

from torch import Tensor

from cam_hub.attribution.passes.identity import sample, state
from cam_hub.attribution.passes.job import Company, Job, Pass
from cam_hub.attribution.passes.kept import Kept
from cam_hub.attribution.passes.running import EVIDENCE, Finished, run
from cam_hub.errors import NoMap, OutOfMemory
from cam_hub.hooks.recording import watch_writes
from cam_hub.images.tensors import same

__all__ = ["LIMIT", "RECENT", "VARIABLE", "RecentPasses"]

LIMIT = 256 << 20
"""Bytes that kept passes take at most, unless the environment says otherwise."""

VARIABLE = "CAM_HUB_PASSES"
"""The environment variable that sets the limit in MiB; 0 or ``off`` keeps nothing."""

_LARGEST = 4
"""One pass keeps graphs of at most this part of the limit; of a larger one only the maps stay."""


@dataclass(eq=False)
class _Picture:
    """What is kept of one picture, by the company that it had."""

    image: Tensor
    passes: OrderedDict[Company, Kept] = field(default_factory=OrderedDict)

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
    def counted(self) -> int:
        """Bytes when its passes were last looked at."""
        return self.image.nbytes + sum(kept.counted for kept in self.passes.values())

    def fitting(self, job: Job) -> list[Kept]:
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
        limit: Bytes to keep at most; None for what the environment says, by default ``LIMIT``.
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
        """Bytes to keep at most."""
        return _environment() if self._limit is None else self._limit

    @property
    def bytes(self) -> int:
        """Bytes that are kept now."""
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
            self._drop(key)  # something that the way back needs was written to
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
                kept = Kept(finished.target, found.standings, found.labels)
                picture.passes[job.company] = kept
            picture.passes.move_to_end(job.company)
            kept.add(finished)
            self._kept.move_to_end(key)
        self._trim(kept, limit)

    def _trim(self, changed: Kept, limit: int) -> None:
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
