"""Which pixels are covered, by what, and what the baselines look like."""

from __future__ import annotations

import pytest
import torch

from cam_hub.errors import InvalidArgument
from cam_hub.faithfulness import (
    blurred,
    centred_gaussian,
    cover,
    elsewhere,
    hottest,
    mean_colour,
    random_map,
    soft_mask,
)


def test_the_hottest_share_is_taken():
    heat = torch.arange(20.0).view(1, 4, 5)
    mask = hottest(heat, 0.15)
    assert mask.sum() == 3
    assert heat[mask].tolist() == [17, 18, 19]


def test_what_a_map_leaves_at_zero_is_not_covered():
    heat = torch.zeros(1, 4, 5)
    heat[0, 1, 2] = 1e-30
    assert hottest(heat, 0.5).nonzero().tolist() == [[0, 1, 2]]
    assert not hottest(torch.zeros(1, 4, 5), 0.5).any()


@pytest.mark.parametrize("share", [0, -1, 1.5, float("nan")])
def test_an_impossible_share_is_refused(share: float):
    with pytest.raises(InvalidArgument, match="share"):
        hottest(torch.ones(1, 4, 4), share)


def test_the_edge_is_soft_and_the_area_stays():
    mask = torch.zeros(1, 100, 100, dtype=torch.bool)
    mask[0, 30:60, 40:70] = True
    soft = soft_mask(mask)
    assert float(soft.sum()) == pytest.approx(900, rel=1e-5)
    assert soft[0, 45, 55] == 1
    assert soft[0, 10, 10] == 0
    assert 0 < soft[0, 30, 55] < 1


@pytest.mark.parametrize("shape", [(1, 3, 56, 42), (1, 5, 4, 30, 30), (2, 1, 3, 3)])
def test_blurring_keeps_colours_and_removes_detail(shape: tuple[int, ...]):
    image = torch.randn(shape, generator=torch.Generator().manual_seed(0)) + 3
    smooth = blurred(image)
    assert smooth.shape == image.shape
    assert torch.allclose(smooth.mean(), image.mean(), atol=0.1)
    if min(shape[-2:]) > 14:
        assert smooth.std() < 0.6 * image.std()
    flat = torch.full(shape, 2.0)
    assert torch.allclose(blurred(flat), flat)


def test_the_mean_colour_is_that_of_each_channel():
    image = torch.stack([torch.arange(4.0).view(2, 2), torch.full((2, 2), 5.0)])[None]
    assert mean_colour(image)[0, :, 0, 0].tolist() == [1.5, 5.0]
    assert mean_colour(image).shape == image.shape


def test_a_cover_replaces_what_its_mask_says():
    image, filling = torch.ones(1, 2, 2, 2), torch.zeros(1, 2, 2, 2)
    masks = torch.tensor([[[1.0, 0.0], [0.25, 0.0]], [[0.0, 0.0], [0.0, 1.0]]])
    covered = cover(image, masks, filling)
    assert covered.shape == (2, 2, 2, 2)
    assert covered[0, 1].tolist() == [[0, 1], [0.75, 1]]
    assert covered[1, 0].tolist() == [[1, 1], [1, 0]]
    with pytest.raises(InvalidArgument, match="masks"):
        cover(image, masks[:, :1], filling)


def test_elsewhere_has_the_same_area_and_little_overlap():
    mask = torch.zeros(40, 40, dtype=torch.bool)
    mask[3:13, 5:25] = True
    places = elsewhere(mask, 3, torch.Generator().manual_seed(1))
    assert places.flatten(1).sum(1).tolist() == [200, 200, 200]
    assert not (places & mask).any()


def test_baseline_maps_know_nothing_of_the_image():
    centre = centred_gaussian((9, 9))
    assert centre.argmax() == 40
    assert torch.equal(centre, centre.flip(0).flip(1))
    assert centred_gaussian((3, 9, 9)).shape == (3, 9, 9)
    first = random_map((20, 30), torch.Generator().manual_seed(3))
    again = random_map((20, 30), torch.Generator().manual_seed(3))
    assert torch.equal(first, again)
    assert 0 <= first.min() < first.max() <= 1
