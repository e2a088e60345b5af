"""From what a pass has brought back to an explanation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from cam_hub.batch_pass import Passed
from cam_hub.classes import Prediction, label_of
from cam_hub.errors import NoMap
from cam_hub.folders import frame_files
from cam_hub.introspection.layer_info import LayerInfo
from cam_hub.manifests import make_manifest
from cam_hub.methods import Evidence, Method
from cam_hub.passes import Noise
from cam_hub.preparation import Prepared
from cam_hub.results import Explanation
from cam_hub.sources.base import LoadedModel
from cam_hub.tasks.base import Standings, Target

__all__ = ["Cams", "make_cams", "make_explanation"]

Cams = dict[tuple[int, str], NDArray[np.float32]]
"""Maps by class index and layer: ``(rows, cols)``, of a clip ``(steps, rows, cols)``."""

SHOWN_PREDICTIONS = 5


def make_cams(method: Method, passed: Passed, layers: Sequence[LayerInfo], *, clip: bool) -> Cams:
    """The maps of a pass, un-normalised.

    Args:
        method: Makes them.
        passed: The pass.
        layers: Its layers.
        clip: Whether the picture is a clip.

    Raises:
        NoMap: If one holds values that are not finite.
    """
    cams = {key: _cam(method, key[1], evidence) for key, evidence in passed.evidence.items()}
    if not clip:
        return cams
    steps = {layer.name: layer.frames for layer in layers}
    return {
        (index, name): cam.reshape(steps[name], -1, cam.shape[1])
        for (index, name), cam in cams.items()
    }


def make_explanation(
    model: LoadedModel,
    prepared: Prepared,
    facts: Mapping[str, Any],
    layers: Sequence[LayerInfo],
    method: Method,
    noise: Noise | None,
    target: Target,
    passed: Passed,
    cams: Cams,
) -> Explanation:
    """Puts a result together, with its manifest.

    Args:
        model: The model.
        prepared: The picture.
        facts: What the manifest says of it, as of ``preparation.facts_of``.
        layers: The target layers.
        method: What made the maps.
        noise: What was added to the noisy copies; None if there were none.
        target: What was differentiated.
        passed: The pass.
        cams: Its maps.
    """
    names = target.labels or model.class_names
    shown, explained = _predictions(passed.standings, passed.classes, names)
    labels = {index: label_of(index, names) for index in passed.classes}
    layer_names = [layer.name for layer in layers]
    manifest = make_manifest(
        model,
        image=facts,
        frames=frame_files(prepared.frames) if prepared.is_clip else (),
        placement=prepared.placement.as_dict(),
        method=method.name,
        parameters=vars(noise) if noise else {},
        layers=layer_names,
        classes=[
            vars(explained[index])
            if index in explained
            else {"class_index": index, "label": labels[index]}
            for index in passed.classes
        ],
        target=target.describe(),
        predictions=shown,
        grids={key: cam.shape for key, cam in cams.items()},
        precision=str(prepared.tensor.dtype).removeprefix("torch."),
    )
    return Explanation(
        photo=prepared.frames[len(prepared.frames) // 2],
        frames=prepared.frames,
        placement=prepared.placement,
        predictions=shown,
        classes=passed.classes,
        layers=tuple(layer_names),
        cams=cams,
        labels=labels,
        manifest=manifest,
    )


def _cam(method: Method, layer: str, evidence: Evidence) -> NDArray[np.float32]:
    with torch.no_grad():
        cam = method.compute(evidence)[0].float().cpu().numpy()
    if not np.isfinite(cam).all():
        raise NoMap("its map holds values that are not finite (NaN or infinity)", layer=layer)
    return cam


def _predictions(
    standings: Standings, wanted: Sequence[int], names: Sequence[str] | None
) -> tuple[tuple[Prediction, ...], dict[int, Prediction]]:
    """The best predictions, and those of some classes by index.

    Classes of which the model said nothing are left out. Labels and numbers of the many others
    are not looked up: with a thousand classes that takes longer than the maps.
    """
    if standings.probabilities is None:
        return (), {}
    probabilities: list[float] = standings.probabilities.tolist()
    said: list[bool] = (standings.eligible | (standings.probabilities > 0)).tolist()
    order: list[int] = torch.sort(standings.ranking, descending=True, stable=True).indices.tolist()

    def told(index: int) -> Prediction:
        return Prediction(index, label_of(index, names), probabilities[index])

    best = [index for index in order if said[index]][:SHOWN_PREDICTIONS]
    return tuple(map(told, best)), {index: told(index) for index in wanted if said[index]}
