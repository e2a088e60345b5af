"""Passes that are kept, so that nothing about the same picture is computed twice.

Of each picture its maps stay and, where they are small enough, the clean image's activations and
gradients, from which other methods are had, and the graphs from the target layers to the scores:
another class then takes the way back alone.
"""

from __future__ import annotations

import os
import threading
import weakref
from collections import OrderedDict
from collections.abc import Hashable

from torch import Tensor

from cam_hub.errors import NoMap, OutOfMemory
from cam_hub.passes.identity import sample, state
from cam_hub.passes.job import Job, Pass
from cam_hub.passes.kept import Kept
from cam_hub.passes.running import EVIDENCE, Finished, run

__all__ = ["LIMIT", "RECENT", "VARIABLE", "RecentPasses"]

LIMIT = 256 << 20
"""Bytes that kept passes take at most, unless the environment says otherwise."""

VARIABLE = "CAM_HUB_PASSES"
"""The environment variable that sets the limit in MiB; 0 or ``off`` keeps nothing."""

_LARGEST = 4
"""One pass keeps graphs of at most this part of the limit; of a larger one only the maps stay."""


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
        self._kept: OrderedDict[Hashable, Kept] = OrderedDict()
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
                found = kept.answer(job, limit // _LARGEST // EVIDENCE)
                if found is not None:
                    self._trim(kept, limit)
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

    def _find(self, key: Hashable, image: Tensor) -> Kept | None:
        with self._lock:
            kept = self._kept.get(key)
            if kept is None or not kept.is_of(image):
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
                kept = Kept(job.image, finished.target, found.standings, found.labels)
            kept.add(job, finished)
            self._kept[key] = kept
            self._kept.move_to_end(key)
        self._trim(kept, limit)

    def _trim(self, changed: Kept, limit: int) -> None:
        """Forgets the least recently used, after one has grown."""
        changed.counted = changed.bytes
        with self._lock:
            total = sum(kept.counted for kept in self._kept.values())
            while self._kept and total > limit:
                total -= self._kept.popitem(last=False)[1].counted

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
