"""What goes into a pass: the image as the model's input, layers, target, memory format."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from importlib.util import find_spec
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn

from cam_hub.attribution.passes import Job, Setting
from cam_hub.attribution.request import AUTO, ExplainOptions
from cam_hub.errors import ImageRefused, InvalidArgument, ModelRefused, TooMuch
from cam_hub.hooks.frozen_eval import frozen_eval, unusable, walk
from cam_hub.hooks.memory import reported
from cam_hub.images.clips import ClipPreprocessing, open_clip
from cam_hub.images.decoding import open_image
from cam_hub.images.geometry import Placement
from cam_hub.images.preprocessing import (
    OpenedImage,
    Preprocessing,
    check_tensor,
    pixels_of,
    same,
)
from cam_hub.images.transforms import TransformPreprocessing
from cam_hub.layers.layouts import LayerInfo
from cam_hub.layers.listing import FAITHFUL, at_call, list_layers, resolve_layers
from cam_hub.methods import INPUT, METHODS, Method
from cam_hub.methods.registry import combines, level, needs_noise
from cam_hub.models.loaded_model import LoadedModel, in_double
from cam_hub.options import recorded
from cam_hub.results.maps import Pictures
from cam_hub.targets.base import Reference, Target, Task
from cam_hub.targets.classes import parse_top, resolve_classes
from cam_hub.targets.custom import Custom, Probabilities
from cam_hub.targets.region import Region, RegionChoice, read_region

__all__ = [
    "Prepared",
    "TargetSpec",
    "as_double",
    "check_passes",
    "input_layers",
    "make_job",
    "prepare",
    "resolve_target",
    "suited_format",
]

_AUTOCAST = {None: None, "bfloat16": torch.bfloat16, "float16": torch.float16}

_CONVOLUTIONS = 4
"""A network with fewer (a patch embedding before a transformer) has nothing to gain."""

_TOO_LARGE = "a forward pass of one image does not fit. A smaller input or device needs less."

_TOO_LARGE_TWICE = "the model does not fit twice, as it must to be run in double precision."

_BASELINE_SEED = 90210  # none that callers are likely to draw a picture with


@dataclass(frozen=True)
class Prepared:
    """A picture, or a clip, that is ready for a model.

    Attributes:
        pictures: What the model sees; of a clip its frames.
        placement: Where the model's input lies on each of them.
        tensor: That input, ``(1, channels, rows, cols)``, of a clip ``(1, channels, frames, rows,
            cols)``, on the model's device.
        approximation: "draft" or "device" if it differs from the exact input; else empty.
    """

    pictures: Pictures
    placement: Placement
    tensor: Tensor
    approximation: str = ""


_AGAIN = {"stability": 4, "randomised": 3}
"""So often these tests make a map again, the unchanged one included."""


def check_passes(
    model: LoadedModel,
    method: str,
    layers: Sequence[str],
    classes: Sequence[str],
    copies: int,
    most: int,
    tests: Sequence[str] = (),
) -> None:
    """Refuses maps that take more passes than are allowed, such as one for each channel.

    Args:
        model: The model.
        method: The method, or ``"auto"``, whose passes are bounded.
        layers: Names or words for layers; empty for the one recommended by depth.
        classes: The classes as texts, such as ``"top(3)"``; empty for the predicted one.
        copies: The noisy copies.
        most: So many images may pass the network, besides those that find layers.
        tests: Tests of the map, some of which make it again. What the others take is bounded.

    Raises:
        TooMuch: If more would.
        MethodNotFound, LayerNotFound: If there is none of that name.
    """
    if method == AUTO:
        return
    passes, channels, count = METHODS[method].passes, 0, 0
    for text in classes:
        count += top.count if (top := parse_top(text)) else 1
    if "channel" in passes.per:
        by_depth = not layers or layers[0] == FAITHFUL
        for layer in resolve_layers(model, None if by_depth else layers):
            channels += layer.channels or 0
    taken = passes.count(channels, max(1, count), copies)
    taken += passes.count(channels, 1, copies) * sum(_AGAIN.get(name, 0) for name in tests)
    if taken > most:
        what = "the maps and their tests" if tests else "the maps"
        expected = f"another one: at most {most} images may pass a model for {what}, and this "
        raise TooMuch("method", method, f"{expected}takes {taken} here")


def prepare(
    model: LoadedModel,
    image: object,
    background: object = None,
    *,
    device: torch.device | None = None,
    opened: OpenedImage | None = None,
) -> Prepared:
    """Turns a picture, or a clip, into a model's input.

    Args:
        model: The model.
        image: As for ``explain``; or what this function has returned, for the same model.
        background: A picture to show maps on in place of the image, or None.
        device: Where the input is put; None for the model's device.
        opened: The image as it was opened for the model, in whichever process; None to open it.
            Pictures that were left out are opened when they are first shown.

    Raises:
        ImageRefused: If the image cannot be read, or does not fit the model; or the background
            cannot be read, or has other proportions.
        ModelRefused: If the model has lost its values.
        InvalidArgument: If there is a background for a clip.
    """
    if isinstance(image, Prepared):
        return image
    if background is not None:
        return _over(prepare(model, image), background)
    if model.device.type == "meta":
        raise ModelRefused(model.id, unusable(model.module) or "it is on the meta device")
    turn = model.preprocessing
    clip = isinstance(turn, ClipPreprocessing)
    if isinstance(image, Tensor):
        pixels = pixels_of(image, model.input_size[0], clip=clip)
        if pixels is None:
            return _prepare_tensor(model, image, device)
        image = pixels
    opened = opened or turn.open(image)
    placement, tensor = opened.placement, opened.tensor
    if placement is None:  # an unknown transform: only its result can be shown
        pictures = _painted(turn, tensor)
        placement = Placement.identity((tensor.shape[-1], tensor.shape[-2]))
    elif opened.bands is not None:
        pictures = _grey(opened.bands)
    elif opened.frames:
        pictures = Pictures(opened.frames, clip=clip)
    else:
        frames = turn.frames if isinstance(turn, ClipPreprocessing) else None
        again = partial(_opened_again, image, placement.photo_size, frames)
        pictures = Pictures(again, clip=clip)
    if isinstance(turn, Preprocessing) and tensor.dtype == torch.uint8:
        tensor = turn.resized(tensor.to(model.device), placement)
        device = None
    tensor = tensor.to(device or model.device, model.dtype)
    return Prepared(pictures, placement, tensor, opened.approximation)


def _opened_again(
    image: object, size: tuple[int, int], frames: int | None
) -> Sequence[Image.Image]:
    """The photo, or frames of a clip, of an image that was explained earlier.

    Raises:
        ImageRefused: If it cannot be opened any more, or has another size.
    """
    found = [open_image(image)] if frames is None else open_clip(image, frames)
    if found[0].size != size:
        now, was = (f"{width} x {height}" for width, height in (found[0].size, size))
        raise ImageRefused(f"it is {now} now, and was {was} when it was explained")
    return found


def _prepare_tensor(model: LoadedModel, image: Tensor, device: torch.device | None) -> Prepared:
    """An already preprocessed tensor as a model's input."""
    turn = model.preprocessing
    if device is not None:
        given = check_tensor(image, model.input_size[0], clip=isinstance(turn, ClipPreprocessing))
        placement = Placement.identity((given.shape[-1], given.shape[-2]))
        return Prepared(_painted(turn, given), placement, given.to(device, model.dtype))
    # A second request for the same input does not denormalise it again.
    last: Prepared | None = model.facts.get("last_prepared")
    at = model.device, model.dtype
    if last is not None and _is_of(image, last.tensor, at):  # before any copy is made
        return last
    given = check_tensor(image, model.input_size[0], clip=isinstance(turn, ClipPreprocessing))
    tensor = given.to(*at)
    if last is not None and same(last.tensor, tensor):
        return last
    pictures = _painted(turn, given)
    placement = Placement.identity((given.shape[-1], given.shape[-2]))
    prepared = Prepared(pictures, placement, tensor)
    model.facts["last_prepared"] = prepared
    return prepared


def _grey(bands: NDArray[Any]) -> Pictures:
    """The mean of many channels as a grey picture."""
    height, width, count = bands.shape

    def facts() -> dict[str, Any]:
        digest = hashlib.sha256(np.ascontiguousarray(bands).tobytes()).hexdigest()
        return {"size": [width, height], "bands": count, "sha256": digest}

    grey = _stretched(bands.astype(np.float64).mean(axis=2))
    return Pictures([grey], facts=facts)


def _stretched(values: NDArray[np.float64]) -> Image.Image:
    """Values of any range as a grey picture; the lowest and highest two percent are clipped."""
    low, high = np.percentile(values, (2, 98))
    scaled = np.clip((values - low) / ((high - low) or 1.0), 0, 1)
    return Image.fromarray(np.rint(scaled * 255).astype(np.uint8)).convert("RGB")


def _over(prepared: Prepared, background: object) -> Prepared:
    """The same input, shown on another picture.

    Raises:
        ImageRefused: If the picture cannot be read, or has another shape than the image.
        InvalidArgument: If the image is a clip.
    """
    if prepared.tensor.ndim == 5:
        raise InvalidArgument("background", type(background).__name__, "an image, not a clip")
    picture = open_image(background)
    width, height = prepared.placement.photo_size
    fitted = picture.width * height, picture.height * width
    # Rounding to whole pixels may have changed the proportions by one pixel.
    if abs(fitted[0] - fitted[1]) > max(width, height, *picture.size):
        raise ImageRefused(
            f"the background is {picture.width} x {picture.height} and the image {width} x "
            f"{height}: their proportions must be the same, so that places correspond"
        )
    if picture.size != (width, height):
        picture = picture.resize((width, height), Image.Resampling.LANCZOS)
    shown = Pictures([picture], facts=lambda: prepared.pictures.facts)
    return replace(prepared, pictures=shown)


@dataclass(frozen=True, eq=False)
class TargetSpec:
    """The score that a request is about, checked before anything is computed.

    Attributes:
        region: The part of the photo, or None.
        reference: The picture to compare with, or None.
        probability: Whether probabilities take the place of scores.
        key: Differs from that of every other region, reference and kind of score; hashable.
    """

    region: Region | None
    reference: Prepared | None
    probability: bool
    key: Hashable

    def aim(self, model: LoadedModel, tensor: Tensor) -> Target:
        """A fresh target of the model's task.

        Where that compares features, the network is asked for those of the reference and of a
        baseline: seeded Gaussian noise of variance 1, which has about the contrast of a normalised
        photo, and nothing to see in it. (A picture of one colour would not do: networks without
        biases may answer it with zeros.)

        Raises:
            ModelRefused: If the model raises.
        """
        compared = None
        if model.task.takes_reference:
            generator = torch.Generator().manual_seed(_BASELINE_SEED)
            nothing = torch.randn(tensor.shape, generator=generator).to(tensor)
            other = self.reference
            with frozen_eval(model.module), torch.no_grad():
                compared = Reference(
                    output=model.run(other.tensor.to(tensor)) if other is not None else None,
                    baseline=model.run(nothing),
                    facts=other.pictures.facts if other is not None else {},
                )
        target = model.task.target(region=self.region, reference=compared)
        return Probabilities(target) if self.probability else target


def resolve_target(
    model: LoadedModel,
    prepared: Prepared,
    region: RegionChoice = None,
    reference: object = None,
    *,
    probability: bool = False,
) -> TargetSpec:
    """Reads region and reference for one picture.

    Args:
        model: The model, whose task has accepted the request.
        prepared: The picture.
        region: A part of it, or None.
        reference: Another picture to compare with, as for ``prepare``; or None.
        probability: Whether probabilities take the place of scores; the task has some.

    Raises:
        InvalidArgument: If the region does not lie on the picture, or the task cannot use it.
        ImageRefused: If the reference cannot be read, or does not fit the model.
    """
    place = where = other = digest = None
    if model.task.takes_region:
        place = read_region(region, prepared.placement)
        model.task.target(region=place)  # refuses a mask where only a box has a meaning
        where = json.dumps(place.describe()), place.placement
    if reference is not None:
        other = prepare(model, reference)
        digest = _digest_of(other.tensor)
    return TargetSpec(place, other, probability, (where, digest, probability))


def _is_of(image: Tensor, tensor: Tensor, at: tuple[torch.device, torch.dtype]) -> bool:
    """Whether an image is given in the very values of an input that is still where it must be."""
    if (tensor.device, tensor.dtype) != at:
        return False
    batch = image.detach()
    batch = batch[None] if batch.ndim + 1 == tensor.ndim else batch
    return same(batch, tensor)


def _painted(
    turn: Preprocessing | ClipPreprocessing | TransformPreprocessing, tensor: Tensor
) -> Pictures:
    """What a tensor shows."""
    if isinstance(turn, ClipPreprocessing):
        return Pictures(lambda: turn.denormalise(tensor), clip=True)
    return Pictures(lambda: [turn.denormalise(tensor)])


def _digest_of(tensor: Tensor) -> bytes:
    return hashlib.sha256(tensor.float().cpu().contiguous().numpy().tobytes()).digest()


def make_job(
    model: LoadedModel,
    prepared: Prepared,
    methods: Sequence[Method],
    request: ExplainOptions,
    *,
    double: bool = False,
) -> Job:
    """Resolves layers and target for a picture.

    Args:
        model: The model.
        prepared: The picture.
        methods: The methods.
        request: The request; its words for layers are resolved here, those for classes need the
            scores.
        double: Whether the pass is to be in double precision in any case.

    Raises:
        CamHubError: If there are no such layers, or the task has no use for what was given.
    """
    options = request.options
    model.task.check_request(
        contrast=request.contrast,
        target=options["target"],
        region=request.region,
        reference=request.reference,
    )
    if request.contrast is not None:
        for method in methods:
            if not method.class_specific:
                expected = f"no contrast: the map of {method.title} is the same for every class"
                raise InvalidArgument("contrast", request.contrast, expected)
        # Whose maps show whether the contrast separates the classes.
        opposite = [
            each.signed("against")
            for each in methods
            if each.sign == "for" and each.attribute is None  # else it would cost as much again
        ]
        methods = [*methods, *opposite]
    target = resolve_target(
        model,
        prepared,
        request.region,
        request.reference,
        probability=options["target"] == "probability",
    )
    call, layers = options["call"], {}
    if "pixel" in map(level, methods):
        layers = input_layers(model, methods, request, tuple(prepared.tensor.shape[1:]))
    else:
        choice = request.target_layers
        if choice is None and any(map(combines, methods)):
            choice = "stages"
        for layer in resolve_layers(model, choice, prepared.tensor.shape[1:]):
            layers[layer.name] = layer if call is None else at_call(layer, call)
            double = double or layer.faint  # rounding would hide the gradients
    working, tensor = model, prepared.tensor
    if double:
        working, tensor = as_double(model, tensor)
    setting = Setting()
    if working.dtype != torch.float64:  # which autocast leaves alone
        setting = Setting(_AUTOCAST[options["autocast"]], suited_format(working, tensor))
    classes = request.classes
    if callable(classes):
        working = replace(working, task=_custom(working.task, classes, request))
        classes = None
    return Job(
        model=working,
        image=tensor,
        layers=layers,
        aim=partial(target.aim, working, tensor),
        question=(target.key, call),
        settle=partial(resolve_classes, classes, request.contrast),
        methods=methods,
        noise=request.noise if any(map(needs_noise, methods)) else None,
        batch_size=options["batch_size"],
        setting=setting,
        progress=request.progress,
        options=recorded(options),
        seed=request.noise.seed,
    )


def input_layers(
    model: LoadedModel,
    methods: Sequence[Method],
    request: ExplainOptions,
    size: tuple[int, ...],
) -> dict[str, LayerInfo]:
    """The "layer" of pixel-level methods: the model's input.

    Args:
        model: The model.
        methods: The methods, at least one of them a pixel-level one.
        request: The request; it may name the input, but no layer.
        size: Channels and sides of the input.

    Raises:
        InvalidArgument: If layers are named, or a method needs one.
        ModelRefused: If the model cannot run on an input of this size.
    """
    pixel = next(method for method in methods if method.level == "pixel")
    for method in methods:
        if method.requires and find_spec(method.requires) is None:
            expected = (
                f"another method: {method.title} needs the package {method.requires}, which is not "
                f"installed (pip install 'cam-hub[{method.requires}]')"
            )
            raise InvalidArgument("method", method.name, expected)
    if request.target_layers not in (None, INPUT, [INPUT]):
        expected = f"None: {pixel.title} explains the pixels of the model's input, at no layer"
        raise InvalidArgument("target_layers", request.target_layers, expected)
    if request.options["call"] is not None:
        expected = f"None: {pixel.title} explains the model's input, not a layer"
        raise InvalidArgument("call", request.options["call"], expected)
    for method in methods:
        if method.level != "pixel":
            expected = f"methods of one level: {pixel.title} has no layer, {method.title} needs one"
            raise InvalidArgument("methods", [each.name for each in methods], expected)
    list_layers(model, input_size=size)  # which shows how the model has to be run
    reason = "the pixels of the model's input"
    grid = size[-2], size[-1]
    layer = LayerInfo(INPUT, "input", None, grid, size[0], 0, False, None, True, False, reason)
    return {INPUT: layer}


def _custom(task: Task, function: Callable[[Any], Any], request: ExplainOptions) -> Custom:
    """The task of a caller's own function.

    Raises:
        InvalidArgument: If it is combined with what makes sense for classes only.
    """
    for name, value, default in (
        ("contrast", request.contrast, None),
        ("target", request.options["target"], "logit"),
    ):
        if value != default:
            expected = f"{default!r} along with a function as classes=, which can do the same"
            raise InvalidArgument(name, value, expected)
    return Custom(
        task, function, chosen=request.options["output"] is not None or task.wanted is not None
    )


def as_double(model: LoadedModel, tensor: Tensor) -> tuple[LoadedModel, Tensor]:
    """A model and its input in double precision.

    Raises:
        OutOfMemory: If the model does not fit twice.
    """
    with reported(model.id, _TOO_LARGE_TWICE):
        working = in_double(model)
        return working, tensor.to(working.device, working.dtype)


def suited_format(model: LoadedModel, image: Tensor) -> torch.memory_format:
    """The memory format in which a model is run.

    Channels last for images on a CPU, if the model was loaded by its ID, has at least four
    convolutions and accepts such a tensor (one pass is tried, once per model); channels first
    otherwise. Convolutions on a CPU are faster with channels last (10 to 30 % for most networks) as
    long as their weights are laid out alike: this is done for modules that cam_hub has built
    itself, and a user's own module is left as it is. The values are the same up to rounding errors.
    Since no timing decides, two processes or machines of the same kind round alike.

    Args:
        model: The model.
        image: ``(1, channels, rows, cols)``, on the model's device; of clips it is contiguous.
    """
    if image.ndim != 4 or image.device.type != "cpu" or model.source == "module":
        return torch.contiguous_format
    with model.lock:
        if "channels_last" not in model.facts:
            found = [child for child in walk(model.module) if isinstance(child, nn.Conv2d)]
            suits = len(found) >= _CONVOLUTIONS and _accepts(model, image)
            for child in found if suits else []:
                # A pass under way elsewhere goes on with either.
                laid_out = child.weight.data.contiguous(memory_format=torch.channels_last)
                child.weight.data = laid_out
            model.facts["channels_last"] = suits
        return torch.channels_last if model.facts["channels_last"] else torch.contiguous_format


def _accepts(model: LoadedModel, image: Tensor) -> bool:
    """Whether a pass succeeds: some code takes only contiguous tensors (``view``)."""
    try:
        with reported(model.id, _TOO_LARGE), frozen_eval(model.module), torch.no_grad():
            model.run(image.contiguous(memory_format=torch.channels_last))
    except (ModelRefused, RuntimeError):
        return False
    return True
