"""The choice of layer and method by evidence: the map that holds when it is put to the test.

Candidates are the ends of blocks and stages, and one method or several, all from one pass. Each map
is put to the test by covering what it marks: the contrast drop is the drop in the class's score
relative to its strongest rival's. One image is a noisy judge, so what other images have shown
counts, too: the candidate with the largest sum of its own drop and the mean over other images of
the same weights is chosen (``python -m bench.truth`` compares such rules). Drops are
stored with the identity of the weights, and so is the choice for each image: an image that was
chosen for before costs nothing, and gets the same map.
"""

from __future__ import annotations

import hashlib
import json
import math
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, Final

import torch
from torch import Tensor

from cam_hub.attribution.evidence import rivals_of
from cam_hub.attribution.passes import Job, run
from cam_hub.attribution.passes.scoring import Answer, ask, marked_pixels, score_images
from cam_hub.attribution.preparation import Prepared, make_job
from cam_hub.attribution.request import AUTO, ExplainOptions
from cam_hub.errors import InvalidArgument, ModelRefused, NoMap
from cam_hub.faithfulness import (
    Subject,
    blurred,
    cover,
    cover_drops,
    hottest,
    random_map,
    soft_mask,
)
from cam_hub.layers import cache
from cam_hub.layers.listing import FAITHFUL, suggest_layers
from cam_hub.methods import METHODS, Method
from cam_hub.models.loaded_model import LoadedModel, weights_digest

__all__ = [
    "AUTO",
    "DEFAULT_METHOD",
    "Choice",
    "Observation",
    "by_choice",
    "choose",
    "method_name",
    "not_by_evidence",
    "observe",
]

DEFAULT_METHOD: Final = "smoothgradcampp"
"""The method where evidence does not decide."""

_METHODS = ("hirescam", "gradcam", "layercam", "smoothgradcampp")
"""The methods that ``"auto"`` chooses from: class-specific, and all from one pass.

A first image is not tested for all candidates; those of the methods named first are tested.
"""

_SEPARATING = ("gradcam", "hirescam")
"""Those of them whose maps of opposite contrasts have no position in common: ``M(A, g)`` and
``M(A, -g)`` are the positive parts of opposite maps."""

_COVERS = 16
"""So many images pass to test candidates, at most: with the image itself, blurred as a whole and
covered at random before (four), and the noisy copies of SmoothGradCAM++ (five), 25 in all."""

_SAMPLES = 4
"""So many noisy copies are taken for the candidates, at most; of the chosen map, the request's."""

_MAX_CLASSES = 4
"""Of several classes, so many are taken into account."""

_RANDOM = 2
"""So many random maps are covered for comparison."""

_PRIOR = 1.0
"""The weight of the mean over other images; the image's own drop has the weight 1."""

_CLEAR = 0.1
"""By so much a drop must exceed that of a random map: in natural logarithms of the odds against the
rival, where scores are logits; else relative to the drop when the whole image is blurred."""

_SAME = 0.95
"""Maps whose hottest pixels overlap by this share (of their union) are tested as one."""

_TIE = 0.002
"""Candidates within this share of the best are ties, which go to the deeper layer."""

_AFTERWARDS = ("evidence", "sampling")
"""Options without influence on the choice."""

_VERSION = 3
_MAX_IMAGES = 64
"""So many images of each network are judges of others."""

_MAX_CHOICES = 512
"""So many choices are remembered for each network."""

_STORING: Final = threading.Lock()
"""Held from reading a ledger to storing it, so that threads do not discard each other's images."""


@dataclass(frozen=True)
class Choice:
    """A layer and a method, with the reason.

    Attributes:
        method: The method.
        layer: The layer; None for the one that is recommended by depth.
        reason: Why, in one sentence.
        passes: How many images passed through the network when it was made; a choice that is
            stored costs none.
        images: How many images the choice rests on.
        drop: The contrast drop of the chosen map on this image; None if evidence did not decide.
        random: The same where a random map is covered.
    """

    method: str
    layer: str | None
    reason: str
    passes: int = 0
    images: int = 0
    drop: float | None = None
    random: float | None = None

    def describe(self) -> dict[str, Any]:
        """For the manifest; JSON types only."""
        return dict(vars(self))


def by_choice(choice: Choice, request: ExplainOptions) -> tuple[Method, ExplainOptions]:
    """The method of a choice, and the request for its layer."""
    layers = request.target_layers
    if choice.layer is not None:
        layers = [choice.layer]
    elif layers == FAITHFUL:
        layers = None
    request = replace(request, target_layers=layers, choice=choice.describe())
    return METHODS[choice.method].signed(request.options["sign"]), request


def method_name(name: object) -> str:
    """The canonical name of a method, or ``"auto"``.

    Args:
        name: Any spelling.

    Raises:
        MethodNotFound: If there is no such method.
    """
    if isinstance(name, str) and name.strip().lower() == AUTO:  # an array has no single truth
        return AUTO
    return METHODS[name].name  # type: ignore[index]


def not_by_evidence(method: Method) -> InvalidArgument:
    """The error where a layer is to be chosen for a method that makes passes of its own."""
    expected = (
        f"None: {method.title} has no layer"
        if method.level == "pixel"
        else f"a layer's name or None: {method.title} makes passes of its own at every candidate"
    )
    return InvalidArgument("target_layers", FAITHFUL, expected)


def choose(model: LoadedModel, prepared: Prepared, method: str, request: ExplainOptions) -> Choice:
    """Chooses layer and method for an image; arguments and errors as ``observe``."""
    return observe(model, prepared, method, request).choice()


@dataclass(frozen=True)
class Observation:
    """What the tests of one image have shown, whatever other images show.

    Attributes:
        ledger: Reads what images of the same weights have shown.
        question: Identifies the image and the question, in whatever words it was asked.
        keys: Identify the question, as it was asked and in all words, and what may be chosen for
            it.
        layers: The candidate layers in the order of their depth.
        free: Whether the layer is chosen, or the method alone.
        by_depth: The choice where evidence does not decide; its reason is to be completed.
        undecided: Why evidence cannot decide; empty if it can.
        drops: The contrast drop by candidate.
        clear: By so much a drop must exceed that of a random map.
        known: The choice that was made before, if any.
        measured: What falls if evidence is covered, in words.
    """

    ledger: Callable[[], _Ledger]
    question: str
    keys: Sequence[str]
    layers: Sequence[str]
    free: bool
    by_depth: Choice
    undecided: str = ""
    drops: Mapping[Candidate, float] = field(default_factory=dict)
    clear: float = 0.0
    known: Choice | None = None
    measured: str = "score"

    def choice(self) -> Choice:
        """The choice for this image, from its tests and from what other images have shown."""
        if self.known is not None:
            return self.known
        with _STORING:
            return self._made(self.ledger())

    def _made(self, ledger: _Ledger) -> Choice:
        """The choice that another thread has made meanwhile, or a new one."""
        own, random = self.drops, self.by_depth.random or 0.0
        if (known := ledger.choice(self.keys[-1], self.layers)) is not None:
            return known
        others = ledger.others(self.question)
        by_depth = replace(self.by_depth, images=others + bool(own))
        if self.undecided:
            reason = by_depth.reason + self.undecided
            return ledger.store(self.keys, replace(by_depth, reason=reason))
        means = ledger.means(self.question)
        values = {each: own[each] + _PRIOR * means.get(each, 0.0) for each in own}
        chosen = _best(values, self.layers, free=self.free)
        if chosen is None or not _is_clear(
            own[chosen], means.get(chosen), random, ledger.mean_random(self.question), self.clear
        ):
            reason = "no map marks pixels that the score depends on"
            if chosen is not None:
                reason = f"covering what the best map marks changes the {self.measured} by "
                reason += f"{-own[chosen]:+.2g}, what a random map marks by {0.0 - random:+.2g}"
            reason = f"{by_depth.reason}{reason}"
            return ledger.store(self.keys, replace(by_depth, reason=reason))
        rests = f"and {others} other{'s' * (others > 1)}" if others else "alone"
        reason = (
            f"chosen by evidence among {len(values)} maps: covering what it marks "
            f"{'lowers' if own[chosen] > 0 else 'raises'} the {self.measured} by "
            f"{abs(own[chosen]):.2g}, a random map lowers it by {random:.2g} (this image {rests})"
        )
        name, layer = chosen
        return ledger.store(
            self.keys,
            replace(
                by_depth,
                method=name,
                layer=layer if self.free else None,
                reason=reason,
                drop=own[chosen],
            ),
        )


def observe(
    model: LoadedModel, prepared: Prepared, method: str, request: ExplainOptions
) -> Observation:
    """Puts the candidates of an image to the test, and records what they have shown.

    Args:
        model: The model.
        prepared: The image.
        method: A method, or ``"auto"``.
        request: The request. If its layers are ``"faithful"`` or None, the layer is chosen;
            otherwise the method alone, by the mean over these layers.

    Raises:
        CamHubError: As ``explain``.
    """
    candidates = _METHODS if request.contrast is None else _SEPARATING
    methods = [METHODS[name] for name in (candidates if method == AUTO else (method,))]
    if methods[0].attribute is not None:
        raise not_by_evidence(methods[0])
    methods = [each.signed(request.options["sign"]) for each in methods]
    given = request.target_layers
    free = given in (None, FAITHFUL)
    size = tuple(prepared.tensor.shape[1:])
    names = suggest_layers(model, "blocks", input_size=size) if free else given
    asked = replace(request, target_layers=names)
    job = replace(make_job(model, prepared, methods, asked), methods=methods)
    if job.noise is not None and job.samples > _SAMPLES:
        job = replace(job, noise=replace(job.noise, num_samples=_SAMPLES))
    if request.reuse:
        source = partial(_Ledger.read, model, _ledger_key(model, job))
    else:
        source = partial(_Ledger, None, {}, {})
    ledger = source()
    image = job.image.detach().float().cpu().contiguous().numpy().tobytes()
    pixels = hashlib.sha256(image).hexdigest()
    words = _question(pixels, job, request.classes, request.contrast)
    default = DEFAULT_METHOD if request.contrast is None else _SEPARATING[0]
    name = default if method == AUTO else METHODS[method].name
    found = Observation(
        source,
        words,
        [_request_key(words, job)],
        list(job.layers),
        free,
        Choice(name, None, "recommended by depth: " if free else "the default method: "),
    )
    if (known := ledger.choice(found.keys[0], found.layers)) is not None:
        return replace(found, known=known)
    try:
        return _tested(found, job, request, pixels, ledger)
    except (ModelRefused, NoMap) as error:  # of the image itself, the explanation raises it, too
        by_depth = replace(found.by_depth, passes=2 + _RANDOM)
        undecided = f"the model could not be tested ({error})"
        return replace(found, by_depth=by_depth, undecided=undecided)


def _tested(
    found: Observation, job: Job, request: ExplainOptions, pixels: str, ledger: _Ledger
) -> Observation:
    """The observation with the tests of an image for which nothing was chosen yet.

    Args:
        found: The observation so far.
        job: The job of all candidates.
        request: The request.
        pixels: Identifies the image.
        ledger: What images of the same weights have shown.

    Raises:
        CamHubError: As ``explain``; also if the model refuses covered images.
    """
    controls = _controls(job)
    answer = ask(_part(job, 0.0, 0.1), torch.cat([job.image, controls]))
    settled = answer.settled
    question = _question(pixels, job, settled.classes, settled.contrast)
    key = _request_key(question, job)
    if (known := ledger.choice(key, found.layers)) is not None:  # the same, in other words
        with _STORING:
            return replace(found, known=found.ledger().store(found.keys, known))
    covered = _part(job, 0.2, 0.5)
    subjects = [
        _subject(covered, answer, index, request) for index in settled.classes[:_MAX_CLASSES]
    ]
    scores = answer.scores.scores
    margins = torch.stack([each.margin(scores) for each in subjects]).mean(0)
    random = max(0.0, float((margins[0] - margins[2:]).mean()))
    # Of two scores that change alike, the margin stays.
    indices = {index for each in subjects for index in (each.class_index, *dict(each.rivals))}
    moved = float((scores[0] - scores[1])[[*indices]].abs().max())
    passes = 1 + len(controls)
    finite = bool(margins.isfinite().all()) and math.isfinite(moved)
    by_depth = replace(found.by_depth, passes=passes, random=random if finite else None)
    found = replace(
        found,
        question=question,
        keys=[*found.keys, key],
        by_depth=by_depth,
        measured="class relative to its rival" if subjects[0].rivals else "score",
        clear=_CLEAR if answer.standings.probabilities is not None else _CLEAR * moved,
    )
    if not finite:
        return replace(found, undecided="the scores of covered images are not finite")
    if not moved > found.clear:
        reason = "blurring the whole image hardly changes the score, as with random weights"
        return replace(found, undecided=reason)
    try:
        own, tested = _drops(job, subjects, ledger, reuse=request.reuse)
    except NoMap as error:  # one of the candidates is not finite
        own, tested, undecided = {}, 0, str(error)
    except ModelRefused as error:
        own, tested, undecided = {}, _COVERS, f"the model refuses covered images ({error})"
    else:
        undecided = ""
        with _STORING:
            found.ledger().add(question, own, random)
    by_depth = replace(by_depth, passes=passes + tested + 1 + job.samples)
    return replace(found, by_depth=by_depth, drops=own, undecided=undecided)


def _part(job: Job, start: float, end: float) -> Job:
    """The job as one part of all work; the explanation itself takes what comes after."""
    progress = job.progress
    if progress is None:
        return job
    return replace(job, progress=lambda part, what: progress(start + (end - start) * part, what))


Candidate = tuple[str, str]
"""Method and layer."""


def _best(
    values: Mapping[Candidate, float], layers: Sequence[str], *, free: bool
) -> Candidate | None:
    """The best candidate; of ties the deepest. Where layers are fixed, that of the best method.

    Of ties at one layer, a method without noisy copies is taken.
    """
    if not values:
        return None
    if not free:
        by_method: dict[str, list[float]] = {}
        for (method, _), value in values.items():
            by_method.setdefault(method, []).append(value)
        best = max(by_method, key=lambda each: sum(by_method[each]) / len(by_method[each]))
        values = {each: value for each, value in values.items() if each[0] == best}
    most = max(values.values())
    ties = [each for each in values if values[each] >= most - _TIE * abs(most)]
    return max(
        ties,
        key=lambda each: (
            layers.index(each[1]),
            not METHODS[each[0]].needs_noise,  # the cheaper method
            values[each],
        ),
    )


def _is_clear(
    own: float, mean: float | None, random: float, mean_random: float, clear: float
) -> bool:
    """Whether a drop exceeds that of random maps, on this image or on average."""
    if own - random > clear:
        return True
    return mean is not None and mean - mean_random > clear


def _controls(job: Job) -> Tensor:
    """The image blurred as a whole, and with what random maps mark covered."""
    generator = torch.Generator().manual_seed(0)
    sides = job.image.shape[2:]
    maps = torch.stack([random_map(sides, generator) for _ in range(_RANDOM)])
    masks = torch.cat([torch.ones((1, *sides)), soft_mask(hottest(maps))])
    return cover(job.image, masks.to(job.image.device), blurred(job.image))


def _subject(job: Job, answer: Answer, index: int, request: ExplainOptions) -> Subject:
    rivals = rivals_of(index, answer.settled, answer.standings)
    return Subject(
        job.image,
        torch.zeros(job.image.shape[2:]),
        lambda images: score_images(job, images),
        index,
        rivals,
        against=request.options["sign"] == "against",
    )


def _drops(
    job: Job, subjects: Sequence[Subject], ledger: _Ledger, *, reuse: bool
) -> tuple[dict[Candidate, float], int]:
    """The mean contrast drop over the classes by candidate, and how many covered images passed.

    Where there are more candidates than may be tested, those that earlier images favour are.
    Candidates that mark the same pixels are tested once.
    """
    passed = run(_part(job, 0.1, 0.2), reuse=reuse)
    means = ledger.means()
    ranked = sorted(
        ((method.name, name) for method in job.methods for name in job.layers),
        key=lambda each: -means.get(each, float("inf")),
    )
    keys = {method.name: method.key for method in job.methods}
    room = max(1, _COVERS // len(subjects) - 1)  # and the image itself
    masks: list[Tensor] = []  # (classes, *sides) each
    members: list[list[Candidate]] = []
    for method, name in ranked:
        found = [
            marked_pixels(job, name, passed.maps[keys[method], each.class_index, name])
            for each in subjects
        ]
        if any(mask is None for mask in found):
            continue
        mask = torch.stack([each for each in found if each is not None])
        for place, other in enumerate(masks):
            union = float((mask | other).sum())
            if float((mask & other).sum()) >= _SAME * union:
                members[place].append((method, name))
                break
        else:
            if len(masks) < room:
                masks.append(mask)
                members.append([(method, name)])
    if not masks:
        return {}, 0
    totals = torch.zeros(len(masks), dtype=torch.float64)
    for place, subject in enumerate(subjects):
        totals += cover_drops(subject, torch.stack([mask[place] for mask in masks]))
    drops = (totals / len(subjects)).tolist()
    own = {each: drop for group, drop in zip(members, drops, strict=True) for each in group}
    finite = {each: drop for each, drop in own.items() if math.isfinite(drop)}
    return finite, len(subjects) * (len(masks) + 1)


def _question(pixels: str, job: Job, classes: object, contrast: object) -> str:
    """Identifies the image, the classes and the score, whatever the methods and layers.

    Args:
        pixels: Identifies the image.
        job: Has the score.
        classes: The classes, in any words.
        contrast: The same of what they are contrasted with.
    """
    asked = [classes, contrast, job.question, *sorted(_scored(job).items())]
    return f"{pixels}-{hashlib.sha256(repr(asked).encode()).hexdigest()}"


def _scored(job: Job) -> dict[str, Any]:
    """The options that decide which score a map explains; tests and copies follow the choice."""
    return {name: value for name, value in job.options.items() if name not in _AFTERWARDS}


def _request_key(question: str, job: Job) -> str:
    """Identifies a question and what may be chosen for it."""
    methods = [method.key for method in job.methods]
    asked = [question, methods, list(job.layers), job.noise]
    return hashlib.sha256(repr(asked).encode()).hexdigest()


def _ledger_key(model: LoadedModel, job: Job) -> str:
    """Identifies a model's weights, what is made of them, and the kind of score."""
    parts = [(name, f"{type(part)}") for name, part in model.module.named_modules()]
    described = job.model.task.name, _scored(job), model.preprocessing.as_dict(), parts
    text = json.dumps([_VERSION, weights_digest(model), *map(str, described)])
    return hashlib.sha256(text.encode()).hexdigest()


class _Ledger:
    """What earlier images of the same weights have shown; stored on disk where there is a cache.

    Args:
        key: The key of the file; None if nothing is stored.
        held: The content of files by key, in memory.
        data: The content; empty for none.
    """

    def __init__(
        self, key: str | None, held: dict[str, dict[str, Any]], data: Mapping[str, Any]
    ) -> None:
        self._key = key
        self._held = held
        self._images: dict[str, tuple[float, list[list[Any]]]] = {
            str(image): (
                float(random),
                [[str(method), str(layer), float(drop)] for method, layer, drop in drops],
            )
            for image, (random, drops) in data.get("images", {}).items()
        }
        self._chosen: dict[str, dict[str, Any]] = dict(data.get("chosen", {}))

    def others(self, image: str) -> int:
        """How many other images there are; other classes of one image do not count.

        Args:
            image: Identifies one image and a question about it.
        """
        return len({each.partition("-")[0] for each in self._images} - {image.partition("-")[0]})

    @classmethod
    def read(cls, model: LoadedModel, key: str) -> _Ledger:
        """The ledger under a key; empty if there is none."""
        held: dict[str, dict[str, Any]] = model.facts.setdefault("choices", {})
        data = cache.read(key) or held.get(key)
        try:
            return cls(key, held, data if isinstance(data, dict) else {})
        except (KeyError, TypeError, ValueError, AttributeError):  # of another version
            return cls(key, held, {})

    def choice(self, key: str, layers: Sequence[str]) -> Choice | None:
        """The choice that was made for an image, if its layer is still a candidate."""
        entry = self._chosen.get(key)
        try:
            known = None if entry is None else Choice(**entry)
        except TypeError:
            return None
        if known is None or known.layer not in [None, *layers]:
            return None
        if not (isinstance(known.method, str) and known.method in METHODS):
            return None  # of another version
        return known

    def means(self, without: str = "") -> dict[Candidate, float]:
        """The mean drop by candidate over all images but one.

        Args:
            without: The digest of that image.
        """
        found: dict[Candidate, list[float]] = {}
        for image, (_, drops) in self._images.items():
            if image != without:
                for method, layer, drop in drops:
                    found.setdefault((method, layer), []).append(drop)
        return {each: sum(drops) / len(drops) for each, drops in found.items()}

    def mean_random(self, without: str = "") -> float:
        """The same of random maps."""
        found = [random for image, (random, _) in self._images.items() if image != without]
        return sum(found) / len(found) if found else 0.0

    def add(self, image: str, drops: Mapping[Candidate, float], random: float) -> None:
        """Stores the drops of one image; those of an image that is there already are completed."""
        _, known = self._images.pop(image, (random, []))
        together = {(method, layer): drop for method, layer, drop in known} | dict(drops)
        rows = [[method, layer, drop] for (method, layer), drop in together.items()]
        self._images[image] = random, rows
        _shorten(self._images, _MAX_IMAGES)
        self._write()

    def store(self, keys: Sequence[str], choice: Choice) -> Choice:
        """Stores a choice under every key, and returns it."""
        self._chosen |= dict.fromkeys(keys, choice.describe())
        _shorten(self._chosen, _MAX_CHOICES)
        self._write()
        return choice

    def _write(self) -> None:
        if self._key is not None:
            data = {"images": self._images, "chosen": self._chosen}
            self._held[self._key] = json.loads(json.dumps(data))
            cache.write(self._key, data)


def _shorten(entries: dict[str, Any], most: int) -> None:
    """Deletes the oldest entries beyond the limit."""
    while len(entries) > most:
        del entries[next(iter(entries))]
