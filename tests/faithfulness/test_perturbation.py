"""Tests of maps against models whose evidence is known, because they are a formula."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from cam_hub.errors import InvalidArgument, ModelRefused
from cam_hub.faithfulness import (
    Scores,
    Subject,
    cover_drops,
    cover_test,
    deletion_insertion,
    hottest,
    mean_colour,
    road,
)

SIDE = 56


def image() -> Tensor:
    """Grey noise with a bright square at the upper left and one at the lower right."""
    found = 0.1 * torch.randn((1, 1, SIDE, SIDE), generator=torch.Generator().manual_seed(0))
    found[..., 6:20, 6:20] += 3
    found[..., 34:48, 34:48] += 2
    return found


def sees_squares(images: Tensor) -> Scores:
    """Class 0: how bright the first square is; class 1: the second; class 2: nothing."""
    first = images[:, 0, 6:20, 6:20].mean((1, 2))
    second = images[:, 0, 34:48, 34:48].mean((1, 2))
    scores = torch.stack([first, second, torch.zeros_like(first)], 1)
    return Scores(scores, scores.softmax(1))


def spot(row: int, col: int) -> Tensor:
    """A map with a square of heat."""
    heat = torch.zeros(SIDE, SIDE)
    heat[row : row + 14, col : col + 14] = 1
    return heat


def subject(heat: Tensor, **arguments: object) -> Subject:
    """Class 0 against class 1."""
    given = {"rivals": ((1, 1.0),), "names": {0: "first", 1: "second"}, **arguments}
    return Subject(image(), heat, sees_squares, 0, **given)  # type: ignore[arg-type]


def test_a_map_on_the_evidence_passes_and_one_beside_it_does_not():
    right, wrong = cover_test(subject(spot(6, 6))), cover_test(subject(spot(6, 34)))
    assert right.value is not None
    assert right.value > 2 * max(right.baselines.values())
    assert wrong.value == pytest.approx(0, abs=0.05)
    assert right.passes == 8
    assert right.sentence.startswith("Cover the hottest 6% of the image: first 70% → ")


def test_covering_the_rival_counts_against_a_map():
    found = cover_test(subject(spot(34, 34)))
    assert found.value is not None
    assert found.value < 0


def test_the_drop_is_that_of_the_difference_to_the_rival():
    clean = sees_squares(image()).scores[0]
    (drop,) = cover_drops(subject(spot(6, 6)), hottest(spot(6, 6)[None])).tolist()
    alone = cover_drops(subject(spot(6, 6), rivals=()), hottest(spot(6, 6)[None])).tolist()[0]
    both = cover_drops(subject(spot(6, 6)), hottest((spot(6, 6) + spot(34, 34))[None])).tolist()[0]
    assert 0 < alone <= clean[0] + 0.1
    assert drop == pytest.approx(alone, abs=0.05)  # the rival's square is not covered
    assert both < drop


def test_evidence_against_a_class_raises_its_score_when_covered():
    against = cover_test(subject(spot(34, 34), against=True))
    assert against.value is not None
    assert against.value > max(against.baselines.values())
    assert "most opposing" in against.sentence


def test_a_saturated_class_is_tested_by_its_score():
    def sure(images: Tensor) -> Scores:
        scores = sees_squares(images).scores * 30
        return Scores(scores, scores.softmax(1))

    found = cover_test(replace(subject(spot(6, 6)), rate=sure))
    assert "score" in found.sentence
    assert "%" not in found.sentence.split(":")[1]
    assert road(replace(subject(spot(6, 6)), rate=sure)).details["measure"] == "score"


def test_a_model_that_ignores_its_input_is_reported():
    def constant(images: Tensor) -> Scores:
        return Scores(torch.tensor([[2.0, 1.0]]).expand(len(images), 2))

    found = cover_test(replace(subject(spot(6, 6)), rate=constant))
    assert found.value is None
    assert "does not change even if the whole image is blurred" in found.sentence


@pytest.mark.parametrize("test", [cover_test, road, deletion_insertion])
def test_an_image_of_one_colour_tests_nothing(test):
    """The noise of imputation tests nothing, and rounding in the network neither."""
    calls = torch.Generator().manual_seed(0)

    def rounded(images: Tensor) -> Scores:
        found = sees_squares(images).scores
        found = found + 1e-4 * torch.randn(found.shape, generator=calls)
        return Scores(found, found.softmax(1))

    flat = torch.stack([image()[0, 0].fill_(each) for each in (0.7, -1.3)])[None]
    found = test(replace(subject(spot(6, 6)), image=flat, rate=rounded))
    assert found.value is None
    assert "does not change" in found.sentence


def numbers(sentence: str) -> list[float]:
    return [float(each) for each in re.findall(r"-?\d+\.?\d*", sentence.split("image: ")[1])]


@pytest.mark.parametrize(
    ("rate", "words"),
    [
        # What is covered supports both classes, so that the probability falls, but no lead.
        (lambda first, second: [2 * first + 1, 2.5 * first, second + 3], "score lead of A over B"),
        (lambda first, second: [first, 0 * first, second], "A "),
        # More of the score lies in the middle.
        (lambda first, second: [first + 4 * second, 0 * first, 0 * first], "A spot in the middle"),
    ],
)
def test_the_sentence_states_what_the_value_states(rate, words):
    """Its numbers compare as the value and the baseline that decides do."""

    def scored(images: Tensor) -> Scores:
        squares = images[:, 0, 6:20, 6:20].mean((1, 2)), images[:, 0, 21:35, 21:35].mean((1, 2))
        scores = torch.stack(rate(*squares), 1)
        return Scores(scores, scores.softmax(1))

    names = {0: "A", 1: "B", 2: "C"}
    photo = image()
    photo[..., 21:35, 21:35] = 1 + photo[..., 6:20, 6:20]
    given = replace(subject(spot(6, 6)), image=photo, rate=scored, names=names)
    found = cover_test(given)
    assert words in found.sentence
    before, covered, *others = numbers(found.sentence)
    assert (before > covered) == (found.value > 0)
    for number, name in zip(others, ["elsewhere", found.best_baseline], strict=False):
        assert (number > covered) == (found.value > found.baselines[name])


@pytest.mark.parametrize("test", [cover_test, road, deletion_insertion])
def test_a_model_that_refuses_changed_images_is_reported(test):
    def refuse(images: Tensor) -> Scores:
        raise ModelRefused("net", "no such image.")

    found = test(replace(subject(spot(6, 6)), rate=refuse))
    assert found.value is None
    assert "no such image" in found.sentence


@pytest.mark.parametrize("test", [cover_test, road, deletion_insertion])
def test_scores_that_are_not_finite_are_reported(test):
    def broken(images: Tensor) -> Scores:
        return Scores(torch.full((len(images), 2), float("nan")))

    found = test(replace(subject(spot(6, 6)), rate=broken))
    assert found.value is None
    assert "not finite" in found.sentence


@pytest.mark.parametrize("test", [road, deletion_insertion])
def test_an_inverted_map_is_negative_and_a_blind_one_about_zero(test):
    right = test(subject(spot(6, 6), rivals=()))
    inverted = test(subject(1 - spot(6, 6), rivals=()))
    assert right.value is not None
    assert inverted.value is not None
    assert right.value > 0.1 > abs(right.baselines["random"])
    assert inverted.value < 0


def test_a_contrast_is_measured_by_the_difference():
    found = road(subject(spot(6, 6), contrasted=True))
    assert found.details["measure"] == "score"


def test_imputation_is_the_mean_of_the_neighbours():
    """Removed pixels of a linear ramp get back their values but for the noise."""
    ramp = torch.linspace(0, 1, 30)[None, :].expand(30, 30)[None, None].contiguous()
    seen: list[Tensor] = []

    def keep(images: Tensor) -> Scores:
        seen.append(images)
        return Scores(images.flatten(1).mean(1, keepdim=True))

    heat = torch.zeros(30, 30)
    heat[10:16, 10:15] = 1
    road(Subject(ramp, heat, keep, 0), shares=(30 / 900,))
    inside = (slice(None), slice(None), slice(10, 16), slice(10, 15))
    difference = seen[0][1:2][inside] - ramp[inside]
    assert 0 < difference.abs().max() < 5 * 0.01 * float(ramp.std())


def test_the_curves_agree_with_those_of_torchcam():
    metrics = pytest.importorskip("torchcam.metrics")
    heat = torch.rand((SIDE, SIDE), generator=torch.Generator().manual_seed(5))
    found = deletion_insertion(subject(heat, filling=mean_colour, rivals=()))

    class Fixed(nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            return sees_squares(images).scores

    class Extractor:
        """What torchcam's metric asks of an extractor: the model, and a given map."""

        model = Fixed()

        def __call__(self, *_: object, **__: object) -> list[Tensor]:
            return [heat[None]]

        def fuse_cams(self, cams: list[Tensor]) -> Tensor:
            return cams[0]

        def _hooks_off(self):
            from contextlib import nullcontext

            return nullcontext()

    metric = metrics.DeletionInsertionMetric(
        Extractor(), lambda scores: scores.softmax(-1), baseline=mean_colour
    )
    metric.update(image(), 0)
    theirs = metric.summary()
    assert found.details["deletion_auc"] == pytest.approx(theirs["deletion_auc"], abs=1e-5)
    assert found.details["insertion_auc"] == pytest.approx(theirs["insertion_auc"], abs=1e-5)


@pytest.mark.parametrize(
    ("given", "argument"),
    [
        ({"image": torch.zeros(2, 1, 4, 4)}, "image"),
        ({"heat": torch.zeros(3, 3)}, "heat"),
        ({"heat": torch.full((SIDE, SIDE), float("nan"))}, "heat"),
    ],
)
def test_what_does_not_fit_is_refused(given: dict[str, Tensor], argument: str):
    with pytest.raises(InvalidArgument, match=argument):
        replace(subject(spot(6, 6)), **given)
    with pytest.raises(InvalidArgument, match="shares"):
        road(subject(spot(6, 6)), shares=(0.9,))
    with pytest.raises(InvalidArgument, match="steps"):
        deletion_insertion(subject(spot(6, 6)), steps=0)


def test_clips_are_covered_in_all_their_frames():
    clip = image()[:, :, None].repeat(1, 1, 4, 1, 1)

    def rate(clips: Tensor) -> Scores:
        return sees_squares(clips.mean(2))

    found = cover_test(Subject(clip, spot(6, 6).expand(4, SIDE, SIDE), rate, 0, ((1, 1.0),)))
    assert found.value is not None
    assert found.value > max(found.baselines.values())
    assert road(Subject(clip, spot(6, 6).expand(4, SIDE, SIDE), rate, 0)).value is not None
