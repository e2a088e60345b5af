"""``DatasetReport``: its numbers, worked by hand."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import cam_hub
from cam_hub import DatasetReport, errors, explain_dataset
from cam_hub.faithfulness import focus
from tests.fakes.tiny_datasets import colours, image

ROOT = Path(__file__).resolve().parents[2]


def spot(colour: int, row: int, col: int, side: int = 32, light: int = 255) -> Image.Image:
    """A cell of the network's 4 × 4 grid in one colour, on black."""
    pixels = np.zeros((32, 32, 3), np.uint8)
    pixels[row * 8 : row * 8 + 8, col * 8 : col * 8 + 8, colour] = light
    return Image.fromarray(pixels).resize((side, side), Image.Resampling.NEAREST)


@pytest.fixture(scope="module")
def report(tmp_path_factory) -> DatasetReport:
    flat = Image.new("RGB", (32, 32), (0, 0, 90))
    flat.putpixel((0, 0), (0, 0, 255))
    source = [
        ("a", spot(0, 0, 0), "red"),
        ("b", spot(0, 0, 3), "red"),
        ("c", spot(0, 3, 3), "green"),  # wrong
        ("d", spot(1, 1, 1), None),
        ("e", flat, "blue"),
        ("f", Image.new("RGB", (32, 32)), "blue"),  # no heat: an error
        ("g", spot(1, 2, 2, side=64, light=99), "violet"),
    ]
    rows = [{"key": key, "image": picture, "label": label} for key, picture, label in source]
    out = tmp_path_factory.mktemp("rows") / "out"
    return explain_dataset(
        colours(), rows, out, method="layercam", target_layers="act", part_size=3
    )


def test_accuracy_counts_labels_that_the_model_has(report):
    assert report.accuracy == 3 / 4  # a, b, e; not c; d, f and g are unknown
    assert {row.key: row.correct for row in report} == {
        "a": True, "b": True, "c": False, "d": None, "e": True, "f": None, "g": None,
    }  # fmt: skip


def test_mean_maps_by_class_and_by_correctness(report):
    by_class = report.mean_maps(size=(4, 4))
    assert list(by_class) == ["blue", "green", "red"]
    expected = np.zeros((4, 4))
    expected[[0, 0, 3], [0, 3, 3]] = 1 / 3
    np.testing.assert_allclose(by_class["red"], expected, atol=1e-6)
    expected = np.zeros((4, 4))
    expected[[1, 2], [1, 2]] = 1 / 2
    np.testing.assert_allclose(by_class["green"], expected, atol=0.02)  # one was scaled
    judged = report.mean_maps("correct", size=(4, 4))
    assert list(judged) == ["correct", "wrong"]
    np.testing.assert_allclose(judged["wrong"], np.eye(4) * [[0, 0, 0, 1]], atol=1e-6)
    assert list(report.mean_maps("label")) == ["blue", "green", "red", "violet"]
    assert list(report.mean_maps("predicted")) == list(by_class)
    with pytest.raises(errors.InvalidArgument):
        report.mean_maps("colour")


def test_the_most_and_the_least_focused(report):
    assert report["a"].focus == pytest.approx(1)
    assert report["e"].focus == pytest.approx(0, abs=1e-3)
    for row in report:
        if row.map is not None:
            expected = focus(torch.from_numpy(row.map.copy())).value
            assert row.focus == pytest.approx(expected, abs=1e-6)
    assert report.least_focused(1)[0].key == "e"
    assert len(report.most_focused(99)) == 6
    assert report.most_focused(99)[-1].key == "e"
    with pytest.raises(errors.InvalidArgument):
        report.most_focused(0)


def test_heat_inside_of_boxes_and_masks_the_worst_first(report):
    half = np.zeros((64, 64), bool)
    half[32:] = True
    found = report.heat_inside(
        {
            "a": (16, 16, 32, 32),
            "b": (0, 0, 32, 32),
            "g": half,
            "f": (0, 0, 9, 9),
            "x": (0, 0, 1, 1),
        }
    )
    assert [each.key for each in found] == ["a", "g", "b"]
    assert [each.area for each in found] == [0.25, 0.5, 1.0]
    assert found[0].share == 0
    assert found[2].share == pytest.approx(1)
    # The hottest cell lies inside, and the half of the slope above it outside.
    assert 0.8 < found[1].share < 1
    again = report.heat_inside(lambda row: (0, 0, 32, 32) if row.key == "b" else None)
    assert again == found[2:]
    with pytest.raises(errors.InvalidArgument, match=r"that of 'a': .* the model saw"):
        report.heat_inside({"a": (100, 100, 120, 120)})
    with pytest.raises(errors.InvalidArgument, match="expected keys of rows, such as 'a'"):
        report.heat_inside({"photos/a": (16, 16, 32, 32), "photos/b": (0, 0, 32, 32)})
    assert report.heat_inside({}) == []


def test_numbers_stand_for_the_texts_of_keys(tmp_path):
    report = explain_dataset(colours(), [spot(0, 1, 1)], tmp_path / "out", method="layercam")
    assert report[0].key == "0"
    assert [each.key for each in report.heat_inside({0: (0, 0, 32, 32)})] == ["0"]


def test_what_was_cropped_away_has_no_heat(tmp_path):
    wide = Image.new("RGB", (64, 32))
    wide.paste(spot(0, 1, 1), (16, 0))
    report = explain_dataset(
        colours(), {"wide": wide}, tmp_path / "out", method="layercam", target_layers="act"
    )
    (found,) = report.heat_inside({"wide": (0, 0, 10, 32)})
    assert (found.share, found.area) == (0, 0)
    (found,) = report.heat_inside({"wide": (16, 0, 48, 32)})
    assert (found.share, found.area) == (pytest.approx(1), 1)


def test_labels_of_a_model_without_class_names(tmp_path):
    model = cam_hub.wrap_model(colours().module, input_size=(3, 32, 32), mean=0.0, std=1.0)
    rows = [{"image": spot(0, 1, 1), "label": label} for label in (0, 1, 7)]
    report = explain_dataset(model, rows, tmp_path / "out", method="layercam", target_layers="act")
    assert [row.label_index for row in report] == [0, 1, None]
    assert [row.correct for row in report] == [True, False, None]


def test_the_table_has_a_row_for_each_image(report):
    table = report.to_pandas().set_index("key")
    assert list(table.index) == list("abcdefg")
    assert table.predicted.to_list()[:5] == ["red", "red", "red", "green", "blue"]
    assert table.error["f"] == "no_map"
    assert table.label_index.isna().to_list() == [False, False, False, True, False, False, True]
    assert table.correct.sum() == 3
    assert table.boxes["a"] == [list(box) for box in report["a"].boxes]


def test_rows_are_found_by_key(report):
    assert report.keys() == list("abcdefg")
    assert "c" in report
    assert "h" not in report
    with pytest.raises(errors.RowNotFound, match="7 rows"):
        report["h"]
    with pytest.raises(KeyError):
        report[5]
    assert "7 rows, model='colours', accuracy=0.750" in repr(report)
    with pytest.raises(errors.CamHubError, match="blank") as caught:
        report["f"].explanation()
    assert caught.value.code == "no_map"


def test_rows_of_many_files_are_read_one_file_at_a_time(report):
    opened = DatasetReport.open(report._folder.path)
    for key in "agbfcedabcdefg":
        assert opened[key].key == key
    assert [row.key for row in opened] == list("abcdefg")


def test_the_example_in_the_docs_runs(photos, tmp_path, monkeypatch):
    page = (ROOT / "docs" / "datasets.md").read_text("utf-8")
    code, printed = re.search(r"```python\n(.*?)```.*?```text\n(.*?)```", page, re.DOTALL).groups()
    for label, name in (("tiger cat", "cat"), ("espresso", "espresso"), ("cheetah", "lion")):
        (tmp_path / "photos" / label).mkdir(parents=True)
        photos[name].save(tmp_path / "photos" / label / f"{name}.png")
    monkeypatch.chdir(tmp_path)
    lines: list[str] = []
    exec(
        compile(code, "docs", "exec"),
        {"print": lambda *parts: lines.append(" ".join(map(str, parts)))},
    )
    assert "\n".join(lines) + "\n" == printed
    assert Image.open(tmp_path / "overlay.png").size == photos["cat"].size


def test_the_page_is_one_file_without_anything_from_outside(tmp_path):
    evil = "<script>alert(1)</script>"
    rows = [
        {"key": f"{evil} {n}", "image": spot(n % 2, n % 4, n // 4 % 4), "label": "red"}
        for n in range(24)
    ]
    rows.append({"key": "none", "image": Image.new("RGB", (32, 32)), "label": evil})
    report = explain_dataset(
        colours(), rows, tmp_path / "out", method="layercam", target_layers="act"
    )
    page = report.to_html(tmp_path / "pages" / "report.html").read_text("utf-8")
    assert "<script" not in page
    assert not re.findall(r"(?:src|href|url)\s*[=(]\s*[\"']?(?!data:)\w", page)
    sections = ("correct predictions", "wrong predictions", "Groups with similar maps",
                "Most focused", "Least focused")  # fmt: skip
    for words in ("colours on 25 images", "50.0%", "no_map", *sections):
        assert words in page, words
    assert page.count("<img") == len(re.findall(r'<img[^>]* alt="[^"]+"', page)) > 20
    from_files = DatasetReport.open(tmp_path / "out").to_html(tmp_path / "pages" / "report.html")
    assert "its source was an object" in from_files.read_text("utf-8")  # no overlays
    (tmp_path / "mine.html").write_text("mine")
    for name in ("mine.html", "page.txt"):
        with pytest.raises(errors.InvalidArgument):
            report.to_html(tmp_path / name)
    assert (tmp_path / "mine.html").read_text() == "mine"
    assert sorted(path.name for path in (tmp_path / "pages").iterdir()) == ["report.html"]


def test_the_page_has_no_paths_of_this_machine(tmp_path):
    photos = tmp_path / "home of somebody" / "photos"
    for name in ("red/1.png", "red/2.png", "blue/broken.png"):
        (photos / name).parent.mkdir(parents=True, exist_ok=True)
        spot(0, 1, 1).save(photos / name)
    (photos / "blue" / "broken.png").write_bytes(b"")
    report = explain_dataset(colours(), photos, tmp_path / "out", method="layercam")
    page = report.to_html(tmp_path / "report.html").read_text("utf-8")
    assert "broken.png&#x27; is empty" in page
    (photos / "red" / "2.png").unlink()  # a figure that cannot be drawn
    moved = DatasetReport.open(tmp_path / "out").to_html(tmp_path / "report.html")
    page += moved.read_text("utf-8")
    assert "the source has no image" in page
    assert "somebody" not in page


def test_clips_have_rows_with_their_steps(tmp_path):
    from tests.fakes.law_nets import FRAMES, of_layout

    model = of_layout("NCTHW")
    clips = [[image(n, (48, 32)) for n in range(start, start + FRAMES)] for start in range(2)]
    report = explain_dataset(
        model, dict(enumerate(clips)), tmp_path / "out", method="layercam", target_layers="laid"
    )
    assert not report.errors(), report.errors()
    for row in report:
        alone = cam_hub.explain(model, clips[int(row.key)], method="layercam",
                                target_layers="laid")  # fmt: skip
        (cam,) = alone.cams.values()
        np.testing.assert_allclose(row.map, cam, 1e-4, 1e-6)
        assert row.map.ndim == 3
        assert row.overlay().tobytes() == alone.overlay().tobytes()
        assert len(row.explanation().animation()) == FRAMES
        np.testing.assert_allclose(row.reproduce().cam(), alone.cam(), 1e-4, 1e-6)
    assert report.mean_maps()
