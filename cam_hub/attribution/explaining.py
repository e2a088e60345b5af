"""Explains a picture that is ready for its model: one pass, any number of methods."""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from dataclasses import replace

import torch

from cam_hub.attribution.composing import compose
from cam_hub.attribution.jobs import make_job
from cam_hub.attribution.passes import RECENT, Job, Progress
from cam_hub.attribution.preparation import Prepared
from cam_hub.attribution.request import Request
from cam_hub.errors import NoMap
from cam_hub.layers.selection import layers_before
from cam_hub.methods import Method, MomentSum
from cam_hub.models.loaded_model import LoadedModel
from cam_hub.results.explanation import Explanation

__all__ = [
    "MOST_SAMPLES",
    "WANTED",
    "explain_otherwise",
    "explain_prepared",
    "is_blank",
    "more_samples",
    "steadied",
]

_LOG = logging.getLogger("cam_hub")

MOST_SAMPLES = 32
"""Noisy copies are added up to so many."""

WANTED = 0.98
"""More noisy copies are taken where another seed's map would correlate less. It is an estimate, so
that it lies above what counts as steady."""

_AIM = 0.985
"""What more copies are to reach."""

_LARGEST = 512 << 20
"""No more copies are taken where the sums of all layers and classes would take more bytes."""


def explain_prepared(
    model: LoadedModel, prepared: Prepared, methods: Sequence[Method], request: Request
) -> dict[str, Explanation]:
    """One explanation per method, by its name.

    Args:
        model: The model.
        prepared: The picture.
        methods: The methods.
        request: What is asked.

    Raises:
        CamHubError: As ``explain``.
    """
    if request.progress is not None:
        request = replace(request, progress=_Rising(request.progress))
    job = make_job(model, prepared, methods, request)
    passed = RECENT.run(job, reuse=request.reuses)
    found = {}
    for method in methods:
        composed = compose(model, prepared, method, job, passed)
        if is_blank(composed):
            composed = explain_otherwise(model, prepared, composed, method, request)
        found[method.name] = steadied(model, prepared, composed, method, request)
    return found


def steadied(
    model: LoadedModel,
    prepared: Prepared,
    found: Explanation,
    method: Method,
    request: Request,
) -> Explanation:
    """An explanation out of more noisy copies, where those that were taken differ too much.

    How far they differ gives the correlation that another seed's map can be expected to have, and
    the number of copies of which it would be high enough. These are run anew, together with the
    first: the result is the one for that number. Of very many layers and classes, whose sums would
    not fit into ``_LARGEST``, no more copies are taken.

    Args:
        model: The model.
        prepared: The picture.
        found: Out of as many copies as were asked for.
        method: The method.
        request: What is asked.

    Returns:
        The explanation as it was, if its copies agree, it has one or none, or the number is fixed.

    Raises:
        CamHubError: As ``explain``.
    """
    if request.sampling == "fixed":
        return found
    samples = request.noise.num_samples
    double = found.described["precision"] == "float64" and model.dtype != torch.float64
    settled = replace(
        request,
        target_layers=list(found.layers),
        classes=request.classes if callable(request.classes) else list(found.classes),
    )
    while samples < MOST_SAMPLES:
        agreement = min(found.described.get("agreement", {}).values(), default=1.0)
        if agreement >= WANTED:
            break
        more = more_samples(samples, agreement)
        settled = replace(settled, noise=replace(request.noise, num_samples=more))
        job = make_job(model, prepared, [method], settled, double=double)
        if _sums(job, len(found.classes)) > _LARGEST:
            break
        _LOG.info(
            "%s: %d noisy copies instead of %d, whose map would correlate at %.2f with another's",
            model.id,
            more,
            samples,
            agreement,
        )
        samples = more
        found = compose(model, prepared, method, job, RECENT.run(job, reuse=request.reuses))
    if is_blank(found):
        return explain_otherwise(model, prepared, found, method, settled)
    return found


def more_samples(samples: int, agreement: float) -> int:
    """How many noisy copies should do.

    Args:
        samples: The number that does not.
        agreement: The correlation that maps of two seeds can be expected to have.

    Returns:
        Two, four, eight … times the number, ``MOST_SAMPLES`` at most. ``samples`` where that is no
        more.
    """
    if samples >= MOST_SAMPLES:
        return samples
    # Of so many times the copies, going by the variance of one.
    wanted = (1 / agreement - 1) / (1 / _AIM - 1) if agreement > 0 else math.inf
    more = 2 * samples
    while more < MOST_SAMPLES and more < wanted * samples:
        more *= 2
    return min(more, MOST_SAMPLES)


def _sums(job: Job, classes: int) -> int:
    """The bytes of the sums that are held while the noisy copies pass, chunk by chunk."""
    cells = sum(
        (layer.channels or 0) * math.prod(layer.grid or ()) * layer.frames
        for layer in job.layers.values()
    )
    return MomentSum.BYTES * cells * classes


class _Rising:
    """Progress of work that turns out to take several passes: each fills what others have left."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._base = self._told = self._part = 0.0

    def __call__(self, part: float, what: str) -> None:
        if part < self._part:  # another pass has begun
            self._base = self._told
        self._part = part
        self._told = self._base + (1 - self._base) * part
        self._progress(self._told, what)


_SIDES = {"for": "for", "against": "against", "both": "for or against"}

_SATURATED = ", or target='logit': where a probability is all but 0 or 1, it has no gradient"


def is_blank(found: Explanation) -> bool:
    """Whether nothing at any of the layers spoke for any of the classes."""
    return not any(cam.any() for cam in found.cams.values())


def explain_otherwise(
    model: LoadedModel,
    prepared: Prepared,
    blank: Explanation,
    method: Method,
    request: Request,
) -> Explanation:
    """The explanation of more precise scores, or at the last layer that speaks.

    Args:
        model: The model.
        prepared: The picture.
        blank: In which nothing at the chosen layers speaks.
        method: The method.
        request: What is asked.

    Raises:
        NoMap: If there is none, or the layers were the caller's choice.
    """
    layers = list(blank.layers)
    saturating = model.task.saturating or request.target == "probability"
    if saturating and blank.described["precision"] != "float64":
        classes = request.classes if callable(request.classes) else list(blank.classes)
        settled = replace(request, target_layers=layers, classes=classes)
        job = make_job(model, prepared, [method], settled, double=True)
        passed = RECENT.run(job, reuse=request.reuses)
        finer = compose(model, prepared, method, job, passed)
        if not is_blank(finer):
            return finer
    alternatives: list[list[str]] = []
    if request.target_layers is None and request.call is None:
        alternatives = layers_before(model, layers[0], prepared.size)
    for spare in alternatives:
        if (found := _last_that_speaks(model, prepared, spare, method, request)) is not None:
            return found
    raise NoMap(
        "blank: nothing at "
        + (f"layer {layers[0]!r}" if len(layers) == 1 else "any of the layers")
        + f" spoke {_SIDES[request.sign]} the class; try another layer or class"
        + (_SATURATED if request.target == "probability" else ""),
    )


def _last_that_speaks(
    model: LoadedModel,
    prepared: Prepared,
    layers: Sequence[str],
    method: Method,
    request: Request,
) -> Explanation | None:
    """The explanation at the last of some layers that speaks for the first class, if one does."""
    job = make_job(model, prepared, [method], replace(request, target_layers=list(layers)))
    try:
        passed = RECENT.run(job, reuse=request.reuses)
    except NoMap:
        return None
    index = passed.settled.classes[0]
    speaking = [name for name in job.layers if passed.maps[method.key, index, name].any()]
    if not speaking:
        return None
    last = speaking[-1]
    return compose(model, prepared, method, replace(job, layers={last: job.layers[last]}), passed)
