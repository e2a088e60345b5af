"""Reports in FiftyOne and Spotlight, by the real libraries."""

from __future__ import annotations

import io
import json
import urllib.request

import numpy as np
import pytest
from PIL import Image

from cam_hub import DatasetReport, errors, explain_dataset
from tests.fakes.tiny_datasets import CLASSES, colours, folder_of, image


@pytest.fixture(scope="module")
def report(tmp_path_factory) -> DatasetReport:
    """Four images, one of them wrong and wide, and one that is damaged."""
    root = tmp_path_factory.mktemp("exports")
    photos = folder_of(root / "photos", 3)
    wide = Image.new("RGB", (80, 32))
    wide.paste(image(0, (32, 32)), (24, 0))
    wide.save(photos / "blue" / "wide.png")
    (photos / "red" / "bad.png").write_bytes(b"no image")
    return explain_dataset(colours(), photos, root / "out", method="layercam", evidence="cover")


@pytest.fixture(scope="module")
def fiftyone():
    pytest.importorskip("fiftyone")
    pytest.importorskip("mongomock")
    from tests.fakes.fiftyone_database import fiftyone_in_memory

    return fiftyone_in_memory()


class TestFiftyOne:
    def test_samples_have_labels_heat_boxes_and_evidence(self, report, fiftyone):
        dataset = report.to_fiftyone("samples")
        assert len(dataset) == len(report) == 5
        assert dataset.default_classes == list(CLASSES)
        found = {sample.key: sample for sample in dataset}
        for row in report:
            sample = found[row.key]
            assert sample.filepath == row.path
            assert sample.ground_truth.label == row.label
            assert (sample.correct, sample.error) == (row.correct, row.error)
            if row.error is not None:
                assert sample.heatmap is None
                continue
            assert sample.focus == pytest.approx(row.focus)
            assert sample.prediction.label == row.predictions[0].label
            assert sample.prediction.confidence == row.predictions[0].probability
            assert len(sample.predictions.classifications) == 3
            assert sample.evidence_cover == row.evidence["cover"].value
            assert sample.verdict == row.evidence.verdict
            assert sample.metadata.width == row.placement.photo_size[0]
            (left, top, width, height) = sample.boxes.detections[0].bounding_box
            assert left * sample.metadata.width == pytest.approx(row.boxes[0].left)
            assert (left + width) * sample.metadata.width == pytest.approx(row.boxes[0].right)
            assert (top + height) * sample.metadata.height == pytest.approx(row.boxes[0].bottom)
            assert sample.boxes.detections[0].label == row.classes[0].label

    def test_heat_lies_where_the_overlay_shows_it(self, report, fiftyone):
        sample = report.to_fiftyone().one(fiftyone.ViewField("key") == "blue/wide.png")
        expected = report["blue/wide.png"].explanation().heatmap()
        assert sample.heatmap.map.shape == (32, 80)
        np.testing.assert_allclose(sample.heatmap.map, expected, atol=0.02)
        assert not sample.heatmap.map[:, :24].any()  # cropped away
        assert list(sample.heatmap.range) == [0, 1]

    def test_photos_that_are_not_files_are_written(self, fiftyone, tmp_path):
        source = [("a", image(0), "red"), ("b", image(1), "red")]
        rows = explain_dataset(colours(), source, tmp_path / "out", method="layercam")
        with pytest.raises(errors.InvalidArgument, match="'a' is not a file of its own"):
            rows.to_fiftyone("written")
        assert not fiftyone.dataset_exists("written")
        dataset = rows.to_fiftyone("written", folder=tmp_path / "photos")
        for sample in dataset:
            assert Image.open(sample.filepath).size == (40, 32)

    def test_a_name_that_is_taken(self, report, fiftyone):
        report.to_fiftyone("taken")
        with pytest.raises(errors.InvalidArgument, match="overwrite=True"):
            report.to_fiftyone("taken")
        assert len(report.to_fiftyone("taken", overwrite=True)) == 5

    def test_what_fails_leaves_no_dataset(self, report, fiftyone, monkeypatch):
        monkeypatch.setattr(fiftyone, "Sample", None)
        with pytest.raises(TypeError):
            report.to_fiftyone("half")
        assert not fiftyone.dataset_exists("half")


def test_fiftyone_that_is_missing(report, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "fiftyone", None)
    with pytest.raises(errors.PackageMissing, match="pip install fiftyone"):
        report.to_fiftyone()


def test_a_table_for_spotlight(report):
    frame, types = report.to_spotlight()
    assert list(frame.columns[:3]) == ["overlay", "box", "map"]
    assert set(types) <= set(frame.columns)
    frame = frame.set_index("key")
    assert frame.loc["red/bad.png", "overlay"] is None
    assert frame.loc["blue/wide.png", "overlay"].startswith(b"\xff\xd8")
    np.testing.assert_allclose((frame.loc["red/00000.png", "map"] ** 2).sum(), 1, atol=1e-5)
    box = report["blue/wide.png"].boxes[0]
    expected = [box.left / 80, box.top / 32, box.right / 80, box.bottom / 32]
    np.testing.assert_allclose(frame.loc["blue/wide.png", "box"], expected)
    smaller, types = report.to_spotlight(overlays=False)
    assert "overlay" not in {*smaller.columns, *types}


@pytest.mark.slow
def test_spotlight_shows_it(report):
    spotlight = pytest.importorskip("renumics.spotlight")
    frame, types = report.to_spotlight()
    viewer = spotlight.show(frame, dtype=types, no_browser=True, wait=False, analyze=False)
    try:
        with urllib.request.urlopen(f"{viewer.url}api/table/") as answer:
            table = json.load(answer)
        columns = {column["name"]: column for column in table["columns"]}
        kinds = types | {"label": "Category", "predicted": "Category", "correct": "bool"}
        assert {name: columns[name]["dtype"]["name"] for name in kinds} == kinds
        assert columns["key"]["values"] == report.keys()
        place = f"{viewer.url}api/table/overlay/{report.keys().index('blue/wide.png')}"
        with urllib.request.urlopen(f"{place}?generation_id={table['generation_id']}") as answer:
            assert Image.open(io.BytesIO(answer.read())).size == (80, 32)
    finally:
        viewer.close()
