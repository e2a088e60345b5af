"""Tests that change the image where a map is hot and look at what the model makes of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cam_hub.errors import CamHubError, InvalidArgument
from cam_hub.faithfulness.covering import (
    DEFAULT_SHARE,
    blurred,
    centred_gaussian,
    cover,
    elsewhere,
    hottest,
    random_map,
    soft_mask,
)
from cam_hub.faithfulness.evidence import EvidenceTest, untested

__all__ = [
    "Scores",
    "Subject",
    "cover_drops",
    "cover_test",
    "deletion_insertion",
    "road",
]

_PLACES = 3
"""So many other places are covered by the same shape."""

_SATURATED = 0.999
"""Above this probability, a falling score hardly moves it."""

_ROAD_SHARES = (0.1, 0.3, 0.5)
"""The shares that ROAD removes. Beyond half of the image, imputation has little left to go by."""

_ROAD_NOISE = 0.01
"""Standard deviation of the noise on imputed pixels, relative to the image's (Rong et al. use 0.01
for images in [0, 1])."""

_IGNORED = 1e-6
"""A score that changes by less, relative to its size, when the whole image is blurred does not
depend on the image."""


class Scores(NamedTuple):
    """The model's answer for a batch of images.

    Attributes:
        scores: ``(N, K)``, before softmax or sigmoid; on the CPU, at least float32.
        probabilities: ``(N, K)`` in [0, 1], or None if the scores have none.
    """

    scores: Tensor
    probabilities: Tensor | None = None


@dataclass(frozen=True, eq=False)
class Subject:
    """What is tested: the map of one class, the model's input, and how the model scores others.

    Attributes:
        image: The model's input, ``(1, C, *sides)``.
        heat: The map on it, ``(*sides)``, at least 0 and finite.
        rate: Scores images ``(N, C, *sides)``.
        class_index: The class.
        rivals: Classes whose scores, times a weight, are subtracted: those of a contrast, or the
            class that is most probable besides.
        contrasted: Whether the rivals are those of a contrast, so that the map is about the
            difference, not about the class alone.
        against: Whether the map shows evidence against the class.
        names: Of classes, by index, for the sentences.
        filling: Makes of the image what appears in place of covered pixels.
        seed: Of everything that is drawn at random.
    """

    image: Tensor
    heat: Tensor
    rate: Callable[[Tensor], Scores]
    class_index: int
    rivals: Sequence[tuple[int, float]] = ()
    contrasted: bool = False
    against: bool = False
    names: Mapping[int, str] = field(default_factory=dict)
    filling: Callable[[Tensor], Tensor] = blurred
    seed: int = 0

    def __post_init__(self) -> None:
        if self.image.ndim < 4 or len(self.image) != 1:
            raise InvalidArgument("image", tuple(self.image.shape), "the shape (1, C, *sides)")
        if self.heat.shape != self.image.shape[2:]:
            expected = f"a map of the image's sides, {tuple(self.image.shape[2:])}"
            raise InvalidArgument("heat", tuple(self.heat.shape), expected)
        if not bool(self.heat.isfinite().all()):
            raise InvalidArgument("heat", "NaN or infinity", "a finite map")

    @property
    def name(self) -> str:
        """The class, for a sentence."""
        return self.names.get(self.class_index, f"class {self.class_index}")

    def margin(self, scores: Tensor) -> Tensor:
        """``(N,)``: the score of the class less those of its rivals; negated for evidence against.

        Args:
            scores: ``(N, K)``.
        """
        found = scores[:, self.class_index].double()
        for rival, weight in self.rivals:
            found = found - weight * scores[:, rival].double()
        return -found if self.against else found


def cover_drops(subject: Subject, masks: Tensor) -> Tensor:
    """How far each of several maps of one image and class holds: the contrast drop.

    The drop in the class's score relative to its rivals' when the pixels that a map marks are
    covered, with a soft edge. One pass for the image and one for each map.

    Args:
        subject: The image and class; its own map does not matter.
        masks: The pixels that the maps mark, from ``hottest``: ``(N, *sides)`` bool.

    Returns:
        ``(N,)`` in units of the score; for a map that marks nothing, 0.

    Raises:
        CamHubError: What scoring raises.
    """
    images = cover(subject.image, soft_mask(masks), subject.filling(subject.image))
    margins = subject.margin(subject.rate(torch.cat([subject.image, images])).scores)
    return margins[:1] - margins[1:]


COVERS: Final = ("hottest", *(f"elsewhere {n + 1}" for n in range(_PLACES)), "centre", "random")


def cover_test(subject: Subject, share: float = DEFAULT_SHARE) -> EvidenceTest:
    """The cover test: what happens to the class if the hottest part of the image is covered?

    The hottest share of the image is blurred, with a soft edge. The value is the contrast drop: the
    drop in the class's score relative to that of its strongest rival. The baselines are the same
    drop where a cover of the same area lies elsewhere: the same shape at three other places (their
    mean), the middle of the image, and the hottest part of a random map. Eight images pass: these
    six, the image itself and the image blurred as a whole.

    A map that passes has found pixels on which the score depends. It may have missed others, and
    blurring leaves colours visible.

    Args:
        subject: What is tested.
        share: The share of the image to cover; less where a map has less heat.

    Returns:
        Value and baselines in units of the score; ``details`` has every score and probability.
    """
    mask = hottest(subject.heat[None], share)
    area = float(mask.double().mean())
    generator = torch.Generator().manual_seed(subject.seed)
    sides = subject.heat.shape
    controls = torch.stack([centred_gaussian(sides), random_map(sides, generator)])
    masks = torch.cat(
        [
            mask.cpu(),
            elsewhere(mask[0].cpu(), _PLACES, generator),
            hottest(controls, max(area, 1e-9)),
        ]
    )
    whole = torch.ones_like(masks[:1], dtype=torch.float32)
    soft = torch.cat([soft_mask(masks), whole]).to(subject.image.device)
    images = torch.cat([subject.image, cover(subject.image, soft, subject.filling(subject.image))])
    count = len(images)
    try:
        found = subject.rate(images)
    except CamHubError as error:
        return untested("cover", f"the model refuses covered images ({error}).", count)
    margins = subject.margin(found.scores)
    if not bool(margins.isfinite().all()):
        return untested("cover", "the scores of covered images are not finite.", count)
    drops = (margins[0] - margins[1:]).tolist()
    names = (*COVERS, "whole image")
    each = dict(zip(names, drops, strict=True))
    scores = found.scores[:, subject.class_index].tolist()
    details: dict[str, Any] = {
        "share": area,
        "drops": each,
        "scores": dict(zip(("image", *names), scores, strict=True)),
        "rivals": [[rival, weight] for rival, weight in subject.rivals],
    }
    probabilities = None
    if found.probabilities is not None:
        probabilities = found.probabilities[:, subject.class_index].tolist()
        details["probabilities"] = dict(zip(("image", *names), probabilities, strict=True))
    if _is_covered_by(subject.image, images[-1]) or (
        max(map(abs, drops)) <= _IGNORED * max(1.0, abs(float(margins[0])))
    ):
        reason = "the score does not change even if the whole image is blurred."
        return untested("cover", reason, count, details)
    mean = sum(each[name] for name in COVERS[1 : 1 + _PLACES]) / _PLACES
    baselines = {"elsewhere": mean, "centre": each["centre"], "random": each["random"]}
    made = EvidenceTest("cover", each["hottest"], baselines, count, details=details)
    sign = -1 if subject.against else 1
    rivals = ", ".join(subject.names.get(each, f"class {each}") for each, _ in subject.rivals)
    # What has no classes is a value already, such as a similarity.
    name = subject.name if probabilities is None and not rivals else f"{subject.name} score"
    shown = [
        (name, "{:.3g}", scores),
        (f"score lead of {subject.name} over {rivals}", "{:.3g}", (sign * margins).tolist()),
    ]
    if probabilities is not None and not _is_saturated(probabilities[0]):
        shown.insert(0, (subject.name, "{:.0%}", probabilities))
    return replace(made, sentence=_cover_sentence(made, shown, against=subject.against))


def _cover_sentence(
    made: EvidenceTest, shown: Sequence[tuple[str, str, Sequence[float]]], *, against: bool
) -> str:
    """The cover test in a sentence, whose numbers agree with its value.

    A class can lose probability while its rival loses as much, and a map can mark more than the
    same shape elsewhere does, but less than a spot in the middle.

    Args:
        made: The test.
        shown: What can be stated, in the order of preference, as words, format, and numbers of the
            image and of every cover. The last one is what is measured. The first one that moves,
            and compares with the baselines as the value does, is taken.
        against: Whether the map shows evidence against the class.
    """
    value, best = made.value or 0.0, made.best_baseline
    compared = dict.fromkeys(["elsewhere", *([best] if best else [])])
    for what, pattern, (first, covered, *others) in shown:  # noqa: B007 - the last one remains
        centre, random = others[_PLACES : _PLACES + 2]
        after = {"elsewhere": sum(others[:_PLACES]) / _PLACES, "centre": centre, "random": random}
        texts = [
            pattern.format(each) for each in (first, covered, *map(after.__getitem__, compared))
        ]
        sign = -1 if against else 1
        drop = sign * (first - covered)
        agrees = (drop > 0) == (value > 0) and all(
            (drop > sign * (first - after[each])) == (value > made.baselines[each])
            for each in compared
        )
        if agrees and texts[0] != texts[1]:
            break
    part = "most opposing" if against else "hottest"
    places = [_ELSEWHERE[each] for each in compared]
    found = "".join(f" {name}: {text}." for name, text in zip(places, texts[2:], strict=True))
    share = made.details["share"]
    return f"Cover the {part} {share:.0%} of the image: {what} {texts[0]} → {texts[1]}.{found}"


_ELSEWHERE = {
    "elsewhere": "Same area elsewhere",
    "centre": "A spot in the middle",
    "random": "A random map",
}
"""The baselines of the cover test, in its sentence."""


def road(
    subject: Subject, shares: Sequence[float] = _ROAD_SHARES, *, baselines: bool = True
) -> EvidenceTest:
    """ROAD: pixels are removed hottest first, and coldest first.

    Rong et al. 2022, A Consistent and Efficient Evaluation Strategy for Attribution Methods (ICML).
    Removed pixels are imputed from their neighbours by a system of linear equations (section 4.3)
    with a little noise, so that the shape of what was removed is hardly visible. The value is the
    mean over the shares of (score after removing the coldest − score after removing the hottest)
    divided by 2: 0 for a map that knows nothing, negative for an inverted one.

    Args:
        subject: What is tested.
        shares: The shares of the image that are removed, in (0, 0.5].
        baselines: Whether a spot in the middle and a random map are tested, too.

    Returns:
        Value and baselines in probabilities where the class has one that is not saturated, else in
        units of the score; ``details["measure"]`` states which.

    Raises:
        InvalidArgument: If a share is out of range.
    """
    if not shares or not all(0 < share <= 0.5 for share in shares):
        raise InvalidArgument("shares", list(shares), "numbers above 0 and at most 0.5")
    generator = torch.Generator().manual_seed(subject.seed)
    sides = subject.heat.shape
    maps = {"map": subject.heat.cpu().double()}
    if baselines:
        maps["centre"] = centred_gaussian(sides).double()
        maps["random"] = random_map(sides, generator).double()
    images = [subject.image]
    for heat in maps.values():
        # In random order, so that pixels of equal heat are not removed from the top left on.
        shuffled = torch.randperm(heat.numel(), generator=generator)
        order = shuffled[heat.flatten()[shuffled].argsort(descending=True, stable=True)]
        for share in shares:
            count = max(1, round(share * heat.numel()))
            images += [
                _imputed(subject.image, pixels, generator)
                for pixels in (order[:count], order[-count:])
            ]
    try:
        found = subject.rate(torch.cat(images))
    except CamHubError as error:
        reason = f"the model refuses images with imputed pixels ({error})."
        return untested("road", reason, len(images))
    values, measure = _measured(subject, found)
    if not bool(values.isfinite().all()):
        return untested("road", "the scores of the changed images are not finite.", len(images))
    if _is_constant(values) or _has_one_colour(subject.image):
        return untested("road", "the score does not change, whatever is removed.", len(images))
    gaps = values[1:].view(len(maps), len(shares), 2).diff(dim=2)[..., 0] / 2
    means = dict(zip(maps, gaps.mean(dim=1).tolist(), strict=True))
    value = means.pop("map")
    unit = " (in probability)" if measure == "probability" else " (in units of the score)"
    sentence = f"ROAD: {value:.2f}{unit}"
    if baselines:
        sentence += (
            f"; a spot in the middle {means['centre']:.2f}, a random map {means['random']:.2f}"
        )
    return EvidenceTest(
        "road",
        value,
        means,
        len(images),
        sentence + ".",
        {"measure": measure, "shares": list(shares), "by_share": gaps[0].tolist()},
    )


def deletion_insertion(
    subject: Subject, steps: int = 20, *, baselines: bool = True
) -> EvidenceTest:
    """Deletion and insertion curves: the hottest pixels first are blurred, or made sharp.

    Petsiuk et al. 2018, RISE (BMVC), section 4.1. Deletion begins with the image and ends with the
    blurred image, insertion the other way round. The value is the area under the insertion curve
    less that under the deletion curve (trapezoidal rule over the share of pixels). The pixels are
    ordered as in ``torchcam.metrics.DeletionInsertionMetric``, whose areas for the same map and
    baseline image are ``details["deletion_auc"]`` and ``details["insertion_auc"]``.

    Args:
        subject: What is tested.
        steps: Maximum number of steps of each curve.
        baselines: Whether a spot in the middle and a random map are tested, too.

    Returns:
        In probabilities where the class has one that is not saturated, else in units of the score.

    Raises:
        InvalidArgument: If ``steps`` is not positive.
    """
    if steps < 1:
        raise InvalidArgument("steps", steps, "a whole number of at least 1")
    generator = torch.Generator().manual_seed(subject.seed)
    sides = subject.heat.shape
    maps = {"map": subject.heat}
    if baselines:
        maps["centre"] = centred_gaussian(sides)
        maps["random"] = random_map(sides, generator)
    filling = subject.filling(subject.image)
    images = [subject.image, filling]
    size = subject.heat.numel()
    counts = [*range(0, size, -(-size // steps)), size]
    for heat in maps.values():
        order = heat.flatten().to(subject.image.device).argsort(descending=True, stable=True)
        ranks = order.argsort().view(sides)
        masks = torch.stack([ranks < count for count in counts[1:-1]])
        images.append(cover(subject.image, masks, filling))
        images.append(cover(filling, masks, subject.image))
    batch = torch.cat(images)
    try:
        found = subject.rate(batch)
    except CamHubError as error:
        return untested("curves", f"the model refuses changed images ({error}).", len(batch))
    values, measure = _measured(subject, found)
    if not bool(values.isfinite().all()):
        return untested("curves", "the scores of the changed images are not finite.", len(batch))
    if _is_constant(values) or _is_covered_by(subject.image, filling):
        return untested("curves", "the score does not change, whatever is blurred.", len(batch))
    first, last = values[:1], values[1:2]
    inner = values[2:].view(len(maps), 2, len(counts) - 2)
    places = torch.tensor(counts, dtype=torch.float64) / size
    areas: dict[str, tuple[float, float]] = {}
    for name, (deleted, inserted) in zip(maps, inner, strict=True):
        falling, rising = torch.cat([first, deleted, last]), torch.cat([last, inserted, first])
        areas[name] = (
            float(torch.trapezoid(falling, places)),
            float(torch.trapezoid(rising, places)),
        )
    gaps = {name: insertion - deletion for name, (deletion, insertion) in areas.items()}
    value = gaps.pop("map")
    deletion, insertion = areas["map"]
    return EvidenceTest(
        "curves",
        value,
        gaps,
        len(batch),
        f"Area under the curve: {insertion:.2f} when the hottest pixels return first, "
        f"{deletion:.2f} when they are blurred first.",
        {
            "measure": measure,
            "deletion_auc": deletion,
            "insertion_auc": insertion,
            "shares": places.tolist(),
            "deletion": torch.cat([first, inner[0, 0], last]).tolist(),
            "insertion": torch.cat([last, inner[0, 1], first]).tolist(),
        },
    )


def _is_saturated(probability: float) -> bool:
    """Whether a probability is so near 0 or 1 that it hardly moves with the score."""
    return not 1 - _SATURATED <= probability <= _SATURATED


def _is_covered_by(image: Tensor, filled: Tensor) -> bool:
    """Whether a cover of all pixels leaves an image as it is, but for rounding.

    The scores of a deep network then still differ by more than what ``_IGNORED`` allows.
    """
    if not image.is_floating_point():
        return bool((image == filled).all())
    largest = float(image.abs().max())
    return float((image - filled).abs().max()) <= 16 * torch.finfo(image.dtype).eps * largest


def _has_one_colour(image: Tensor) -> bool:
    """Whether every channel has one value, so that nothing can be removed from the image."""
    flat = image.detach().double().flatten(2)
    gaps = flat.amax(2) - flat.amin(2)
    eps = torch.finfo(image.dtype).eps if image.is_floating_point() else 0.0
    return float(gaps.max()) <= 16 * eps * float(flat.abs().max())


def _is_constant(values: Tensor) -> bool:
    """Whether no changed image has another value than the first one, the unchanged image."""
    gaps = (values - values[0]).abs()
    return float(gaps.max()) <= _IGNORED * max(1.0, abs(float(values[0])))


def _measured(subject: Subject, found: Scores) -> tuple[Tensor, str]:
    """``(N,)`` in double precision, and its name: the class's probability unless it is saturated.

    The first image is the unchanged one.
    """
    if found.probabilities is not None:
        values = found.probabilities[:, subject.class_index].double()
        if not _is_saturated(float(values[0])) and not subject.contrasted:
            return (-values if subject.against else values), "probability"
    return subject.margin(found.scores), "score"


_NEIGHBOURS = [
    (down, right, 1 / 6 if 0 in (down, right) else 1 / 12)
    for down in (-1, 0, 1)
    for right in (-1, 0, 1)
    if (down, right) != (0, 0)
]
"""Weights of the eight neighbours of a pixel (Rong et al. 2022): 1/6 beside, 1/12 diagonally."""


def _imputed(image: Tensor, pixels: Tensor, generator: torch.Generator) -> Tensor:
    """An image with pixels replaced by noisy linear imputation.

    Every removed pixel is the weighted mean of its neighbours, removed or not; at the border, of
    those that exist.

    Args:
        image: ``(1, C, *sides)``.
        pixels: Flat indices into the sides.
        generator: Draws the noise.
    """
    *_, rows, cols = image.shape
    planes = image[0].detach().cpu().double().numpy().reshape(image.shape[1], -1, rows * cols)
    result = planes.copy()
    flat = pixels.numpy()
    spread = 0.0 if _has_one_colour(image) else float(planes.std())
    for frame in range(planes.shape[1]):
        own = np.sort(flat[flat // (rows * cols) == frame] % (rows * cols))
        if len(own):
            result[:, frame, own] = _solved(planes[:, frame], own, rows, cols)
            shape = (planes.shape[0], len(own))
            noise = torch.randn(shape, generator=generator, dtype=torch.float64).numpy()
            result[:, frame, own] += _ROAD_NOISE * spread * noise
    return torch.from_numpy(result).view(image.shape).to(image)


def _solved(
    planes: NDArray[np.float64], pixels: NDArray[np.int64], rows: int, cols: int
) -> NDArray[np.float64]:
    """``(C, len(pixels))``: each pixel as the weighted mean of its neighbours."""
    from scipy.sparse import csc_array  # noqa: PLC0415 - slow to import, rarely needed
    from scipy.sparse.linalg import splu  # noqa: PLC0415

    if len(pixels) == rows * cols:  # nothing to go by
        return np.repeat(planes.mean(axis=1, keepdims=True), len(pixels), axis=1)
    place = np.full(rows * cols, -1)
    place[pixels] = np.arange(len(pixels))
    row, col = pixels // cols, pixels % cols
    known = np.zeros((planes.shape[0], len(pixels)))
    total = np.zeros(len(pixels))
    equations, unknowns, weights = [], [], []
    for down, right, weight in _NEIGHBOURS:
        below, beside = row + down, col + right
        inside = (below >= 0) & (below < rows) & (beside >= 0) & (beside < cols)
        index = np.flatnonzero(inside)
        neighbour = pixels[index] + down * cols + right
        total[index] += weight
        removed = place[neighbour] >= 0
        known[:, index[~removed]] += weight * planes[:, neighbour[~removed]]
        equations.append(index[removed])
        unknowns.append(place[neighbour[removed]])
        weights.append(np.full(int(removed.sum()), -weight))
    diagonal = np.arange(len(pixels))
    matrix = csc_array(
        (
            np.concatenate([total, *weights]),
            (np.concatenate([diagonal, *equations]), np.concatenate([diagonal, *unknowns])),
        ),
        shape=(len(pixels), len(pixels)),
    )
    solved: NDArray[np.float64] = splu(matrix).solve(known.T).T
    return solved
