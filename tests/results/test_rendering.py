"""Heatmaps in colour and on their photos, cut-outs and boxes."""

from __future__ import annotations

import tracemalloc
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from PIL import Image

from cam_hub.errors import InvalidArgument
from cam_hub.results.montage import montage
from cam_hub.results.overlay import Box, colorize, colormap_table, cutout, draw_boxes, overlay
from tests.fakes.plain_images import pixels, plain

SHAPES = [(1, 1), (1, 9), (9, 1), (30, 50), (50, 30)]


@pytest.fixture
def cat(photos) -> Image.Image:
    """A real photo, 451 wide and 300 high."""
    return photos["cat"]


@pytest.fixture
def heat(cat, rng) -> np.ndarray:
    """A random heatmap of the cat's size."""
    return rng.random((cat.height, cat.width), dtype=np.float32)


# A heatmap in colour


def test_heat_takes_the_nearest_of_256_colours_and_is_clipped():
    heat = np.array([[-1.0, -np.inf, 0.0, 0.5 / 255 - 1e-6, 0.5 / 255 + 1e-6, 1.0, 7.0, np.inf]])
    assert pixels(colorize(heat, "gray"))[0, :, 0].tolist() == [0, 0, 0, 0, 1, 255, 255, 255]


@pytest.mark.parametrize("shape", SHAPES)
def test_a_coloured_map_has_the_shape_of_the_heatmap(shape, rng):
    heat = rng.random(shape)
    expected = colormap_table("turbo")[np.rint(heat.astype(np.float32) * 255).astype(int)]
    assert np.array_equal(np.asarray(colorize(heat, "turbo")), expected)


@pytest.mark.parametrize("dtype", [np.bool_, np.uint8, np.float16, np.float64, ">f4"])
def test_any_real_numbers_can_be_coloured(dtype):
    heat = np.array([[0, 1], [1, 0]]).astype(dtype)
    assert pixels(colorize(heat, "gray"))[..., 2].tolist() == [[0, 255], [255, 0]]


def test_a_large_map_needs_no_copy_in_colour():
    heat = np.zeros((1500, 2000), dtype=np.float32)
    colorize(heat[:1, :1])  # one-time imports and caches do not count
    tracemalloc.start()
    colorize(heat)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < heat.nbytes  # as floats, RGB would be three times that


def test_nan_is_refused_wherever_it_lies(cat, heat):
    for row in (0, cat.height - 1):
        spoilt = heat.copy()
        spoilt[row, 5] = np.nan
        with pytest.raises(InvalidArgument, match="NaN"):
            colorize(spoilt)
        with pytest.raises(InvalidArgument, match="NaN"):
            overlay(cat, spoilt)


# A heatmap on its photo


@pytest.mark.parametrize("colormap", ["jet", "gray", "tab10"])
def test_opacity_0_is_exactly_the_photo_and_1_exactly_the_coloured_map(cat, heat, colormap):
    assert overlay(cat, heat, alpha=0, colormap=colormap) == cat
    assert overlay(cat, heat, alpha=1, colormap=colormap) == colorize(heat, colormap)


@pytest.mark.parametrize("alpha", [0.004, 0.25, 0.4, 0.5, 0.77, 0.999])
def test_each_pixel_is_mixed_to_the_nearest_level_and_never_overflows(alpha):
    # Every level of the photo (rows) with every level of heat (columns).
    levels = np.arange(256, dtype=np.uint8)
    photo = Image.fromarray(np.repeat(np.repeat(levels[:, None], 256, 1)[..., None], 3, axis=2))
    heat = np.repeat(levels[None] / 255, 256, axis=0)
    mixed = pixels(overlay(photo, heat, alpha=alpha, colormap="gray"))[..., 1]
    exact = levels[:, None] * (1 - alpha) + levels[None] * alpha
    # Half a level by rounding, and alpha itself to the nearest 1/65536.
    assert np.abs(mixed - exact).max() <= 0.5 + 256 / 2 / 65536
    assert (np.diff(mixed, axis=1) >= 0).all()


@pytest.mark.parametrize("ground", [(0, 0, 0), (255, 255, 255), (200, 30, 90)])
def test_hotter_is_never_drawn_in_the_colour_of_colder(ground):
    ramp = np.linspace(0, 1, 256)[None]
    mixed = pixels(overlay(plain(ground, (256, 1)), ramp, alpha=0.5, colormap="jet"))[0]
    halves = (np.array(ground) + colormap_table("jet").astype(np.int64) + 1) // 2
    # Each pixel is mixed with its own colour: the colours have the order of the heat.
    assert np.array_equal(mixed, halves)
    red_less_blue = mixed[:, 0] - mixed[:, 2]
    assert red_less_blue[-1] - red_less_blue[0] > 100  # the hottest is red, the coldest blue


def test_an_overlay_leaves_photo_heatmap_and_mask_as_they_were(cat, heat):
    photo, seen = cat.copy(), np.zeros(heat.shape, dtype=bool)
    photo.info["exif"] = b"where it was taken"
    kept = heat.copy()
    heat.setflags(write=False)
    seen.setflags(write=False)
    result = overlay(photo, heat, seen=seen)
    assert np.array_equal(photo, cat)
    assert np.array_equal(heat, kept)
    assert not seen.any()
    assert result.info == {}


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("all_seen", [True, False])
def test_photos_of_any_shape_get_an_overlay_of_their_size(shape, all_seen):
    height, width = shape
    photo = plain((9, 99, 199), (width, height))
    seen = np.full(shape, all_seen)
    assert overlay(photo, np.ones(shape), seen=seen).size == (width, height)


def test_what_the_model_never_saw_has_no_colour_whatever_its_heat(cat, heat):
    seen = np.zeros(heat.shape, dtype=bool)
    seen[:, 75:375] = True
    unseen = pixels(overlay(cat, heat, seen=seen))[~seen]
    assert (unseen == unseen[:, :1]).all()
    assert unseen.mean() < pixels(cat)[~seen].mean() * 0.75
    for other in (overlay(cat, 1 - heat, seen=seen), overlay(cat, heat, seen=seen, colormap="hot")):
        assert np.array_equal(pixels(other)[~seen], unseen)


def test_the_part_that_the_model_saw_is_drawn_as_without_a_mask(cat, heat):
    seen = np.zeros(heat.shape, dtype=bool)
    seen[20:200, 75:375] = True
    with_mask, without = pixels(overlay(cat, heat, seen=seen)), pixels(overlay(cat, heat))
    assert np.array_equal(with_mask[seen], without[seen])
    assert overlay(cat, heat, seen=np.ones_like(seen)) == overlay(cat, heat)


@pytest.mark.parametrize("ground", ["black", "white"])
@pytest.mark.parametrize("size", [(90, 60), (60, 90), (3000, 500)])
def test_the_unseen_is_hatched_by_unbroken_diagonals_on_any_ground(ground, size):
    width, height = size  # the largest takes several bands
    nothing = np.zeros((height, width))
    mark = pixels(overlay(plain(ground, size), nothing, seen=nothing > 0))[..., 0]
    assert len(np.unique(mark)) == 2
    assert np.ptp(mark) >= 30
    # Along a diagonal nothing changes; most of the background lies between the lines.
    assert np.array_equal(mark[1:, :-1], mark[:-1, 1:])
    assert 0.05 < (mark == mark.max()).mean() < 0.4


def test_the_mark_of_the_unseen_grows_with_opacity_from_none_to_full_at_a_half(cat, heat):
    unseen = np.zeros(heat.shape, dtype=bool)
    at = {alpha: overlay(cat, heat, alpha=alpha, seen=unseen) for alpha in (0, 0.25, 0.5, 1)}
    assert at[0] == cat
    assert at[0.5] == at[1]
    halfway = (pixels(at[0]) + pixels(at[1])) / 2
    assert np.abs(pixels(at[0.25]) - halfway).max() <= 0.5


@pytest.mark.parametrize("alpha", [-0.1, 1.1, np.nan, None, "0.5"])
def test_an_opacity_out_of_range_is_refused(cat, heat, alpha):
    with pytest.raises(InvalidArgument, match=r"a number in \[0, 1\]") as caught:
        overlay(cat, heat, alpha=alpha)
    assert caught.value.argument == "alpha"


def test_sizes_that_differ_are_refused_with_both(cat, heat):
    turned = heat.T
    with pytest.raises(InvalidArgument, match=r"\(451, 300\).*\(300, 451\).*451×300") as caught:
        overlay(cat, turned)
    assert caught.value.argument == "heatmap"
    with pytest.raises(InvalidArgument) as caught:
        overlay(cat, heat, seen=turned > 0)
    assert caught.value.argument == "seen"
    with pytest.raises(InvalidArgument) as caught:
        cutout(cat, turned > 0)
    assert caught.value.argument == "mask"


@pytest.mark.parametrize("mode", ["L", "RGBA", "P", "I;16", "CMYK"])
def test_only_rgb_is_taken_so_that_no_mode_is_converted_silently(mode):
    photo = Image.new(mode, (4, 3))
    for call in (
        lambda: overlay(photo, np.zeros((3, 4))),
        lambda: cutout(photo, np.zeros((3, 4), dtype=bool)),
        lambda: draw_boxes(photo, []),
        lambda: montage([("", photo)]),
    ):
        with pytest.raises(InvalidArgument, match=f"mode {mode}.*convert"):
            call()


def test_a_photo_that_is_not_a_pillow_image_is_refused(heat):
    with pytest.raises(InvalidArgument, match="ndarray"):
        overlay(heat, heat)


# Parts of a photo


def test_a_cutout_shows_the_mask_and_a_plain_ground_elsewhere(cat, heat):
    inside = heat > 0.5
    shown = pixels(cutout(cat, inside, background=(1, 2, 3)))
    assert np.array_equal(shown[inside], pixels(cat)[inside])
    assert (shown[~inside] == (1, 2, 3)).all()
    assert cutout(cat, np.ones_like(inside)) == cat


@pytest.mark.parametrize("mask", [np.ones((6, 8)), np.ones((6, 8), dtype=np.uint8)])
def test_a_mask_of_numbers_is_refused(mask):
    with pytest.raises(InvalidArgument, match="a boolean array"):
        cutout(plain("red"), mask)
    with pytest.raises(InvalidArgument, match="a boolean array"):
        overlay(plain("red"), np.zeros((6, 8)), seen=mask)


def test_a_box_is_drawn_inside_itself_white_within_black():
    drawn = pixels(draw_boxes(plain("red", (30, 20)), [Box(5, 4, 25, 16)]))
    red, black, white = [255, 0, 0], [0, 0, 0], [255, 255, 255]
    assert drawn[10, 4:11].tolist() == [red, black, white, white, black, red, red]
    assert drawn[10, 19:26].tolist() == [red, red, black, white, white, black, red]
    assert drawn[3:9, 15].tolist() == [red, black, white, white, black, red]
    assert drawn[15:17, 15].tolist() == [black, red]


def test_lines_grow_with_the_image():
    size, widths = (900, 600), []
    for scale in (1, 3):
        photo = plain("red", (size[0] * scale, size[1] * scale))
        box = Box(*(scale * edge for edge in (100, 100, 800, 500)))
        row = pixels(draw_boxes(photo, [box]))[photo.height // 2, : photo.width // 2]
        widths.append(int((row != (255, 0, 0)).any(axis=1).sum()))
    assert widths[1] == 3 * widths[0] > 0


def test_a_speck_in_a_large_photo_is_framed_and_not_filled():
    drawn = pixels(draw_boxes(plain("red", (3000, 3000)), [Box(1000, 1000, 1020, 1020)]))
    assert (drawn[1004:1016, 1004:1016] == (255, 0, 0)).all()
    assert (drawn[1001:1003, 1001:1019] == 255).all()


def test_the_hottest_box_lies_on_top():
    first, second = Box(2, 2, 20, 20), Box(10, 10, 30, 30)
    alone = pixels(draw_boxes(plain("red", (40, 40)), [first]))
    both = pixels(draw_boxes(plain("red", (40, 40)), [first, second]))
    outline = (alone != (255, 0, 0)).any(axis=2)
    assert np.array_equal(both[outline], alone[outline])


@pytest.mark.parametrize(
    "box", [Box(3, 2, 4, 3), Box(0, 0, 8, 6), Box(1, 1, 3, 2), Box(0, 0, 8, 1)]
)
def test_the_smallest_boxes_and_the_largest_are_drawn_without_leaving_themselves(box):
    photo = plain("red")
    drawn = pixels(draw_boxes(photo, [box]))
    changed = (drawn != (255, 0, 0)).any(axis=2)
    outside = np.ones(changed.shape, dtype=bool)
    outside[box.top : box.bottom, box.left : box.right] = False
    assert changed.any()
    assert not changed[outside].any()
    assert photo == plain("red")


@pytest.mark.parametrize(
    "box", [(0, 0, 0, 3), (2, 2, 1, 3), (-1, 0, 2, 2), (0, 0, 9, 6), (0, 0, 8, 7)]
)
def test_boxes_that_are_empty_or_reach_outside_are_refused(box):
    with pytest.raises(InvalidArgument, match="8×6 pixels"):
        draw_boxes(plain("red"), [Box(*box)])


def test_an_overlay_drawn_in_another_thread_is_the_same(cat, heat):
    with ThreadPoolExecutor(1) as pool:
        drawn = pool.submit(overlay, cat, heat).result()
    assert drawn.tobytes() == overlay(cat, heat).tobytes()
