"""From what a pass has brought back to an ``Explanation`` with its manifest."""

from __future__ import annotations

from collections.abc import Sequence

from cam_hub.introspection.extent import on_input
from cam_hub.manifests import make_manifest
from cam_hub.methods import Method
from cam_hub.passes import Job, Pass
from cam_hub.preparation import Prepared
from cam_hub.ranking import Prediction, label_of
from cam_hub.results import Explanation
from cam_hub.sources.base import LoadedModel

__all__ = ["compose"]


def compose(
    model: LoadedModel,
    prepared: Prepared,
    method: Method,
    job: Job,
    passed: Pass,
) -> Explanation:
    """Puts one method's maps together with all that they are maps of.

    Args:
        model: The model.
        prepared: The picture.
        method: The method.
        job: What the pass was to find out.
        passed: What it has brought back.
    """
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
        precision=str(job.image.dtype).removeprefix("torch."),
        autocast=None if autocast is None else str(autocast).removeprefix("torch."),
        batch_size=job.size if noise is not None else None,
        notes=model.execution.notes,
        layer_notes={name: layer.notes for name, layer in job.layers.items() if layer.notes},
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


def _predictions(
    passed: Pass, names: Sequence[str] | None, own: Sequence[str] | None
) -> tuple[tuple[Prediction, ...], dict[int, Prediction]]:
    """The predictions, and what the model says of the explained classes by index.

    Classes of which the model said nothing are in neither.
    """
    standings = passed.standings
    chosen = {
        index: standings.prediction(index, names)
        for index in passed.settled.classes
        if standings.tells(index)
    }
    if standings.predicted is not None:
        standings = standings.predicted
        names = standings.labels or own
    return tuple(standings.prediction(index, names) for index in standings.shown), chosen
