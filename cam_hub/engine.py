"""The one orchestration: photo to tensor, through the network, to maps, to a result."""

from __future__ import annotations

import hashlib
import math
import platform
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from cam_hub import store
from cam_hub._version import __version__
from cam_hub.classes import ClassChoice, choose_classes, label_of, predict
from cam_hub.errors import ImageRefused, InvalidArgument, NoMap
from cam_hub.geometry import Placement
from cam_hub.images import open_image
from cam_hub.introspection.layers import LayerInfo
from cam_hub.introspection.selection import LayerChoice, resolve_layers
from cam_hub.methods import METHODS, Method
from cam_hub.passes import Noise, Pass, Progress, forward_activations, run
from cam_hub.precision import in_double
from cam_hub.results import Explanation, file_stem
from cam_hub.sources.base import LoadedModel
from cam_hub.tensors import check_tensor

__all__ = ["activations", "explain", "reproduce"]

SHOWN_PREDICTIONS = 5
MAX_SAMPLES = 1000


def explain(
    model_or_id: LoadedModel | str,
    image: object,
    *,
    method: str = "smoothgradcampp",
    target_layers: LayerChoice = None,
    classes: ClassChoice = None,
    num_samples: int = 4,
    std: float = 0.3,
    seed: int = 0,
    batch_size: int = 8,
    progress: Progress | None = None,
) -> Explanation:
    """Shows which parts of a picture spoke for which class.

    Args:
        model_or_id: A loaded or wrapped model, or an ID for ``load_model``; a model loaded by ID
            stays in memory for the next call.
        image: A path, bytes, a PIL image, an HWC uint8 array, or an already preprocessed float
            tensor ``(C, H, W)`` or ``(1, C, H, W)``.
        method: A name out of ``METHODS``.
        target_layers: A layer's name, several of them, a word of ``suggest_layers``, or None for
            the recommended layer. A text that is one of the words is that word, even where a
            layer has the same name; in a list, every text is a name.
        classes: A class index, a label, several of these, ``top(count)``, or None for the
            predicted class.
        num_samples: How many noisy copies SmoothGradCAM++ averages over.
        std: Standard deviation of their noise, in units of the normalised input.
        seed: Of their noise; the same call gives the same bytes.
        batch_size: Most images that pass the network at once.
        progress: Called with the part that is done and a few words; what it raises stops the
            work.

    Returns:
        The predictions, and one map per class and layer.

    Raises:
        ImageRefused: If the image cannot be read, or does not fit the model.
        LayerNotFound: If the model has no such layer.
        ClassNotFound: If the model has no such class.
        MethodNotFound: If there is no such method.
        InvalidArgument: If a number makes no sense.
        ModelNotFound, ModelRefused, HubUnavailable: As ``load_model``.
        NoMap: If every map would be blank, or the layer cannot give one.
    """
    chosen = METHODS[method]
    noise = _noise(chosen, num_samples, std, seed)
    if isinstance(batch_size, bool) or not isinstance(batch_size, int) or batch_size < 1:
        raise InvalidArgument("batch_size", batch_size, "a count of at least 1")
    model = _model(model_or_id)
    photo, placement, tensor = _prepare(model, image)
    layers = resolve_layers(model, target_layers, _size(tensor))
    working = _precise_enough(model, layers)
    passed = run(
        working,
        tensor.to(working.device, working.dtype),
        _arranged(layers),
        lambda scores: choose_classes(classes, scores, model.class_names),
        noise=noise,
        batch_size=batch_size,
        progress=progress,
    )
    cams = {key: _cam(chosen, passed, key) for key in passed.evidence}
    if not any(cam.any() for cam in cams.values()):
        raise NoMap(
            "blank: nothing at "
            + (f"layer {layers[0].name!r}" if len(layers) == 1 else "any of the layers")
            + " spoke for the class; try another layer or class",
        )
    return _result(model, photo, placement, layers, chosen, noise, passed, cams)


def activations(
    model: LoadedModel | str, image: object, layers: LayerChoice = None
) -> dict[str, Tensor]:
    """What layers put out for a picture, laid out as the image is.

    Args:
        model: A loaded or wrapped model, or an ID.
        image: As for ``explain``.
        layers: As ``target_layers`` of ``explain``.

    Returns:
        ``(channels, rows, cols)`` per layer name, on the model's device and in its precision
        (in double precision if a layer is ``faint``).

    Raises:
        ImageRefused: If the image cannot be read, or does not fit the model.
        LayerNotFound: If the model has no such layer.
        NoMap: If a layer is not spatial.
    """
    model = _model(model)
    _, _, tensor = _prepare(model, image)
    found = resolve_layers(model, layers, _size(tensor), need_gradient=False)
    working = _precise_enough(model, found)
    return forward_activations(working, tensor.to(working.device, working.dtype), _arranged(found))


def reproduce(
    manifest: Mapping[str, Any], image: object, *, model: LoadedModel | None = None
) -> Explanation:
    """Makes an explanation again from its manifest.

    Args:
        manifest: ``Explanation.manifest``, or the content of a ``manifest.json``.
        image: The same picture.
        model: The model, if it was a wrapped module or had random weights; otherwise it is
            loaded by its ID, in the revision that the manifest names.

    Raises:
        ImageRefused: If it is not the same picture.
        InvalidArgument: If the manifest's model cannot be had by its ID.
    """
    recorded = manifest["model"]
    if model is None:
        if not recorded["pretrained"]:
            raise InvalidArgument("model", None, "the model itself: it has no pretrained weights")
        model = store.get(recorded["id"])
    parameters = manifest["parameters"]
    again = explain(
        model,
        image,
        method=manifest["method"],
        target_layers=list(manifest["layers"]),
        classes=[entry["class_index"] for entry in manifest["classes"]],
        **parameters,
    )
    if again.manifest["image"] != dict(manifest["image"]):
        raise ImageRefused("it is not the picture that the manifest was made from.")
    return again


def _model(model_or_id: LoadedModel | str) -> LoadedModel:
    if isinstance(model_or_id, LoadedModel):
        return model_or_id
    if isinstance(model_or_id, nn.Module):
        raise InvalidArgument("model", type(model_or_id).__name__, "wrap_model(module) or an ID")
    return store.get(model_or_id)


def _noise(method: Method, num_samples: int, std: float, seed: int) -> Noise | None:
    """Checks the numbers whatever the method, so that a wrong one never passes unseen."""
    if isinstance(num_samples, bool) or not isinstance(num_samples, int):
        raise InvalidArgument("num_samples", num_samples, "a whole number")
    if not 1 <= num_samples <= MAX_SAMPLES:
        raise InvalidArgument("num_samples", num_samples, f"1 to {MAX_SAMPLES}")
    if (
        isinstance(std, bool)
        or not isinstance(std, (int, float))
        or not math.isfinite(std)
        or std < 0
    ):
        raise InvalidArgument("std", std, "a finite number, at least 0")
    if isinstance(seed, bool) or not isinstance(seed, int) or not 0 <= seed < 2**63:
        raise InvalidArgument("seed", seed, "a whole number from 0 to 2**63 - 1")
    return Noise(num_samples, float(std), seed) if method.needs_noise else None


def _prepare(model: LoadedModel, image: object) -> tuple[Image.Image, Placement, Tensor]:
    """The photo, where the model's input lies on it, and that input."""
    if isinstance(image, Tensor):
        tensor = check_tensor(image, model.input_size[0])
        height, width = tensor.shape[2:]
        photo = model.preprocessing.denormalise(tensor)
        placement = Placement.identity((width, height))
    else:
        photo = open_image(image)
        tensor = model.preprocessing(photo)
        placement = model.preprocessing.place(photo.size)
    return photo, placement, tensor.to(model.device, model.dtype)


def _precise_enough(model: LoadedModel, layers: Sequence[LayerInfo]) -> LoadedModel:
    """The model, in double precision if what the layers say would be lost in rounding errors."""
    return in_double(model) if any(layer.faint for layer in layers) else model


def _size(tensor: Tensor) -> tuple[int, int, int]:
    _, channels, rows, cols = tensor.shape
    return channels, rows, cols


def _arranged(layers: Sequence[LayerInfo]) -> dict[str, Any]:
    return {layer.name: layer.arrangement for layer in layers}


def _cam(
    method: Method, passed: Pass, key: tuple[int, str]
) -> np.ndarray[Any, np.dtype[np.float32]]:
    with torch.no_grad():
        cam = method.compute(passed.evidence[key])[0]
    if not bool(torch.isfinite(cam).all()):
        raise NoMap("its map holds values that are not finite (NaN or infinity)", layer=key[1])
    return cam.float().cpu().numpy()


def _result(
    model: LoadedModel,
    photo: Image.Image,
    placement: Placement,
    layers: Sequence[LayerInfo],
    method: Method,
    noise: Noise | None,
    passed: Pass,
    cams: Mapping[tuple[int, str], np.ndarray[Any, np.dtype[np.float32]]],
) -> Explanation:
    everything = predict(passed.scores, model.class_names)
    predictions = tuple(everything[:SHOWN_PREDICTIONS])
    by_index = {found.class_index: found for found in everything}
    explained = [by_index[index] for index in passed.classes]
    names = [layer.name for layer in layers]
    parameters = (
        {"num_samples": noise.num_samples, "std": noise.std, "seed": noise.seed} if noise else {}
    )
    manifest: dict[str, Any] = {
        "model": {
            "id": model.id,
            "source": model.source,
            "revision": model.revision,
            "pretrained": model.pretrained,
            "input_size": list(model.input_size),
        },
        "image": {
            "size": list(photo.size),
            "sha256": hashlib.sha256(photo.tobytes()).hexdigest(),
        },
        "method": method.name,
        "parameters": parameters,
        "layers": names,
        "classes": [vars(found) for found in explained],
        "target": "class score before softmax",
        "predictions": [vars(found) for found in predictions],
        "preprocessing": model.preprocessing.as_dict(),
        "placement": placement.as_dict(),
        "maps": [
            {
                "class_index": index,
                "layer": name,
                "grid": list(cams[index, name].shape),
                "file": f"cam-{index}-{file_stem(position, name)}.npy",
            }
            for index in passed.classes
            for position, name in enumerate(names)
        ],
        "device": str(model.device),
        "precision": str(passed.scores.dtype).removeprefix("torch."),
        "versions": _versions(),
    }
    return Explanation(
        photo=photo,
        placement=placement,
        predictions=predictions,
        classes=passed.classes,
        layers=tuple(names),
        cams=cams,
        labels={index: label_of(index, model.class_names) for index in passed.classes},
        manifest=manifest,
    )


def _versions() -> dict[str, str]:
    packages = ("torch", "torchvision", "timm", "numpy", "Pillow")
    return {
        "cam_hub": __version__,
        "python": platform.python_version(),
        **{name: version(name) for name in packages},
    }
