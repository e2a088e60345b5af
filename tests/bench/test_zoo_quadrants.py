"""Whether a layer is on the image, by hand-worked changes and by plain functions."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from bench.zoo.quadrants import judge_quadrants, lies_on_image
from tests.fakes.zoo_nets import Mirrored


def test_margins_compare_each_quadrant_with_its_strongest_rival():
    # Redrawing the top left changes it by 4 and, among the others, the top right most, by 1.
    change = torch.tensor([[4.0, 1.0], [0.5, 0.0]])
    changes = torch.stack([change, change.flip(1), change.flip(0), change.flip(0, 1)])
    found = judge_quadrants(changes)
    assert found.margins == (0.75, 0.75, 0.75, 0.75)
    assert found.misplaced == []


def test_a_rival_that_moves_as_much_is_a_failure():
    changes = torch.eye(4).reshape(4, 2, 2)
    changes[3] = torch.tensor([[0.0, 1.0], [0.0, 1.0]])
    found = judge_quadrants(changes)
    assert found.margins == (1.0, 1.0, 1.0, 0.0)
    assert found.misplaced == ["bottom right"]


@pytest.mark.parametrize("value", [0.0, math.nan])
def test_unchanged_or_nan_values_are_not_a_response(value):
    assert len(judge_quadrants(torch.full((4, 2, 2), value)).misplaced) == 4


def test_the_middle_of_an_odd_grid_belongs_to_no_quadrant():
    changes = torch.zeros(4, 3, 3)
    for change, (row, col) in zip(changes, [(0, 0), (0, 2), (2, 0), (2, 2)], strict=True):
        change[row, col] = 1.0
        change[1, :] = change[:, 1] = 9.0
    assert judge_quadrants(changes).margins == (1.0,) * 4


def test_of_a_single_row_only_left_and_right_are_compared():
    left, right = torch.tensor([[3.0, 1.0]]), torch.tensor([[1.0, 2.0]])
    found = judge_quadrants(torch.stack([left, right, left, right]))
    assert found.margins == pytest.approx((2 / 3, 1 / 2, 2 / 3, 1 / 2))


def test_a_single_cell_lies_nowhere():
    assert len(judge_quadrants(torch.ones(4, 1, 1)).misplaced) == 4


def test_an_identity_lies_on_the_image_and_its_mirror_image_does_not():
    assert lies_on_image(lambda image: image[0], (3, 8, 8)).margins == (1.0,) * 4
    mirrored = lies_on_image(lambda image: Mirrored()(image)[0], (3, 8, 8))
    assert mirrored.margins == (-1.0,) * 4
    assert len(mirrored.misplaced) == 4


def test_what_depends_on_statistics_alone_does_not_lie_on_the_image():
    spread = lies_on_image(lambda image: image[0].std().expand(1, 4, 4), (3, 16, 16))
    assert len(spread.misplaced) == 4


def test_an_image_is_redrawn_only_within_one_quadrant_and_with_the_same_statistics():
    seen: list[Tensor] = []

    def activation(image: Tensor) -> Tensor:
        seen.append(image[0])
        return image[0]

    lies_on_image(activation, (1, 64, 64), draws=2, clear=2.0)
    assert len(seen) == 2 * (1 + 4)
    for number, image in enumerate(seen):
        clean = seen[number // 5 * 5]
        if image is clean:
            continue
        rows, cols = divmod(number % 5 - 1, 2)
        quadrant = (0, slice(32 * rows, 32 * rows + 32), slice(32 * cols, 32 * cols + 32))
        moved = image != clean
        assert moved[quadrant].all()
        assert moved.sum() == 32 * 32
        assert float(image[quadrant].std()) == pytest.approx(1, abs=0.1)
    assert not (seen[0] == seen[5]).any(), "each draw is another, of another image"


@pytest.mark.parametrize(("clear", "draws"), [(0.9, 1), (1.9, 2), (math.inf, 3)])
def test_no_more_is_drawn_once_the_answer_is_clear(clear, draws):
    seen: list[Tensor] = []

    def activation(image: Tensor) -> Tensor:
        seen.append(image)
        return image[0]

    assert lies_on_image(activation, (3, 8, 8), draws=3, clear=clear).worst == 1.0
    assert len(seen) == draws * (1 + 4)


def test_time_steps_count_like_channels():
    assert lies_on_image(lambda video: video[0], (3, 2, 8, 8)).margins == (1.0,) * 4
