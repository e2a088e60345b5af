"""``explain`` and ``explain_methods``: one image, any model."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Unpack

from cam_hub._validation import with_hints
from cam_hub.attribution.choice import AUTO, DEFAULT_METHOD, by_choice, choose, method_name
from cam_hub.attribution.passes import run
from cam_hub.attribution.preparation import make_job, prepare
from cam_hub.attribution.request import (
    ExplainArguments,
    ExplainOptions,
    model_of,
    takes_arguments,
)
from cam_hub.attribution.result import explanation_of
from cam_hub.errors import InvalidArgument
from cam_hub.hooks.modes import default_modes
from cam_hub.layers.listing import FAITHFUL
from cam_hub.methods import METHODS
from cam_hub.methods.registry import combines, own_passes
from cam_hub.models.loaded_model import LoadedModel
from cam_hub.results.explanation import Explanation
from cam_hub.targets.classes import is_iterable

__all__ = ["explain", "explain_methods"]


@with_hints
@default_modes()
@takes_arguments("explain")
def explain(
    model_or_id: LoadedModel | str,
    image: object,
    *,
    method: str = AUTO,
    **arguments: Unpack[ExplainArguments],
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
        method: A name out of ``METHODS``; ``"auto"`` for the one whose map holds best if what it
            marks is covered (``docs/evidence.md``), at the layer where it does unless
            ``target_layers`` names some.
        target_layers: A layer's name, several of them, a word of ``suggest_layers``,
            ``"faithful"`` for the layer at which the method's map holds best, or None for the
            recommended layer (where that is blank for this picture, the last one before it
            that is not; ``"best"`` means the same). A single text that is one of the words is that
            word, even where a layer has the same name; in a list, layer names go first.
        classes: A class index, a label, several of these, ``top(count)``, or None for the
            predicted class.
        contrast: A class index or label to contrast the explained classes with: a map then
            shows the evidence for them rather than for it (the score of each less that of this
            one). None for the classes' own scores.
        sign: ``"for"`` shows the evidence for the classes, ``"against"`` that against them
            (the method's map of the negated score), ``"both"`` the first less the second: a signed
            map, drawn in two hues.
        target: ``"logit"`` explains the score before softmax or sigmoid, ``"probability"`` the
            probability, which also falls as other classes gain.
        output: For a network that returns several tensors (a dictionary, tuple or dataclass): the
            key or the index of the one that is explained, several of these for a nested one, or a
            function of everything that the network returns; None for the main one.
        call: For a layer that runs several times in one pass: which of its calls, from 0; None for
            the last.
        sampling: ``"adaptive"`` has SmoothGradCAM++ take more than ``num_samples`` noisy copies (at
            most 64) for those of its maps of which these differ so far that another seed would
            give another map; ``"fixed"`` exactly ``num_samples``. The manifest has the number that
            each map was made of, and the correlation that another seed's can be expected to have
            (``agreement``); its ``layer_notes`` state where it is low.
        evidence: Tests of the map against the model, as ``cam_hub.evidence`` names them
            (``"cover"``, ``"cover,class_check"``, several names, ``"all"``): made now, of the first
            class that has a map, and recorded in the manifest. None tests nothing;
            ``Explanation.evidence`` makes the cover test on first access.
        region: For a segmentation or detection model: the part of the photo to explain,
            a box ``(left, top, right, bottom)`` in its pixels or a boolean mask ``(H, W)``; None
            for all of it.
        reference: For a model without a classifier: the picture to compare features with,
            given like ``image``; None for the picture itself.
        background: A picture of the same proportions to draw maps on in place of the image, as
            for images of many channels, which are otherwise shown in grey; given like ``image``.
        num_samples: How many noisy copies SmoothGradCAM++ averages over, before any are added.
        std: Standard deviation of their noise, in units of the normalised input.
        seed: The seed of their noise; the same call gives the same map.
        batch_size: Most images that pass the network at once; fewer where memory does not suffice.
        autocast: ``"bfloat16"`` or ``"float16"`` to have torch's autocast compute what it can in
            that type: faster and smaller on hardware made for it. Maps of the recommended layer
            stay within about 2 % and 0.5 % of their maximum; on the backward pass to earlier layers
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
            or a contrast, or a class would be contrasted with itself.
        ModelNotFound, ModelRefused, HubUnavailable: As ``load_model``.
        NoMap: If every map would be blank, or the layer cannot give one.
        OutOfMemory: If memory does not suffice for one image at a time.
    """
    request = ExplainOptions.checked(**arguments)
    auto = isinstance(method, str) and method.strip().lower() == AUTO
    method = AUTO if auto else method
    by_evidence = auto or request.target_layers == FAITHFUL
    chosen = METHODS[DEFAULT_METHOD if auto else method].signed(request.options["sign"])
    # Open, preprocess.
    model = model_of(model_or_id, request.options["output"])
    prepared = prepare(model, image, request.options["background"])
    if by_evidence:
        chosen, request = by_choice(choose(model, prepared, method, request), request)
    # Layers and target.
    job = make_job(model, prepared, [chosen], request)
    # Forward, backward, and the method's maps, made as the gradients arrive.
    passed = run(job, reuse=request.reuse)
    # Result.
    return explanation_of(model, prepared, chosen, job, passed, request)


@with_hints
@default_modes()
@takes_arguments("explain")
def explain_methods(
    model_or_id: LoadedModel | str,
    image: object,
    methods: Iterable[str] = ("smoothgradcampp", "layercam"),
    **arguments: Unpack[ExplainArguments],
) -> dict[str, Explanation]:
    """Explains one picture by several methods, out of one pass.

    Args:
        model_or_id: As for ``explain``.
        image: The picture.
        methods: Names out of ``METHODS``.
        arguments: The other arguments of ``explain``.

    Returns:
        What ``explain`` gives, by the methods' registered names, in the order in which they were
        named.

    Raises:
        CamHubError: As ``explain``; of several methods the first that has no map.
    """
    if not is_iterable(methods):
        raise InvalidArgument("methods", type(methods).__name__, "the name of a method, or several")
    named = [methods] if isinstance(methods, str) else list(methods)
    if not named:
        raise InvalidArgument("methods", methods, "at least one method")
    request = ExplainOptions.checked(**arguments)
    names = [method_name(name) for name in named]
    several = [METHODS[name] for name in names if name != AUTO]
    alone = any(map(own_passes, several)) or any(map(combines, several))
    if alone or AUTO in names or request.target_layers == FAITHFUL:  # each on its own
        return {name: explain(model_or_id, image, method=name, **arguments) for name in names}
    chosen = {name: METHODS[name].signed(request.options["sign"]) for name in names}
    model = model_of(model_or_id, request.options["output"])
    prepared = prepare(model, image, request.options["background"])
    job = make_job(model, prepared, list(chosen.values()), request)
    passed = run(job, reuse=request.reuse)
    return {
        name: explanation_of(model, prepared, method, job, passed, request)
        for name, method in chosen.items()
    }
