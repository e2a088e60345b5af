"""Blank maps: a more precise pass, or the last earlier layer whose map is not blank."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from cam_hub.attribution.passes import run
from cam_hub.attribution.preparation import Prepared, make_job
from cam_hub.attribution.request import ExplainOptions
from cam_hub.attribution.result import make_explanation
from cam_hub.errors import NoMap, OutOfMemory
from cam_hub.layers.listing import layers_before
from cam_hub.methods import Method
from cam_hub.models.loaded_model import LoadedModel
from cam_hub.results.explanation import Explanation

__all__ = ["explain_with_fallback", "has_blank_class"]

_SIDES = {"for": "for", "against": "against", "both": "for or against"}

_SATURATED = ", or target='logit': where a probability is all but 0 or 1, it has no gradient"


def is_blank(found: Explanation) -> bool:
    """Whether every map is zero everywhere."""
    return not any(cam.any() for cam in found.cams.values())


def has_blank_class(found: Explanation) -> bool:
    """Whether the maps of one of the classes are zero everywhere at all layers."""
    return any(
        not any(found.cams[index, name].any() for name in found.layers) for index in found.classes
    )


def explain_with_fallback(
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
            if is_blank(blank):
                raise
            return blank
        if not is_blank(finer):
            return finer
    if not is_blank(blank):
        return blank
    alternatives: list[list[str]] = []
    if request.target_layers is None and request.options["call"] is None:
        alternatives = layers_before(model, layers[0], prepared.size)
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
    job = make_job(model, prepared, [method], _settled(request, blank), double=True)
    passed = run(job, reuse=request.reuses)
    return make_explanation(model, prepared, method, job, passed, request)


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
        passed = run(job, reuse=request.reuses)
    except NoMap:
        return None
    index = passed.settled.classes[0]
    not_blank = [name for name in job.layers if passed.maps[method.key, index, name].any()]
    if not not_blank:
        return None
    last = not_blank[-1]
    job = replace(job, layers={last: job.layers[last]})
    return make_explanation(model, prepared, method, job, passed, request)


def _settled(request: ExplainOptions, found: Explanation) -> ExplainOptions:
    """The request for the very layers and classes that were explained."""
    classes = request.classes if callable(request.classes) else list(found.classes)
    return replace(request, target_layers=list(found.layers), classes=classes)
