"""``evidence``: tests of a finished explanation against the model that it explains."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.functional import interpolate

from cam_hub._validation import check_whole, with_hints
from cam_hub.attribution.passes import Job, Progress, run
from cam_hub.attribution.passes.forward import anatomy
from cam_hub.attribution.passes.scoring import marked_pixels, score_images
from cam_hub.attribution.preparation import prepare
from cam_hub.errors import (
    CamHubError,
    ClassNotFound,
    InvalidArgument,
    LayerNotFound,
)
from cam_hub.faithfulness import (
    Evidence,
    EvidenceTest,
    Subject,
    blurred,
    cover_drops,
    cover_test,
    deletion_insertion,
    energy,
    focus,
    mean_colour,
    pointing_game,
    road,
    untested,
)
from cam_hub.hooks.modes import default_modes
from cam_hub.images.clips import over_frames
from cam_hub.layers.listing import resolve_layers
from cam_hub.methods import METHODS, Method
from cam_hub.options import OPTIONS
from cam_hub.results.explanation import Explanation
from cam_hub.targets.base import ClassScores
from cam_hub.targets.classes import ResolvedClasses, label_of
from cam_hub.targets.region import RegionChoice, read_region

__all__ = [
    "CHECKS",
    "FILLINGS",
    "SAME_CONTRAST",
    "Tested",
    "add_evidence",
    "evidence",
    "likeness",
    "rivals_of",
]

_OTHER_CLASSES = 10
"""So many other classes are drawn for the class check."""

_MOST_PASSES = 4096
"""Fewer of them where each takes passes of its own, so that the check takes so many at most; the
map itself is made once more, and one other class is always drawn."""

SAME = 0.85
"""The rank correlation from which maps of different classes count as the same."""

_JUDGES = 4
"""So many other classes judge whether another method or layer distinguishes classes."""

_COVERED = 12
"""So many maps of other methods and layers are covered, at most."""

SAME_CONTRAST = 0.5
"""The same for opposite contrasts, whose maps should mark different places."""

_SMALL_NOISE = 1e-3
"""Standard deviation of the noise of the stability check, relative to the input's: invisible."""


@dataclass(frozen=True, eq=False)
class Tested:
    """What the tests of an explanation need beside its maps.

    Attributes:
        job: The job of its pass; on an accelerator without the image, so that a list of results
            does not fill its memory.
        method: Its method.
        standings: How the classes stand in the image.
        settled: The classes that were explained.
        labels: Names of the scores, or None.
        state: The state of the network, with the counts of writes to its weights; None if unknown.
    """

    job: Job
    method: Method
    standings: ClassScores
    settled: ResolvedClasses
    labels: Sequence[str] | None
    state: tuple[Hashable, ...] | None = None

    def whole_job(self, explanation: Explanation) -> Job:
        """The job with its image, which is prepared again if need be."""
        if self.job.image.numel():
            return self.job
        frames = explanation.frames
        shown = list(frames) if explanation.pictures.clip else frames[0]
        image = prepare(self.job.model, shown).tensor
        return replace(self.job, image=image.to(self.job.image))

    def test(self, explanation: Explanation) -> Evidence:
        """The cover test of the map of the first class that has one."""
        return evidence(explanation)


def rivals_of(
    index: int, settled: ResolvedClasses, standings: ClassScores
) -> tuple[tuple[int, float], ...]:
    """The classes that a class is compared with, and their weights.

    Args:
        index: The class.
        settled: The classes that were explained, with their contrast.
        standings: How the classes stand in the image.

    Returns:
        Those of the contrast; without one, the other class that is most probable; nothing where
        scores have no probabilities, as values and similarities.
    """
    if settled.contrast is not None:
        return tuple(settled.contrast)
    ranking = standings.ranking.clone().float()
    if standings.probabilities is None or ranking.numel() < 2:
        return ()
    if standings.eligible is not None:
        ranking[~standings.eligible] = -torch.inf
    ranking[index] = -torch.inf
    best = int(ranking.argmax())
    return ((best, 1.0),) if bool(ranking[best].isfinite()) else ()


@dataclass(frozen=True, eq=False)
class _Checked:
    """The map under test, as checks take it."""

    tested: Tested
    subject: Subject
    cam: NDArray[np.float32]
    layers: tuple[str, ...]
    inside: Tensor | None


def _correlation(first: NDArray[Any], second: NDArray[Any], *, ranks: bool = False) -> float:
    """Pearson's correlation, of ranks on demand; 0 for a map without variation."""
    if ranks:
        from scipy.stats import rankdata  # noqa: PLC0415 - slow to import, rarely needed

        first, second = rankdata(first), rankdata(second)
    first, second = first - first.mean(), second - second.mean()
    scale = float(np.sqrt((first**2).sum() * (second**2).sum()))
    return float((first * second).sum()) / scale if scale > 0 else 0.0


def _class_check(checked: _Checked) -> EvidenceTest:
    """Whether maps of other classes look the same: rank correlation with those of ten of them.

    The classes are drawn at random, the strongest rival among them. All come from one pass. By
    chance, a map correlates with others because maps are smooth: the baseline is its correlation
    with its own mirror images. With a contrast, the map of the opposite contrast takes the place of
    those of other classes.

    If they are the same, other methods and layers are tried, and the one is named whose maps differ
    and whose own map holds best if covered.
    """
    tested, job = checked.tested, checked.tested.job
    own = checked.subject.class_index
    others: list[int] = []
    if not checked.subject.contrasted:
        count = tested.standings.ranking.numel()
        others = [index for index in range(count) if index != own]
        if tested.standings.probabilities is None or not others:
            return untested("class_check", "the model has no other class.")
        if (eligible := tested.standings.eligible) is not None:  # a detector explains what it finds
            others = [index for index in others if bool(eligible[index])]
        if not others:
            return untested("class_check", "the model finds no other class in this image.")
        generator = torch.Generator().manual_seed(checked.subject.seed)
        drawn = torch.randperm(len(others), generator=generator).tolist()
        first = [index for index, _ in checked.subject.rivals]
        others = [*dict.fromkeys([*first, *(others[place] for place in drawn)])]
        others = others[: _affordable(tested, checked.layers)]
    elif tested.method.sign != "for" or tested.method.unsigned or not tested.method.class_specific:
        reason = "the opposite contrast is that of a map for a class, by its gradient."
        return untested("class_check", reason)
    key, layers = tested.method.key, list(checked.layers)
    try:
        maps, passes = _maps_of(
            job, tested, [tested.method], layers, [own, *others], opposite=not others
        )
        alike = likeness(maps, own, others, [key], layers)
    except CamHubError as error:
        return untested("class_check", f"no maps of other classes ({error}).")
    value = alike[key, "+".join(layers)]
    cam = checked.cam
    mirrored = [cam[..., ::-1], cam[..., ::-1, :], cam[..., ::-1, ::-1]]
    chance = float(np.mean([_correlation(cam.ravel(), m.ravel(), ranks=True) for m in mirrored]))
    limit = SAME if others else SAME_CONTRAST
    same = value >= limit
    what = "nearly the same map" if same else "another map"
    numbers = f"(mean rank correlation {value:.2f} with {len(others)} of them"
    sentence = f"Other classes get {what} {numbers}; mirror images {chance:.2f})."
    if not others:
        numbers = f"(rank correlation {value:.2f}; mirror images {chance:.2f})"
        sentence = f"The opposite contrast gets {what} {numbers}."
    details = dict[str, Any](classes=others)
    if same:
        instead, more = _distinguishing(checked, others, limit)
        passes += more
        details["instead"] = instead
        sentence += (
            f" Maps that differ: those of {instead['words']} ({instead['value']:.2f})."
            if instead
            else " No method or layer that was tried draws maps that differ."
        )
    baselines = {"same": limit, "chance": chance}
    return EvidenceTest("class_check", value, baselines, passes, sentence, details)


def _affordable(tested: Tested, layers: Sequence[str]) -> int:
    """How many other classes the class check draws."""
    channels = sum(tested.job.layers[name].channels or 0 for name in layers)
    count = partial(tested.method.passes.count, channels, copies=tested.job.samples)
    each = count(2) - count(1)
    return min(_OTHER_CLASSES, max(1, _MOST_PASSES // each)) if each else _OTHER_CLASSES


def _distinguishing(
    checked: _Checked, others: Sequence[int], limit: float
) -> tuple[dict[str, Any] | None, int]:
    """The method and layer that pass the class check and hold best if covered.

    Candidates are the methods that need no noise, at the layers of the explanation and the ends of
    blocks. So that the search stays small, four other classes judge them.

    Returns:
        Method, layer, correlation and words for it, None if there is none; and how many images
        passed.
    """
    tested, job = checked.tested, checked.tested.job
    size, own, others = tuple(job.image.shape[1:]), checked.subject.class_index, others[:_JUDGES]
    methods = [
        each.signed(tested.method.sign)
        for each in METHODS.values()
        if each.attribute is None and each.combine is None  # all from one pass
        if each.class_specific and not each.needs_noise
    ]
    passes = 0
    try:
        blocks = resolve_layers(job.model, "blocks", size)
        own_layers = {} if tested.method.level == "pixel" else dict(job.layers)
        job = replace(job, layers={each.name: each for each in blocks} | own_layers)
        names = list(job.layers)
        maps, passes = _maps_of(job, tested, methods, names, [own, *others], opposite=not others)
        keys = {each.key: each for each in methods}
        alike = {
            each: value
            for name in names
            for each, value in likeness(maps, own, others, list(keys), [name]).items()
            if value < limit
        }
        masks = {each: marked_pixels(job, each[1], maps[each[0], own, each[1]]) for each in alike}
        kept = {each: mask for each, mask in masks.items() if mask is not None}
        # Those at the same layers first, then those that differ most.
        ranked = sorted(kept, key=lambda each: (each[1] not in checked.layers, alike[each]))
        ranked = ranked[:_COVERED]
        if not ranked:
            return None, passes
        drops = cover_drops(checked.subject, torch.stack([kept[each] for each in ranked]))
        passes += 1 + len(ranked)
    except CamHubError:
        return None, passes
    key, name = best = ranked[int(drops.argmax())]
    title = keys[key].title
    words = title if [name] == list(checked.layers) else f"{title} at {name}"
    found = {"method": keys[key].name, "layer": name, "value": alike[best], "words": words}
    return found, passes


def _maps_of(
    job: Job,
    tested: Tested,
    methods: list[Method],
    layers: Sequence[str],
    classes: Sequence[int],
    *,
    opposite: bool = False,
) -> tuple[Mapping[tuple[str, int, str], NDArray[np.float32]], int]:
    """The maps of several methods, layers and classes, and how many images passed for them.

    Args:
        job: The job.
        tested: The explanation.
        methods: The methods.
        layers: The layers.
        classes: The classes.
        opposite: Whether maps of the negated scores are made, too.

    Raises:
        CamHubError: As ``explain``.
    """
    contrast = tested.settled.contrast
    if opposite:
        methods = [*methods, *(each.signed("against") for each in methods)]
    again = replace(
        job,
        settle=lambda *_: ResolvedClasses(tuple(classes), contrast),
        methods=methods,
        layers={name: job.layers[name] for name in layers},
    )
    passed = run(again)
    return passed.maps, passed.images or 1 + again.samples


def likeness(
    maps: Mapping[tuple[str, int, str], NDArray[np.float32]],
    own: int,
    others: Sequence[int],
    keys: Sequence[str],
    layers: Sequence[str],
) -> dict[tuple[str, str], float]:
    """How alike the maps of a class and of others are.

    Args:
        maps: By method, class and layer, as in ``Pass.maps``.
        own: The class.
        others: The other classes; if there are none, the map is compared with the opposite one.
        keys: The methods.
        layers: Layers, whose maps are compared as one.

    Returns:
        The mean rank correlation, by method and layers.
    """

    def of(key: str, index: int) -> NDArray[np.float32]:
        return np.concatenate([maps[key, index, name].ravel() for name in layers])

    found = {}
    for key in keys:
        compared = [of(key, index) for index in others] or [of(f"{key} against", own)]
        values = [_correlation(of(key, own), each, ranks=True) for each in compared]
        found[key, "+".join(layers)] = float(np.mean(values))
    return found


def _stability(checked: _Checked) -> EvidenceTest:
    """Whether the map stays the same under invisible noise on the input, and with another seed.

    Noise of 0.001 standard deviations of the input. The value is the lower of the correlations. The
    correlation with the map of the mirrored image, mirrored back, is stated, too: networks are not
    quite symmetric, so that it has no limit.
    """
    job = checked.tested.job
    own = checked.subject.class_index
    generator = torch.Generator().manual_seed(checked.subject.seed)
    noise = torch.randn(job.image.shape, generator=generator).to(job.image)
    spread = float(job.image.float().std())
    changed = {"input noise": replace(job, image=job.image + _SMALL_NOISE * spread * noise)}
    if job.noise is not None:
        changed["another seed"] = replace(job, noise=replace(job.noise, seed=job.noise.seed + 1))
    elif checked.tested.method.seeded:
        changed["another seed"] = replace(job, seed=job.seed + 1)
    mirrored = replace(job, image=job.image.flip(-1))
    try:
        first, images = _maps(checked, job, own)
        found = {
            name: _agreement(first, _maps(checked, again, own)[0])
            for name, again in changed.items()
        }
        value = min(found.values())
        back = [np.ascontiguousarray(cam[..., ::-1]) for cam in _maps(checked, mirrored, own)[0]]
        found["the mirrored image"] = _agreement(first, back)
    except CamHubError as error:
        return untested("stability", str(error))
    parts = ", ".join(f"{each:.3f} with {name}" for name, each in found.items())
    return EvidenceTest(
        "stability",
        value,
        {"steady": 0.97},
        (2 + len(changed)) * images,
        f"Correlation with the map made again: {parts}.",
        {"correlations": found},
    )


def _maps(checked: _Checked, job: Job, index: int) -> tuple[list[NDArray[np.float32]], int]:
    """The map of a class at each of the explanation's layers, and how many images passed.

    Raises:
        CamHubError: As ``explain``.
    """
    tested = checked.tested
    maps, images = _maps_of(job, tested, [tested.method], checked.layers, [index])
    return [maps[tested.method.key, index, name] for name in checked.layers], images


def _agreement(
    first: Sequence[NDArray[np.float32]],
    second: Sequence[NDArray[np.float32]],
    *,
    ranks: bool = False,
) -> float:
    """The correlation of the maps of all layers, one after the other."""
    flat = [np.concatenate([cam.ravel() for cam in maps]) for maps in (first, second)]
    return _correlation(*flat, ranks=ranks)


def _randomised(checked: _Checked) -> EvidenceTest:
    """Whether the map depends on what the network has learnt (Adebayo et al. 2018).

    The values of each weight are shuffled in a copy of the network, once those of the classifier
    alone, then all. A map that stays the same with all weights shuffled shows edges of the image
    rather than the model's reasons; with the classifier shuffled, it does not depend on the class.
    A low correlation proves nothing.
    """
    job = checked.tested.job
    own = checked.subject.class_index
    generator = torch.Generator().manual_seed(checked.subject.seed)
    count = checked.tested.standings.ranking.numel()
    try:
        module = deepcopy(job.model.module)
    except (RuntimeError, TypeError, MemoryError) as error:  # not every module has a copy
        return untested("randomised", f"the model cannot be copied ({error}).")
    try:
        first, images = _maps(checked, job, own)
        correlations = {}
        for name, weights in (
            ("classifier", _classifier(module, count)),
            ("weights", list(module.parameters())),
        ):
            if not weights:
                continue
            _shuffle(weights, generator)
            facts: dict[str, Any] = {"execution": job.model.execution}
            # Shuffled weights leave the layers where they are; to find them anew takes passes.
            facts["layers"] = dict(job.model.facts.get("layers", {}))
            changed = replace(job.model, module=module, facts=facts)
            second, _ = _maps(checked, replace(job, model=changed), own)
            correlations[name] = _agreement(first, second, ranks=True)
    except CamHubError as error:
        return untested("randomised", str(error))
    parts = [
        f"{each:.2f} with {_SHUFFLED[name][each >= SAME]}" for name, each in correlations.items()
    ]
    return EvidenceTest(
        "randomised",
        correlations["weights"],
        {"same": SAME},
        (1 + len(correlations)) * images,
        f"Rank correlation of the map: {', '.join(parts)}.",
        {"correlations": correlations},
    )


_SHUFFLED = {
    "classifier": (
        "the classifier's weights shuffled",
        "the classifier's weights shuffled (it does not depend on the class)",
    ),
    "weights": (
        "all weights shuffled",
        "all weights shuffled (it does not depend on what the model has learnt)",
    ),
}
"""What was shuffled, and what it means if the map stays the same."""


def _classifier(module: nn.Module, count: int) -> list[nn.Parameter]:
    """The weights of the last part with one output per score; empty if there is none."""
    found: list[nn.Parameter] = []
    for part in module.modules():
        own = list(part.parameters(recurse=False))
        if own and own[0].ndim > 1 and len(own[0]) == count:
            found = own
    return found


@torch.no_grad()
def _shuffle(weights: Iterable[nn.Parameter], generator: torch.Generator) -> None:
    for weight in weights:
        order = torch.randperm(weight.numel(), generator=generator).to(weight.device)
        weight.copy_(weight.flatten()[order].view(weight.shape))


def _inside(
    checked: _Checked, name: str, test: Callable[[Tensor, Tensor], EvidenceTest]
) -> EvidenceTest:
    heat = checked.subject.heat
    if checked.inside is None:
        where = "region= of cam_hub.evidence or of /evidence"
        return untested(name, f"it needs the box or mask of the object: {where}.")
    return test(heat.amax(dim=0) if heat.ndim == 3 else heat, checked.inside)


CHECKS: Final[Mapping[str, Callable[[_Checked], EvidenceTest]]] = {
    "cover": lambda checked: cover_test(checked.subject),
    "class_check": _class_check,
    "road": lambda checked: road(checked.subject),
    "curves": lambda checked: deletion_insertion(checked.subject),
    "stability": _stability,
    "randomised": _randomised,
    "focus": lambda checked: focus(checked.subject.heat),
    "pointing_game": lambda checked: _inside(checked, "pointing_game", pointing_game),
    "energy": lambda checked: _inside(checked, "energy", energy),
}
"""Every test by name."""

_CHECKS = replace(OPTIONS["evidence"], name="checks", default=())
"""How tests are named, here as in every interface."""

FILLINGS: Final[Mapping[str, Callable[[Tensor], Tensor]]] = {
    "blur": blurred,
    "mean": mean_colour,
}
"""What appears in place of covered pixels, by name."""


@with_hints
@default_modes()
def evidence(
    explanation: Explanation,
    *,
    checks: str | Iterable[str] = ("cover",),
    baseline: str = "blur",
    class_index: int | None = None,
    layer: str | None = None,
    region: RegionChoice = None,
    seed: int = 0,
    progress: Progress | None = None,
) -> Evidence:
    """Tests a map against the model: are the pixels that it marks those that the score depends on?

    Each test has baselines on the same image; no test is a grade. What a test cannot show is
    written in its documentation (``docs/evidence.md``).

    Args:
        explanation: From ``explain``, in the process in which it was made.
        checks: Names out of ``CHECKS``, or ``"all"``: ``"cover"`` (8 images pass),
            ``"class_check"`` (one backward pass for each of ten classes), ``"road"`` (19 images),
            ``"curves"`` (116 images), ``"stability"`` and ``"randomised"`` (the explanation again),
            ``"focus"`` (no pass), ``"pointing_game"`` and ``"energy"`` (no pass; with ``region``).
        baseline: What appears in place of covered pixels: ``"blur"``, or ``"mean"`` for the image's
            mean colour.
        class_index: One of the explained classes; None for the first one that has a map.
        layer: One of the layers; None for the fusion of all.
        region: Where the object is, for the pointing game and the energy: a box
            ``(left, top, right, bottom)`` in the photo's pixels or a boolean mask ``(H, W)``.
        seed: Of everything that is drawn at random.
        progress: Called with the part of the tests that is done and a few words; what it raises
            stops the work.

    Returns:
        The results and the verdict.

    Raises:
        InvalidArgument: If there is no such test, the explanation was loaded from files, or the
            weights have changed since.
        ClassNotFound, LayerNotFound: If that was not explained.
        NoMap: If the map is blank or not finite.

    Example:
        >>> result = cam_hub.explain(model, "cat.jpg")           # doctest: +SKIP
        >>> print(cam_hub.evidence(result, checks=["cover", "class_check"]))  # doctest: +SKIP
    """
    names: tuple[str, ...] = _CHECKS.check(checks)
    if baseline not in FILLINGS:
        raise InvalidArgument("baseline", baseline, f"one of {', '.join(FILLINGS)}")
    check_whole("seed", seed, 0, 2**63 - 1)
    tested = getattr(explanation, "origin", None)
    if not isinstance(tested, Tested):
        found = type(explanation).__name__
        expected = "what explain() returned; of explain_many, .explanation of an outcome"
        if found == Explanation.__name__:
            found = "a result from files or another process"
            expected = "the result of explain() in this process; cam_hub.reproduce makes it again"
        raise InvalidArgument("explanation", found, expected)
    model, before = tested.job.model, tested.state
    now = None if model.execution.written else anatomy(model).state()
    if before is not None and now is not None and before[2] != now[2]:
        expected = "that of the present weights: they were written to after it was made"
        raise InvalidArgument("explanation", "a result of other weights", expected)
    job, steps = tested.whole_job(explanation), _Steps(progress, len(names))
    tested = replace(tested, job=job if progress is None else replace(job, progress=steps))
    index = _first_with_map(explanation, layer) if class_index is None else class_index
    cam = explanation.cam(index, layer)
    heat = _on_input(explanation, index, layer, tuple(tested.job.image.shape[2:]))
    inside = None
    if region is not None:
        weights = read_region(region, explanation.placement).weights(*heat.shape[-2:])
        inside = torch.from_numpy(weights >= 0.5)
        if not bool(inside.any()):  # smaller than a pixel of the input
            inside = torch.from_numpy(weights >= weights.max())
    rivals = rivals_of(index, tested.settled, tested.standings)
    labels = {each: label_of(each, tested.labels) for each in (index, *(r for r, _ in rivals))}
    subject = Subject(
        tested.job.image,
        heat,
        partial(score_images, tested.job),
        index,
        rivals,
        contrasted=tested.settled.contrast is not None,
        against=explanation.sign == "against",
        names=labels,
        filling=FILLINGS[baseline],
        seed=seed,
    )
    layers = explanation.layers if layer is None else (layer,)
    checked = _Checked(tested, subject, cam, layers, inside)
    return Evidence(
        tuple(CHECKS[name](checked) for name in steps.over(names)), index, layer, baseline
    )


def _first_with_map(explanation: Explanation, layer: str | None) -> int:
    """The first class that has a map; the first one if none has."""
    classes = explanation.classes
    return next((each for each in classes if explanation.has_map(each, layer)), classes[0])


class _Steps:
    """Progress of several tests, each of which makes several passes."""

    def __init__(self, progress: Progress | None, count: int) -> None:
        self._progress = progress
        self._count = count
        self._done = 0
        self._part = 0.0

    def over(self, names: Iterable[str]) -> Iterator[str]:
        """The tests one by one; each counts as done when the next one is wanted."""
        for self._done, name in enumerate(names):
            self(0.0, "testing")
            yield name
        self._done = self._count
        self(0.0, "testing")

    def __call__(self, part: float, what: str) -> None:
        """Reports a part of the present test; what is reported never falls."""
        self._part = max(self._part, (self._done + part) / self._count)
        if self._progress is not None:
            self._progress(min(1.0, self._part), what)


def add_evidence(explanation: Explanation, checks: Iterable[str], **asked: Any) -> None:
    """Tests a new explanation and records the result in its manifest.

    If the map is blank or memory does not suffice, the tests have no value, and their
    sentences state the reason.

    Args:
        explanation: From ``explain``, in the process in which it was made.
        checks: Names out of ``CHECKS``.
        asked: Other arguments of ``evidence``. Without a class, the first one that has a map.

    Raises:
        InvalidArgument, ClassNotFound, LayerNotFound: As ``evidence``.
    """
    index = asked.pop("class_index", None)
    if index is None:
        index = _first_with_map(explanation, asked.get("layer"))
    try:
        found = evidence(explanation, checks=checks, class_index=index, **asked)
    except (InvalidArgument, ClassNotFound, LayerNotFound):
        raise
    except CamHubError as error:
        tests = [untested(name, str(error)) for name in dict.fromkeys(checks)]
        found = Evidence(tuple(tests), index, asked.get("layer"), asked.get("baseline", "blur"))
    explanation.__dict__.pop("evidence", None)
    explanation.record(evidence=found.to_dict())


def _on_input(
    explanation: Explanation, index: int, layer: str | None, sides: tuple[int, ...]
) -> Tensor:
    """A map on the model's input, ``(*sides)``, at least 0: of a signed one the positive part."""
    if len(sides) == 3:
        steps = [explanation.cam(index, layer, step=step) for step in range(explanation.steps)]
        maps = over_frames(np.stack(steps), sides[0])
    else:
        maps = explanation.cam(index, layer)[None]
    # The largest value is 1, so that what is far below float32's least number counts, too.
    planes = torch.from_numpy(np.maximum(maps.astype(np.float64), 0))
    planes = (planes / planes.amax().clamp(min=1e-300)).float()
    heat = interpolate(planes[:, None], sides[-2:], mode="bilinear", align_corners=False)[:, 0]
    return heat if len(sides) == 3 else heat[0]
