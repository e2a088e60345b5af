"""Adaptive sampling: more noisy copies for the maps that depend on which noise was drawn."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from itertools import product
from typing import TypeVar

from cam_hub.attribution.passes import Job, Key, Pass, run
from cam_hub.attribution.request import ExplainOptions
from cam_hub.layers.layouts import LayerInfo
from cam_hub.methods import Method, MomentSum
from cam_hub.targets.classes import ResolvedClasses

__all__ = ["MOST_SAMPLES", "WANTED", "more_samples", "sampled_adaptively"]

_LOG = logging.getLogger("cam_hub")

MOST_SAMPLES = 64
"""Noisy copies are added up to so many."""

WANTED = 0.995
"""More noisy copies are taken where another seed's map can be expected to correlate less. Out of
four copies that is a rough estimate, which has to lie far above what counts as steady: over all
layers of seven trained networks, 0.988 leaves twice as many maps unsteady."""

_AIM = 0.996
"""What more copies are to reach."""

_LARGEST = 512 << 20
"""The sums of one pass over more noisy copies take at most so many bytes, if a single layer and
class allow it."""

T = TypeVar("T")


def sampled_adaptively(job: Job, passed: Pass, method: Method, request: ExplainOptions) -> Pass:
    """A pass in which a method's maps are made of as many noisy copies as each of them needs.

    How far the copies differ gives the correlation that another seed's map can be expected to have
    (``agreement``), and the number of copies of which it would be high enough. The map is
    made anew of these. That number depends on the map's own layer and class alone, so that a map
    is the same whatever else is asked for along with it.

    Args:
        job: What the pass was to find out. Maps at other layers are left as they are.
        passed: What it has brought back, of as many copies as were asked for.
        method: The method; maps of others are left as they are.
        request: The request; nothing is changed where the number of copies is fixed.

    Raises:
        CamHubError: As ``passes.run``.
    """
    if request.options["sampling"] == "fixed" or not method.needs_noise:
        return passed
    job = replace(job, methods=[method])
    maps, agreements, samples = dict(passed.maps), dict(passed.agreements), dict(passed.samples)
    # A single copy has no agreement.
    own = [
        key
        for key in product([method.key], passed.settled.classes, job.layers)
        if key in agreements
    ]
    while wanted := {
        key: more
        for key in own
        if (more := more_samples(taken := samples.get(key, job.samples), agreements[key])) > taken
    }:
        number = min(wanted.values())
        keys = {key for key, more in wanted.items() if more == number}
        _LOG.info("%s: %d noisy copies for %d maps", job.model.id, number, len(keys))
        for again in _jobs(job, passed.settled, keys, number):
            found = run(again, reuse=request.reuse)
            for key in keys & found.maps.keys():
                maps[key], agreements[key] = found.maps[key], found.agreements[key]
                samples[key] = number
    return replace(passed, maps=maps, agreements=agreements, samples=samples)


def more_samples(samples: int, agreement: float) -> int:
    """The number of noisy copies that a map should be made of.

    Args:
        samples: The number that it is made of.
        agreement: The correlation that maps of two seeds can be expected to have.

    Returns:
        Two, four, eight … times the number, ``MOST_SAMPLES`` at most. ``samples`` where the map is
        steady, or that is no more.
    """
    agreement = round(agreement, 3)  # so that rounding does not decide
    if agreement >= WANTED or samples >= MOST_SAMPLES:
        return samples
    # Of so many times the copies, going by the variance of one.
    wanted = (1 / agreement - 1) / (1 / _AIM - 1) if agreement > 0 else math.inf
    more = 2 * samples
    while more < MOST_SAMPLES and more < wanted * samples:
        more *= 2
    return min(more, MOST_SAMPLES)


def _jobs(job: Job, settled: ResolvedClasses, keys: Iterable[Key], number: int) -> Iterator[Job]:
    """Jobs for some of the maps out of another number of copies, whose sums fit into memory."""
    _, indices, names = (set(each) for each in zip(*keys, strict=True))
    if job.noise is None:
        raise AssertionError("maps without noise agree with themselves")
    noise = replace(job.noise, num_samples=number)
    layers = [job.layers[name] for name in job.layers if name in names]
    largest = max(map(_sums, layers))
    for classes in _portions(
        [index for index in settled.classes if index in indices],
        [largest] * len(indices),
    ):
        chosen = replace(settled, classes=tuple(classes))
        for group in _portions(layers, [len(classes) * _sums(layer) for layer in layers]):
            yield replace(
                job,
                layers={layer.name: layer for layer in group},
                noise=noise,
                settle=partial(_settle, chosen),
            )


def _settle(chosen: ResolvedClasses, *_: object) -> ResolvedClasses:
    """The classes are known already."""
    return chosen


def _portions(items: Sequence[T], sizes: Sequence[int]) -> Iterator[list[T]]:
    """Items in groups of at most ``_LARGEST`` bytes, or of one."""
    group: list[T] = []
    total = 0
    for item, size in zip(items, sizes, strict=True):
        if group and total + size > _LARGEST:
            yield group
            group, total = [], 0
        group.append(item)
        total += size
    if group:
        yield group


def _sums(layer: LayerInfo) -> int:
    """The bytes of one class's sums, which are held while the noisy copies pass."""
    return MomentSum.BYTES * (layer.channels or 0) * math.prod(layer.grid or ()) * layer.frames
