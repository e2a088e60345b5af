"""``evidence``: tests of a finished explanation against the model that it explains."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import interpolate

from cam_hub._validation import check_whole, with_hints
from cam_hub.attribution.passes import Job, run
from cam_hub.attribution.passes.scoring import score_images
from cam_hub.attribution.preparation import prepare
from cam_hub.errors import (
    CamHubError,
    ClassNotFound,
    InvalidArgument,
    LayerNotFound,
    nearest_names,
)
from cam_hub.faithfulness import (
    Evidence,
    EvidenceTest,
    Subject,
    blurred,
    cover_test,
    deletion_insertion,
    energy,
    focus,
    mean_colour,
    pointing_game,
    road,
)
from cam_hub.hooks.modes import default_modes
from cam_hub.images.clips import over_frames
from cam_hub.methods import Method
from cam_hub.results.explanation import Explanation
from cam_hub.targets.base import ClassScores
from cam_hub.targets.classes import ResolvedClasses, is_iterable, label_of
from cam_hub.targets.region import RegionChoice, read_region

__all__ = ["CHECKS", "FILLINGS", "Tested", "add_evidence", "evidence", "rivals_of"]

_OTHER_CLASSES = 10
"""So many other classes are drawn for the class check."""

SAME = 0.85
"""The rank correlation from which maps of different classes count as the same."""

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
    """

    job: Job
    method: Method
    standings: ClassScores
    settled: ResolvedClasses
    labels: Sequence[str] | None

    def whole_job(self, explanation: Explanation) -> Job:
        """The job with its image, which is prepared again if need be."""
        if self.job.image.numel():
            return self.job
        frames = explanation.frames
        shown = list(frames) if explanation.pictures.clip else frames[0]
        image = prepare(self.job.model, shown).tensor
        return replace(self.job, image=image.to(self.job.image))

    def test(self, explanation: Explanation) -> Evidence:
        """The cover test of the map of the first class."""
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


def _maps(
    checked: _Checked, job: Job, classes: Sequence[int]
) -> tuple[dict[int, NDArray[np.float32]], int]:
    """Maps of classes by the explanation's method, and how many images passed for them.

    All layers, one after the other.

    Raises:
        CamHubError: As ``explain``.
    """
    contrast = checked.tested.settled.contrast
    key = checked.tested.method.key
    again = replace(
        job,
        settle=lambda *_: ResolvedClasses(tuple(classes), contrast),
        methods=[checked.tested.method],
        layers={name: job.layers[name] for name in checked.layers},
        progress=None,
    )
    passed = run(again)
    found = {
        index: np.concatenate([passed.maps[key, index, name].ravel() for name in checked.layers])
        for index in classes
    }
    return found, passed.images or 1 + job.samples


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
    with its own mirror images.
    """
    tested, job = checked.tested, checked.tested.job
    own = checked.subject.class_index
    count = tested.standings.ranking.numel()
    others = [index for index in range(count) if index != own]
    for rival, _ in tested.settled.contrast or ():
        others.remove(rival)
    if tested.standings.probabilities is None or not others:
        sentence = "Not tested (class_check): the model has no other class."
        return EvidenceTest("class_check", None, sentence=sentence)
    generator = torch.Generator().manual_seed(checked.subject.seed)
    drawn = [others[place] for place in torch.randperm(len(others), generator=generator).tolist()]
    first = [index for index, _ in checked.subject.rivals if index in others]
    chosen = list(dict.fromkeys([*first, *drawn]))[:_OTHER_CLASSES]
    try:
        maps, images = _maps(checked, job, [own, *chosen])
    except CamHubError as error:
        sentence = f"Not tested (class_check): no maps of other classes ({error})."
        return EvidenceTest("class_check", None, sentence=sentence)
    correlations = {index: _correlation(maps[own], maps[index], ranks=True) for index in chosen}
    value = float(np.mean(list(correlations.values())))
    cam = checked.cam
    mirrored = [cam[..., ::-1], cam[..., ::-1, :], cam[..., ::-1, ::-1]]
    chance = float(np.mean([_correlation(cam.ravel(), m.ravel(), ranks=True) for m in mirrored]))
    same = value >= SAME
    what = "nearly the same map" if same else "another map"
    return EvidenceTest(
        "class_check",
        value,
        {"same": SAME, "chance": chance},
        images,
        f"Other classes get {what} (mean rank correlation {value:.2f} with {len(chosen)} of them; "
        f"mirror images {chance:.2f}).",
        {"classes": {str(index): each for index, each in correlations.items()}},
    )


def _stability(checked: _Checked) -> EvidenceTest:
    """Whether the map stays the same under invisible noise on the input, and with another seed.

    Noise of 0.001 standard deviations of the input. The value is the lower of the correlations.
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
    try:
        first, images = _maps(checked, job, [own])
        found = {
            name: _correlation(first[own], _maps(checked, again, [own])[0][own])
            for name, again in changed.items()
        }
    except CamHubError as error:
        sentence = f"Not tested (stability): {error}"
        return EvidenceTest("stability", None, sentence=sentence)
    value = min(found.values())
    parts = ", ".join(f"{each:.3f} with {name}" for name, each in found.items())
    return EvidenceTest(
        "stability",
        value,
        {"steady": 0.97},
        len(changed) * images,
        f"Correlation with the map made again: {parts}.",
        {"correlations": found},
    )


def _randomised(checked: _Checked) -> EvidenceTest:
    """Whether the map depends on what the network has learnt (Adebayo et al. 2018).

    The values of each weight are shuffled in a copy of the network. A map that stays the same shows
    edges of the image rather than the model's reasons. A low correlation proves nothing.
    """
    job = checked.tested.job
    own = checked.subject.class_index
    generator = torch.Generator().manual_seed(checked.subject.seed)
    try:
        module = deepcopy(job.model.module)
        with torch.no_grad():
            for weight in module.parameters():
                order = torch.randperm(weight.numel(), generator=generator).to(weight.device)
                weight.copy_(weight.flatten()[order].view(weight.shape))
        shuffled = replace(job.model, module=module, facts={"execution": job.model.execution})
        first, images = _maps(checked, job, [own])
        second, _ = _maps(checked, replace(job, model=shuffled), [own])
    except (CamHubError, RuntimeError, TypeError, MemoryError) as error:
        sentence = f"Not tested (randomised): {error}"
        return EvidenceTest("randomised", None, sentence=sentence)
    value = _correlation(first[own], second[own], ranks=True)
    red = value >= SAME
    return EvidenceTest(
        "randomised",
        value,
        {"same": SAME},
        images,
        "With shuffled weights, the map "
        + (
            "is nearly the same: it does not depend on what the model has learnt"
            if red
            else "changes"
        )
        + f" (rank correlation {value:.2f}).",
    )


def _inside(
    checked: _Checked, name: str, test: Callable[[Tensor, Tensor], EvidenceTest]
) -> EvidenceTest:
    heat = checked.subject.heat
    if checked.inside is None:
        sentence = f"Not tested ({name}): it needs region=, the box or mask of the object."
        return EvidenceTest(name, None, sentence=sentence)
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
        class_index: One of the explained classes; None for the first.
        layer: One of the layers; None for the fusion of all.
        region: Where the object is, for the pointing game and the energy: a box
            ``(left, top, right, bottom)`` in the photo's pixels or a boolean mask ``(H, W)``.
        seed: Of everything that is drawn at random.

    Returns:
        The results and the verdict.

    Raises:
        InvalidArgument: If there is no such test, or the explanation was loaded from files.
        ClassNotFound, LayerNotFound: If that was not explained.
        NoMap: If the map is blank or not finite.

    Example:
        >>> result = cam_hub.explain(model, "cat.jpg")           # doctest: +SKIP
        >>> print(cam_hub.evidence(result, checks=["cover", "class_check"]))  # doctest: +SKIP
    """
    names = _names(checks)
    if baseline not in FILLINGS:
        raise InvalidArgument("baseline", baseline, f"one of {', '.join(FILLINGS)}")
    check_whole("seed", seed, 0, 2**63 - 1)
    tested = explanation.origin
    if not isinstance(tested, Tested):
        expected = "the result of explain() in this process; cam_hub.reproduce makes it again"
        raise InvalidArgument("explanation", "a result from files or another process", expected)
    tested = replace(tested, job=tested.whole_job(explanation))
    index = explanation.classes[0] if class_index is None else class_index
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
    return Evidence(tuple(CHECKS[name](checked) for name in names), index, layer, baseline)


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
        layer = asked.get("layer")
        classes = explanation.classes
        index = next((each for each in classes if explanation.has_map(each, layer)), classes[0])
    try:
        found = evidence(explanation, checks=checks, class_index=index, **asked)
    except (InvalidArgument, ClassNotFound, LayerNotFound):
        raise
    except CamHubError as error:
        tests = [
            EvidenceTest(name, None, sentence=f"Not tested ({name}): {error}")
            for name in dict.fromkeys(checks)
        ]
        found = Evidence(tuple(tests), index, asked.get("layer"), asked.get("baseline", "blur"))
    explanation.__dict__.pop("evidence", None)
    described = {**explanation.described, "evidence": found.to_dict()}
    explanation.__dict__["described"] = described


def _names(checks: object) -> list[str]:
    if isinstance(checks, str):
        checks = list(CHECKS) if checks == "all" else [checks]
    if not is_iterable(checks):
        raise InvalidArgument("checks", checks, f"names out of {', '.join(CHECKS)}, or 'all'")
    names = list(dict.fromkeys(checks))
    for name in names:
        if name not in CHECKS:
            near = nearest_names(str(name), CHECKS)
            hint = f" (nearest: {', '.join(near)})" if near else ""
            raise InvalidArgument("checks", name, f"one of {', '.join(CHECKS)}{hint}")
    if not names:
        raise InvalidArgument("checks", names, "at least one test")
    return names


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
