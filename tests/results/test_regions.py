"""Masks and boxes from heatmaps."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from PIL import Image
from scipy import ndimage

from cam_hub.errors import InvalidArgument
from cam_hub.results.overlay import Box, boxes, mask

TWO_SPOTS = np.array(
    [
        [0.9, 0.6, 0.0, 0.0, 0.0, 0.0],
        [0.0, 0.7, 0.0, 0.0, 0.0, 0.0],
        [0.0, 0.0, 0.0, 0.2, 0.0, 0.0],
        [0.0, 0.0, 0.0, 0.0, 0.5, 1.0],
    ],
    dtype=np.float32,
)


@pytest.fixture
def bumpy(rng: np.random.Generator) -> np.ndarray:
    """A smooth random map with several regions at most thresholds, its hottest pixel 1."""
    heat = ndimage.gaussian_filter(rng.random((60, 80)), 3)
    heat -= heat.min()
    return (heat / heat.max()).astype(np.float32)


def test_a_mask_holds_the_pixels_at_the_threshold_and_above():
    assert mask(TWO_SPOTS, 0.6).tolist() == [
        [True, True, False, False, False, False],
        [False, True, False, False, False, False],
        [False, False, False, False, False, False],
        [False, False, False, False, False, True],
    ]


@pytest.mark.parametrize("threshold", [0.1, 0.3, 0.7, np.float64(0.7), np.float32(0.7), 1, 1.0])
@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_a_pixel_of_exactly_the_threshold_belongs_in_any_precision(threshold, dtype):
    # float32(0.7) is less than float64(0.7): a careless comparison would lose the pixel.
    if dtype is np.float64 and isinstance(threshold, np.float32):
        threshold = float(threshold)
    assert mask(np.full((1, 1), threshold, dtype=dtype), threshold).all()


def test_masks_are_nested_as_the_threshold_rises(bumpy):
    masks = [mask(bumpy, threshold) for threshold in np.linspace(0.05, 1.0, 20)]
    for wider, narrower in pairwise(masks):
        assert not (narrower & ~wider).any()
    assert masks[0].sum() > masks[-1].sum() >= 1


def test_boxes_are_what_pillow_crops_hottest_first():
    found = boxes(TWO_SPOTS, 0.5)
    assert found == [Box(left=4, top=3, right=6, bottom=4), Box(left=0, top=0, right=2, bottom=2)]
    hottest = np.asarray(Image.fromarray(TWO_SPOTS).crop(found[0]))
    assert hottest.tolist() == [[0.5, 1.0]]


def test_pixels_that_touch_by_a_corner_are_one_region():
    assert boxes(np.eye(4), 0.5) == [Box(0, 0, 4, 4)]
    assert boxes(np.fliplr(np.eye(4)), 0.5) == [Box(0, 0, 4, 4)]


def test_equal_peaks_are_sorted_by_pixels_then_from_top_to_bottom_and_left_to_right():
    heat = np.zeros((5, 7))
    heat[0, 6] = heat[0, 2] = heat[4, 0] = heat[2, 4] = 0.8
    heat[2, 5] = 0.6  # the only region of two pixels
    assert boxes(heat, 0.5) == [
        Box(4, 2, 6, 3),
        Box(2, 0, 3, 1),
        Box(6, 0, 7, 1),
        Box(0, 4, 1, 5),
    ]


def test_a_region_inside_the_box_of_another_keeps_its_own_box():
    heat = np.zeros((7, 7))
    heat[0, :] = heat[-1, :] = heat[:, 0] = heat[:, -1] = 0.6
    heat[3, 3] = 1.0
    assert boxes(heat, 0.5) == [Box(3, 3, 4, 4), Box(0, 0, 7, 7)]


def test_small_regions_are_left_out_by_their_share_of_the_image():
    # 24 pixels in all: regions of 3 and of 2 of them.
    assert len(boxes(TWO_SPOTS, 0.5, min_area=2 / 24)) == 2
    assert boxes(TWO_SPOTS, 0.5, min_area=2.5 / 24) == [Box(0, 0, 2, 2)]
    assert boxes(TWO_SPOTS, 0.5, min_area=1) == []


@pytest.mark.parametrize("threshold", [0.2, 0.5, 0.8, 1.0])
def test_boxes_together_hold_the_mask_and_each_is_as_small_as_can_be(bumpy, threshold):
    selected = mask(bumpy, threshold)
    found = boxes(bumpy, threshold)
    covered = np.zeros_like(selected)
    for left, top, right, bottom in found:
        inside = selected[top:bottom, left:right]
        covered[top:bottom, left:right] = True
        assert inside[0].any()
        assert inside[-1].any()
        assert inside[:, 0].any()
        assert inside[:, -1].any()
    assert not (selected & ~covered).any()
    assert len(found) == ndimage.label(selected, np.ones((3, 3)))[1]


@pytest.mark.parametrize("threshold", [0.2, 0.5, 0.8])
def test_the_first_box_holds_the_hottest_pixel_and_peaks_never_rise(bumpy, threshold):
    found = boxes(bumpy, threshold)
    labels, _ = ndimage.label(mask(bumpy, threshold), np.ones((3, 3)))
    places = [Box(x.start, y.start, x.stop, y.stop) for y, x in ndimage.find_objects(labels)]
    # The slow way to find each region's own peak.
    peaks = {box: bumpy[labels == region].max() for region, box in enumerate(places, start=1)}
    assert found == sorted(places, key=lambda box: -peaks[box])
    assert peaks[found[0]] == bumpy.max()


@pytest.mark.parametrize("shape", [(1, 1), (1, 9), (9, 1), (3, 50), (50, 3)])
def test_a_map_without_heat_has_no_box_and_a_hot_one_a_single_one(shape):
    assert boxes(np.zeros(shape), 0.01) == []
    assert boxes(np.ones(shape), 1.0) == [Box(0, 0, shape[1], shape[0])]


def test_integers_and_booleans_are_also_maps():
    heat = np.array([[0, 1], [0, 0]])
    for dtype in (np.bool_, np.uint8, np.int64):
        assert boxes(heat.astype(dtype), 0.5) == [Box(1, 0, 2, 1)]


@pytest.mark.parametrize("threshold", [0, 0.0, -0.1, 1.0001, np.nan, np.inf, None, "0.5"])
def test_a_threshold_out_of_range_is_refused(threshold):
    for function in (mask, boxes):
        with pytest.raises(InvalidArgument, match=r"expected a number in \(0, 1\]") as caught:
            function(TWO_SPOTS, threshold)
        assert caught.value.argument == "threshold"


@pytest.mark.parametrize("min_area", [-0.1, 1.5, np.nan, None])
def test_a_share_of_the_image_out_of_range_is_refused(min_area):
    with pytest.raises(InvalidArgument, match=r"expected a number in \[0, 1\]") as caught:
        boxes(TWO_SPOTS, 0.5, min_area=min_area)
    assert caught.value.argument == "min_area"


@pytest.mark.parametrize(
    "heatmap",
    [
        np.zeros(4),  # no rows and columns
        np.zeros((2, 2, 3)),  # an image in colour
        np.zeros((0, 4)),  # no pixel
        np.zeros((2, 2), dtype=complex),  # no order
        np.array([["a"]]),
    ],
)
def test_an_invalid_map_is_refused_with_what_was_found(heatmap):
    with pytest.raises(InvalidArgument, match="expected real numbers of shape") as caught:
        mask(heatmap, 0.5)
    assert str(heatmap.shape) in str(caught.value)


def test_nan_is_refused():
    heat = TWO_SPOTS.copy()
    heat[3, 3] = np.nan
    for function in (mask, boxes):
        with pytest.raises(InvalidArgument, match="NaN"):
            function(heat, 0.5)


def test_the_heatmap_stays_as_it_was():
    heat = TWO_SPOTS.copy()
    heat.setflags(write=False)
    assert not np.shares_memory(mask(heat, 0.5), heat)
    boxes(heat, 0.5)
    assert np.array_equal(heat, TWO_SPOTS)
