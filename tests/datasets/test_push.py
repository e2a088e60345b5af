"""Rows pushed to a hub on loopback by the real client, and read again by ``datasets``."""

from __future__ import annotations

import io
import tarfile

import huggingface_hub
import pytest
import yaml
from PIL import ExifTags, Image

from cam_hub import DatasetReport, errors, explain_dataset, load_model, wrap_model
from tests.conftest import HUB_PORT
from tests.fakes.hub.shelves import Shelf
from tests.fakes.repo_folders import network, push
from tests.fakes.tiny_datasets import CLASSES, colours, folder_of, image

datasets = pytest.importorskip("datasets", "4")

TOKEN = "hf_abcdefghijklmnopqrstuvwxyz012345"
REPO = "datasets/ann/rows"


@pytest.fixture
def shelves(hub, monkeypatch, tmp_path):
    huggingface_hub.HfFileSystem.clear_instance_cache()
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "datasets")
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    hub.uploads.writers[TOKEN] = {"ann"}
    return hub.uploaded


@pytest.fixture(scope="module")
def report(tmp_path_factory) -> DatasetReport:
    """Seven images in three files; one has no heat, one is damaged, one has a place in it."""
    root = tmp_path_factory.mktemp("of-ann")
    photos = folder_of(root / "photos", 5)
    exif = Image.Exif()
    exif[ExifTags.Base.Artist] = "Ann Private"
    image(0).save(photos / "red" / "place.png", exif=exif)
    (photos / "red" / "bad.png").write_bytes(b"no image")
    return explain_dataset(colours(), photos, root / "out", method="layercam", part_size=3)


def test_rows_are_read_by_datasets_with_images_and_classes(report, shelves):
    url = report.push_to_hub("ann/rows")
    assert url == f"http://127.0.0.1:{HUB_PORT}/datasets/ann/rows"
    assert shelves[REPO].private
    assert len(shelves[REPO].commits) == 2  # the Hub's own, and ours
    rows = datasets.load_dataset("ann/rows", split="train")
    assert len(rows) == len(report) == 7
    assert rows.features["predicted"] == datasets.ClassLabel(names=list(CLASSES))
    assert rows.features["label_index"] == rows.features["predicted"]
    for row in rows:
        ours = report[row["key"]]
        assert (row["label"], row["correct"], row["error"]) == (
            ours.label,
            ours.correct,
            ours.error,
        )
        if ours.error is not None:
            assert row["image"] is None
            assert row["predicted"] is None
            continue
        assert row["image"].size == row["overlay"].size == (40, 32)
        assert CLASSES[row["predicted"]] == ours.predictions[0].label
        assert row["probability"] == pytest.approx(ours.predictions[0].probability)
        assert row["boxes"] == [[b.left, b.top, b.right, b.bottom] for b in ours.boxes]
        assert row["maps"][0]["data"] == ours.map.tobytes()


def test_the_card_names_the_files_for_the_viewer(report, shelves):
    report.push_to_hub("ann/rows", private=False)
    card = shelves[REPO].files["README.md"].decode()
    assert not shelves[REPO].private
    head = yaml.safe_load(card.split("---\n")[1])
    assert head["configs"] == [
        {
            "config_name": "default",
            "data_files": [{"split": "train", "path": "data/part-*.parquet"}],
        }
    ]
    assert "| accuracy | 100\\.0% |" in card
    assert "| errors | 1 |" in card


def test_a_download_is_a_report_whose_photos_are_in_the_repo(report, shelves, tmp_path):
    report.push_to_hub("ann/rows")
    folder = huggingface_hub.snapshot_download(
        "ann/rows", repo_type="dataset", cache_dir=tmp_path / "snapshots"
    )
    again = DatasetReport.open(f"{folder}/data", source="ann/rows")
    assert again.keys() == report.keys()
    assert again.accuracy == report.accuracy
    assert again.errors().keys() == report.errors().keys()
    assert again["red/00000.png"].overlay().size == (40, 32)
    assert again["red/00000.png"].manifest() == report["red/00000.png"].manifest()


def test_nothing_of_this_machine_is_pushed(report, shelves):
    report.push_to_hub("ann/rows")
    rows = datasets.load_dataset("ann/rows", split="train")
    assert set(rows["path"]) == {None}
    (message,) = {row["message"] for row in rows if row["error"] is not None}
    assert "'bad.png'" in message
    for name, content in shelves[REPO].files.items():
        assert b"of-ann" not in content, name
        assert b"Ann Private" not in content, name


def test_the_path_of_a_models_folder_is_not_pushed(shelves, tmp_path):
    push(tmp_path / "of-ann" / "bread", network(num_classes=3))
    model = load_model(tmp_path / "of-ann" / "bread", device="cpu")
    report = explain_dataset(model, [image(0)], tmp_path / "out", method="layercam")
    report.push_to_hub("ann/rows")
    assert b"local-dir:bread" in shelves[REPO].files["data/part-00000.parquet"]
    assert b"of-ann" not in b"".join(shelves[REPO].files.values())


def test_without_photos_and_progress(report, shelves):
    told = []
    report.push_to_hub("ann/rows", photos=False, progress=lambda *words: told.append(words))
    rows = datasets.load_dataset("ann/rows", split="train")
    assert "image" not in rows.features
    assert rows[0]["overlay"].size == (40, 32)
    assert told[-1] == (1.0, "7 of 7 rows")


def test_without_the_model_class_indices_are_numbers(report, shelves):
    opened = DatasetReport.open(report._folder.path)
    opened.push_to_hub("ann/rows")
    rows = datasets.load_dataset("ann/rows", split="train")
    assert rows.features["predicted"] == datasets.Value("int64")


def test_images_out_of_an_archive_are_read_in_one_pass(shelves, tmp_path, monkeypatch):
    with tarfile.open(tmp_path / "shard.tar", "w") as archive:
        for number in range(6):
            image(number).save(content := io.BytesIO(), "PNG")
            entry = tarfile.TarInfo(f"{number}.png")
            entry.size = content.tell()
            content.seek(0)
            archive.addfile(entry, content)
    report = explain_dataset(
        colours(), tmp_path / "shard.tar", tmp_path / "out", method="layercam", part_size=2
    )
    opened = []
    plain = tarfile.open
    monkeypatch.setattr(tarfile, "open", lambda *a, **k: opened.append(1) or plain(*a, **k))
    report.push_to_hub("ann/rows")
    assert len(opened) == 1
    rows = datasets.load_dataset("ann/rows", split="train")
    assert [row["image"].size for row in rows] == [(40, 32)] * 6


def test_class_names_that_repeat(shelves, tmp_path):
    model = wrap_model(
        colours().module, input_size=(3, 32, 32), mean=0.0, std=1.0, crop_pct=1.0,
        class_names=("crane", "green", "crane"),
    )  # fmt: skip
    source = [("a", image(0)), ("b", image(2))]
    explain_dataset(model, source, tmp_path / "out", method="layercam").push_to_hub("ann/rows")
    rows = datasets.load_dataset("ann/rows", split="train")
    assert rows.features["predicted"].names == ["crane (0)", "green", "crane (2)"]
    assert rows["predicted"][:] == [0, 2]


def test_rows_of_ours_are_replaced_and_other_repos_are_not(report, shelves, tmp_path):
    report.push_to_hub("ann/rows")
    smaller = explain_dataset(colours(), [image(0)], tmp_path / "out", method="layercam")
    smaller.push_to_hub("ann/rows")
    assert {name for name in shelves[REPO].files if name.startswith("data/")} == {
        "data/part-00000.parquet"
    }
    theirs = {"README.md": b"my own", "data/train.parquet": b"rows"}
    shelves["datasets/ann/theirs"] = Shelf(files=dict(theirs))
    with pytest.raises(errors.HubRefused, match="other files than rows of cam_hub"):
        smaller.push_to_hub("ann/theirs")
    assert shelves["datasets/ann/theirs"].files == theirs
    smaller.push_to_hub("ann/theirs", overwrite=True)
    assert shelves["datasets/ann/theirs"].files["data/train.parquet"] == b"rows"
    assert len(datasets.load_dataset("ann/theirs", split="train")) == 1
    with pytest.raises(errors.HubRefused, match="it is public, and private=True"):
        smaller.push_to_hub("ann/theirs", overwrite=True, private=True)


def test_an_upload_that_fails_changes_nothing(report, hub, shelves):
    shelves[REPO] = Shelf()
    before = dict(shelves[REPO].files)
    hub.uploads.store_fails = True
    with pytest.raises(errors.CamHubError):
        report.push_to_hub("ann/rows")
    assert shelves[REPO].files == before


def test_without_a_token(report, shelves, monkeypatch):
    monkeypatch.delenv("HF_TOKEN")
    with pytest.raises(errors.HubRefused, match="no access token"):
        report.push_to_hub("ann/rows")
    with pytest.raises(errors.InvalidArgument):
        report.push_to_hub("rows", token=TOKEN)
