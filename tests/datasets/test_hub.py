"""Datasets on the Hub, read by the real client of ``datasets`` from a hub on loopback."""

from __future__ import annotations

import io
import sys
import tarfile
import zipfile
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from cam_hub import DatasetReport, errors, explain_dataset
from cam_hub.datasets.hub import HubSplit, read_split
from cam_hub.datasets.sources import open_source
from tests.fakes.hub.shelves import Shelf
from tests.fakes.tiny_datasets import CLASSES, colours, image

datasets = pytest.importorskip("datasets", "4")

REPO = "datasets/anna/colours"
COUNT = 6


@pytest.fixture(scope="module")
def model():
    return colours()


@pytest.fixture(autouse=True)
def fresh(tmp_path, monkeypatch):
    """No listing and no file of an earlier test's hub is cached."""
    from huggingface_hub import HfFileSystem

    HfFileSystem.clear_instance_cache()
    monkeypatch.setattr("datasets.config.HF_MODULES_CACHE", str(tmp_path / "modules"))
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "datasets")
    monkeypatch.setattr(
        "datasets.config.DOWNLOADED_DATASETS_PATH", str(tmp_path / "datasets" / "downloads")
    )


def encoded(number: int) -> bytes:
    file = io.BytesIO()
    image(number).save(file, "PNG")
    return file.getvalue()


def parquet(numbers: range, column: str = "image") -> bytes:
    """Rows as ``datasets`` stores them, with class names and a column that is not for us."""
    features = datasets.Features(
        {
            "caption": datasets.Value("string"),
            column: datasets.Image(),
            "label": datasets.ClassLabel(names=list(CLASSES)),
            "scan": datasets.Image(),
        }
    )
    rows = [
        {
            "caption": f"number {number}",
            column: {"bytes": encoded(number), "path": f"{number}.png"},
            "label": number % 3,
            "scan": {"bytes": b"no image", "path": None},
        }
        for number in numbers
    ]
    file = io.BytesIO()
    table = datasets.Dataset.from_list(rows, features=features)
    table.with_format("arrow").to_parquet(file)
    return file.getvalue()


def check(model, source: str, out: Path) -> DatasetReport:
    report = explain_dataset(model, source, out, method="layercam", batch_size=4)
    assert not report.errors()
    assert (len(report), report.accuracy) == (COUNT, 1.0)
    for row in DatasetReport.open(out):
        assert row.overlay().size == (40, 32)
    return report


class TestKinds:
    def test_parquet(self, model, hub, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        shelf = Shelf()
        for part in range(2):
            name = f"data/train-0000{part}-of-00002.parquet"
            shelf.files[name] = parquet(range(part * 3, part * 3 + 3))
        hub.uploaded[REPO] = shelf
        report = check(model, "anna/colours", tmp_path / "out")
        assert report.keys() == [f"{number}.png" for number in range(COUNT)]
        assert report["1.png"].label == "green"
        assert report["1.png"].path is None
        place = f"hf://datasets/anna/colours@{shelf.sha}:default/train"
        assert report.job["source"] == {"kind": "hub", "path": place, "revision": shelf.sha}
        for same in (place, "hf://datasets/anna/colours", "anna/colours@main:train"):
            again = explain_dataset(model, same, tmp_path / "out", method="layercam")
            assert len(again) == COUNT

    def test_a_folder_of_images(self, model, hub, tmp_path):
        shelf = Shelf()
        for number in range(COUNT):
            shelf.files[f"{CLASSES[number % 3]}/{number}.png"] = encoded(number)
        hub.uploaded[REPO] = shelf
        report = check(model, "anna/colours", tmp_path / "out")
        assert report.keys()[0] == "blue/2.png"
        assert report["blue/2.png"].path == f"hf://datasets/anna/colours@{shelf.sha}/blue/2.png"

    def test_images_in_a_zip_archive(self, model, hub, tmp_path):
        content = io.BytesIO()
        with zipfile.ZipFile(content, "w") as archive:
            for number in range(COUNT):
                archive.writestr(f"{number}.png", encoded(number))
        hub.uploaded[REPO] = Shelf(files={"train.zip": content.getvalue()})
        report = explain_dataset(model, "anna/colours", tmp_path / "out", method="layercam")
        assert not report.errors()
        assert report.keys() == [f"{number}.png" for number in range(COUNT)]
        row = DatasetReport.open(tmp_path / "out")["3.png"]
        assert (
            row.path == f"zip://3.png::{report.job['source']['path'].rpartition(':')[0]}/train.zip"
        )
        assert row.overlay().size == (40, 32)

    def test_archives_of_webdataset(self, model, hub, tmp_path):
        content = io.BytesIO()
        with tarfile.open(fileobj=content, mode="w") as archive:
            for number in range(COUNT):
                for name, body in (
                    (f"{number}.png", encoded(number)),
                    (f"{number}.cls", str(number % 3).encode()),
                ):
                    entry = tarfile.TarInfo(name)
                    entry.size = len(body)
                    archive.addfile(entry, io.BytesIO(body))
        hub.uploaded[REPO] = Shelf(files={"train-0000.tar": content.getvalue()})
        report = check(model, "anna/colours", tmp_path / "out")
        assert report.keys() == list("012345")
        # One of its files, by its address.
        check(model, "hf://datasets/anna/colours/train-0000.tar", tmp_path / "other")

    def test_files_that_were_added_to_a_folder_are_found(self, hub):
        hub.uploaded[REPO] = shelf = Shelf(files={"red/0.png": encoded(0)})
        place = "hf://datasets/anna/colours/red"
        assert [key for key, _ in open_source(place).keyed()] == ["0.png"]
        shelf.files["red/3.png"] = encoded(3)
        assert [key for key, _ in open_source(place).keyed()] == ["0.png", "3.png"]

    def test_a_streamed_data_set_as_an_object(self, model, hub, tmp_path):
        files = {f"{CLASSES[number % 3]}/{number}.png": encoded(number) for number in range(COUNT)}
        hub.uploaded[REPO] = Shelf(files=files)
        rows = datasets.load_dataset("anna/colours", split="train", streaming=True)
        report = explain_dataset(model, rows, tmp_path / "out", method="layercam")
        assert (len(report), report.accuracy, report.errors()) == (COUNT, 1.0, {})


class TestChoices:
    @pytest.fixture(autouse=True)
    def shelf(self, hub):
        card = (
            "---\nconfigs:\n- config_name: small\n  data_files:\n"
            "  - {split: train, path: small/train.parquet}\n"
            "  - {split: test, path: small/test.parquet}\n"
            "- config_name: large\n  data_files: large/*.parquet\n---\n"
        )
        hub.uploaded[REPO] = Shelf(
            files={
                "README.md": card.encode(),
                "small/train.parquet": parquet(range(2)),
                "small/test.parquet": parquet(range(COUNT)),
                "large/0.parquet": parquet(range(9), "scene"),
            }
        )

    def test_a_split_of_a_configuration(self, model, tmp_path):
        check(model, "anna/colours:small/test", tmp_path / "out")

    def test_a_column_that_is_known_as_images_by_its_type_alone(self):
        source = open_source("anna/colours:large/train")
        assert [sample.label for _, sample in source.keyed()][:3] == list(CLASSES)

    @pytest.mark.parametrize(
        ("text", "listed"),
        [
            ("anna/colours", "anna/colours:small/…, anna/colours:large/…"),
            ("anna/colours:test", "anna/colours:small/…, anna/colours:large/…"),
            ("anna/colours:tiny/test", "anna/colours:small/…, anna/colours:large/…"),
            ("anna/colours:small/val", "anna/colours:small/train, anna/colours:small/test"),
        ],
    )
    def test_what_is_not_clear_is_refused_with_what_there_is(self, text, listed):
        with pytest.raises(errors.InvalidArgument) as found:
            open_source(text)
        assert listed in str(found.value)

    def test_without_images(self, hub):
        hub.uploaded["datasets/anna/words"] = Shelf(files={"data.csv": b"word,length\none,3\n"})
        with pytest.raises(errors.InvalidArgument, match="it has 'word', 'length'"):
            open_source("anna/words")


class TestRefusals:
    @pytest.fixture(autouse=True)
    def shelf(self, hub):
        hub.uploaded[REPO] = Shelf(files={"data.parquet": parquet(range(COUNT))})
        return hub.uploaded[REPO]

    def test_one_job_has_one_commit(self, model, shelf, tmp_path):
        explain_dataset(model, "anna/colours", tmp_path / "out", method="layercam")
        before = shelf.sha
        shelf.files["data.parquet"] = parquet(range(COUNT + 3))
        with pytest.raises(errors.InvalidArgument, match=f"colours@{before}:default/train"):
            explain_dataset(model, "anna/colours", tmp_path / "out", method="layercam")

    def test_a_folder_here_comes_first(self, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        place = tmp_path / "anna" / "colours" / "red"
        place.mkdir(parents=True)
        image(0).save(place / "local.png")
        assert [key for key, _ in open_source("anna/colours").keyed()] == ["red/local.png"]
        source = open_source("hf://datasets/anna/colours")
        assert len(list(source.keyed())) == COUNT

    def test_not_found(self, hub):
        words = (
            "'anna/nothing' cannot be read: nothing here has this name, and on the Hub: there is no"
        )
        with pytest.raises(errors.SourceUnavailable, match=words):
            open_source("anna/nothing")
        with pytest.raises(errors.SourceUnavailable, match="no such revision"):
            open_source("anna/colours@v2")
        before = len(hub.requests)
        for missing in ("photos/table.csv", "photos/cat.jpg", "a/b/c", "./a/b", "no folder/here"):
            with pytest.raises(errors.InvalidArgument, match="a folder of images"):
                open_source(missing)
        assert len(hub.requests) == before

    def test_private_and_gated_ones_need_the_right_token(self, hub, shelf, monkeypatch):
        hub.uploads.writers["hf_anna"] = {"anna"}
        for fault, words in (("private", "or it is private"), ("gated", "it is gated")):
            setattr(shelf, fault, True)
            with pytest.raises(errors.SourceUnavailable, match=words):
                open_source("anna/colours")
            with monkeypatch.context() as patch:
                patch.setenv("HF_TOKEN", "hf_anna")
                assert len(list(open_source("anna/colours").keyed())) == COUNT
            setattr(shelf, fault, False)

    def test_offline(self, monkeypatch):
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
        with pytest.raises(errors.SourceUnavailable, match="HF_HUB_OFFLINE is set"):
            open_source("anna/colours")

    def test_without_the_library(self, monkeypatch):
        monkeypatch.setitem(sys.modules, "datasets", None)
        with pytest.raises(errors.InvalidArgument, match="nothing here has this name"):
            open_source("photos/train")  # a folder, perhaps
        with pytest.raises(errors.PackageMissing, match="pip install 'datasets>=4'"):
            open_source("hf://datasets/anna/colours")

    def test_a_hub_that_fails(self, hub):
        hub.broken = True
        with pytest.raises(errors.SourceUnavailable, match="500"):
            open_source("anna/colours")

    def test_a_hub_that_is_not_reached(self, monkeypatch):
        monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")
        with pytest.raises(errors.SourceUnavailable, match="refused"):
            open_source("anna/colours")

    def test_files_of_others_are_not_fetched(self, model, hub, shelf, tmp_path):
        rows = [{"bytes": None, "path": path} for path in ("http://127.0.0.1:9/x.png", __file__)]
        table = pa.table({"image": rows})
        pq.write_table(table, content := io.BytesIO())
        shelf.files["data.parquet"] = content.getvalue()
        report = explain_dataset(model, "anna/colours", tmp_path / "out", method="layercam")
        first, second = (message for _, message in report.errors().values())
        assert "http://127.0.0.1:9/x.png is not a file of this dataset" in first
        assert "there is nothing of this name" in second

    def test_code_of_a_repo_is_not_run(self, hub, tmp_path):
        hub.uploaded[REPO].files["colours.py"] = f"open({str(tmp_path / 'x')!r}, 'w')".encode()
        with pytest.raises(errors.SourceUnavailable, match="scripts are no longer supported"):
            open_source("anna/colours")
        assert not (tmp_path / "x").exists()


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("owner/name", HubSplit("owner/name")),
        ("owner/name@v1:test", HubSplit("owner/name", "v1", None, "test")),
        ("hf://datasets/owner/name:a b/test", None),
        (
            "hf://datasets/o/n@refs%2Fpr%2F1:c-1/s_2/",
            HubSplit("o/n", "refs%2Fpr%2F1", "c-1", "s_2"),
        ),
        ("hf://datasets/mnist", HubSplit("mnist")),
        ("mnist", None),
        ("owner/name/more", None),
        ("hf://datasets/owner/name/data.tar", None),
        ("../photos", None),
        ("photos/*.jpg", None),
    ],
)
def test_how_ids_are_read(text, expected):
    assert read_split(text) == expected
    if expected is not None:
        assert read_split(str(expected)) == expected
