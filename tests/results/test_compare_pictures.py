"""The images and files of a comparison: its scales, sheet, animation and folder."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw
from torch import nn

import cam_hub
from cam_hub import Comparison, compare
from cam_hub.errors import InvalidArgument
from cam_hub.results.comparison_grid import FULL_HEAT, SCALES, ends_of, heat_of
from tests.fakes.law_nets import of_layout


@pytest.fixture(scope="module")
def grid(lite0: cam_hub.LoadedModel, photos: dict[str, Image.Image]) -> Comparison:
    """Two classes, and one that does not exist."""
    return compare(lite0, photos["cat"], methods="layercam", classes=[282, "lino", 285])


@pytest.fixture(scope="module")
def strip(lite0: cam_hub.LoadedModel, photos: dict[str, Image.Image]) -> Comparison:
    """Five layers, from first to last; the map of the first is blank."""
    layers = ["blocks.0.0.conv_pw", "blocks.1", "blocks.2", "blocks.4", "bn2"]
    return compare(lite0, photos["moped"], methods="smoothgradcampp", target_layers=layers)


class TestScales:
    EVEN = np.full((2, 2), 3.0, np.float32)
    SPOT = np.array([[16, 0, 0, 0]] + [[0, 0, 0, 0]] * 3, np.float32)

    def test_shares_show_how_many_times_an_even_spread_whatever_the_unit(self):
        even, spot, again = heat_of([self.EVEN, self.SPOT, 1e-6 * self.SPOT], [1, 2, 3], "shares")
        np.testing.assert_allclose(even, 1 / FULL_HEAT)
        assert spot.max() == 1
        np.testing.assert_allclose(spot, again, rtol=1e-6)

    def test_shares_do_not_depend_on_how_fine_the_grid_is(self):
        coarse = np.array([[1, 3], [2, 2]], np.float32)
        fine = coarse.repeat(8, axis=0).repeat(8, axis=1)
        few, many = heat_of([coarse, fine], [1, 2], "shares")
        np.testing.assert_allclose(few.repeat(8, axis=0).repeat(8, axis=1), many)

    def test_values_share_a_scale_within_one_unit_only(self):
        twice, once, other = heat_of(
            [2 * self.SPOT, self.SPOT, 9 * self.SPOT], ["a", "a", "b"], "values"
        )
        assert [heat.max() for heat in (twice, once, other)] == [1.0, 0.5, 1.0]

    def test_own_is_the_heat_that_the_explanation_itself_shows(self, grid):
        cell = grid.cells[0]
        own = grid.heat("own")[0][0]
        shown = cell.explanation.placement.warp(own)
        assert np.array_equal(shown, cell.explanation.heatmap(282))

    def test_tiny_values_do_not_drown(self):
        (heat,) = heat_of([np.float32(1e-38) * self.SPOT], [1], "shares")
        assert heat.max() == 1

    def test_of_two_classes_of_one_model_the_stronger_is_hotter_by_values(self, grid):
        first, missing, second = grid.heat("values")[0]
        assert missing is None
        peaks = [cell.cam.max() for cell in (grid.cells[0], grid.cells[2])]
        assert first.max() / second.max() == pytest.approx(peaks[0] / peaks[1], rel=1e-5)
        assert max(first.max(), second.max()) == 1

    def test_each_scale_has_a_description(self):
        assert all(SCALES.values())
        assert all(len(ends_of(scale)) == 2 for scale in SCALES)

    def test_an_unknown_scale_is_refused(self, grid):
        with pytest.raises(InvalidArgument, match="shares, values, own"):
            grid.figure("log")


class TestPictures:
    def test_a_cell_on_its_own_scale_is_the_overlay_of_its_explanation(self, grid):
        picture = grid.pictures("own", alpha=0.3, colormap="viridis", max_side=4000)[0][0]
        cell = grid.cells[0]
        assert picture == cell.explanation.overlay(282, alpha=0.3, colormap="viridis")

    def test_large_photos_are_drawn_small_and_keep_their_shape(self, grid):
        picture = grid.pictures(max_side=100)[0][0]
        width, height = grid.photo.size
        assert picture.size == (100, round(100 * height / width))
        assert grid.photo.size == (width, height)

    def test_the_sheet_has_a_place_for_the_photo_and_for_every_cell(self, grid):
        sheet = grid.figure(tile_width=100)
        assert sheet.width >= 4 * 100
        smaller = compare_columns(grid, 2).figure(tile_width=100)
        assert smaller.width < sheet.width

    def test_a_reason_stands_where_a_map_would(self, grid):
        sheet = np.asarray(grid.figure(tile_width=128))
        assert (sheet == (232, 232, 236)).all(axis=2).sum() > 128 * 40  # the background of notes

    @pytest.mark.parametrize("options", [{"tile_width": 10}, {"colormap": "no"}, {"alpha": 2}])
    def test_invalid_display_options_are_refused(self, grid, options):
        with pytest.raises(InvalidArgument):
            grid.figure(**options)


def compare_columns(grid: Comparison, count: int) -> Comparison:
    """The first columns of a grid."""
    rows = tuple(type(row)(**{**vars(row), "cells": row.cells[:count]}) for row in grid.rows)
    return Comparison(grid.photo, grid.kind, grid.titles[:count], rows)


@pytest.mark.parametrize(
    ("names", "shown"),
    [
        (("кот", "пёс"), ("кот", "пёс")),
        (("γάτα", "σκύλος"), ("γάτα", "σκύλος")),
        (("虎斑", "狮子"), ("class 0 (U+864E U+6591)", "class 1 (U+72EE U+5B50)")),
        (("虎", "cat 🐈"), ("class 0 (U+864E)", "class 1 (U+1F408)")),
        (("tabby, 虎斑", "虎, lion"), ("tabby", "class 1 (U+864E)")),
    ],
)
def test_captions_hold_letters_or_the_index_of_the_class(names, shown, monkeypatch):
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(3, 8, 3, 2, 1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(1),
        nn.Linear(8, 2),
    )  # fmt: skip
    model = cam_hub.wrap_model(net, input_size=(3, 32, 32), class_names=names)
    photo = np.random.default_rng(0).integers(0, 255, (30, 40, 3), np.uint8)
    grid = compare(model, photo, methods="layercam", classes=[0, 1])
    written: list[str] = []
    draw = ImageDraw.ImageDraw.text

    def noted(self, place, text, *rest, **options):
        written.append(text)
        return draw(self, place, text, *rest, **options)

    monkeypatch.setattr(ImageDraw.ImageDraw, "text", noted)
    grid.figure(tile_width=400)
    assert {*shown} <= {*written}
    alone = [label.partition(" (U+")[0] for label in shown]
    for label in alone:
        assert any(f"16×16, {label}" in text for text in written)


class TestFilm:
    def test_it_shows_every_layer_in_order_in_images_of_one_size(self, strip):
        frames = strip.animation(tile_width=120)
        assert len(frames) == len(strip.titles)
        assert {frame.size for frame in frames} == {frames[0].size}
        assert len({frame.tobytes() for frame in frames}) == len(frames)

    def test_a_blank_layer_shows_the_bare_photo(self, strip):
        frames = strip.animation(tile_width=120)
        assert strip.cells[0].error is not None
        height = round(120 * strip.photo.height / strip.photo.width)
        photo = np.asarray(strip.photo.resize((120, height)), np.float32)
        blank, painted = (
            np.abs(np.asarray(frame)[6 : 6 + height, 6:126] - photo).mean() for frame in frames[:2]
        )
        assert blank < 10 < painted

    @pytest.mark.parametrize("suffix", ["gif", "webp"])
    def test_a_file_plays_it(self, strip, tmp_path, suffix):
        path = strip.save_animation(tmp_path / f"strip.{suffix}", tile_width=64, frame_ms=300)
        with Image.open(path) as film:
            assert film.n_frames == len(strip.titles)

    @pytest.mark.parametrize("row", [-1, 1, True])
    def test_a_row_that_is_not_there_is_refused(self, strip, row):
        with pytest.raises(InvalidArgument, match="row"):
            strip.animation(row=row)

    def test_a_row_without_maps_is_refused(self, lion):
        with pytest.raises(InvalidArgument, match="with a map"):
            compare("nonsense", lion).animation()


class TestFolder:
    def test_what_was_saved_comes_back_the_same(self, strip, tmp_path):
        again = Comparison.load(strip.save(tmp_path / "out"))
        assert again.table() == strip.table()
        assert (again.kind, again.titles) == (strip.kind, strip.titles)
        assert again.figure() == strip.figure()
        assert again.cells[0].error.code == "no_map"
        for before, after in zip(strip.cells, again.cells, strict=True):
            assert (before.cam is None) == (after.cam is None)
            assert before.cam is None or np.array_equal(before.cam, after.cam)

    def test_each_manifest_makes_its_maps_again(self, grid, lite0, tmp_path):
        folder = grid.save(tmp_path / "out")
        (path,) = folder.glob("*/manifest.json")
        again = cam_hub.reproduce(
            json.loads(path.read_text("utf-8")), folder / "photo.png", model=lite0
        )
        assert np.array_equal(again.cam(285), grid.cells[2].cam)

    def test_the_photo_is_written_once_and_strips_only_of_layers(self, grid, strip, tmp_path):
        names = {path.name for path in grid.save(tmp_path / "grid").rglob("*") if path.is_file()}
        assert names >= {"sheet.png", "photo.png", "comparison.json", "manifest.json"}
        assert len(list((tmp_path / "grid").rglob("photo.png"))) == 1
        assert not list((tmp_path / "grid").glob("strip-*"))
        assert len(list(strip.save(tmp_path / "strip").glob("strip-*.webp"))) == 1

    def test_clips_keep_their_frames(self, tmp_path):
        frames = [Image.new("RGB", (48, 32), (60 * n, 90, 200)) for n in range(4)]
        grid = compare([of_layout("NCTHW"), of_layout("NCHW")], frames, methods="gradcam")
        assert [cell.explanation is not None for cell in grid.cells] == [True, False]
        again = Comparison.load(grid.save(tmp_path / "out"))
        assert len(again.cells[0].explanation.frames) == 4
        assert np.array_equal(again.cells[0].cam, grid.cells[0].cam)

    def test_an_earlier_comparison_is_replaced_and_nothing_else_is(self, grid, strip, tmp_path):
        folder = strip.save(tmp_path / "out")
        (folder / "notes.txt").write_text("mine")
        grid.save(folder)
        assert not list(folder.glob("strip-*"))
        assert (folder / "notes.txt").read_text() == "mine"
        assert Comparison.load(folder).table() == grid.table()

    def test_a_folder_of_something_else_is_refused(self, grid, tmp_path):
        (tmp_path / "mine.txt").write_text("mine")
        for folder in (tmp_path, tmp_path / "mine.txt"):
            with pytest.raises(InvalidArgument, match="folder"):
                grid.save(folder)

    @pytest.mark.parametrize("text", [None, "{", "{}", '{"kind": "odd"}'])
    def test_a_folder_that_holds_no_comparison_is_refused(self, tmp_path: Path, text):
        if text is not None:
            (tmp_path / "comparison.json").write_text(text)
        with pytest.raises(InvalidArgument, match=r"Comparison\.save"):
            Comparison.load(tmp_path)
