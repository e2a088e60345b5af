"""Regions of a photo, mapped onto a model's output; and their use in segmentation."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
import torch

from cam_hub.errors import InvalidArgument, ModelRefused
from cam_hub.images.geometry import Placement
from cam_hub.targets.region import as_weights, read_region
from cam_hub.targets.segmentation import Segmentation

SAME = Placement.identity((4, 4))
"""A photo of 4 by 4 that is itself the input."""

CROPPED = Placement((8, 4), (4, 4), (1.0, 1.0), (-2.0, 0.0))
"""A photo of 8 by 4, whose central part is the input."""

PADDED = Placement((4, 2), (4, 4), (1.0, 1.0), (0.0, 1.0))
"""A photo of 4 by 2 in the middle of the input, with a border above and below."""


def mask(*rows: str):
    return np.array([[cell == "#" for cell in row] for row in rows])


class TestRegions:
    def test_a_box_covers_cells_in_part(self):
        # Cells of 2 by 2 pixels; the box covers pixels 1 to 3 across and 0 to 2 down.
        weights = read_region((1, 0, 3, 2), SAME).weights(2, 2)
        assert weights.tolist() == [[0.5, 0.5], [0.0, 0.0]]

    def test_a_mask_covers_cells_in_part(self):
        given = mask("##..", "#...", "....", "...#")
        assert read_region(given, SAME).weights(2, 2).tolist() == [[0.75, 0.0], [0.0, 0.25]]

    def test_a_box_and_the_mask_of_its_pixels_are_the_same_region(self, rng):
        place = Placement((37, 23), (16, 16), (0.61, 0.73), (-3.2, 0.4))
        box = np.zeros((23, 37), dtype=bool)
        box[3:19, 8:30] = True
        for grid in [(1, 1), (5, 7), (16, 16), (50, 40)]:
            by_mask = read_region(box, place).weights(*grid)
            np.testing.assert_allclose(
                read_region((8, 3, 30, 19), place).weights(*grid), by_mask, atol=1e-12
            )

    def test_the_covered_area_does_not_depend_on_the_grid(self, rng):
        region = read_region(rng.random((4, 8)) < 0.5, CROPPED)
        areas = [region.weights(*grid).mean() for grid in [(1, 1), (2, 4), (3, 5), (9, 7)]]
        assert areas == pytest.approx([areas[0]] * 4)

    def test_a_photos_crop_shifts_the_region(self):
        weights = read_region((2, 0, 4, 4), CROPPED).weights(1, 2)
        assert weights.tolist() == [[1.0, 0.0]]

    def test_no_region_is_all_of_the_photo_without_its_border(self):
        region = read_region(None, PADDED)
        assert region.weights(4, 1).tolist() == [[0.0], [1.0], [1.0], [0.0]]
        assert region.describe() is None

    def test_weights_add_up_to_one(self):
        assert as_weights(None, 2, 2).tolist() == [[0.25, 0.25], [0.25, 0.25]]
        assert as_weights(read_region((1, 0, 3, 2), SAME), 2, 2).tolist() == [[0.5, 0.5], [0, 0]]

    @pytest.mark.parametrize(
        "given",
        [(1, 0, 3, 2), mask("##..", "#...", "....", "...#"), mask("####", "####", "####", "####")],
    )
    def test_what_describes_a_region_makes_it_again(self, given):
        region = read_region(given, SAME)
        again = read_region(json.loads(json.dumps(region.describe())), SAME)
        assert again.weights(4, 4).tolist() == region.weights(4, 4).tolist()

    def test_the_box_in_the_input(self):
        assert read_region((2, 0, 4, 3), CROPPED).input_box() == (0, 0, 2, 3)

    @pytest.mark.parametrize(
        ("given", "message"),
        [
            ((3, 0, 1, 2), "left < right"),
            ((0, 0, math.nan, 2), "left < right"),
            ((0, 0, 2), "a box"),
            ("here", "a box"),
            (mask("##", ".."), r"mask of shape \(2, 2\)"),
            (mask("....", "....", "....", "...."), "an empty mask"),
            ((4, 4, 9, 9), r"which is the box \(0, 0, 4, 4\)"),
        ],
    )
    def test_an_invalid_region_is_refused(self, given, message):
        with pytest.raises(InvalidArgument, match=message):
            read_region(given, SAME)

    def test_a_region_that_was_cropped_away_is_refused_with_what_the_model_saw(self):
        with pytest.raises(InvalidArgument, match=r"\(2, 0, 6, 4\)"):
            read_region((0, 0, 2, 4), CROPPED)


class TestSegmentation:
    # One image, two classes, 2 by 2.
    LOGITS = torch.tensor([[[[1.0, 2.0], [3.0, 4.0]], [[0.0, 0.0], [0.0, 8.0]]]])

    def test_the_score_is_the_mean_over_all_pixels(self):
        assert Segmentation().target().scores(self.LOGITS).tolist() == [[2.5, 2.0]]

    def test_or_over_those_of_a_region(self):
        target = Segmentation().target(region=read_region((0, 0, 4, 2), SAME))
        assert target.scores(self.LOGITS).tolist() == [[1.5, 0.0]]

    def test_its_gradient_is_the_regions_share(self):
        logits = self.LOGITS.clone().requires_grad_()
        target = Segmentation().target(region=read_region((0, 0, 4, 2), SAME))
        (gradient,) = torch.autograd.grad(target.scores(logits)[0, 1], logits)
        assert gradient.tolist() == [[[[0, 0], [0, 0]], [[0.5, 0.5], [0, 0]]]]

    def test_a_dictionary_with_out_and_a_single_class_are_read(self):
        task = Segmentation()
        found = task.target().scores({"aux": torch.zeros(1, 9, 1, 1), "out": self.LOGITS})
        assert found.tolist() == [[2.5, 2.0]]
        assert task.target().scores(self.LOGITS[:, 0]).tolist() == [[2.5]]

    def test_probabilities_are_means_over_pixels(self):
        output = torch.tensor([[[[0.0, math.log(3)]], [[0.0, 0.0]]]])  # 1/2 and 3/4
        target = Segmentation().target()
        standings = target.class_scores(output)
        assert standings.probabilities.tolist() == pytest.approx([0.625, 0.375])

    def test_the_background_is_not_chosen_unless_named(self):
        task = Segmentation.make(["__background__", "cat"])
        assert task.target().class_scores(self.LOGITS).eligible.tolist() == [False, True]

    def test_the_manifest_contains_the_region(self):
        target = Segmentation().target(region=read_region((0, 0, 4, 2), SAME))
        described = target.describe()
        assert described["region"] == {"box": [0, 0, 4, 2]}
        assert "pixels of a box" in described["text"]
        assert "all pixels" in Segmentation().target().describe()["text"]

    def test_it_has_no_use_for_a_reference(self):
        with pytest.raises(InvalidArgument, match="reference"):
            Segmentation().check_request(reference="photo.jpg")

    def test_class_scores_without_pixels_look_like_classification(self):
        with pytest.raises(ModelRefused, match="task='classification'"):
            Segmentation().target().scores(torch.zeros(2, 10))
