"""The result of a pass: an explanation with its manifest."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from cam_hub.attribution.adaptive_sampling import sampled_adaptively
from cam_hub.attribution.passes import Job, Pass
from cam_hub.attribution.preparation import Prepared
from cam_hub.attribution.request import ExplainOptions
from cam_hub.layers.layouts import on_input
from cam_hub.methods import Method
from cam_hub.models.loaded_model import LoadedModel
from cam_hub.results.explanation import Explanation
from cam_hub.results.manifest import make_manifest
from cam_hub.targets.classes import Prediction, label_of

__all__ = ["STEADY", "make_explanation"]

STEADY = 0.97
"""A map of which another seed's would correlate less is noted to depend on the noise."""


def make_explanation(
    model: LoadedModel,
    prepared: Prepared,
    method: Method,
    job: Job,
    passed: Pass,
    request: ExplainOptions,
) -> Explanation:
    """An explanation: one method's maps, with all that they are maps of.

    Passes of more noisy copies follow where the request allows them and the maps need them.

    Args:
        model: The model.
        prepared: The picture.
        method: The method.
        job: What the pass was to find out.
        passed: What it has brought back.
        request: The request.
    """
    passed = sampled_adaptively(job, passed, method, request)
    names = passed.labels or model.class_names
    cams = {
        (index, name): passed.maps[method.key, index, name]
        for index in passed.settled.classes
        for name in job.layers
    }
    cams = {  # of a clip, and of frames in an image's channels: grids one below the other
        (index, name): cam.reshape(job.layers[name].frames, -1, cam.shape[1])
        if prepared.is_clip or job.layers[name].frames > 1
        else cam
        for (index, name), cam in cams.items()
    }
    cams = {
        (index, name): on_input(cam, job.layers[name].extent) for (index, name), cam in cams.items()
    }
    shown, chosen = _predictions(passed, names, model.class_names)
    against = passed.settled.contrast
    labels = {index: label_of(index, names) for index in passed.settled.classes}
    agreement = _agreement(method, job, passed)
    samples = {
        key: passed.samples.get((method.key, *key), job.samples)
        for key in cams
        if method.needs_noise
    }
    layer_names = list(job.layers)
    autocast = job.setting.autocast
    noise = job.noise if method.needs_noise else None
    described = make_manifest(
        model,
        placement=prepared.placement.as_dict(),
        method=method.name,
        parameters=vars(noise) if noise is not None else {},
        layers=layer_names,
        classes=[
            vars(chosen[index])
            if index in chosen
            else {"class_index": index, "label": labels[index]}
            for index in passed.settled.classes
        ],
        contrast=[
            {"class_index": other, "label": label_of(other, names), "weight": weight}
            for other, weight in against or ()
        ],
        target=passed.target,
        options=job.options,
        predictions=shown,
        grids={key: cam.shape for key, cam in cams.items()},
        samples=samples,
        precision=str(job.image.dtype).removeprefix("torch."),
        autocast=None if autocast is None else str(autocast).removeprefix("torch."),
        batch_size=min(job.batch_size, 1 + max(samples.values())) if samples else None,
        notes=model.execution.notes,
        layer_notes=_layer_notes(job, agreement, samples),
        agreement=agreement,
    )
    return Explanation(
        pictures=prepared.pictures,
        placement=prepared.placement,
        predictions=shown,
        classes=passed.settled.classes,
        layers=tuple(layer_names),
        cams=cams,
        labels=labels,
        described=described,
    )


def _agreement(method: Method, job: Job, passed: Pass) -> dict[str, float]:
    """By layer, how far another seed's map can be expected to agree: the least of all classes.

    Three digits, so that rounding does not show.
    """
    found = {
        name: [
            passed.agreements[key]
            for index in passed.settled.classes
            if (key := (method.key, index, name)) in passed.agreements
        ]
        for name in job.layers
    }
    return {name: round(min(each), 3) for name, each in found.items() if each}


def _layer_notes(
    job: Job, agreement: Mapping[str, float], samples: Mapping[tuple[int, str], int]
) -> dict[str, str]:
    """What must be known of the maps of each layer, where there is anything."""
    notes = {name: [layer.notes] if layer.notes else [] for name, layer in job.layers.items()}
    for name, correlation in agreement.items():
        if correlation < STEADY:
            taken = max(number for (_, layer), number in samples.items() if layer == name)
            notes[name].append(
                f"its map depends on the noise: going by how far its {taken} noisy copies "
                f"differ, the map of another seed would correlate with it at {correlation:.2f}; "
                "more samples make it steadier, and the end of its block, or a later layer, may be "
                "steadier"
            )
    return {name: "; ".join(each) for name, each in notes.items() if each}


def _predictions(
    passed: Pass, names: Sequence[str] | None, own: Sequence[str] | None
) -> tuple[tuple[Prediction, ...], dict[int, Prediction]]:
    """The predictions, and those of the explained classes by index.

    Classes without a score are in neither.
    """
    standings = passed.standings
    chosen = {
        each.class_index: each for each in standings.predictions(names, passed.settled.classes)
    }
    if standings.predicted is not None:
        standings = standings.predicted
        names = standings.labels or own
    return standings.predictions(names), chosen
