"""Montages with their captions, and colour bars."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from cam_hub.errors import InvalidArgument
from cam_hub.results.montage import (
    _typeface,
    colorbar,
    label_text,
    montage,
    note,
    stack,
)
from cam_hub.results.overlay import Box, colormap_table
from tests.fakes.plain_images import pixels, plain

# Many images on one sheet


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
    # It stays below its own tile: the strip between the tiles is white.
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


def caption(text: str) -> Image.Image:
    return montage([(text, plain("red"))])


@pytest.mark.parametrize(
    ("text", "same"),
    [
        ("e\u0301", "é"),
        ("a\n b", "a b"),
        ("cat 🐈", "cat"),
        ("Ｃａｔ", "Cat"),
        ("虎", "狮"),
        ("虎", "?"),
    ],
)
def test_what_the_typeface_lacks_is_spelt_in_ascii_or_left_out(text, same):
    assert caption(text) == caption(same)


@pytest.mark.parametrize(
    ("text", "other"),
    [
        ("кот", "пёс"), ("γάτα", "σκύλος"), ("Müller", "Muller"), ("28×28", "28x28"), ("→", "←"),
        ("straße", "strasse"), ("≥ ½", "≤ ½"), ("łódź", "lodz"), ("Ω", "?"), ("Ж", "?"),
    ],
)  # fmt: skip
def test_latin_greek_and_cyrillic_letters_and_arrows_are_drawn(text, other):
    assert caption(text) != caption(other)
    assert label_text(text, 285) == text


@pytest.mark.parametrize(
    ("label", "codes"),
    [
        ("虎斑", "U+864E U+6591"), ("قطة", "U+0642 U+0637 U+0629"),
        ("חתול", "U+05D7 U+05EA U+05D5…"),
        ("बाघ", "U+092C U+093E U+0918"), ("고양", "U+ACE0 U+C591"), ("🐈", "U+1F408"),
        ("cat 🐈", "U+1F408"), ("とら cat", "U+3068 U+3089"), ("a\udcff", "U+DCFF"),
        ("\u200dcat", "U+200D"),
    ],
)  # fmt: skip
def test_a_label_that_no_typeface_covers_is_the_index_of_its_class(label, codes):
    assert label_text(label, 285) == f"class 285 ({codes})"
    assert label_text(label, 285, codes=False) == "class 285"
    assert label_text(label, None) == label


def test_the_typeface_is_that_of_matplotlib():
    import matplotlib.font_manager as fonts

    assert str(_typeface()) == fonts.findfont("DejaVu Sans")


def test_a_montage_leaves_its_tiles_as_they_were(photos):
    cat = photos["cat"]
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


# The colour scale


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


# Text in place of an image, and images one below the other


def test_a_caption_of_several_lines_makes_room_for_each():
    one = montage([("layer4", plain("red"))])
    three = montage([(("layer4", "7×7", "0.1 s"), plain("red"))])
    assert three.height > one.height
    added = pixels(three)[one.height :]
    assert (added < 128).any()


def test_a_note_is_broken_into_lines_that_stay_inside():
    words = " ".join(["the map is zero everywhere"] * 4)
    dark = (pixels(note(words, (200, 120))) < 128).all(axis=2)
    rows = np.flatnonzero(dark.any(axis=1))
    assert (np.diff(rows) > 1).sum() >= 3  # gaps between lines
    assert not dark[:, -4:].any()
    assert not dark[-4:].any()


def test_a_note_that_does_not_fit_ends_in_an_ellipsis_and_never_fails():
    long = note("word " * 5000 + "x" * 5000, (120, 60))
    assert long.size == (120, 60)
    assert note("", (16, 16)).size == (16, 16)


def test_images_are_stacked_flush_left_on_white():
    whole = stack([plain("red", (40, 10)), plain("blue", (20, 30))])
    assert whole.size == (40, 40)
    assert place_of(whole, (0, 0, 255)) == Box(0, 10, 20, 40)
    assert whole.getpixel((30, 20)) == (255, 255, 255)


def test_a_stack_of_nothing_is_refused():
    with pytest.raises(InvalidArgument, match="pictures"):
        stack([])
