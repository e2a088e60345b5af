"""Placement: photo pixels to input pixels and back, and maps placed on photos."""

from __future__ import annotations

import json
import math
import tracemalloc

import numpy as np
import pytest
import torch
from torch.nn import functional

from cam_hub.errors import InvalidArgument
from cam_hub.images.geometry import Placement

# A 400 x 200 photo, halved to 200 x 100, whose central 80 x 80 is the input: u = x / 2 - 60, v = y
# / 2 - 10.
CROPPED = Placement((400, 200), (80, 80), (0.5, 0.5), (-60.0, -10.0))
# A 10 x 20 photo, doubled to 20 x 40, in the middle of a 40 x 40 input.
PADDED = Placement((10, 20), (40, 40), (2.0, 2.0), (10.0, 0.0))
# A 30 x 60 photo squashed to 12 x 12, whose central 10 x 8 (h x w) is the input.
SQUASHED = Placement((30, 60), (10, 8), (0.4, 0.2), (-2.0, -1.0))
PLACEMENTS = (CROPPED, PADDED, SQUASHED, Placement.identity((7, 5)))


def test_a_point_of_the_photo_is_scaled_then_shifted():
    assert CROPPED.to_input(200.0, 100.0) == (40.0, 40.0)  # the centre stays the centre
    assert CROPPED.to_input(0.0, 0.0) == (-60.0, -10.0)  # the corner was cut off
    assert PADDED.to_input(0.0, 0.0) == (10.0, 0.0)


@pytest.mark.parametrize("placement", PLACEMENTS)
def test_to_photo_undoes_to_input_for_numbers_and_arrays(placement):
    rng = np.random.default_rng(0)
    x, y = rng.uniform(-50, 500, (2, 100))
    back_x, back_y = placement.to_photo(*placement.to_input(x, y))
    np.testing.assert_allclose(back_x, x, atol=1e-9)
    np.testing.assert_allclose(back_y, y, atol=1e-9)
    assert placement.to_photo(*placement.to_input(3.0, 4.0)) == pytest.approx((3.0, 4.0))


def test_the_seen_box_is_the_part_of_the_photo_inside_the_input():
    assert CROPPED.seen_box == (120.0, 20.0, 280.0, 180.0)
    assert PADDED.seen_box == (0.0, 0.0, 10.0, 20.0)
    assert SQUASHED.seen_box == pytest.approx((5.0, 5.0, 25.0, 55.0))


@pytest.mark.parametrize("placement", PLACEMENTS)
def test_the_seen_mask_holds_the_pixels_whose_centres_the_input_holds(placement):
    (width, height), (h, w) = placement.photo_size, placement.input_size
    y, x = np.mgrid[:height, :width] + 0.5
    u, v = placement.to_input(x, y)
    np.testing.assert_array_equal(placement.seen_mask(), (u >= 0) & (u < w) & (v >= 0) & (v < h))


def test_a_strip_too_thin_to_hold_a_pixel_centre_still_counts_the_pixels_it_touches():
    # The input sees 0.9 photo pixels, from 4.55 to 5.45, between the centres 4.5 and 5.5.
    thin = Placement((10, 1), (90, 90), (100.0, 100.0), (-455.0, -5.0))
    assert thin.seen_mask().tolist() == [[False] * 4 + [True] * 2 + [False] * 4]
    assert (thin.warp(np.ones((3, 3))) == thin.seen_mask()).all()


@pytest.mark.parametrize("interpolation", ["bilinear", "nearest"])
@pytest.mark.parametrize("placement", PLACEMENTS)
def test_a_constant_map_is_constant_where_seen_and_fill_elsewhere(placement, interpolation):
    heat = placement.warp(np.full((3, 5), 0.3), fill=-1.0, interpolation=interpolation)
    assert heat.dtype == np.float32
    assert heat.shape == placement.photo_size[::-1]
    np.testing.assert_array_equal(
        heat, np.where(placement.seen_mask(), np.float32(0.3), np.float32(-1))
    )


def test_a_map_is_interpolated_between_cell_centres_and_held_beyond_them():
    # Two cells over four pixels: centres at 1 and 3, pixels at 0.5, 1.5, 2.5, 3.5.
    heat = Placement.identity((4, 1)).warp([[0.0, 1.0]])
    np.testing.assert_allclose(heat, [[0.0, 0.25, 0.75, 1.0]])


def test_nearest_gives_each_pixel_the_cell_that_its_centre_falls_into():
    heat = Placement.identity((5, 2)).warp([[1.0, 2.0]], interpolation="nearest")
    # Cells meet at 2.5, the centre of the third pixel, which the right cell owns.
    assert heat.tolist() == [[1, 1, 2, 2, 2]] * 2


def test_a_cropped_map_keeps_its_place_on_the_photo():
    # The right half of the input, u in [40, 80), is x in [200, 280) of the photo.
    heat = CROPPED.warp([[0.0, 1.0]], interpolation="nearest")
    rows, cols = np.nonzero(heat)
    assert (cols.min(), cols.max(), rows.min(), rows.max()) == (200, 279, 20, 179)


@pytest.mark.parametrize("photo", [(64, 48), (13, 29), (224, 224)])
@pytest.mark.parametrize("grid", [(7, 7), (1, 1), (1, 9), (12, 5)])
def test_with_nothing_cropped_warping_is_torchs_interpolation(photo, grid):
    rng = np.random.default_rng(1)
    cam = rng.normal(size=grid).astype(np.float32)
    placement = Placement.identity(photo)
    for mode, options in (("bilinear", {"align_corners": False}), ("nearest-exact", {})):
        wanted = functional.interpolate(
            # in double precision: torch's own float32 coordinates are off by 1.5e-6
            torch.from_numpy(cam).double()[None, None],
            size=photo[::-1],
            mode=mode,
            **options,
        )
        heat = placement.warp(cam, interpolation=mode.removesuffix("-exact"))
        np.testing.assert_allclose(heat, wanted[0, 0].numpy(), atol=1e-6)


def test_warping_agrees_with_interpolating_each_pixel_on_its_own():
    rng = np.random.default_rng(2)
    for _ in range(30):
        photo = tuple(rng.integers(1, 40, 2).tolist())
        size = tuple(rng.integers(1, 40, 2).tolist())
        scale = tuple(rng.uniform(0.3, 3, 2).tolist())
        # Any offset that leaves at least half a pixel of overlap.
        offset = tuple(
            rng.uniform(0.5 - n * s, e - 0.5)
            for n, s, e in zip(photo, scale, reversed(size), strict=True)
        )
        placement = Placement(photo, size, scale, offset)
        cam = rng.random(rng.integers(1, 60, 2))
        wanted = np.full(photo[::-1], 9.0)
        for y, x in np.argwhere(placement.seen_mask()):
            u, v = placement.to_input(x + 0.5, y + 0.5)
            wanted[y, x] = _bilinear(cam, v / size[0], u / size[1])
        np.testing.assert_allclose(placement.warp(cam, fill=9.0), wanted, atol=1e-5)


def _bilinear(cam: np.ndarray, down: float, across: float) -> float:
    """The map at a position given as fractions of its height and width."""
    r = min(max(down * cam.shape[0] - 0.5, 0), cam.shape[0] - 1)
    c = min(max(across * cam.shape[1] - 0.5, 0), cam.shape[1] - 1)
    top, left = math.floor(r), math.floor(c)
    bottom, right = math.ceil(r), math.ceil(c)
    upper = cam[top, left] * (1 - (c - left)) + cam[top, right] * (c - left)
    lower = cam[bottom, left] * (1 - (c - left)) + cam[bottom, right] * (c - left)
    return upper * (1 - (r - top)) + lower * (r - top)


# Not an outermost cell: its value extends to the edge, so its peak is a plateau.
@pytest.mark.parametrize("cell", [(1, 3), (2, 4), (3, 3), (4, 4)])
@pytest.mark.parametrize("placement", [CROPPED, PADDED, SQUASHED])
def test_a_single_hot_cell_peaks_where_its_centre_lies_on_the_photo(placement, cell):
    cam = np.zeros((6, 8))
    cam[cell] = 1
    h, w = placement.input_size
    x, y = placement.to_photo((cell[1] + 0.5) * w / 8, (cell[0] + 0.5) * h / 6)
    heat = placement.warp(cam)
    peak_y, peak_x = np.argwhere(heat == heat.max()).mean(axis=0) + 0.5
    assert abs(peak_x - x) <= 1
    assert abs(peak_y - y) <= 1


def test_a_map_finer_than_the_photo_stays_within_its_range():
    cam = np.random.default_rng(3).uniform(2, 3, (100, 90))
    heat = Placement((9, 11), (224, 224), (30.0, 25.0), (-20.0, -30.0)).warp(cam, fill=2.5)
    assert cam.min() - 1e-6 <= heat.min() < heat.max() <= cam.max() + 1e-6


@pytest.mark.parametrize("photo", [(3000, 2000), (1, 3_000_000), (3_000_000, 1)])
def test_warping_needs_little_more_memory_than_its_result(photo):
    width, height = photo
    placement = Placement(photo, (224, 224), (224 / width, 224 / height), (0.0, 0.0))
    cam = np.random.default_rng(4).random((56, 56), dtype=np.float32)
    tracemalloc.start()
    try:
        heat = placement.warp(cam)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak <= 2 * heat.nbytes + 1_000_000


@pytest.mark.parametrize("placement", PLACEMENTS)
def test_a_placement_survives_json(placement):
    assert Placement.from_dict(json.loads(json.dumps(placement.as_dict()))) == placement


def test_equal_placements_have_equal_hashes_for_any_sequence_type():
    odd = Placement(np.array([400, 200]), [80, 80], np.array([0.5, 0.5]), [-60, -10])
    assert odd == CROPPED
    assert hash(odd) == hash(CROPPED)


@pytest.mark.parametrize(
    ("change", "argument"),
    [
        ({"photo_size": (0, 5)}, "photo_size"),
        ({"photo_size": (5,)}, "photo_size"),
        ({"photo_size": 5}, "photo_size"),
        ({"input_size": (2.5, 3)}, "input_size"),
        ({"input_size": (True, 3)}, "input_size"),
        ({"scale": (0.0, 1.0)}, "scale"),
        ({"scale": (math.nan, 1.0)}, "scale"),
        ({"scale": "ab"}, "scale"),
        ({"offset": (math.inf, 0.0)}, "offset"),
        ({"offset": None}, "offset"),
        ({"offset": (80.0, 0.0)}, "offset"),  # the photo begins where the input ends
    ],
)
def test_a_placement_that_cannot_be_is_refused_by_the_name_of_its_field(change, argument):
    with pytest.raises(InvalidArgument) as refusal:
        Placement.from_dict({**CROPPED.as_dict(), **change})
    assert refusal.value.argument == argument


def test_a_dict_with_a_field_missing_is_refused_with_the_fields_it_takes():
    with pytest.raises(InvalidArgument, match="photo_size, input_size, scale, offset"):
        Placement.from_dict({"photo_size": [1, 1]})


@pytest.mark.parametrize(
    "cam", [np.zeros(3), np.zeros((0, 3)), np.zeros((2, 2), complex), [["a"]], np.zeros((1, 2, 2))]
)
def test_an_invalid_map_is_refused(cam):
    with pytest.raises(InvalidArgument, match="cam"):
        CROPPED.warp(cam)


def test_an_unknown_interpolation_is_refused_with_those_that_work():
    with pytest.raises(InvalidArgument, match='"bilinear" or "nearest"'):
        CROPPED.warp([[1.0]], interpolation="bicubic")


def test_a_placement_on_the_same_photo_at_another_size_covers_the_same_part_of_it():
    place = Placement((400, 300), (224, 224), (0.8, 0.8), (-48.0, -8.0))
    small = place.resized((200, 150))
    assert small.photo_size == (200, 150)
    assert small.seen_box == pytest.approx([edge / 2 for edge in place.seen_box])
    assert small.resized((400, 300)).scale == pytest.approx(place.scale)
