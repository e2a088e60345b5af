"""``explain``, ``explain_methods`` and ``activations``: one image, any model."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from cam_hub._validation import with_hints
from cam_hub.attribution.adaptive_sampling import sampled_adaptively
from cam_hub.attribution.memory_format import suited_format
from cam_hub.attribution.passes import RECENT, Job, Pass, Progress, Setting, forward_activations
from cam_hub.attribution.preparation import Prepared, ask, prepare
from cam_hub.attribution.request import ExplainOptions, model_of
from cam_hub.errors import InvalidArgument, NoMap
from cam_hub.hooks.memory import reported
from cam_hub.hooks.modes import default_modes
from cam_hub.layers.extent import on_input
from cam_hub.layers.layouts import LayerInfo
from cam_hub.layers.listing import LayerChoice, at_call, layers_before, resolve_layers
from cam_hub.methods import METHODS, Method
from cam_hub.models.loaded_model import LoadedModel
from cam_hub.models.variants import in_double
from cam_hub.options import OutputChoice
from cam_hub.results.explanation import Explanation
from cam_hub.results.manifest import make_manifest
from cam_hub.targets.base import Target, Task
from cam_hub.targets.classes import ClassChoice, ContrastChoice, resolve_classes
from cam_hub.targets.custom import Custom, Probabilities
from cam_hub.targets.predictions import Prediction, label_of
from cam_hub.targets.region import RegionChoice

__all__ = [
    "STEADY",
    "activations",
    "compose",
    "explain",
    "explain_methods",
    "explain_prepared",
    "explanation_of",
    "make_job",
]


_TOO_LARGE = (
    "a forward pass of one image, with the output of each layer, does not fit. Fewer layers or a "
    "smaller input would need less."
)


@with_hints
@default_modes()
def explain(
    model_or_id: LoadedModel | str,
    image: object,
    *,
    method: str = "smoothgradcampp",
    target_layers: LayerChoice = None,
    classes: ClassChoice = None,
    contrast: ContrastChoice = None,
    sign: str = "for",
    target: str = "logit",
    output: OutputChoice = None,
    call: int | None = None,
    sampling: str = "adaptive",
    region: RegionChoice = None,
    reference: object = None,
    background: object = None,
    num_samples: int = 4,
    std: float = 0.3,
    seed: int = 0,
    batch_size: int = 8,
    autocast: str | None = None,
    reuse: bool = True,
    progress: Progress | None = None,
) -> Explanation:
    """Shows which parts of a picture support which class.

    Args:
        model_or_id: A loaded or wrapped model, or an ID for ``load_model``; a model loaded by ID
            stays in memory for the next call.
        image: A path (``~`` and ``file://`` too), bytes, a PIL image, an array ``(H, W, C)`` of
            uint8, uint16, or floating point in [0, 1] or [0, 255]; a uint8 tensor ``(C, H, W)`` as
            torchvision decodes it; or an already preprocessed float tensor ``(C, H, W)`` or
            ``(1, C, H, W)``. For a model of other than 1 or 3 channels an array ``(H, W, C)`` of
            its channels; floating-point values are then in the units of its mean and std. For a
            model of clips: several of these as a list, an animated GIF, WebP or APNG, a uint8
            array ``(T, H, W, 3)``, a preprocessed float tensor ``(C, T, H, W)`` or
            ``(1, C, T, H, W)``; or a single picture, which is a clip in which nothing moves.
        method: A name out of ``METHODS``.
        target_layers: A layer's name, several of them, a word of ``suggest_layers``, or None for
            the recommended layer (where that is blank for this picture, the last one before it
            that is not; ``"best"`` means the same). A single text that is one of the words is that
            word, even where a layer has the same name; in a list, layer names go first.
        classes: A class index, a label, several of these, ``top(count)``, or None for the
            predicted class.
        contrast: A class index or label that the explained classes are held against: a map then
            shows what speaks for them rather than for it (the score of each less that of this
            one). None for the classes' own scores.
        sign: ``"for"`` shows what speaks for the classes, ``"against"`` what speaks against them
            (the method's map of the negated score), ``"both"`` the first less the second: a signed
            map, drawn in two hues.
        target: ``"logit"`` explains the score before softmax or sigmoid, ``"probability"`` the
            probability, which also falls as other classes gain.
        output: Of a network that returns several tensors (a dictionary, tuple or dataclass): the
            key or the index of the one that is explained, several of these for a nested one, or a
            function of everything that the network returns; None for the main one.
        call: Of a layer that runs several times in one pass: which of its calls, from 0; None for
            the last.
        sampling: ``"adaptive"`` has SmoothGradCAM++ take more than ``num_samples`` noisy copies (at
            most 64) for those of its maps of which these differ so far that another seed would
            give another map; ``"fixed"`` exactly ``num_samples``. The manifest has the number that
            each map was made of, and the correlation that another seed's can be expected to have
            (``agreement``); its ``layer_notes`` state where it is low.
        region: Of a segmentation or detection model: the part of the photo that is asked about,
            a box ``(left, top, right, bottom)`` in its pixels or a boolean mask ``(H, W)``; None
            for all of it.
        reference: Of a model without a classifier: the picture whose features are compared with,
            given like ``image``; None for the picture itself.
        background: A picture of the same proportions to draw maps on in place of the image, as
            for images of many channels, which are otherwise shown in grey; given like ``image``.
        num_samples: How many noisy copies SmoothGradCAM++ averages over, before any are added.
        std: Standard deviation of their noise, in units of the normalised input.
        seed: Of their noise; the same call gives the same map.
        batch_size: Most images that pass the network at once; fewer where memory does not suffice.
        autocast: ``"bfloat16"`` or ``"float16"`` to have torch's autocast compute what it can in
            that type: faster and smaller on hardware made for it. Maps of the recommended layer
            stay within about 2 % and 0.5 % of their maximum; on the way back to earlier layers
            rounding adds up. None for the model's own type.
        reuse: Whether what recent calls found out about the same picture is used, and this one's
            is kept. It takes a bounded amount of memory, which ``CAM_HUB_PASSES`` sets. Maps are
            those of a pass of their own but for rounding, which depends on what passed along: what
            needs no noise may come out of a call that asked for noise, and a layer out of one that
            asked for earlier ones, too.
        progress: Called with the part that is done and a few words; what it raises stops the
            work.

    Returns:
        The predictions, and one map per class and layer.

    Raises:
        ImageRefused: If the image cannot be read, or does not fit the model.
        LayerNotFound: If the model has no such layer.
        ClassNotFound: If the model has no such class.
        MethodNotFound: If there is no such method.
        InvalidArgument: If a number makes no sense, the model has no use for a region, a reference
            or a contrast, or a class would be held against itself.
        ModelNotFound, ModelRefused, HubUnavailable: As ``load_model``.
        NoMap: If every map would be blank, or the layer cannot give one.
        OutOfMemory: If memory does not suffice for one image at a time.
    """
    request = ExplainOptions.checked(
        target_layers=target_layers,
        classes=classes,
        contrast=contrast,
        sign=sign,
        target=target,
        output=output,
        call=call,
        sampling=sampling,
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
    chosen = METHODS[method].signed(request.sign)
    model = model_of(model_or_id, request.output)
    return explain_prepared(model, prepare(model, image, background), [chosen], request)[
        chosen.name
    ]


@with_hints
@default_modes()
def explain_methods(
    model_or_id: LoadedModel | str,
    image: object,
    methods: Iterable[str] = ("smoothgradcampp", "layercam"),
    *,
    target_layers: LayerChoice = None,
    classes: ClassChoice = None,
    contrast: ContrastChoice = None,
    sign: str = "for",
    target: str = "logit",
    output: OutputChoice = None,
    call: int | None = None,
    sampling: str = "adaptive",
    region: RegionChoice = None,
    reference: object = None,
    background: object = None,
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
        contrast: The class that they are held against.
        sign: Evidence for them, against them, or both.
        target: Their logit, or their probability.
        output: The output of the network.
        call: The call of the layer.
        sampling: Whether noisy copies are added where they disagree.
        region: A part of the photo.
        reference: A picture to compare with.
        background: A picture to draw maps on.
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
    request = ExplainOptions.checked(
        target_layers=target_layers,
        classes=classes,
        contrast=contrast,
        sign=sign,
        target=target,
        output=output,
        call=call,
        sampling=sampling,
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
    found = (METHODS[name].signed(request.sign) for name in named)
    chosen = list({method.name: method for method in found}.values())
    if not chosen:
        raise InvalidArgument("methods", methods, "at least one method")
    model = model_of(model_or_id, request.output)
    return explain_prepared(model, prepare(model, image, background), chosen, request)


@with_hints
@default_modes()
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
    model = model_of(model)
    prepared = prepare(model, image)
    found = resolve_layers(model, layers, prepared.size, need_gradient=False)
    with reported(model.id, _TOO_LARGE):
        working, tensor = precise_enough(model, prepared.tensor, found)
        maps = forward_activations(working, tensor, {layer.name: layer for layer in found})
    steps = {layer.name: layer.frames for layer in found}
    return {
        name: stacked.reshape(len(stacked), steps[name], -1, stacked.shape[-1])
        if prepared.is_clip or steps[name] > 1
        else stacked
        for name, stacked in maps.items()
    }


def explain_prepared(
    model: LoadedModel, prepared: Prepared, methods: Sequence[Method], request: ExplainOptions
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
    if request.progress is not None:
        request = replace(request, progress=_Rising(request.progress))
    job = make_job(model, prepared, methods, request)
    passed = RECENT.run(job, reuse=request.reuses)
    return {
        method.name: explanation_of(model, prepared, method, job, passed, request)
        for method in methods
    }


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
        request: What is asked.

    Raises:
        CamHubError: As ``explain``.
    """
    found = compose(model, prepared, method, job, _sampled(job, passed, method, request))
    if is_blank(found):
        return explain_with_fallback(model, prepared, found, method, request)
    return found


def _sampled(job: Job, passed: Pass, method: Method, request: ExplainOptions) -> Pass:
    """One method's pass, out of more noisy copies where that is wanted and those taken differ."""
    if request.sampling == "fixed" or not method.needs_noise:
        return passed
    return sampled_adaptively(replace(job, methods=[method]), passed, reuse=request.reuses)


def _settled(request: ExplainOptions, found: Explanation) -> ExplainOptions:
    """The request for the very layers and classes that were explained."""
    classes = request.classes if callable(request.classes) else list(found.classes)
    return replace(request, target_layers=list(found.layers), classes=classes)


class _Rising:
    """Progress of work that turns out to take several passes: each fills what others have left."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._base = self._told = self._part = 0.0

    def __call__(self, part: float, what: str) -> None:
        if part < self._part:  # another pass has begun
            self._base = self._told
        self._part = part
        self._told = self._base + (1 - self._base) * part
        self._progress(self._told, what)


_SIDES = {"for": "for", "against": "against", "both": "for or against"}

_SATURATED = ", or target='logit': where a probability is all but 0 or 1, it has no gradient"


def is_blank(found: Explanation) -> bool:
    """Whether nothing at any of the layers spoke for any of the classes."""
    return not any(cam.any() for cam in found.cams.values())


def explain_with_fallback(
    model: LoadedModel,
    prepared: Prepared,
    blank: Explanation,
    method: Method,
    request: ExplainOptions,
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
        job = make_job(model, prepared, [method], _settled(request, blank), double=True)
        passed = RECENT.run(job, reuse=request.reuses)
        finer = compose(model, prepared, method, job, _sampled(job, passed, method, request))
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
    request: ExplainOptions,
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
    job = replace(job, layers={last: job.layers[last]})
    return compose(model, prepared, method, job, _sampled(job, passed, method, request))


_TOO_LARGE_TWICE = "the model does not fit twice, as it must to be run in double precision."


def make_job(
    model: LoadedModel,
    prepared: Prepared,
    methods: Sequence[Method],
    request: ExplainOptions,
    *,
    double: bool = False,
) -> Job:
    """What a pass has to find out about a picture.

    Args:
        model: The model.
        prepared: The picture.
        methods: The methods.
        request: What is asked; its words for layers are looked up, those for classes wait for the
            scores.
        double: Whether the pass is to be in double precision in any case.

    Raises:
        CamHubError: If there are no such layers, or the task has no use for what was given.
    """
    model.task.check_contrast(request.contrast)
    model.task.check_target(request.target)
    question = ask(model, prepared, request.region, request.reference)
    layers = [
        at_call(layer, request.call)
        for layer in resolve_layers(model, request.target_layers, prepared.size)
    ]
    with reported(model.id, _TOO_LARGE_TWICE):
        working, tensor = precise_enough(model, prepared.tensor, layers, double=double)
        setting = _setting(working, tensor, request.autocast)
    classes = request.classes
    if callable(classes):
        working = replace(working, task=_custom(working.task, classes, request))
        classes = None

    def aim() -> Target:
        target = question.aim(working, tensor)
        return Probabilities(target) if request.target == "probability" else target

    return Job(
        model=working,
        image=tensor,
        layers={layer.name: layer for layer in layers},
        aim=aim,
        question=(question.key, request.target, request.call),
        settle=lambda found, labels: resolve_classes(
            classes,
            request.contrast,
            found.ranking,
            labels or model.class_names,
            found.eligible,
        ),
        methods=methods,
        noise=request.noise if any(method.needs_noise for method in methods) else None,
        batch_size=request.batch_size,
        setting=setting,
        progress=request.progress,
        options=request.recorded,
    )


def _custom(task: Task, function: Callable[[Any], Any], request: ExplainOptions) -> Custom:
    """The task of a caller's own function.

    Raises:
        InvalidArgument: If it is combined with what makes sense for classes only.
    """
    for name, value, default in (
        ("contrast", request.contrast, None),
        ("target", request.target, "logit"),
    ):
        if value != default:
            expected = f"{default!r} along with a function as classes=, which can do the same"
            raise InvalidArgument(name, value, expected)
    return Custom(task, function, chosen=request.output is not None or task.wanted is not None)


def precise_enough(
    model: LoadedModel, tensor: Tensor, layers: Sequence[LayerInfo], *, double: bool = False
) -> tuple[LoadedModel, Tensor]:
    """Both in double precision if asked for, or if rounding would hide what the layers say."""
    double = double or any(layer.faint for layer in layers)
    working = in_double(model) if double else model
    return working, tensor.to(working.device, working.dtype)


def _setting(model: LoadedModel, tensor: Tensor, autocast: torch.dtype | None) -> Setting:
    if model.dtype == torch.float64:  # which autocast leaves alone
        return Setting()
    return Setting(autocast, suited_format(model, tensor))


STEADY = 0.97
"""A map of which another seed's would correlate less is noted to depend on the noise."""


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
    """The predictions, and what the model says of the explained classes by index.

    Classes of which the model said nothing are in neither.
    """
    standings = passed.standings
    chosen = {
        index: standings.prediction(index, names)
        for index in passed.settled.classes
        if standings.is_scored(index)
    }
    if standings.predicted is not None:
        standings = standings.predicted
        names = standings.labels or own
    return tuple(standings.prediction(index, names) for index in standings.shown), chosen
