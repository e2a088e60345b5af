"""A result on the screen: which maps are drawn, on which scale, and the reason for missing ones."""

from __future__ import annotations

import dataclasses
import re
from html.parser import HTMLParser

import numpy as np
import pytest
from PIL import Image

import cam_hub
from cam_hub.errors import ClassNotFound, InvalidArgument, LayerNotFound
from cam_hub.results.explanation import Explanation
from space.components.viewer import (
    Preview,
    PreviewCache,
    Span,
    map_strip_html,
    reduced,
    viewer_html,
)
from space.service.views import SCALES, VIEWS, DisplayOptions, read_display_options

HOSTILE = '"><img src=x onerror=alert(1)>'


@pytest.fixture(scope="module")
def result(lite0: cam_hub.LoadedModel, lion: Image.Image) -> Explanation:
    """Two classes at two layers, of a photo larger than a screen."""
    large = lion.resize((2048, 1536))
    return cam_hub.explain(
        lite0, large, method="layercam", classes=[291, 293], target_layers=["blocks.4", "bn2"]
    )


@pytest.fixture(scope="module")
def screen(result: Explanation) -> Preview:
    return Preview(result)


def with_cams(result: Explanation, **changed: np.ndarray) -> Explanation:
    """The explanation with other maps for the lion, by layer (``_`` for ``.``)."""
    cams = dict(result.cams)
    for name, cam in changed.items():
        cams[291, name.replace("_", ".")] = cam.astype(np.float32)
    return dataclasses.replace(result, cams=cams)


def blank(result: Explanation, layer: str) -> np.ndarray:
    return np.zeros_like(result.cams[291, layer])


class Tags(HTMLParser):
    """The text of some HTML, without its tags."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))


# Drawing


def test_maps_lie_on_a_reduced_photo_where_they_lie_on_the_photo(result: Explanation):
    small = reduced(result, 512)
    assert small.photo.size == (512, 384)
    both = small.seen & result.seen[2::4, 2::4]
    assert np.abs(small.heatmap(291) - result.heatmap(291)[2::4, 2::4])[both].max() < 0.02
    assert abs(float(small.seen.mean()) - float(result.seen.mean())) < 0.01


def test_an_overlay_is_that_of_the_explanation(screen: Preview, result: Explanation):
    small = reduced(result, 1024)
    for layer in (None, "blocks.4"):
        shown = screen.picture(
            DisplayOptions(class_index=293, layer=layer, alpha=0.7, colormap="viridis")
        )
        direct = small.overlay(293, layer, alpha=0.7, colormap="viridis")
        assert np.array_equal(np.asarray(shown), np.asarray(direct))


def test_every_view_of_every_scale_is_another_image(screen: Preview):
    layers = sorted(("blocks.4", "bn2"), key=lambda name: screen.result.cam(291, name).max())
    look = DisplayOptions(class_index=291, layer=layers[0], threshold=0.02)
    pictures = [
        screen.picture(dataclasses.replace(look, view=view, scale=scale)).tobytes()
        for view in VIEWS
        for scale in SCALES
    ]
    assert len(set(pictures)) == len(pictures)


def test_a_raw_map_has_as_many_colours_as_cells_that_differ(screen: Preview):
    shown = np.asarray(screen.picture(DisplayOptions(view="map", layer="bn2", colormap="gray")))
    seen = shown[screen.result.seen]
    assert len(np.unique(seen.reshape(-1, 3), axis=0)) <= screen.result.cam(291, "bn2").size


def test_a_cut_out_keeps_the_photo_where_it_is_hot_and_nothing_else(screen: Preview):
    look = DisplayOptions(view="cutout", threshold=0.6)
    shown = np.asarray(screen.picture(look))
    mask = screen.result.mask(0.6, 291)
    assert np.array_equal(shown[mask], np.asarray(screen.result.photo)[mask])
    assert len(np.unique(shown[~mask].reshape(-1, 3), axis=0)) == 1
    count, part = screen.regions(look)
    assert 1 <= count <= len(screen.result.boxes(0.6, 291))
    assert part == pytest.approx(mask.mean())


def test_one_scale_for_all_runs_to_the_greatest_value_of_all_classes_and_layers(screen: Preview):
    greatest = max(float(cam.max()) for cam in screen.result.cams.values())
    for index in (291, 293):
        for layer in ("blocks.4", "bn2"):
            look = DisplayOptions(class_index=index, layer=layer, scale="common")
            assert screen.span(look) == Span(0.0, greatest)
            cam = screen.result.cam(index, layer)
            own = dataclasses.replace(look, scale="own")
            assert screen.span(own) == Span(float(cam.min()), float(cam.max()))
    assert screen.span(DisplayOptions(scale="common")) == Span(0.0, 1.0), (
        "a fusion has its own scale"
    )


def test_the_hottest_place_is_where_the_map_has_its_greatest_value(result: Explanation):
    cam = blank(result, "bn2")
    cam[0, -1] = 1.0
    across, down = Preview(with_cams(result, bn2=cam)).hottest(DisplayOptions(layer="bn2"))
    assert across > 0.6
    assert down < 0.4


# Messages


def test_the_figure_states_scale_units_and_the_cropped_part(screen: Preview):
    own = viewer_html(screen, DisplayOptions(layer="bn2"), "photo.jpg")
    span = screen.span(DisplayOptions(layer="bn2"))
    assert f"hot, {span.high:.3g}: strongest evidence for lion" in own
    assert "this map's least to its greatest value, in the method's own units" in own
    assert "Hatched grey" in own
    common = viewer_html(screen, DisplayOptions(layer="bn2", scale="common"), "photo.jpg")
    assert "from 0 to the greatest value of all maps here" in common
    assert "in units of the fusion, 0 to 1" in viewer_html(screen, DisplayOptions(), "photo.jpg")


def test_a_signed_map_states_which_colours_replace_the_chosen_ones(
    screen: Preview, lite0: cam_hub.LoadedModel, lion: Image.Image
):
    signed = Preview(cam_hub.explain(lite0, lion, method="layercam", classes=291, sign="both"))
    assert "coolwarm replaces jet" in viewer_html(signed, DisplayOptions(), "photo.jpg")
    assert "replaces" not in viewer_html(signed, DisplayOptions(colormap="bwr"), "photo.jpg")
    assert "replaces" not in viewer_html(screen, DisplayOptions(), "photo.jpg")


def test_images_have_text_alternatives(screen: Preview):
    text = viewer_html(screen, DisplayOptions(view="boxes", threshold=0.5), "photo.jpg")
    count, part = screen.regions(DisplayOptions(threshold=0.5))
    (said,) = re.findall(r'class="after" src="[^"]*" alt="([^"]*)"', text)
    assert said.startswith("Heatmap over photo for lion")
    assert f"{part:.0%} of the photo" in said
    assert f"{count} places" in text or "one place" in text
    tags = Tags(text).found
    assert all(attrs.get("alt") for tag, attrs in tags if tag == "img")
    assert all(attrs.get("aria-label") for tag, attrs in tags if tag == "input")


@pytest.mark.parametrize(
    ("cam", "reason"),
    [(0.0, "zero everywhere"), (3.0, "are equal evidence"), (np.nan, "NaN or infinite")],
)
def test_a_meaningless_map_is_not_drawn_and_the_reason_is_shown(
    result: Explanation, cam: float, reason: str
):
    broken = Preview(with_cams(result, bn2=np.full_like(blank(result, "bn2"), cam)))
    text = viewer_html(broken, DisplayOptions(class_index=291, layer="bn2"), "photo.jpg")
    assert "Nothing is painted." in text
    assert reason in text
    assert "data:image" not in text
    strip = map_strip_html(broken, DisplayOptions(class_index=291, layer="blocks.4"))
    assert f"No map: {'' if cam else 'no position'}" in strip
    assert 'data-layer="blocks.4"' in strip
    assert 'data-layer="bn2"' not in strip


def test_the_strip_marks_the_map_that_is_large(screen: Preview):
    for layer in ("", "blocks.4", "bn2"):
        strip = map_strip_html(screen, DisplayOptions(layer=layer or None))
        pressed = re.findall(r'aria-pressed="(\w+)" data-layer="([^"]*)"', strip)
        assert [name for state, name in pressed if state == "true"] == [layer]
        assert len(pressed) == 3


def test_names_that_others_gave_are_text_and_never_markup(result: Explanation):
    cams = {
        (index, HOSTILE if name == "bn2" else name): cam
        for (index, name), cam in result.cams.items()
    }
    hostile = Preview(
        dataclasses.replace(
            result,
            labels=dict.fromkeys(result.labels, HOSTILE),
            layers=("blocks.4", HOSTILE),
            cams=cams,
        )
    )
    for look in (
        DisplayOptions(),
        DisplayOptions(layer=HOSTILE, view="map"),
        DisplayOptions(view="boxes"),
    ):
        for text in (viewer_html(hostile, look, HOSTILE), map_strip_html(hostile, look)):
            assert not [attrs for _, attrs in Tags(text).found if "onerror" in attrs]


# Settings of the view


def test_display_options_for_something_not_explained_are_refused(screen: Preview):
    with pytest.raises(ClassNotFound, match="Explained were: 291"):
        screen.span(DisplayOptions(class_index=3))
    with pytest.raises(LayerNotFound, match=r"Nearest: bn2"):
        screen.span(DisplayOptions(layer="bn"))


def test_the_first_class_with_a_map_is_shown_where_none_is_named(result: Explanation):
    nothing = {"bn2": blank(result, "bn2"), "blocks_4": blank(result, "blocks.4")}
    assert DisplayOptions().at(with_cams(result, **nothing)) == (293, None)


@pytest.mark.parametrize(
    "values",
    [
        {"class_index": "291"},
        {"class_index": True},
        {"layer": 3},
        {"view": "all"},
        {"alpha": 1.01},
        {"alpha": float("nan")},
        {"alpha": "0.5"},
        {"colormap": "../x"},
        {"threshold": 0},
        {"scale": None},
    ],
    ids=str,
)
def test_display_options_of_other_values_are_refused(values: dict[str, object]):
    with pytest.raises(InvalidArgument):
        read_display_options(**values)  # type: ignore[arg-type]


def test_screens_that_were_not_used_for_long_are_read_again(result: Explanation, tmp_path):
    read = []

    def again(folder):
        read.append(folder.name)
        return result

    previews = PreviewCache(again, most=2)
    previews.put(tmp_path / "a", result)
    previews.put(tmp_path / "b", result)
    previews.get(tmp_path / "a")
    previews.put(tmp_path / "c", result)
    previews.get(tmp_path / "a")
    assert read == []
    previews.get(tmp_path / "b")
    assert read == ["b"]
