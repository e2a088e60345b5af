"""What ``explain_dataset`` reads: folders, globs, tables, archives, datasets and objects."""

from __future__ import annotations

import csv
import io
import json
import os
import tarfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from torch.utils.data import DataLoader, TensorDataset

from cam_hub import DatasetReport, errors, explain_dataset
from cam_hub.datasets.sources import open_source
from tests.fakes.tiny_datasets import CLASSES, colours, folder_of, image

datasets = pytest.importorskip("datasets")


@pytest.fixture(scope="module")
def model():
    return colours()


@pytest.fixture(scope="module")
def photos_of_colours(tmp_path_factory) -> Path:
    return folder_of(tmp_path_factory.mktemp("photos"), 6)


@pytest.fixture(scope="module")
def encoded() -> list[bytes]:
    return [encode(number) for number in range(6)]


def encode(number: int) -> bytes:
    file = io.BytesIO()
    image(number).save(file, "PNG")
    return file.getvalue()


def keyed(source: object) -> list[tuple[str, object]]:
    return [(key, sample.label) for key, sample in open_source(source).keyed()]


def check(model, source: object, out: Path) -> DatasetReport:
    """Explains six images of red, green, blue …; each is found again for its overlay."""
    report = explain_dataset(model, source, out, method="layercam", batch_size=4)
    assert len(report) == 6
    assert not report.errors()
    assert report.accuracy == 1.0
    by_name = isinstance(source, (str, os.PathLike))
    opened = DatasetReport.open(out, None if by_name else source)
    for row in opened:
        assert row.correct
        assert row.overlay().size == (40, 32)
    return report


class TestFilesOnDisk:
    def test_a_folder_of_class_folders(self, model, photos_of_colours, tmp_path):
        report = check(model, str(photos_of_colours), tmp_path / "out")
        assert report.keys()[0] == "blue/00002.png"
        assert report["red/00003.png"].path == str(photos_of_colours / "red" / "00003.png")

    def test_a_glob(self, model, photos_of_colours, tmp_path):
        check(model, f"{photos_of_colours}/*/*.png", tmp_path / "out")

    def test_a_folder_that_was_moved(self, model, tmp_path):
        source = folder_of(tmp_path / "photos", 3)
        explain_dataset(model, source, tmp_path / "out", method="layercam")
        source.rename(tmp_path / "moved")
        row = DatasetReport.open(tmp_path / "out")["red/00000.png"]
        with pytest.raises(errors.ImageRefused, match="source="):
            row.overlay()
        moved = DatasetReport.open(tmp_path / "out", source=tmp_path / "moved")
        assert moved["red/00000.png"].overlay().size == (40, 32)
        image(0, (64, 64)).save(tmp_path / "moved" / "red" / "00000.png")
        with pytest.raises(errors.ImageRefused, match="64 × 64 now, and was 40 × 32"):
            moved["red/00000.png"].overlay()

    def test_names_that_are_no_unicode(self, model, tmp_path):
        folder_of(tmp_path / "photos", 1)
        name = os.fsdecode(b"caf\xe9.png")
        (tmp_path / "photos" / "red" / "00000.png").rename(tmp_path / "photos" / "red" / name)
        report = explain_dataset(model, tmp_path / "photos", tmp_path / "out", method="layercam")
        (row,) = report
        assert (row.key, row.path) == ("red/caf\\udce9.png", None)
        assert row.overlay().size == (40, 32)


class TestTables:
    @pytest.fixture
    def rows(self, photos_of_colours) -> list[dict[str, str]]:
        return [
            {"file_name": str(path.relative_to(photos_of_colours)), "Label": path.parent.name}
            for path in sorted(photos_of_colours.rglob("*.png"))
        ]

    @pytest.mark.parametrize("separator", [",", ";", "\t"])
    def test_csv_with_paths_beside_it(self, model, photos_of_colours, rows, tmp_path, separator):
        file = photos_of_colours / f"table{ord(separator)}.csv"
        with file.open("w", newline="", encoding="utf-8-sig") as text:
            table = csv.DictWriter(text, ["Label", "file_name"], delimiter=separator)
            table.writeheader()
            table.writerows(rows)
        report = check(model, file, tmp_path / "out")
        assert report.keys()[0] == "blue/00002.png"

    @pytest.mark.parametrize("ending", ["csv", "parquet"])
    def test_indices_that_pandas_stores_as_floats(self, model, photos_of_colours, tmp_path, ending):
        """A label that is missing makes a column of whole numbers one of floats."""
        paths = sorted(map(str, photos_of_colours.rglob("*.png")))
        labels = [None, *(CLASSES.index(Path(path).parent.name) for path in paths[1:])]
        table = pd.DataFrame({"path": paths, "label": labels})
        assert table["label"].dtype == float
        file = tmp_path / f"table.{ending}"
        table.to_csv(file, index=False) if ending == "csv" else table.to_parquet(file)
        report = explain_dataset(model, file, tmp_path / "out", method="layercam")
        assert [row.label_index for row in report] == labels
        assert report.accuracy == 1.0

    def test_csv_with_absolute_paths_keys_and_rows_that_miss_something(
        self, model, photos_of_colours, tmp_path
    ):
        path = photos_of_colours / "red" / "00000.png"
        lines = ["id,path,label", f"one,{path},red", f"two,{path},", "three,,red",
                 "four,nowhere.png,7", f"one,{path},blue", "five"]  # fmt: skip
        (tmp_path / "table.csv").write_text("\n".join(lines))
        report = explain_dataset(model, tmp_path / "table.csv", tmp_path / "out", method="layercam")
        assert report.keys() == ["one", "two", "three", "four", "one#2", "five"]
        assert {key: code for key, (code, _) in report.errors().items()} == {
            "three": "image_refused", "four": "image_refused", "five": "image_refused",
        }  # fmt: skip
        assert [row.correct for row in report] == [True, None, None, None, False, None]
        assert open_source(tmp_path / "table.csv").count == 6

    def test_csv_without_a_column_of_paths_is_refused(self, tmp_path):
        (tmp_path / "table.csv").write_text("a,b\n1,2\n")
        with pytest.raises(errors.InvalidArgument, match="'a', 'b'"):
            open_source(tmp_path / "table.csv")
        (tmp_path / "table.csv").write_text("")
        with pytest.raises(errors.InvalidArgument, match="nothing"):
            open_source(tmp_path / "table.csv")

    def test_parquet_with_paths(self, model, photos_of_colours, rows, tmp_path):
        pd.DataFrame(rows).to_parquet(photos_of_colours / "table.parquet")
        check(model, photos_of_colours / "table.parquet", tmp_path / "out")

    @pytest.mark.parametrize("as_structs", [False, True])
    def test_parquet_with_bytes_in_several_files(self, model, encoded, tmp_path, as_structs):
        shards = tmp_path / "shards"
        shards.mkdir()
        for shard in range(2):
            part = encoded[shard * 3 : shard * 3 + 3]
            images = [{"bytes": each, "path": None} for each in part] if as_structs else part
            labels = [0, 1, 2]
            pq.write_table(
                pa.table({"image": images, "label": labels}), shards / f"{shard}.parquet"
            )
        report = check(model, shards, tmp_path / "out")
        assert report.keys() == list("012345")
        assert report["4"].label == "1"
        assert report["4"].path is None
        check(model, f"{shards}/*.parquet", tmp_path / "other")

    def test_parquet_that_breaks_off_has_an_error_row(self, model, encoded, tmp_path):
        table = pa.table({"image": encoded * 40, "label": [0, 1, 2] * 80})
        pq.write_table(table, tmp_path / "a.parquet", row_group_size=40, compression="zstd")
        content = bytearray((tmp_path / "a.parquet").read_bytes())
        content[len(content) // 3 : len(content) // 3 + 2000] = bytes(2000)
        (tmp_path / "a.parquet").write_bytes(content)
        report = explain_dataset(
            model, tmp_path / "a.parquet", tmp_path / "out", method="layercam", batch_size=16
        )
        assert list(report.errors()) == ["a.parquet (rest)"]
        assert 40 <= len(report) - 1 < 240


class TestArchives:
    def write(self, path: Path, files: Mapping[str, bytes], mode: str = "w") -> None:
        with tarfile.open(path, mode) as archive:
            for name, content in files.items():
                entry = tarfile.TarInfo(name)
                entry.size = len(content)
                archive.addfile(entry, io.BytesIO(content))

    @pytest.mark.parametrize("suffix", [".tar", ".tar.gz"])
    def test_webdataset_shards(self, model, encoded, tmp_path, suffix):
        for shard in range(2):
            files = {}
            for number in range(3):
                files[f"{number:04d}.png"] = encoded[shard * 3 + number]
                files[f"{number:04d}.cls"] = str(number).encode()
                files[f"{number:04d}.txt"] = b"a caption"
            mode = "w:gz" if suffix.endswith("gz") else "w"
            self.write(tmp_path / f"shard-{shard:03d}{suffix}", files, mode)
        pattern = f"{tmp_path}/shard-{{000..001}}{suffix}"
        report = check(model, pattern, tmp_path / "out")
        assert report.keys() == ["0000", "0001", "0002", "0000#2", "0001#2", "0002#2"]
        check(model, tmp_path, tmp_path / "other")
        with pytest.raises(errors.InvalidArgument, match=f"shard-002{suffix}"):
            open_source(f"{tmp_path}/shard-{{000..002}}{suffix}")

    def test_labels_names_folders_and_further_images(self, encoded, tmp_path):
        self.write(
            tmp_path / "a.tar",
            {
                "./train/x.jpg": encoded[0],
                "./train/x.json": json.dumps({"label": "green", "width": 4}).encode(),
                "./train/x.seg.png": encoded[1],  # a mask of the same sample
                "y.cls": b"blue\n",
                "y.png": encoded[2],
                "z.v1.png": encoded[3],
                "z.v2.png": encoded[4],
                ".hidden.png": encoded[5],
                "README": b"text",
                "only.json": b"{}",
            },
        )
        assert keyed(tmp_path / "a.tar") == [
            ("train/x", "green"), ("y", "blue"), ("z.v1", None), ("z.v2", None),
        ]  # fmt: skip

    def test_one_that_breaks_off_has_an_error_row_and_others_go_on(self, model, encoded, tmp_path):
        files = {f"{number}.png": each for number, each in enumerate(encoded)}
        self.write(tmp_path / "a.tar", files)
        content = (tmp_path / "a.tar").read_bytes()
        (tmp_path / "a.tar").write_bytes(content[: 512 * 5 + 100])
        self.write(tmp_path / "b.tar", {"last.png": encoded[0]})
        (tmp_path / "c.tar").write_bytes(b"not a tar at all" * 100)
        report = explain_dataset(model, tmp_path, tmp_path / "out", method="layercam")
        assert report.keys()[-2:] == ["last", "c.tar (rest)"]
        assert {"a.tar (rest)", "c.tar (rest)"} <= set(report.errors())
        assert "after" in report.errors()["a.tar (rest)"][1]


class TestDataSets:
    @pytest.fixture
    def data_set(self, encoded) -> Any:
        features = datasets.Features(
            {"image": datasets.Image(), "label": datasets.ClassLabel(names=list(CLASSES))}
        )
        rows = {
            "image": [{"bytes": each, "path": None} for each in encoded],
            "label": [number % 3 for number in range(6)],
        }
        return datasets.Dataset.from_dict(rows, features=features)

    def test_an_object(self, model, data_set, tmp_path):
        report = check(model, data_set, tmp_path / "out")
        assert report["5"].label == "blue"

    def test_the_rows_are_read_by_the_library(self, model, data_set, tmp_path):
        check(model, data_set, tmp_path / "out")
        found = datasets.load_dataset(str(tmp_path / "out"), cache_dir=str(tmp_path / "cache"))
        assert [row["label"] for row in found["train"]] == [*CLASSES, *CLASSES]

    def test_saved_to_disk(self, model, data_set, tmp_path):
        data_set.save_to_disk(tmp_path / "saved")
        check(model, tmp_path / "saved", tmp_path / "out")

    def test_saved_with_its_splits(self, data_set, tmp_path):
        datasets.DatasetDict(train=data_set, test=data_set).save_to_disk(tmp_path / "saved")
        with pytest.raises(errors.InvalidArgument, match="saved/train"):
            open_source(tmp_path / "saved")
        assert len(keyed(tmp_path / "saved" / "train")) == 6

    def test_written_as_parquet(self, model, data_set, tmp_path):
        data_set.to_parquet(tmp_path / "a.parquet")
        report = check(model, tmp_path / "a.parquet", tmp_path / "out")
        assert report["1"].label == "green"

    def test_a_damaged_image_in_it(self, model, data_set, encoded, tmp_path):
        rows = [*encoded[:2], b"rubbish", *encoded[3:]]
        damaged = datasets.Dataset.from_dict(
            {"image": [{"bytes": each, "path": None} for each in rows]},
            features=datasets.Features({"image": datasets.Image()}),
        )
        report = explain_dataset(model, damaged, tmp_path / "out", method="layercam")
        assert list(report.errors()) == ["2"]
        assert len(report) == 6

    def test_another_one_is_another_job(self, model, data_set, tmp_path):
        check(model, data_set, tmp_path / "out")
        other = data_set.select(range(5))
        with pytest.raises(errors.InvalidArgument, match="source"):
            explain_dataset(model, other, tmp_path / "out", method="layercam")


class TestObjects:
    def test_a_mapping(self, model, tmp_path):
        report = explain_dataset(
            model, {n: image(n) for n in range(4)}, tmp_path / "out", method="layercam"
        )
        assert report.keys() == list("0123")
        assert report[3].overlay().size == (40, 32)

    def test_a_loader_of_tensors(self, model, tmp_path):
        tensors = torch.stack(
            [torch.from_numpy(np.array(image(n).resize((32, 32)))).permute(2, 0, 1) for n in
             range(6)]
        ).float() / 255  # fmt: skip
        loader = DataLoader(TensorDataset(tensors, torch.arange(6) % 3), batch_size=4)
        report = explain_dataset(model, loader, tmp_path / "out", method="layercam")
        assert report.accuracy == 1.0
        assert report["0"].overlay().size == (32, 32)
        np.testing.assert_allclose(report["0"].reproduce().cam(), report["0"].map, 1e-5)
        opened = DatasetReport.open(tmp_path / "out", source=loader)
        with pytest.raises(errors.ImageRefused, match="model="):
            opened["0"].overlay()

    def test_a_pipe_is_refused_without_waiting(self, tmp_path):
        os.mkfifo(tmp_path / "a.tar")
        with pytest.raises(errors.InvalidArgument):
            open_source(tmp_path / "a.tar")
        with pytest.raises(errors.InvalidArgument):
            open_source(tmp_path)
        with pytest.raises(errors.InvalidArgument):
            open_source(f"{tmp_path}/*.tar")

    @pytest.mark.parametrize(
        ("source", "found"),
        [
            ("nothing", "nothing here has this name"),
            ("*", "matches none"),  # folders alone
            ("**/*.png", "matches none"),
            ("photos/*", r"notes\.txt is none of these"),
            ("photos", "this one has none of them"),
            ("photos/notes.txt", "another file"),
            ("photo.jpg", "one image: give it in a list"),
            ("/dev/null", "a device or a pipe"),
        ],
    )
    def test_the_error_states_what_is_there(self, tmp_path, monkeypatch, source, found):
        monkeypatch.chdir(tmp_path)
        (tmp_path / "photos").mkdir()
        (tmp_path / "photos" / "notes.txt").touch()
        if source == "photo.jpg":
            image(0).save(source)
        with pytest.raises(errors.InvalidArgument, match=found):
            open_source(source)

    @pytest.mark.parametrize("source", ["no such place", "/dev/null", 7, b"bytes", ""])
    def test_anything_else_is_refused(self, model, tmp_path, source):
        with pytest.raises(errors.InvalidArgument, match=r"^source="):
            explain_dataset(model, source, tmp_path / "out", method="layercam")
        assert not (tmp_path / "out").exists()
