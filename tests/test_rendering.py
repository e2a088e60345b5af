"""Colour maps, overlays, cut-outs, boxes, montages and colour bars."""

from __future__ import annotations

import subprocess
import sys
import tracemalloc

import matplotlib
import numpy as np
import pytest
from PIL import Image

from cam_hub.colormaps import COLORMAPS, colormap_names, colormap_table
from cam_hub.errors import InvalidArgument
from cam_hub.figures import colorbar, montage
from cam_hub.regions import Box
from cam_hub.rendering import colorize, cutout, draw_boxes, overlay

SHAPES = [(1, 1), (1, 9), (9, 1), (30, 50), (50, 30)]


def pixels(image: Image.Image) -> np.ndarray:
    """An image's values ``(H, W, 3)``, wide enough to subtract."""
    assert image.mode == "RGB"
    return np.asarray(image).astype(np.int64)


def plain(colour, size=(8, 6)) -> Image.Image:
    """An image of one colour."""
    return Image.new("RGB", size, colour)


@pytest.fixture
def cat(photos) -> Image.Image:
    """A real photo, 451 wide and 300 high."""
    return photos["cat"]


@pytest.fixture
def heat(cat, rng) -> np.ndarray:
    """A random heatmap of the cat's size."""
    return rng.random((cat.height, cat.width), dtype=np.float32)


# Colour maps


def test_importing_the_package_does_not_import_matplotlib():
    code = "import cam_hub.figures, sys; assert 'matplotlib' not in sys.modules"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize("name", [*colormap_names(), "tab10", "jet_r", "Greys"])
def test_a_table_holds_matplotlibs_colours_to_the_nearest_level(name):
    table = colormap_table(name)
    expected = matplotlib.colormaps[name](np.linspace(0, 1, 256))[:, :3] * 255
    assert table.shape == (256, 3)
    assert table.dtype == np.uint8
    assert np.abs(table - expected).max() <= 0.5 + 1e-9


def test_every_curated_map_is_filed_under_its_own_name():
    assert colormap_names()[0] == "jet"
    assert all(entry.name == name for name, entry in COLORMAPS.items())


@pytest.mark.parametrize("entry", COLORMAPS.values(), ids=lambda entry: entry.name)
def test_a_map_called_colour_blind_safe_is_one_whose_lightness_never_falls(entry):
    linear = (colormap_table(entry.name) / 255) ** 2.2
    lightness = (linear @ [0.2126, 0.7152, 0.0722]) ** (1 / 3)
    # One level of rounding in one channel is no fall.
    assert entry.colour_blind_safe == bool(np.diff(lightness).min() > -0.002)


def test_a_table_cannot_be_spoilt_for_the_next_caller():
    with pytest.raises(ValueError, match="read-only"):
        colormap_table("jet")[0] = 0


@pytest.mark.parametrize(
    ("name", "hint"), [("virids", "viridis"), ("JET", "jet"), ("", "jet"), ("no such", "turbo")]
)
def test_an_unknown_map_is_refused_with_the_nearest_names(name, hint):
    with pytest.raises(InvalidArgument, match=hint) as caught:
        colormap_table(name)
    assert (caught.value.argument, caught.value.value) == ("colormap", name)


@pytest.mark.parametrize("name", [None, 3, ["jet"]])
def test_what_is_no_name_is_refused(name):
    with pytest.raises(InvalidArgument, match="name of a colour map"):
        colormap_table(name)


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
    colorize(heat[:1, :1])  # what is imported and cached once is not counted
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


# A heatmap over its photo


@pytest.mark.parametrize("colormap", ["jet", "gray", "tab10"])
def test_opacity_0_is_exactly_the_photo_and_1_exactly_the_coloured_map(cat, heat, colormap):
    assert overlay(cat, heat, alpha=0, colormap=colormap) == cat
    assert overlay(cat, heat, alpha=1, colormap=colormap) == colorize(heat, colormap)


@pytest.mark.parametrize("alpha", [0.004, 0.25, 0.4, 0.5, 0.77, 0.999])
def test_each_pixel_is_mixed_to_the_nearest_level_and_never_overflows(alpha):
    # Every level of the photo, down, against every level of heat, across.
    levels = np.arange(256, dtype=np.uint8)
    photo = Image.fromarray(np.repeat(np.repeat(levels[:, None], 256, 1)[..., None], 3, axis=2))
    heat = np.repeat(levels[None] / 255, 256, axis=0)
    mixed = pixels(overlay(photo, heat, alpha=alpha, colormap="gray"))[..., 1]
    exact = levels[:, None] * (1 - alpha) + levels[None] * alpha
    # Half a level from rounding, and alpha itself to the nearest 1/65536.
    assert np.abs(mixed - exact).max() <= 0.5 + 256 / 2 / 65536
    assert (np.diff(mixed, axis=1) >= 0).all()


@pytest.mark.parametrize("ground", [(0, 0, 0), (255, 255, 255), (200, 30, 90)])
def test_hotter_is_never_drawn_in_the_colour_of_colder(ground):
    ramp = np.linspace(0, 1, 256)[None]
    mixed = pixels(overlay(plain(ground, (256, 1)), ramp, alpha=0.5, colormap="jet"))[0]
    halves = (np.array(ground) + colormap_table("jet").astype(np.int64) + 1) // 2
    # Each pixel is the mix of its own colour: the colours come in the order of the heat.
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


def test_what_the_model_saw_looks_as_if_there_were_no_mask(cat, heat):
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
    # Along a diagonal nothing changes; most of the ground lies between the lines.
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


def test_a_photo_that_is_no_pillow_image_is_refused(heat):
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


# Many pictures on one sheet


def place_of(sheet: Image.Image, colour: tuple[int, int, int]) -> Box:
    """The box around all pixels of exactly one colour."""
    rows, columns = np.nonzero((pixels(sheet) == colour).all(axis=2))
    return Box(columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)


def test_tiles_stand_in_reading_order_at_one_width():
    colours = [(250, 10 * i, 0) for i in range(5)]
    sizes = [(40, 30), (400, 300), (1, 1), (20, 40), (50, 50)]
    tiles = [("tile", plain(c, s)) for c, s in zip(colours, sizes, strict=True)]
    sheet = montage(tiles, columns=3, tile_width=120)
    places = [place_of(sheet, colour) for colour in colours]
    assert [(p.right - p.left, p.bottom - p.top) for p in places] == [
        (120, 90),
        (120, 90),
        (120, 120),
        (120, 240),
        (120, 120),
    ]
    assert places[0].left == places[3].left < places[1].left == places[4].left < places[2].left
    assert places[0].bottom == places[2].bottom < places[3].top
    assert places[3].bottom == places[4].bottom


@pytest.mark.parametrize(
    ("size", "scaled"), [((1, 5000), (1, 200)), ((5000, 1), (100, 1)), ((10, 40), (50, 200))]
)
def test_slivers_keep_their_shape_and_never_become_endless(size, scaled):
    place = place_of(montage([("", plain("red", size))], tile_width=100), (255, 0, 0))
    assert (place.right - place.left, place.bottom - place.top) == scaled


@pytest.mark.parametrize("count", [1, 2, 3, 4, 7, 12, 35])
@pytest.mark.parametrize("size", [(30, 20), (20, 30), (20, 20)])
def test_by_default_a_sheet_is_neither_a_ribbon_nor_a_tower(count, size):
    colours = [(7 * i, 3, 99) for i in range(count)]
    sheet = montage([(str(c), plain(c, size)) for c in colours], tile_width=64)
    places = {place_of(sheet, colour) for colour in colours}
    assert len(places) == count
    assert 1 / 2 <= sheet.width / sheet.height <= 4
    rows = {place.bottom for place in places}
    columns = {place.left for place in places}
    assert (len(rows) - 1) * len(columns) < count <= len(rows) * len(columns)


def test_more_columns_than_tiles_leave_no_empty_place():
    tiles = [("a", plain("red")), ("b", plain("blue"))]
    assert montage(tiles, columns=9) == montage(tiles, columns=2)


def test_a_caption_stands_below_its_tile_and_a_title_above_all():
    without = montage([("", plain("red"))])
    tile = place_of(without, (255, 0, 0))
    captioned = pixels(montage([("layer4", plain("red"))]))
    changed = (captioned != pixels(without)).any(axis=2)
    assert changed[tile.bottom :].any()
    assert not changed[: tile.bottom].any()
    titled = montage([("", plain("red"))], title="resnet50")
    moved = place_of(titled, (255, 0, 0))
    assert moved.top > tile.top
    assert (pixels(titled)[: moved.top] != 255).any()


def test_a_long_caption_loses_its_middle_and_keeps_both_ends():
    def sheet(caption: str) -> Image.Image:
        return montage([(caption, plain("red"))] * 2, columns=2, tile_width=128)

    long = "features.stages." + "blocks.attention." * 20 + "projection.norm"
    assert sheet(long) == sheet(long.replace("blocks.attention." * 10, "other.words." * 10))
    assert sheet(long) != sheet("F" + long[1:])
    assert sheet(long) != sheet(long[:-1] + "M")
    assert sheet(long) == sheet(f" {long}\n")
    # It stays under its own tile: the strip between the tiles is white.
    tiles = pixels(sheet(long))
    red = (tiles == (255, 0, 0)).all(axis=2).any(axis=0)
    between = np.flatnonzero(~red)[np.flatnonzero(~red) > np.flatnonzero(red)[0]]
    gap = between[between < np.flatnonzero(red)[-1]]
    assert len(gap) > 0
    assert (tiles[:, gap] == 255).all()


@pytest.mark.parametrize(
    "caption",
    [
        "",
        "   ",
        "naïve café – 28×28 ≥ ½",
        "東京 запад שלום مرحبا ไทย",
        "🙂👩\u200d👩\u200d👧 e\u0301\ufe0f",
        "two\nlines\tand\x00nul\x7f\u2028",
        "lone \udcff\ud800 surrogates",
        "\ufffe\uffff\U0010ffff",
        "ﷺ" * 300,
        "x" * 200_000,
        "\u0301" * 500,
        "word " * 500,
    ],
)
def test_no_caption_and_no_title_can_make_a_montage_fail(caption):
    tiles = [(caption, plain("red")), ("layer", plain("blue"))]
    usual = montage([("layer", plain("red"))] * 2, tile_width=100, title="title")
    sheet = montage(tiles, tile_width=100, title=caption or "title")
    assert sheet.size == usual.size


@pytest.mark.parametrize(
    ("caption", "same"),
    [
        ("Müller", "Muller"),
        ("e\u0301", "é"),
        ("28×28", "28x28"),
        ("a\n b", "a b"),
        ("straße", "strasse"),
    ],
)
def test_letters_the_typeface_lacks_are_spelt_with_those_it_has(caption, same):
    assert montage([(caption, plain("red"))]) == montage([(same, plain("red"))])


def test_a_montage_leaves_its_tiles_as_they_were(cat):
    photo = cat.copy()
    montage([("cat", photo), ("again", photo)])
    assert photo == cat


@pytest.mark.parametrize(
    ("arguments", "name"),
    [
        ({"tiles": []}, "tiles"),
        ({"columns": 0}, "columns"),
        ({"columns": 1.5}, "columns"),
        ({"tile_width": 15}, "tile_width"),
        ({"tile_width": None}, "tile_width"),
    ],
)
def test_numbers_a_montage_cannot_be_made_with_are_refused(arguments, name):
    with pytest.raises(InvalidArgument) as caught:
        montage(**{"tiles": [("", plain("red"))], **arguments})
    assert caught.value.argument == name


@pytest.mark.parametrize("size", [(320, 40), (16, 16), (500, 20), (64, 200)])
def test_a_colour_bar_runs_from_cold_to_hot_above_its_labels(size):
    width, height = size
    bar = colorbar("viridis", width, height, low_label="cold", high_label="the hottest of all")
    assert bar.size == size
    table = colormap_table("viridis")
    levels = np.rint(np.linspace(0, 1, width, dtype=np.float32) * 255).astype(int)
    assert np.array_equal(pixels(bar)[0], table[levels])
    assert (pixels(bar)[-height // 3 :] != table[levels]).any(axis=2).any()
    low, high = (colorbar("viridis", width, height, *labels) for labels in (("8", ""), ("", "8")))
    assert (pixels(low) != pixels(high)).any(axis=(0, 2))[: width // 2].any()
    assert (pixels(low) != pixels(high)).any(axis=(0, 2))[width // 2 :].any()


def test_a_colour_bar_too_small_to_read_is_refused():
    for width, height, name in ((15, 40, "width"), (320, 15, "height")):
        with pytest.raises(InvalidArgument) as caught:
            colorbar("jet", width, height)
        assert caught.value.argument == name
