"""The one orchestration: photo to tensor, through the network, to maps, to a result."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn

from cam_hub import store
from cam_hub.classes import ClassChoice, choose_classes
from cam_hub.composing import compose
from cam_hub.errors import InvalidArgument, NoMap
from cam_hub.introspection.layers import LayerInfo
from cam_hub.introspection.selection import LayerChoice, layers_before, resolve_layers
from cam_hub.memory_format import suited_format
from cam_hub.methods import METHODS, Method
from cam_hub.passes import RECENT, Job, Progress, Setting, forward_activations
from cam_hub.precision import in_double
from cam_hub.preparation import Prepared, ask, prepare
from cam_hub.request import Request
from cam_hub.results import Explanation
from cam_hub.sources.base import LoadedModel
from cam_hub.tasks.region import RegionChoice

__all__ = ["activations", "explain", "explain_methods"]


def explain(
    model_or_id: LoadedModel | str,
    image: object,
    *,
    method: str = "smoothgradcampp",
    target_layers: LayerChoice = None,
    classes: ClassChoice = None,
    region: RegionChoice = None,
    reference: object = None,
    num_samples: int = 4,
    std: float = 0.3,
    seed: int = 0,
    batch_size: int = 8,
    autocast: str | None = None,
    reuse: bool = True,
    progress: Progress | None = None,
) -> Explanation:
    """Shows which parts of a picture spoke for which class.

    Args:
        model_or_id: A loaded or wrapped model, or an ID for ``load_model``; a model loaded by ID
            stays in memory for the next call.
        image: A path, bytes, a PIL image, an HWC uint8 array, or an already preprocessed float
            tensor ``(C, H, W)`` or ``(1, C, H, W)``. For a model of clips: several of these as a
            list, an animated GIF, WebP or APNG, a uint8 array ``(T, H, W, 3)``, a preprocessed
            float tensor ``(C, T, H, W)`` or ``(1, C, T, H, W)``; or a single picture, which is a
            clip in which nothing moves.
        method: A name out of ``METHODS``.
        target_layers: A layer's name, several of them, a word of ``suggest_layers``, or None for
            the recommended layer (where that is blank for this picture, the last one before it
            that is not). A text that is one of the words is that word, even where a layer has the
            same name; in a list, every text is a name.
        classes: A class index, a label, several of these, ``top(count)``, or None for the
            predicted class.
        region: Of a segmentation or detection model: the part of the photo that is asked about,
            a box ``(left, top, right, bottom)`` in its pixels or a boolean mask ``(H, W)``; None
            for all of it.
        reference: Of a model without a classifier: the picture whose features are compared with,
            given like ``image``; None for the picture itself.
        num_samples: How many noisy copies SmoothGradCAM++ averages over.
        std: Standard deviation of their noise, in units of the normalised input.
        seed: Of their noise; the same call gives the same map. (Its last digits may depend on
            what else was in the batch, which what is kept of recent calls decides.)
        batch_size: Most images that pass the network at once; fewer where memory does not suffice.
        autocast: ``"bfloat16"`` or ``"float16"`` to have torch's autocast compute what it can in
            that type: faster and smaller on hardware made for it. Maps stay within about 2 % and
            0.5 % of their maximum. None for the model's own type.
        reuse: Whether what recent calls found out about the same picture is used, and this one's
            is kept. It takes a bounded amount of memory, which ``CAM_HUB_PASSES`` sets.
        progress: Called with the part that is done and a few words; what it raises stops the
            work.

    Returns:
        The predictions, and one map per class and layer.

    Raises:
        ImageRefused: If the image cannot be read, or does not fit the model.
        LayerNotFound: If the model has no such layer.
        ClassNotFound: If the model has no such class.
        MethodNotFound: If there is no such method.
        InvalidArgument: If a number makes no sense, or the model has no use for a region or a
            reference.
        ModelNotFound, ModelRefused, HubUnavailable: As ``load_model``.
        NoMap: If every map would be blank, or the layer cannot give one.
        OutOfMemory: If memory does not suffice for one image at a time.
    """
    request = Request.checked(
        target_layers=target_layers,
        classes=classes,
        region=region,
        reference=reference,
        num_samples=num_samples,
        std=std,
        seed=seed,
        batch_size=batch_size,
        autocast=autocast,
        reuse=reuse,
        progress=progress,
    )
    chosen = METHODS[method]
    model = _model(model_or_id)
    return _explain(model, prepare(model, image), [chosen], request)[chosen.name]


def explain_methods(
    model_or_id: LoadedModel | str,
    image: object,
    methods: Iterable[str] = ("smoothgradcampp", "layercam"),
    *,
    target_layers: LayerChoice = None,
    classes: ClassChoice = None,
    region: RegionChoice = None,
    reference: object = None,
    num_samples: int = 4,
    std: float = 0.3,
    seed: int = 0,
    batch_size: int = 8,
    autocast: str | None = None,
    reuse: bool = True,
    progress: Progress | None = None,
) -> dict[str, Explanation]:
    """Explains one picture by several methods, out of one pass.

    Args:
        model_or_id: As for ``explain``, and so are the others.
        image: The picture.
        methods: Names out of ``METHODS``.
        target_layers: The layers.
        classes: The classes.
        region: A part of the photo.
        reference: A picture to compare with.
        num_samples: Noisy copies, for the methods that need some.
        std: Of their noise.
        seed: Of their noise.
        batch_size: Most images that pass the network at once.
        autocast: Type that is computed in.
        reuse: Whether recent passes are used, and this one kept.
        progress: Told how far it is.

    Returns:
        What ``explain`` gives, by the methods' registered names, in the order in which they were
        named.

    Raises:
        CamHubError: As ``explain``; of several methods the first that has no map.
    """
    request = Request.checked(
        target_layers=target_layers,
        classes=classes,
        region=region,
        reference=reference,
        num_samples=num_samples,
        std=std,
        seed=seed,
        batch_size=batch_size,
        autocast=autocast,
        reuse=reuse,
        progress=progress,
    )
    named = [methods] if isinstance(methods, str) else list(methods)
    chosen = list({found.name: found for found in (METHODS[name] for name in named)}.values())
    if not chosen:
        raise InvalidArgument("methods", methods, "at least one method")
    model = _model(model_or_id)
    return _explain(model, prepare(model, image), chosen, request)


def activations(
    model: LoadedModel | str, image: object, layers: LayerChoice = None
) -> dict[str, Tensor]:
    """What layers put out for a picture, laid out as the image is.

    Args:
        model: A loaded or wrapped model, or an ID.
        image: As for ``explain``.
        layers: As ``target_layers`` of ``explain``.

    Returns:
        ``(channels, rows, cols)`` per layer name, of a clip ``(channels, steps, rows, cols)``, on
        the model's device and in its precision (in double precision if a layer is ``faint``).

    Raises:
        ImageRefused: If the image cannot be read, or does not fit the model.
        LayerNotFound: If the model has no such layer.
        NoMap: If a layer is not spatial.
    """
    model = _model(model)
    prepared = prepare(model, image)
    found = resolve_layers(model, layers, prepared.size, need_gradient=False)
    working, tensor = _precise_enough(model, prepared.tensor, found)
    maps = forward_activations(working, tensor, {layer.name: layer for layer in found})
    if not prepared.is_clip:
        return maps
    steps = {layer.name: layer.frames for layer in found}
    return {
        name: stacked.reshape(len(stacked), steps[name], -1, stacked.shape[-1])
        for name, stacked in maps.items()
    }


def _explain(
    model: LoadedModel, prepared: Prepared, methods: Sequence[Method], request: Request
) -> dict[str, Explanation]:
    """One explanation per method."""
    question = ask(model, prepared, request.region, request.reference)
    layers = resolve_layers(model, request.target_layers, prepared.size)
    working, tensor = _precise_enough(model, prepared.tensor, layers)
    job = Job(
        model=working,
        image=tensor,
        layers={layer.name: layer for layer in layers},
        aim=lambda: question.aim(working, tensor),
        question=question.key,
        choose=lambda found, labels: choose_classes(
            request.classes, found.ranking, labels or model.class_names, found.eligible
        ),
        methods=methods,
        noise=request.noise if any(method.needs_noise for method in methods) else None,
        batch_size=request.batch_size,
        setting=_setting(working, tensor, request.autocast),
        progress=request.progress,
    )
    passed = RECENT.run(job, reuse=request.reuse)
    found = {}
    for method in methods:
        composed = compose(model, prepared, layers, method, job, passed)
        if not any(cam.any() for cam in composed.cams.values()):
            composed = _elsewhere(model, prepared, layers, method, request)
        found[method.name] = composed
    return found


def _setting(model: LoadedModel, tensor: Tensor, autocast: torch.dtype | None) -> Setting:
    if model.dtype == torch.float64:  # which autocast leaves alone
        return Setting()
    return Setting(autocast, suited_format(model, tensor))


def _elsewhere(
    model: LoadedModel,
    prepared: Prepared,
    layers: Sequence[LayerInfo],
    method: Method,
    request: Request,
) -> Explanation:
    """The explanation at the last layer that speaks, where nothing at the chosen ones does.

    Raises:
        NoMap: If there is none, or the layers were the caller's choice.
    """
    spare = []
    if request.target_layers is None:
        spare = layers_before(model, layers[0].name, prepared.size)
    blank = NoMap(
        "blank: nothing at "
        + (f"layer {layers[0].name!r}" if len(layers) == 1 else "any of the layers")
        + " spoke for the class; try another layer or class",
    )
    if not spare:
        raise blank
    try:
        tried = replace(request, target_layers=spare)
        found = _explain(model, prepared, [method], tried)[method.name]
    except NoMap:
        raise blank from None
    speaking = [name for name in spare if found.cams[found.classes[0], name].any()][-1:]
    if not speaking:
        raise blank
    again = replace(request, target_layers=speaking)
    return _explain(model, prepared, [method], again)[method.name]


def _model(model_or_id: LoadedModel | str) -> LoadedModel:
    if isinstance(model_or_id, LoadedModel):
        return model_or_id
    if isinstance(model_or_id, nn.Module):
        raise InvalidArgument("model", type(model_or_id).__name__, "wrap_model(module) or an ID")
    return store.get(model_or_id)


def _precise_enough(
    model: LoadedModel, tensor: Tensor, layers: Sequence[LayerInfo]
) -> tuple[LoadedModel, Tensor]:
    """Both in double precision if what the layers say would be lost in rounding errors."""
    if not any(layer.faint for layer in layers):
        return model, tensor
    working = in_double(model)
    return working, tensor.to(working.device, working.dtype)
