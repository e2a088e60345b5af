"""The explanation that a pass gives, and where it is blank, that of another pass.

A blank map calls for a more precise pass, or for the last earlier layer whose map is not blank.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import product

from cam_hub.attribution.adaptive_sampling import sampled_adaptively
from cam_hub.attribution.passes import Job, Pass, run
from cam_hub.attribution.preparation import Prepared, make_job
from cam_hub.attribution.request import ExplainOptions
from cam_hub.errors import NoMap, OutOfMemory
from cam_hub.layers.layouts import on_input
from cam_hub.layers.listing import layers_before
from cam_hub.methods import Method
from cam_hub.models.loaded_model import LoadedModel
from cam_hub.results.explanation import Explanation
from cam_hub.results.manifest import make_manifest
from cam_hub.targets.classes import label_of

__all__ = ["STEADY", "explanation_of"]

STEADY = 0.97
"""A map of which another seed's would correlate less is noted to depend on the noise."""

_UNSTEADY = (
    "its map depends on the noise: going by how far its {taken} noisy copies differ, the map of "
    "another seed would correlate with it at {correlation:.2f}; more samples make it steadier, and "
    "the end of its block, or a later layer, may be steadier"
)

_SIDES = {"for": "for", "against": "against", "both": "for or against"}

_SATURATED = ", or target='logit': where a probability is all but 0 or 1, it has no gradient"


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
    for index in found.classes:
        if not any(found.cams[index, name].any() for name in found.layers):
            return _explain_with_fallback(model, prepared, found, method, request)
    return found


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
    samples: dict[tuple[int, str], int] = {}
    agreement: dict[str, float] = {}
    notes = {name: [layer.notes] if layer.notes else [] for name, layer in job.layers.items()}
    classes = passed.settled.classes
    if method.needs_noise:
        passed = sampled_adaptively(job, passed, method, request)
        for index, name in product(classes, job.layers):
            key = method.key, index, name
            samples[index, name] = passed.samples.get(key, job.samples)
            if key in passed.agreements:  # three digits, so that rounding does not show
                correlation = round(passed.agreements[key], 3)
                agreement[name] = min(agreement.get(name, 1.0), correlation)
        for name, correlation in agreement.items():
            if correlation < STEADY:
                taken = max(samples[index, name] for index in classes)
                notes[name].append(_UNSTEADY.format(taken=taken, correlation=correlation))
    cams = {}
    for index, name in product(classes, job.layers):
        layer, cam = job.layers[name], passed.maps[method.key, index, name]
        if prepared.tensor.ndim == 5 or layer.frames > 1:  # grids one below the other
            cam = cam.reshape(layer.frames, -1, cam.shape[1])
        cams[index, name] = on_input(cam, layer.extent)
    names, standings = passed.labels or model.class_names, passed.standings
    labels = {index: label_of(index, names) for index in classes}
    scored = {each.class_index: vars(each) for each in standings.predictions(names, classes)}
    shown, shown_names = standings, names
    if standings.predicted is not None:  # something else than the classes is explained
        shown = standings.predicted
        shown_names = shown.labels or model.class_names
    predictions = shown.predictions(shown_names)
    described = make_manifest(
        model,
        placement=prepared.placement.as_dict(),
        method=method.name,
        parameters=vars(job.noise) if method.needs_noise and job.noise is not None else {},
        layers=list(job.layers),
        classes=[
            scored.get(index, {"class_index": index, "label": labels[index]}) for index in classes
        ],
        contrast=[
            {"class_index": other, "label": label_of(other, names), "weight": weight}
            for other, weight in passed.settled.contrast or ()
        ],
        target=passed.target,
        options=job.options,
        predictions=predictions,
        grids={key: cam.shape for key, cam in cams.items()},
        samples=samples,
        precision=str(job.image.dtype).removeprefix("torch."),
        autocast=str(job.setting.autocast or "").removeprefix("torch.") or None,
        batch_size=min(job.batch_size, 1 + max(samples.values())) if samples else None,
        notes=model.execution.notes,
        layer_notes={name: "; ".join(each) for name, each in notes.items() if each},
        agreement=agreement,
    )
    return Explanation(
        pictures=prepared.pictures,
        placement=prepared.placement,
        predictions=predictions,
        classes=classes,
        layers=tuple(job.layers),
        cams=cams,
        labels=labels,
        described=described,
    )


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
    if request.target_layers is None and request.options["call"] is None:
        alternatives = layers_before(model, layers[0], prepared.tensor.shape[1:])
    for spare in alternatives:
        if (found := _last_with_evidence(model, prepared, spare, method, request)) is not None:
            return found
    raise NoMap(
        "blank: nothing at "
        + (f"layer {layers[0]!r}" if len(layers) == 1 else "any of the layers")
        + f" is evidence {_SIDES[request.options['sign']]} the class; try another layer or class"
        + (_SATURATED if request.options["target"] == "probability" else ""),
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
