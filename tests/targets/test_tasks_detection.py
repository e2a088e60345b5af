"""Detection: the selected box, and how noisy copies follow it. Boxes worked out by hand."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from torch import nn
from torchvision.models.detection.rpn import RegionProposalNetwork

from cam_hub.errors import InvalidArgument, ModelRefused, NoMap
from cam_hub.images.geometry import Placement
from cam_hub.targets.detection import Detected, Detection
from cam_hub.targets.region import read_region

HALF = Placement((40, 40), (20, 20), (0.5, 0.5), (0.0, 0.0))
"""A photo twice as large as the input."""

LEFT, RIGHT, LEFT_HALF = (0, 0, 10, 10), (10, 0, 20, 10), (0, 0, 5, 10)


def image(*found):
    """The detections in one image: (box, label, score) each."""
    boxes, labels, scores = zip(*found, strict=True) if found else ((), (), ())
    return {
        "boxes": torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4),
        "labels": torch.tensor(labels, dtype=torch.long),
        "scores": torch.tensor(scores, dtype=torch.float32, requires_grad=True),
    }


def detected(*images, threshold=0.05):
    return Detected(images, threshold)


TWO = image((LEFT, 1, 0.5), (RIGHT, 1, 0.75), (LEFT, 2, 0.25))


def test_the_score_of_a_class_is_that_of_its_best_box():
    scores = Detection(4).target().scores(detected(TWO))
    assert scores.tolist() == [[0, 0.75, 0.25, 0]]


def test_it_is_differentiated_by_the_score_of_that_box_alone():
    scores = Detection(4).target().scores(detected(TWO))
    (gradient,) = torch.autograd.grad(scores[0, 1], TWO["scores"])
    assert gradient.tolist() == [0, 1, 0]


def test_a_region_chooses_among_boxes_by_score_times_overlap():
    # In the input, the region is (0, 0, 10, 10): it overlaps the left box wholly, the right not at
    # all.
    target = Detection(4).target(region=read_region((0, 0, 20, 20), HALF))
    output = detected(TWO)
    assert target.scores(output).tolist() == [[0, 0.5, 0.25, 0]]
    assert target.class_scores(output).ranking.tolist() == [0, 0.5, 0.25, 0]
    target.check([1])
    described = target.describe()
    assert described["boxes"] == {"1": [0, 0, 20, 20]}, "in the photo's pixels"
    assert described["region"] == {"box": [0, 0, 20, 20]}


def test_copies_follow_the_clean_images_box_by_overlap():
    clean = image((LEFT, 1, 0.9))
    noisy = image((RIGHT, 1, 0.99), (LEFT_HALF, 1, 0.5), (LEFT, 2, 0.9))
    scores = Detection(3).target().scores(detected(clean, noisy))
    # The right box does not overlap, the left half does by 1/2, and class 2 was not detected
    # before.
    assert scores.tolist() == [[0, pytest.approx(0.9), 0], [0, 0.25, 0]]


def test_a_clean_box_is_not_exchanged_for_a_better_one_beside_it():
    # The region selects the weaker box although score times overlap with it is higher elsewhere.
    clean = image((LEFT, 1, 0.1), ((1, 0, 11, 10), 1, 0.9))
    target = Detection(2).target(region=read_region((0, 0, 2, 20), HALF))
    assert target.scores(detected(clean))[0, 1].item() == pytest.approx(0.1)


def test_the_box_of_the_first_output_holds_for_those_that_follow():
    target = Detection(2).target()
    target.scores(detected(image((LEFT, 1, 0.5))))
    later = target.scores(detected(image((LEFT, 1, 0.25), (RIGHT, 1, 0.75))))
    assert later.tolist() == [[0, 0.25]]


def test_without_known_classes_there_are_as_many_as_labels_were_found():
    target = Detection().target()
    assert target.scores(detected(image((LEFT, 3, 0.5)))).shape == (1, 4)
    assert target.scores(detected(image((LEFT, 9, 0.5)))).tolist() == [[0, 0, 0, 0]]


def test_what_is_below_the_models_threshold_is_not_chosen_but_can_be_named():
    output = detected(image((LEFT, 1, 0.5), (RIGHT, 2, 0.04)))
    target = Detection(4).target()
    target.scores(output)
    standings = target.class_scores(output)
    assert standings.eligible.tolist() == [False, True, False, False]
    assert standings.probabilities.tolist() == [0, 0.5, 0, 0]
    target.check([2])
    with pytest.raises(NoMap, match="no box of class 3 was found; the best found classes are 1, 2"):
        target.check([3])


@pytest.mark.parametrize("found", [(), ((LEFT, 1, 0.04),)])
def test_nothing_detected_has_no_map(found):
    output = detected(image(*found))
    target = Detection(4).target()
    target.scores(output)
    assert not target.class_scores(output).eligible.any()
    with pytest.raises(NoMap, match=r"nothing was detected .*threshold 0\.05"):
        target.check([])


def test_nothing_detected_in_the_region_has_no_map():
    output = detected(TWO)
    target = Detection(4).target(region=read_region((0, 30, 40, 40), HALF))
    target.scores(output)
    with pytest.raises(NoMap, match="overlaps the region"):
        target.check([])
    with pytest.raises(NoMap, match=r"class 1 was found overlapping .* classes are none"):
        target.check([1])


def test_a_mask_or_a_reference_is_refused():
    with pytest.raises(InvalidArgument, match="a box, since detected boxes are compared"):
        Detection(4).target(region=read_region(np.ones((40, 40), dtype=bool), HALF))
    with pytest.raises(InvalidArgument, match="reference"):
        Detection(4).check_request(reference="photo.jpg")


def test_another_answer_than_detections_is_refused():
    with pytest.raises(ModelRefused, match="task='classification'"):
        Detection(4).target().scores(torch.zeros(2, 10))


class Thresholded(nn.Module):
    """Drops boxes below its threshold; detects (LEFT, 1) with the mean of the image as its
    score."""

    def __init__(self) -> None:
        super().__init__()
        self.score_thresh = 0.3

    def forward(self, images):
        found = [image((LEFT, 1, one.mean().item())) for one in images]
        return [
            {key: value[one["scores"] > self.score_thresh] for key, value in one.items()}
            for one in found
        ]


class Detector(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Identity()
        self.head = Thresholded()

    def forward(self, images):
        return self.head([self.body(one) for one in images])


def test_a_detector_keeps_boxes_of_any_score_and_its_threshold_is_recorded():
    module = Detector()
    output = Detection().run(module, torch.full((2, 3, 4, 4), 0.1))
    assert [found["scores"][0].item() for found in output.images] == pytest.approx([0.1, 0.1])
    assert output.threshold == 0.3


def test_nothing_is_written_to_the_detector():
    module = Detector()
    before = copy.deepcopy(vars(module.head))
    Detection().run(module, torch.full((1, 3, 4, 4), 0.1))
    assert vars(module.head)["score_thresh"] == before["score_thresh"] == 0.3
    assert dict(module.named_children()).keys() == {"body", "head"}


def test_hooks_on_the_parts_of_a_detector_still_fire():
    module = Detector()
    seen = []
    for name in ("body", "head"):
        getattr(module, name).register_forward_hook(lambda *_, name=name: seen.append(name))
    Detection().run(module, torch.zeros(1, 3, 4, 4) + 0.1)
    assert seen == ["body", "head"]


class Proposing(RegionProposalNetwork):
    """A first stage, recognised by its type only: drops images whose mean is below its
    threshold."""

    def __init__(self) -> None:
        nn.Module.__init__(self)
        self.score_thresh = 0.2

    def forward(self, images):
        return [one.mean().item() > self.score_thresh for one in images]


class TwoStages(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.rpn = Proposing()
        self.head = Thresholded()

    def forward(self, images):
        proposed = self.rpn(images)
        found = self.head(images)
        return [one if kept else image() for one, kept in zip(found, proposed, strict=True)]


@pytest.mark.parametrize(("mean", "calls"), [(0.25, 1), (0.1, 2)])
def test_a_first_stage_keeps_its_threshold_unless_it_proposes_nothing(mean, calls):
    module = TwoStages()
    seen = []
    module.rpn.register_forward_hook(lambda _m, _i, output: seen.append(output))
    output = Detection().run(module, torch.full((1, 3, 4, 4), mean))
    assert output.images[0]["scores"][0].item() == pytest.approx(mean)
    assert output.threshold == 0.3
    assert len(seen) == calls
