"""Explains a picture that is ready for its model: one pass, any number of methods."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from cam_hub.composing import compose
from cam_hub.errors import NoMap
from cam_hub.introspection.selection import layers_before
from cam_hub.jobs import make_job
from cam_hub.methods import Method
from cam_hub.passes import RECENT
from cam_hub.preparation import Prepared
from cam_hub.request import Request
from cam_hub.results import Explanation
from cam_hub.sources.base import LoadedModel

__all__ = ["explain_otherwise", "explain_prepared", "is_blank"]


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
    job = make_job(model, prepared, methods, request)
    passed = RECENT.run(job, reuse=request.reuses)
    found = {}
    for method in methods:
        composed = compose(model, prepared, method, job, passed)
        if is_blank(composed):
            composed = explain_otherwise(model, prepared, composed, method, request)
        found[method.name] = composed
    return found


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
