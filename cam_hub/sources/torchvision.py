"""torchvision's models and their weights."""

from __future__ import annotations

import inspect
import os
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any, cast
from urllib.parse import urlsplit

import torch.hub
import torchvision.models as zoo
from torch import nn

from cam_hub._text import first_line
from cam_hub._version import __version__
from cam_hub.errors import InvalidArgument, ModelNotFound, ModelRefused
from cam_hub.images.clips import ClipPreprocessing
from cam_hub.images.preprocessing import Preprocessing
from cam_hub.models.checkpoint import load_pickle
from cam_hub.models.initialisation import build_without_initialisation, wake
from cam_hub.models.loaded_model import LoadedModel
from cam_hub.models.loading import LoadRequest, ModelFacts, check_fits, check_limits
from cam_hub.sources.download import (
    FileServer,
    RemoteFile,
    Report,
    caller_may_stop,
    download,
    file_lock,
    poll_of,
    translated_errors,
)
from cam_hub.targets import make_task
from cam_hub.targets.detection import THRESHOLD

__all__ = [
    "KINDS",
    "REFUSED",
    "Kind",
    "TorchvisionSource",
    "detect_anything",
    "fetch_weights",
    "weights_bytes",
    "weights_file",
]


_DETECTOR_SIDE = 640
"""Side of the input of a detector that states no size."""

_CLIP_FRAMES = 16
"""Minimum number of frames of a clip. No weights state how many they were trained on; most were
trained on clips of 16, and all accept them."""


@dataclass(frozen=True)
class Kind:
    """Models of one package.

    Attributes:
        task: Name of their task.
        preprocessing: Makes the preprocessing of the weights (for their preset) and the built
            model.
    """

    task: str
    preprocessing: Callable[[zoo.Weights, nn.Module], Preprocessing | ClipPreprocessing]


def _video_input(weights: zoo.Weights, module: nn.Module) -> ClipPreprocessing:
    """The minimum number of frames of the weights, or the usual number if that is larger."""
    del module
    least = weights.meta.get("min_temporal_size") or 1
    return ClipPreprocessing.from_torchvision(weights.transforms(), max(_CLIP_FRAMES, least))


def _segmenter_input(weights: zoo.Weights, module: nn.Module) -> Preprocessing:
    """A square of the preset's size with the whole photo in it.

    The preset scales the shorter side to that size and crops nothing, so that inputs differ in
    shape. Here the longer side is scaled to it, and the border is filled with the mean colour.
    """
    del module
    preset = weights.transforms()
    side = preset.resize_size[0]
    return Preprocessing(
        input_size=(len(preset.mean), side, side),
        mean=preset.mean,
        std=preset.std,
        crop_pct=1.0,
        crop_mode="border",
        interpolation=preset.interpolation.value,
    )


def _detector_input(weights: zoo.Weights, module: nn.Module) -> Preprocessing:
    """A square with the whole photo in it, of the size that the model itself would resize to.

    So its own resizing changes nothing. Values are in [0, 1]: the model normalises them itself.
    """
    del weights
    resizing = getattr(module, "transform", None)
    fixed = getattr(resizing, "fixed_size", None)
    sides = getattr(resizing, "min_size", None) or (_DETECTOR_SIDE,)
    side = int(min(sides[-1], getattr(resizing, "max_size", sides[-1])))
    width, height = fixed or (side, side)
    return Preprocessing(
        input_size=(3, height, width),
        mean=(0.0, 0.0, 0.0),
        std=(1.0, 1.0, 1.0),
        crop_pct=1.0,
        crop_mode="border",
        interpolation="bilinear",
    )


KINDS: dict[ModuleType, Kind] = {
    zoo: Kind(
        "classification",
        lambda weights, _module: Preprocessing.from_torchvision(weights.transforms()),
    ),
    zoo.segmentation: Kind("segmentation", _segmenter_input),
    zoo.detection: Kind("detection", _detector_input),
    zoo.video: Kind("classification", _video_input),
}
"""The packages whose models can be explained."""

REFUSED: dict[ModuleType, str] = {
    zoo.quantization: "it is quantised: integer weights have no gradient, so no class score can "
    "be differentiated. The same architecture without 'quantized_' in its name works.",
    zoo.optical_flow: "it is made for optical flow: it returns a field of motion between two "
    "pictures, and no class to explain. Models of classes, segments, boxes and clips work.",
}
"""The packages whose models cannot, and why."""


def detect_anything(module: nn.Module) -> None:
    """Lets a detector with random weights find boxes, however low their scores are."""
    for child in module.modules():
        if isinstance(getattr(child, THRESHOLD, None), (int, float)):
            setattr(child, THRESHOLD, 0.0)


_MIRROR = "CAM_HUB_TORCHVISION_URL"
_DIGEST = re.compile(r"-([0-9a-f]{8,64})\.")

_ADVICE = (
    "A checkpoint that lies in torch's hub folder ($TORCH_HOME/hub/checkpoints) is used without "
    f"a network, and {_MIRROR} names a mirror."
)
_SERVER = FileServer(
    name="its server",
    folder="torch's hub folder",
    setting="TORCH_HOME",
    unreachable_hint=_ADVICE,
    advice=_ADVICE,
)


def weights_file(weights: zoo.Weights) -> Path:
    """The path of a checkpoint in torch's cache, which may not exist."""
    return Path(torch.hub.get_dir()) / "checkpoints" / Path(urlsplit(weights.url).path).name


def weights_bytes(weights: zoo.Weights) -> int:
    """The approximate size of a checkpoint, in bytes."""
    return int(weights.meta["_file_size"] * 2**20)


def fetch_weights(request: LoadRequest, weights: zoo.Weights) -> None:
    """Fetches a checkpoint for torchvision unless it is cached; checks that it holds only tensors.

    It is fetched from torchvision's URL, or from the mirror in ``CAM_HUB_TORCHVISION_URL``, which
    replaces scheme and host (``https://mirror.example/pytorch`` for
    ``https://download.pytorch.org``).

    torchvision reads its checkpoints by a reader that executes code in them; so a reader that does
    not is used first.

    Raises:
        HubUnavailable: If it cannot be fetched.
        ModelRefused: If it is damaged, or holds anything else than tensors.
        InvalidArgument: If the mirror is not a URL.
    """
    id, path = str(request.id), weights_file(weights)
    if not path.is_file():
        _fetch(request, weights, path)
    try:
        with caller_may_stop():
            load_pickle(id, path, poll_of(id, request.progress))
    except ModelRefused as error:
        raise ModelRefused(
            id,
            f"{error.reason} Once it is removed from torch's hub folder it is fetched again.",
        ) from error


def _fetch(request: LoadRequest, weights: zoo.Weights, path: Path) -> None:
    """Fetches a checkpoint, unless another program does so meanwhile."""
    id, size = str(request.id), weights_bytes(weights)
    digest = _DIGEST.search(path.name)
    if digest is None:
        raise ModelRefused(id, f"its file {path.name} does not name its digest.")
    file = RemoteFile(
        id,
        path.name,
        _address(weights.url),
        size,
        digest[1],
        _SERVER,
        exact=False,
        headers={"User-Agent": f"cam_hub/{__version__}"},
    )
    with caller_may_stop(), translated_errors(id, _SERVER):
        on_bytes = Report(id, size, request.progress).file(size)
        with file_lock(path, path.with_name(f".{path.name}.lock"), on_bytes):
            if not path.is_file():
                download(file, path, on_bytes)


def _address(url: str) -> str:
    """Where to fetch from."""
    mirror = os.environ.get(_MIRROR, "").strip().rstrip("/")
    if not mirror:
        return url
    parts = urlsplit(mirror)
    if parts.scheme not in ("http", "https") or not parts.netloc:
        raise InvalidArgument(_MIRROR, mirror, "an address such as 'https://mirror.example'")
    return f"{mirror}{urlsplit(url).path}"


@cache
def _kinds() -> Mapping[str, Kind]:
    """What kind each model that can be explained is of."""
    return {name: kind for package, kind in KINDS.items() for name in zoo.list_models(package)}


@cache
def _reasons() -> Mapping[str, str]:
    """Why each of the others cannot be."""
    return {name: why for package, why in REFUSED.items() for name in zoo.list_models(package)}


class TorchvisionSource:
    """Loads ``torchvision/NAME[@WEIGHTS]``."""

    name = "torchvision"

    def claims(self, request: LoadRequest) -> bool:
        """Whether the ID names torchvision."""
        return request.id.kind == "torchvision"

    def load(self, request: LoadRequest) -> LoadedModel:
        """Builds the model; its checkpoint is downloaded unless torch's hub folder has it."""
        id, kind = str(request.id), _kind(request)
        weights = _weights(request)
        facts = self.describe(request)
        check_limits(facts, request.limits, weights_file(weights).parent)
        check_fits(facts, request)
        module = _build(request, weights)
        if not request.pretrained:
            wake(module)
            detect_anything(module)
        names = _labels(weights)
        task = kind.task
        if task == "classification" and names is None:
            # Its classifier, the last part of all of them, is filled up with NaN.
            *_, (classifier, _) = module.named_children()
            setattr(module, classifier, nn.Identity())
            task = "similarity"
        return LoadedModel(
            id=id,
            module=module,
            preprocessing=kind.preprocessing(weights, module),
            class_names=names,
            source=self.name,
            revision=weights.name if request.pretrained else None,
            pretrained=request.pretrained,
            task=make_task(task, class_names=names),
        )

    def describe(self, request: LoadRequest) -> ModelFacts:
        """The facts in torchvision's metadata, which has no licence."""
        kind = _kind(request)
        weights = _weights(request)
        file, size = weights_file(weights), weights_bytes(weights)
        input_size = None
        if kind.task != "detection":  # which is known only from the built network
            input_size = kind.preprocessing(weights, nn.Identity()).input_size
        return ModelFacts(
            id=str(request.id),
            source=self.name,
            revision=weights.name if request.pretrained else None,
            parameters=weights.meta.get("num_params"),
            weights_file=file.name if request.pretrained else None,
            weights_bytes=size if request.pretrained else None,
            fetch_bytes=0 if file.is_file() or not request.pretrained else size,
            library="torchvision",
            input_size=input_size,
            class_names=_labels(weights),
        )

    def known_ids(self, *, pretrained: bool) -> Iterable[str]:
        """All models of torchvision that can be explained."""
        return [f"torchvision/{name}" for name in _kinds()]


def _kind(request: LoadRequest) -> Kind:
    """The kind of a model that can be explained."""
    name, id = request.id.name, str(request.id)
    if name in _reasons():
        raise ModelRefused(id, _reasons()[name])
    if name not in _kinds():
        raise ModelNotFound(id)
    return _kinds()[name]


def _labels(weights: zoo.Weights) -> tuple[str, ...] | None:
    """One label per class that the weights were trained for."""
    categories = weights.meta.get("categories")
    return tuple(categories) if categories else None


def _build(request: LoadRequest, weights: zoo.Weights) -> nn.Module:
    """The network, with these weights or random ones."""
    name = request.id.name
    options: dict[str, Any] = {}
    if "weights_backbone" in inspect.signature(zoo.get_model_builder(name)).parameters:
        # Or a backbone's weights would be fetched, even for a model with random ones.
        options["weights_backbone"] = None
    if request.pretrained:
        fetch_weights(request, weights)
    try:
        if not request.pretrained:
            return cast(nn.Module, zoo.get_model(name, weights=None, **options))
        return build_without_initialisation(lambda: zoo.get_model(name, weights=weights, **options))
    except Exception as error:  # whatever a file of another network makes torch raise
        raise ModelRefused(
            str(request.id),
            f"torchvision could not build it from its checkpoint ({first_line(error)}).",
        ) from error


def _weights(request: LoadRequest) -> zoo.Weights:
    """The weights that the ID names, or the model's default ones."""
    choices = zoo.get_model_weights(request.id.name)
    wanted = request.id.revision or "DEFAULT"
    if wanted not in choices.__members__:
        raise ModelNotFound(
            str(request.id),
            [f"{request.id.repo}@{name}" for name in choices.__members__],
            "The model has no weights of this name.",
        )
    chosen: zoo.Weights = choices[wanted]
    return chosen
