"""The explanation that a pass gives; further passes follow where a map is unsteady or blank.

Adaptive sampling takes more noisy copies for the maps that depend on which noise was drawn. A blank
map calls for a more precise pass, or for the last earlier layer whose map is not blank.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from itertools import product
from typing import TypeVar

from torch import Tensor

from cam_hub.attribution.evidence import SAME_CONTRAST, Tested, add_evidence, likeness
from cam_hub.attribution.passes import Job, Key, Pass, run
from cam_hub.attribution.passes.forward import anatomy
from cam_hub.attribution.preparation import Prepared, make_job
from cam_hub.attribution.request import ExplainOptions, Rising
from cam_hub.errors import NoMap, OutOfMemory
from cam_hub.layers.layouts import FULL, LayerInfo, on_input
from cam_hub.layers.listing import layers_before
from cam_hub.methods import Method, MomentSum
from cam_hub.models.loaded_model import LoadedModel
from cam_hub.results.explanation import Explanation
from cam_hub.results.manifest import make_manifest
from cam_hub.targets.classes import ResolvedClasses, label_of

__all__ = [
    "MOST_SAMPLES",
    "STEADY",
    "WANTED",
    "explanation_of",
    "is_complete",
    "more_samples",
    "off_device",
]

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

STEADY = 0.97
"""A map of which another seed's would correlate less is noted to depend on the noise."""

_UNSTEADY = (
    "its map depends on the noise: going by how far its {taken} noisy copies differ, the map of "
    "another seed would correlate with it at {correlation:.2f}; more samples make it steadier, and "
    "the end of its block, or a later layer, may be steadier"
)

RELIES = 0.1
"""Above this share of cancelling weights, a paper's formula is noted to rely on cancellation. Over
all layers of eight networks, 99 % of the maps by the formula of Grad-CAM++ that invisible noise
changes are above it; below it, they agree with ours."""

_SAME = "its map is the same for every class"

_ALONE = "the method combines the maps of several layers, and this is the map of one"

_OPPOSITE = (
    "the map of the opposite contrast is nearly the same (rank correlation {alike:.2f}), so that "
    "this one does not show why one class rather than the other; those of Grad-CAM and HiResCAM do"
)

_CANCELLING = (
    "the formula in the paper of {title} relies on cancellation here: activations of both signs "
    "cancel in its denominators, which gives {share:.0%} of its weights; this map has denominators "
    "that cannot cancel, and differs from maps of the formula"
)

_SIDES = {"for": "for", "against": "against", "both": "for or against"}

_SATURATED = ", or target='logit': where a probability is all but 0 or 1, it has no gradient"


T = TypeVar("T")


def explanation_of(
    model: LoadedModel,
    prepared: Prepared,
    method: Method,
    job: Job,
    passed: Pass,
    request: ExplainOptions,
) -> Explanation:
    """One method's explanation from a pass; further passes follow where it is blank or unsteady.

    Args:
        model: The model.
        prepared: The picture.
        method: The method.
        job: What the pass was to find out.
        passed: What it has brought back.
        request: The request.

    Raises:
        CamHubError: As ``explain``.
    """
    found = _make_explanation(model, prepared, method, job, passed, request)
    not_blank = set()
    for (index, _), cam in found.cams.items():
        if cam.any():
            not_blank.add(index)
    if len(not_blank) < len(found.classes):
        found = _explain_with_fallback(model, prepared, found, method, request)
    checks = request.options["evidence"]
    if checks is not None:
        progress = request.progress
        progress = progress.testing if isinstance(progress, Rising) else progress
        add_evidence(found, checks, progress=progress)
    return found


def is_complete(method: Method, job: Job, passed: Pass, request: ExplainOptions) -> bool:
    """Whether ``explanation_of`` needs no further pass.

    Args:
        method: The method.
        job: What the pass was to find out.
        passed: What it has brought back.
        request: The request.
    """
    adaptive = method.needs_noise and request.options["sampling"] != "fixed"
    if request.options["evidence"] is not None:
        return False
    for index in passed.settled.classes:
        keys = [(method.key, index, name) for name in job.layers]
        if not any(passed.maps[key].any() for key in keys):
            return False
        for key in keys if adaptive else ():
            agreement = passed.agreements.get(key)
            if agreement is not None and more_samples(job.samples, agreement) > job.samples:
                return False
    return True


def off_device(tensor: Tensor) -> Tensor:
    """The tensor; an empty one of its type and dimensions where it fills an accelerator."""
    return tensor if tensor.is_cpu else tensor.new_empty((0,) * tensor.ndim)


def _make_explanation(
    model: LoadedModel,
    prepared: Prepared,
    method: Method,
    job: Job,
    passed: Pass,
    request: ExplainOptions,
) -> Explanation:
    """One method's maps, blank or not, with all that they are maps of.

    Passes of more noisy copies follow where the request allows them and the maps need them.
    """
    if method.needs_noise:
        passed = _sampled_adaptively(job, passed, method, request)
    classes = passed.settled.classes
    cams, grids, samples = {}, {}, {}
    agreement: dict[str, float] = {}
    for index, name in product(classes, job.layers):
        key = method.key, index, name
        layer, cam = job.layers[name], passed.maps[key]
        if cam.ndim == 2 and (prepared.tensor.ndim == 5 or layer.frames > 1):  # stacked grids
            cam = cam.reshape(layer.frames, -1, cam.shape[1])
        if layer.extent != FULL:
            cam = on_input(cam, layer.extent)
        cams[index, name], grids[index, name] = cam, cam.shape
        samples[index, name] = passed.samples.get(key, job.samples)
        if key in passed.agreements:  # three digits, so that rounding does not show
            correlation = round(passed.agreements[key], 3)
            agreement[name] = min(agreement.get(name, 1.0), correlation)
    cancellation = {} if method.cancellation is None else _cancellation(method, job, passed)
    alike = {} if request.contrast is None else _opposite(method, job, passed)
    layer_notes: dict[str, str] = {}
    for name, layer in job.layers.items():
        notes = [layer.notes] if layer.notes else []
        notes += [] if method.class_specific else [_SAME]
        notes += [_ALONE] if method.combine is not None and len(job.layers) == 1 else []
        same = alike.get(name, 0.0)
        notes += [_OPPOSITE.format(alike=same)] if same > SAME_CONTRAST else []
        if (correlation := agreement.get(name, 1.0)) < STEADY:
            taken = max(samples[index, name] for index in classes)
            notes.append(_UNSTEADY.format(taken=taken, correlation=correlation))
        if (share := cancellation.get(name, 0.0)) > RELIES:
            notes.append(_CANCELLING.format(title=method.title, share=share))
        if notes:
            layer_notes[name] = "; ".join(notes)
    names, standings = passed.labels or model.class_names, passed.standings
    labels, explained, against = {}, {}, []
    for index in classes:
        label = labels[index] = label_of(index, names)
        explained[index] = {"class_index": index, "label": label}
    for each in standings.predictions(names, classes):  # those with a score
        explained[each.class_index] = vars(each)
    for other, weight in passed.settled.contrast or ():
        label = label_of(other, names)
        against.append({"class_index": other, "label": label, "weight": weight})
    shown = standings.predicted or standings  # something else than the classes may be explained
    shown_names = names if shown is standings else shown.labels or model.class_names
    predictions = shown.predictions(shown_names)
    described = make_manifest(
        model,
        placement=prepared.placement.as_dict(),
        method=method.name,
        parameters=vars(job.noise)
        if method.needs_noise and job.noise is not None
        else {"seed": job.seed}
        if method.seeded
        else {},
        layers=list(job.layers),
        classes=list(explained.values()),
        contrast=against,
        target=passed.target,
        options=job.options,
        predictions=predictions,
        grids=grids,
        samples=samples if method.needs_noise else {},
        precision=str(job.image.dtype).removeprefix("torch."),
        approximation=prepared.approximation,
        autocast=str(job.setting.autocast or "").removeprefix("torch."),
        batch_size=job.batch_size
        if method.attribute is not None
        else min(job.batch_size, 1 + max(samples.values()))
        if method.needs_noise
        else None,
        notes=list(model.execution.notes),
        layer_notes=layer_notes,
        agreement=agreement,
        cancellation=cancellation,
        choice=dict(request.choice or {}),
    )
    found = Explanation(
        pictures=prepared.pictures,
        placement=prepared.placement,
        predictions=predictions,
        classes=classes,
        layers=tuple(job.layers),
        cams=cams,
        labels=labels,
        described=described,
    )
    # Not a field: pickles and files do without the model. A list of results must not fill the
    # memory of an accelerator with their images.
    image = job.image if job.image.is_cpu else job.image.new_empty(0)
    job = replace(job, image=image, progress=None)
    state = passed.state or anatomy(job.model).state()
    found.__dict__["_origin"] = Tested(job, method, standings, passed.settled, names, state)
    return found


def _cancellation(method: Method, job: Job, passed: Pass) -> dict[str, float]:
    """The share of the paper's weights that comes from cancelling denominators, by layer.

    That of the class with the most, to three digits, so that rounding does not show.
    """
    shares = dict.fromkeys(job.layers, 0.0)
    for index, name in product(passed.settled.classes, job.layers):
        shares[name] = max(shares[name], passed.cancellation[method.key, index, name])
    return {name: round(share, 3) for name, share in shares.items()}


def _opposite(method: Method, job: Job, passed: Pass) -> dict[str, float]:
    """The largest rank correlation of a map with that of the opposite contrast, by layer."""
    alike: dict[str, float] = {}
    for index, name in product(passed.settled.classes, job.layers):
        made = (f"{method.key} against", index, name) in passed.maps
        if made and passed.maps[method.key, index, name].any():
            ((_, value),) = likeness(passed.maps, index, (), [method.key], [name]).items()
            alike[name] = max(alike.get(name, -1.0), value)
    return alike


def _sampled_adaptively(job: Job, passed: Pass, method: Method, request: ExplainOptions) -> Pass:
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
    if request.options["sampling"] == "fixed":
        return passed
    job = replace(job, methods=[method])
    maps, agreements, samples = dict(passed.maps), dict(passed.agreements), dict(passed.samples)
    while True:
        wanted: dict[int, set[Key]] = {}
        for key in product([method.key], passed.settled.classes, job.layers):
            if key in agreements:  # a single copy has none
                taken = samples.get(key, job.samples)
                number = more_samples(taken, agreements[key])
                if number > taken:
                    wanted.setdefault(number, set()).add(key)
        if not wanted:
            return replace(passed, maps=maps, agreements=agreements, samples=samples)
        number = min(wanted)
        keys = wanted[number]
        _LOG.info("%s: %d noisy copies for %d maps", job.model.id, number, len(keys))
        for again in _jobs(job, passed.settled, keys, number):
            found = run(again, reuse=request.reuse)
            for key in keys & found.maps.keys():
                maps[key], agreements[key] = found.maps[key], found.agreements[key]
                samples[key] = number


def more_samples(samples: int, agreement: float) -> int:
    """The number of noisy copies that a map should be made of.

    Args:
        samples: The number that it is made of.
        agreement: The correlation that maps of two seeds can be expected to have.

    Returns:
        Two, four, eight … times the number, ``MOST_SAMPLES`` at most. ``samples`` where the map is
        steady, or has that many already.
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


def _is_blank(found: Explanation) -> bool:
    """Whether every map is zero everywhere."""
    return not any(cam.any() for cam in found.cams.values())


def _explain_with_fallback(
    model: LoadedModel,
    prepared: Prepared,
    blank: Explanation,
    method: Method,
    request: ExplainOptions,
) -> Explanation:
    """The explanation in double precision, or at the last layer whose map is not blank.

    Args:
        model: The model.
        prepared: The picture.
        blank: The explanation in which a class has blank maps only.
        method: The method.
        request: The request.

    Raises:
        NoMap: If there is none, or the layers were the caller's choice.
    """
    layers = list(blank.layers)
    saturating = model.task.saturating or request.options["target"] == "probability"
    if saturating and blank.described["precision"] != "float64":
        try:
            finer = _in_double_precision(model, prepared, blank, method, request)
        except OutOfMemory:
            if _is_blank(blank):
                raise
            return blank
        if not _is_blank(finer):
            return finer
    if not _is_blank(blank):
        return blank
    alternatives: list[list[str]] = []
    chosen_by_depth = request.target_layers is None and request.options["call"] is None
    if chosen_by_depth and method.attribute is None:  # else each would cost as much again
        alternatives = layers_before(model, layers[0], prepared.tensor.shape[1:])
    for spare in alternatives:
        if (found := _last_with_evidence(model, prepared, spare, method, request)) is not None:
            return found
    raise NoMap(
        "blank: nothing at "
        + (f"layer {layers[0]!r}" if len(layers) == 1 else "any of the layers")
        + f" is evidence {_SIDES[request.options['sign']]} the class; try another "
        + ("class" if method.level == "pixel" else "layer or class")
        + (_SATURATED if request.options["target"] == "probability" else "")
        + (f" ({method.blank})" if method.blank else ""),
    )


def _in_double_precision(
    model: LoadedModel,
    prepared: Prepared,
    blank: Explanation,
    method: Method,
    request: ExplainOptions,
) -> Explanation:
    """The same explanation out of a pass in double precision."""
    job = make_job(model, prepared, [method], _same_again(request, blank), double=True)
    passed = run(job, reuse=request.reuse)
    return _make_explanation(model, prepared, method, job, passed, request)


def _last_with_evidence(
    model: LoadedModel,
    prepared: Prepared,
    layers: Sequence[str],
    method: Method,
    request: ExplainOptions,
) -> Explanation | None:
    """The explanation at the last of some layers whose map of the first class is not blank."""
    job = make_job(model, prepared, [method], replace(request, target_layers=list(layers)))
    try:
        passed = run(job, reuse=request.reuse)
    except NoMap:
        return None
    index = passed.settled.classes[0]
    not_blank = [name for name in job.layers if passed.maps[method.key, index, name].any()]
    if not not_blank:
        return None
    last = not_blank[-1]
    job = replace(job, layers={last: job.layers[last]})
    return _make_explanation(model, prepared, method, job, passed, request)


def _same_again(request: ExplainOptions, found: Explanation) -> ExplainOptions:
    """The request for the very layers and classes that were explained."""
    classes = request.classes if callable(request.classes) else list(found.classes)
    return replace(request, target_layers=list(found.layers), classes=classes)
