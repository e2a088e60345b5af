"""``explain_dataset``: one row per image whatever happens, and jobs that can be resumed."""

from __future__ import annotations

import multiprocessing
import os
import re
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

import cam_hub
from cam_hub import DatasetReport, errors, explain_dataset
from cam_hub.attribution.samples import Sample
from cam_hub.datasets import ray_runner
from cam_hub.datasets.html import page_of
from cam_hub.datasets.rows import schema
from cam_hub.datasets.runner import MAX_FAILURES
from tests.fakes.deadly import DEADLY, Deadly
from tests.fakes.tiny_datasets import CLASSES, Colours, colours, folder_of, image

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def model() -> cam_hub.LoadedModel:
    return colours()


@pytest.fixture
def photos_of_colours(tmp_path) -> Path:
    return folder_of(tmp_path / "photos", 12)


def stored_keys(out: Path) -> list[str]:
    """The keys in all files, as any reader of Parquet sees them."""
    return [key for file in out.glob("*.parquet") for key in pq.read_table(file)["key"].to_pylist()]


def run(model, source, out, **options) -> DatasetReport:
    return explain_dataset(model, source, out, **{"method": "layercam", **options})


def test_each_row_is_what_explain_says(model, photos_of_colours, tmp_path):
    report = run(model, photos_of_colours, tmp_path / "out", batch_size=5, part_size=5)
    assert len(report) == 12
    assert report.accuracy == 1.0
    for row in report:
        alone = cam_hub.explain(model, row.path, method="layercam")
        assert row.error is None
        assert row.label == CLASSES[row.label_index] == row.predictions[0].label
        assert row.layers == alone.layers
        assert row.classes[0].class_index == alone.classes[0]
        assert row.placement == alone.placement
        np.testing.assert_allclose(row.map, alone.cams[alone.classes[0], alone.layers[0]], 1e-5)
    assert [pq.read_table(file).num_rows for file in sorted((tmp_path / "out").glob("*"))] == [
        0, 5, 5, 2,
    ]  # fmt: skip


def test_the_files_have_the_documented_columns_and_state_the_job(
    model, photos_of_colours, tmp_path
):
    run(model, photos_of_colours, tmp_path / "out")
    for file in (tmp_path / "out").glob("*.parquet"):
        table = pq.read_table(file)
        assert table.schema.equals(schema())
        assert b'"method": "layercam"' in table.schema.metadata[b"cam_hub.job"]
    page = (ROOT / "docs" / "datasets.md").read_text("utf-8")
    cells = "".join(re.findall(r"^\|([^|]+)\|", page.partition("## Rows")[2], re.MULTILINE))
    assert [name for name in schema().names if f"`{name}`" not in cells] == []


def test_a_rows_map_is_drawn_and_reproduced_from_the_files_alone(
    model, photos_of_colours, tmp_path
):
    run(model, photos_of_colours, tmp_path / "out", batch_size=1)
    row = DatasetReport.open(tmp_path / "out")["green/00004.png"]
    alone = cam_hub.explain(model, row.path, method="layercam")
    assert row.overlay(alpha=0.3).tobytes() == alone.overlay(alpha=0.3).tobytes()
    assert row.explanation().boxes() == alone.boxes()
    (stored,), (drawn,) = row.boxes, alone.boxes()
    assert np.abs(np.subtract(stored, drawn)).max() <= 1  # an eighth of a cell of 8 pixels
    again = row.reproduce(model)
    np.testing.assert_array_equal(again.cam(), row.map)
    assert row.explanation().manifest["maps"] == alone.manifest["maps"]
    assert row.explanation().manifest["target"] == alone.manifest["target"]
    folder = row.explanation().save(tmp_path / "saved")
    np.testing.assert_array_equal(cam_hub.Explanation.load(folder).cam(), row.map)


def test_maps_of_noise_are_reproduced_from_their_parameters(model, photos_of_colours, tmp_path):
    source = sorted((photos_of_colours / "red").iterdir())
    report = run(
        model, [str(p) for p in source], tmp_path / "out", method="smoothgradcampp",
        num_samples=3, seed=7, sampling="fixed", batch_size=4,
    )  # fmt: skip
    row = next(iter(report))
    entry = row.manifest()["maps"][0]
    assert entry["num_samples"] == 3
    assert row.manifest()["parameters"]["seed"] == 7
    np.testing.assert_allclose(row.reproduce().cam(), row.map, 1e-4, 1e-6)


def test_maps_in_bytes_are_within_their_step(model, photos_of_colours, tmp_path):
    whole = run(model, photos_of_colours, tmp_path / "whole", sign="both")
    small = run(model, photos_of_colours, tmp_path / "small", sign="both", map_type="uint8")
    for row in whole:
        other = small[row.key].map
        assert np.abs(other - row.map).max() <= 0.51 * (row.map.max() - row.map.min()) / 255 + 1e-9


def test_several_layers_classes_and_tests_are_in_the_row(model, photos_of_colours, tmp_path):
    report = run(
        model, photos_of_colours, tmp_path / "out", target_layers=["conv", "act"],
        classes=[cam_hub.top(1), cam_hub.expected, "blue"], evidence=("cover", "class_check"),
    )  # fmt: skip
    row = report["red/00003.png"]
    assert set(row.maps) == {(c, layer) for c in (0, 2) for layer in ("conv", "act")}
    assert [test.name for test in row.evidence.tests] == ["cover", "class_check"]
    assert report.shared_maps() == {}
    assert row.evidence.verdict == report.to_pandas().set_index("key").verdict[row.key]


def test_maps_that_other_classes_share_are_listed(model, photos_of_colours, tmp_path):
    report = run(
        model, photos_of_colours, tmp_path / "out", method="eigencam", target_layers="act",
        evidence="class_check",
    )  # fmt: skip
    assert set(report.shared_maps()) == set(report.keys())  # it does not depend on the class
    assert report.shared_maps()["red/00000.png"] == pytest.approx(1)
    assert f"Maps that other classes share: {len(report)} images" in page_of(report)
    table = report.to_pandas().set_index("key")
    assert table.evidence_class_check["red/00000.png"] == pytest.approx(1)


class TestEveryExceptionIsARow:
    def test_damaged_huge_and_missing_files(self, model, photos_of_colours, tmp_path):
        (photos_of_colours / "red" / "damaged.png").write_bytes(b"\x89PNG\r\n\x1a\n rubbish")
        (photos_of_colours / "red" / "empty.jpg").write_bytes(b"")
        cut = (photos_of_colours / "red" / "00000.png").read_bytes()[:60]
        (photos_of_colours / "red" / "cut.png").write_bytes(cut)
        huge = b"P5 100000 100000 255\n"
        (photos_of_colours / "blue" / "huge.pgm").write_bytes(huge)
        report = run(model, photos_of_colours, tmp_path / "out")
        assert len(report) == 16
        assert set(report.errors()) == {
            "red/damaged.png", "red/empty.jpg", "red/cut.png", "blue/huge.pgm",
        }  # fmt: skip
        assert {code for code, _ in report.errors().values()} == {"image_refused"}
        assert report["red/cut.png"].label == "red"
        with pytest.raises(errors.CamHubError, match="damaged"):
            report["red/damaged.png"].overlay()

    def test_sizes_of_all_kinds(self, model, tmp_path):
        sizes = [(40, 32), (900, 20), (24, 700), (1, 1)]
        slope = Image.linear_gradient("L").rotate(30)
        pictures = [Image.merge("RGB", [slope.resize(size)] * 3) for size in sizes]
        report = run(model, pictures, tmp_path / "out")
        assert [row.placement.photo_size for row in report] == sizes
        assert (report["3"].boxes, report["3"].focus) == ((), None)  # of one colour

    def test_labels_that_the_model_does_not_have(self, model, photos_of_colours, tmp_path):
        (photos_of_colours / "red").rename(photos_of_colours / "violet")
        report = run(model, photos_of_colours, tmp_path / "out")
        row = report["violet/00000.png"]
        assert (row.label, row.label_index, row.correct) == ("violet", None, None)
        assert report.accuracy == 1.0
        asked = run(model, photos_of_colours, tmp_path / "asked", classes=cam_hub.expected)
        assert {code for code, _ in asked.errors().values()} == {"class_not_found"}
        assert len(asked.errors()) == 4

    def test_a_bug_in_the_network_that_only_one_image_shows(self, tmp_path):
        white = image(5)
        white.paste((255, 255, 255), (0, 0, 16, 16))
        pictures = {str(n): white if n == 7 else image(n) for n in range(20)}
        report = run(colours(poison=0.9), pictures, tmp_path / "out", batch_size=6)
        assert sorted(report.keys(), key=int) == list(map(str, range(20)))
        ((key, (_, message)),) = report.errors().items()
        assert key == "7"
        assert "a bug in the network" in message

    def test_a_data_set_that_raises_at_one_item(self, model, tmp_path):
        class Items(torch.utils.data.Dataset):
            def __len__(self):
                return 6

            def __getitem__(self, index):
                if index == 2:
                    raise KeyError("no such file in the archive")
                return image(index), index % 3

        report = run(model, Items(), tmp_path / "out")
        assert len(report) == 6
        assert "no such file" in report.errors()["2"][1]


class TestAModelThatFails:
    def test_stops_the_job_without_rows_for_its_failures(self, tmp_path):
        source = folder_of(tmp_path / "photos", 120)
        out = tmp_path / "out"
        failing = colours(passes=10)
        with pytest.raises(errors.ModelRefused, match=r"32 images .* device is gone\. All"):
            run(failing, source, out, batch_size=4, part_size=16)
        report = DatasetReport.open(out)
        assert 36 <= len(report) <= 40
        assert not report.errors()
        whole = run(colours(), source, out)
        assert sorted(stored_keys(out)) == sorted(whole.keys())
        assert len(whole) == 120
        assert not whole.errors()

    def test_on_fewer_images_than_that_has_error_rows(self, tmp_path):
        pictures = [image(n) for n in range(MAX_FAILURES - 1)]
        report = run(colours(passes=0), pictures, tmp_path / "out")
        assert len(report) == len(report.errors()) == MAX_FAILURES - 1
        assert report.accuracy is None


class TestResuming:
    def test_after_sigkill_at_any_moment(self, tmp_path):
        source, out = folder_of(tmp_path / "photos", 60), tmp_path / "out"
        script = ROOT / "tests" / "fakes" / "tiny_datasets.py"
        command = [sys.executable, str(script), str(source), str(out), "0.05"]
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        counts = []
        for parts in (3, 8):
            with subprocess.Popen(command, env=environment) as process:
                while len(list(out.glob("*.parquet"))) < parts and process.poll() is None:
                    time.sleep(0.005)
                process.send_signal(signal.SIGKILL)
            assert process.returncode == -signal.SIGKILL
            (out / ".part-00099.parquet-1").write_bytes(b"PAR1 half a file")
            counts.append(len(stored_keys(out)))
        assert 0 < counts[0] < counts[1] < 60
        report = run(colours(), source, out)
        keys = stored_keys(out)
        assert len(keys) == len(set(keys)) == len(report) == 60
        assert set(keys) == {path.relative_to(source).as_posix() for path in source.rglob("*.png")}
        assert not list(out.glob(".part*"))

    def test_images_with_a_row_are_not_opened_again(self, model, photos_of_colours, tmp_path):
        out = tmp_path / "out"
        first = run(model, photos_of_colours, out)
        before = sorted(path.name for path in out.iterdir())
        for path in photos_of_colours.rglob("*.png"):
            path.write_bytes(b"no image any more")
        again = run(model, photos_of_colours, out)
        assert sorted(path.name for path in out.iterdir()) == before
        assert again.keys() == first.keys()
        assert not again.errors()

    def test_errors_are_tried_again_on_demand(self, model, photos_of_colours, tmp_path):
        out = tmp_path / "out"
        for name in ("blue/00002.png", "red/00003.png"):
            (photos_of_colours / name).write_bytes(b"not yet complete")
        assert len(run(model, photos_of_colours, out, part_size=3).errors()) == 2
        image(2).save(photos_of_colours / "blue" / "00002.png")
        assert len(run(model, photos_of_colours, out, part_size=3).errors()) == 2
        report = run(model, photos_of_colours, out, part_size=3, retry_errors=True)
        assert list(report.errors()) == ["red/00003.png"]
        assert len(stored_keys(out)) == len(set(stored_keys(out))) == 12
        assert report["blue/00002.png"].correct
        with pytest.raises(errors.InvalidArgument):
            run(model, photos_of_colours, out, retry_errors="yes")

    def test_new_images_of_the_source_are_added(self, model, photos_of_colours, tmp_path):
        run(model, photos_of_colours, tmp_path / "out")
        folder_of(photos_of_colours, 15)
        assert len(run(model, photos_of_colours, tmp_path / "out")) == 15

    def test_after_an_interruption_with_the_rows_so_far(self, model, photos_of_colours, tmp_path):
        def pictures():
            for n in range(12):
                if n == 9:
                    raise KeyboardInterrupt
                yield str(n), image(n)

        out = tmp_path / "out"
        with pytest.raises(KeyboardInterrupt):
            run(model, pictures(), out, batch_size=2)
        kept = stored_keys(out)
        assert 4 <= len(kept) < 9
        report = run(model, ((str(n), image(n)) for n in range(12)), out)
        assert sorted(stored_keys(out), key=int) == list(map(str, range(12)))
        assert len(report) == 12

    def test_an_error_of_the_source_comes_after_the_rows_before_it(self, model, tmp_path):
        def pictures():
            yield from ((str(n), image(n)) for n in range(5))
            raise ConnectionError("the server is gone")

        with pytest.raises(ConnectionError):
            run(model, pictures(), tmp_path / "out")
        assert stored_keys(tmp_path / "out") == ["0", "1", "2", "3", "4"]

    def test_keys_that_repeat_have_rows_of_their_own_in_every_run(self, model, tmp_path):
        pictures = [("a", image(0)), ("b", image(1)), ("a", image(2)), ("a#2", image(3))]
        for _ in range(2):
            report = run(model, pictures, tmp_path / "out")
            assert report.keys() == ["a", "b", "a#2", "a#2#2"]
            assert [row.predictions[0].label for row in report] == ["red", "green", "blue", "red"]


class TestTheFolder:
    @pytest.mark.parametrize(
        ("change", "message"),
        [
            ({"method": "gradcam"}, "method is 'layercam'"),
            ({"classes": [1]}, "classes is None"),
            ({"evidence": "cover"}, "evidence"),
            ({"map_type": "uint8"}, "map_type is 'float32'"),
            ({"target_layers": "conv"}, "target_layers"),
            ({"preprocessing": "draft"}, "preprocessing is 'exact'"),
        ],
    )
    def test_of_another_job_is_refused(self, model, photos_of_colours, tmp_path, change, message):
        out = tmp_path / "out"
        run(model, photos_of_colours, out)
        before = {path: path.read_bytes() for path in out.iterdir()}
        with pytest.raises(errors.InvalidArgument, match=message):
            run(model, photos_of_colours, out, **change)
        assert {path: path.read_bytes() for path in out.iterdir()} == before

    def test_of_another_model_or_source_is_refused(self, model, photos_of_colours, tmp_path):
        out = tmp_path / "out"
        run(model, photos_of_colours, out)
        other = colours()
        with torch.no_grad():
            other.module.conv.weight.mul_(1.5)
        with pytest.raises(errors.InvalidArgument, match="weights"):
            run(other, photos_of_colours, out)
        with pytest.raises(errors.InvalidArgument, match="source"):
            run(model, photos_of_colours / "red", out)
        assert len(stored_keys(out)) == 12

    def test_with_files_of_others_is_refused_or_left_alone(
        self, model, photos_of_colours, tmp_path
    ):
        out = tmp_path / "out"
        out.mkdir()
        (out / "notes.txt").write_text("mine")
        run(model, photos_of_colours, out)
        assert (out / "notes.txt").read_text() == "mine"
        (out / "other.parquet").write_bytes(b"mine")
        with pytest.raises(errors.InvalidArgument, match=r"other\.parquet"):
            run(model, photos_of_colours, out)
        with pytest.raises(errors.InvalidArgument, match="this is a file"):
            run(model, photos_of_colours, out / "notes.txt")
        (tmp_path / "empty").mkdir()
        with pytest.raises(errors.InvalidArgument, match="no part"):
            DatasetReport.open(tmp_path / "empty")

    def test_is_written_to_by_one_job_at_a_time(self, model, photos_of_colours, tmp_path):
        def during(part: float, _: str) -> None:
            with pytest.raises(errors.InvalidArgument, match="no other process"):
                run(model, photos_of_colours, tmp_path / "out")
            seen.append(part)

        seen: list[float] = []
        run(model, photos_of_colours, tmp_path / "out", progress=during)
        assert seen[-1] == 1.0

    def test_holds_no_half_written_file_if_the_disk_is_full(
        self, model, photos_of_colours, tmp_path
    ):
        out = tmp_path / "out"
        run(model, [("first", image(0))], out)
        before = {path: path.read_bytes() for path in out.iterdir()}
        limits = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (3000, limits[1]))  # bytes of any one file
        try:
            with pytest.raises(errors.DiskUnavailable):
                run(model, [("first", image(0))], tmp_path / "other")
            with pytest.raises(errors.DiskUnavailable):
                run(model, [("second", image(0))], out)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        assert {path: path.read_bytes() for path in out.iterdir()} == before
        assert not list((tmp_path / "other").iterdir())
        assert run(model, [("second", image(0))], out).keys() == ["first", "second"]

    def test_with_a_damaged_file_is_refused(self, model, photos_of_colours, tmp_path):
        out = tmp_path / "out"
        run(model, photos_of_colours, out)
        damaged = out / "part-00001.parquet"
        damaged.write_bytes(b"PAR1 and no more")
        with pytest.raises(
            errors.InvalidArgument, match=r"part-00001\.parquet cannot be read"
        ) as e:
            DatasetReport.open(out)
        assert "if it is deleted, its images are explained again" in str(e.value)
        damaged.unlink()
        assert len(run(model, photos_of_colours, out)) == 12


@pytest.mark.parametrize("out", ["", "s3://bucket/rows", "memory://rows"])
def test_an_out_folder_is_on_this_machine(model, photos_of_colours, tmp_path, monkeypatch, out):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(errors.InvalidArgument, match="out="):
        run(model, photos_of_colours, out)
    with pytest.raises(errors.InvalidArgument, match="out="):
        DatasetReport.open(out)
    assert [path.name for path in tmp_path.iterdir()] == ["photos"]


def test_names_with_colons_are_paths(model, photos_of_colours, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    photos_of_colours.rename("a:photos")
    run(model, "a:photos", "run:1")
    run(model, "run:1/part-00001.parquet", "run:2", retry_errors=True)  # paths and labels
    assert DatasetReport.open("run:1").keys() == DatasetReport.open("run:2").keys()


def test_no_images_give_an_empty_report(model, tmp_path):
    report = run(model, [], tmp_path / "out")
    assert (len(report), list(report), report.accuracy) == (0, [], None)
    assert report.mean_maps() == {}
    assert report.to_pandas().empty
    (tmp_path / "empty").mkdir()
    with pytest.raises(errors.InvalidArgument):
        run(model, tmp_path / "empty", tmp_path / "none")
    assert not (tmp_path / "none").exists()


@pytest.mark.parametrize(
    "wrong",
    [
        {"runner": "cloud"},
        {"map_type": "float16"},
        {"part_size": 0},
        {"method": "layercan"},
        {"target_layers": "no such layer"},
        {"classes": "no such class"},
        {"batch_size": 0},
        {"workers": -1},
        {"preprocessing": "fast"},
    ],
)
def test_wrong_arguments_are_refused_before_anything_is_written(
    model, photos_of_colours, tmp_path, wrong
):
    with pytest.raises(errors.CamHubError):
        run(model, photos_of_colours, tmp_path / "out", **wrong)
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_rows_by_worker_processes_are_those_by_threads(photos_of_colours, tmp_path):
    """An image that crashes its decoder has an error row."""
    model = cam_hub.wrap_model(Colours(), transform=Deadly(tmp_path), class_names=CLASSES)
    image(0, DEADLY).save(photos_of_colours / "red" / "deadly.png")
    reports = [
        run(model, photos_of_colours, tmp_path / str(workers), workers=workers, batch_size=4)
        for workers in (0, 2)
    ]
    assert len(reports[0]) == len(reports[1]) == 13
    assert list(reports[1].errors()) == ["red/deadly.png"]
    for one, two in zip(*reports, strict=True):
        assert one.key == two.key
        if two.error is None:
            np.testing.assert_array_equal(one.map, two.map)
            assert (one.placement, one.predictions) == (two.placement, two.predictions)


def test_a_job_whose_workers_cannot_start_ends(model, photos_of_colours, tmp_path, monkeypatch):
    monkeypatch.setitem(multiprocessing.current_process()._config, "daemon", True)
    with pytest.raises(errors.InvalidArgument, match="workers=2"):
        run(model, photos_of_colours, tmp_path / "out", workers=2)
    assert not stored_keys(tmp_path / "out")


def test_progress_states_the_rate_and_the_time_left(model, photos_of_colours, tmp_path):
    said = []
    run(colours(seconds=0.3), photos_of_colours, tmp_path / "out", batch_size=4,
        progress=lambda *each: said.append(each))  # fmt: skip
    parts = [part for part, _ in said]
    assert parts == sorted(parts)
    assert parts[-1] == 1.0
    assert "of 12 images" in said[0][1]
    assert "images/s" in said[0][1]
    assert " s left" in said[0][1]
    assert "left" not in said[-1][1]


def test_the_package_is_imported_without_pyarrow():
    code = "import sys, cam_hub; cam_hub.explain_many; print('pyarrow' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def test_a_missing_package_is_named_with_its_command(
    model, photos_of_colours, tmp_path, monkeypatch
):
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    with pytest.raises(errors.PackageMissing, match=r"pip install 'cam-hub\[datasets\]'"):
        run(model, photos_of_colours, tmp_path / "out")


class TestOnRay:
    """Without Ray; with it, ``test_ray_run.py``."""

    def test_the_missing_package_is_named_with_its_command(
        self, model, photos_of_colours, tmp_path, monkeypatch
    ):
        monkeypatch.setitem(sys.modules, "ray", None)
        for runner in ("ray", cam_hub.RayRunner(workers=2)):
            with pytest.raises(errors.PackageMissing, match=r"pip install 'cam-hub\[ray\]'"):
                run(model, photos_of_colours, tmp_path / "out", runner=runner)
        assert not (tmp_path / "out").exists()

    @pytest.mark.parametrize(
        "wrong",
        [
            {"workers": 0},
            {"workers": 1.5},
            {"num_cpus": 0},
            {"num_gpus": -1},
            {"num_gpus": 1.5},
            {"address": ""},
            {"address": 6379},
        ],
    )
    def test_wrong_settings_are_refused(self, wrong):
        with pytest.raises(errors.InvalidArgument, match=next(iter(wrong))):
            cam_hub.RayRunner(**wrong)

    def test_caches_are_known_to_workers_and_tokens_are_not(self, monkeypatch):
        given = {"HF_HOME": "/shared", "HF_HUB_OFFLINE": "1", "HF_TOKEN": "hf_x", "USER": "me"}
        for name, value in given.items():
            monkeypatch.setenv(name, value)
        sent = ray_runner._settings()
        assert {name: sent.get(name) for name in given} == {
            "HF_HOME": "/shared", "HF_HUB_OFFLINE": "1", "HF_TOKEN": None, "USER": None,
        }  # fmt: skip

    def test_tasks_are_small_if_images_are_large(self):
        def sizes(picture: object) -> list[int]:
            entries = [(str(n), Sample(n, picture)) for n in range(5)]
            return [len(chunk) for chunk in ray_runner._chunks(entries, 4)]

        large = 17 << 20
        assert sizes("photo.jpg") == [4, 1]
        assert sizes(np.zeros(large, np.uint8)) == [2, 2, 1]
        assert sizes(torch.zeros(large, dtype=torch.uint8)) == [2, 2, 1]
        assert sizes({"bytes": bytes(large), "path": None}) == [2, 2, 1]
        assert sizes(Image.new("RGB", (3000, 2000))) == [2, 2, 1]

    @pytest.mark.parametrize("text", ["/photo.jpg", "~/photo.jpg", "s3://a/photo.jpg", "", " "])
    def test_paths_are_sent_in_full_and_addresses_as_they_are(self, text):
        assert ray_runner._full_path(text) == text
        assert ray_runner._full_path(Path("photo.jpg")) == str(Path.cwd() / "photo.jpg")
