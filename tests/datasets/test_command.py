"""``cam-hub dataset``."""

from __future__ import annotations

import io

import pytest

import cam_hub
from cam_hub import RayRunner, cli
from cam_hub.cli import main


@pytest.fixture
def folder(photos, tmp_path):
    for label, name in (("tiger cat", "cat"), ("espresso", "espresso")):
        (tmp_path / "photos" / label).mkdir(parents=True)
        photos[name].save(tmp_path / "photos" / label / f"{name}.png")
    return tmp_path


def test_a_dataset_is_explained_and_resumed(folder, capsys):
    out = folder / "rows"
    arguments = ["dataset", cam_hub.DEFAULT_MODEL, str(folder / "photos"), str(out),
                 "--method", "layercam", "--class", "top(1)", "--expected", "--map-type", "uint8",
                 "--html", str(folder / "report.html"), "--evidence", "--device", "cpu",
                 "--threads", "1", "--preprocessing", "draft"]  # fmt: skip
    assert main(arguments) == 0
    printed = capsys.readouterr()
    assert printed.out.splitlines() == [
        "2 rows, 0 of them with an error", "accuracy: 100.00%", f"saved to {out}",
        f"report: {folder / 'report.html'}",
    ]  # fmt: skip
    assert "2 of 2 images" in printed.err
    report = cam_hub.DatasetReport.open(out)
    assert report["tiger cat/cat.png"].evidence.faithful is not None
    assert report.job["arguments"]["classes"] == ["top(1)", "expected"]
    assert report.job["arguments"]["preprocessing"] == "draft"
    (folder / "photos" / "espresso" / "bad.png").write_bytes(b"no image")
    assert main(arguments) == 1
    printed = capsys.readouterr()
    assert printed.out.startswith("3 rows, 1 of them with an error")
    assert "espresso/bad.png: error (image_refused)" in printed.err
    assert main([*arguments, "--sign", "both"]) == 1
    assert "sign is 'for', and here 'both'" in capsys.readouterr().err


def test_processes_that_read_are_not_for_ray(folder, capsys, monkeypatch):
    monkeypatch.setattr(RayRunner, "needs", lambda *_: {})  # as if it were installed
    arguments = ["dataset", cam_hub.DEFAULT_MODEL, str(folder / "photos"), str(folder / "rows")]
    assert main([*arguments, "--runner", "ray", "--workers", "2"]) == 1
    assert "workers=2 does not work: expected 0 with Ray" in capsys.readouterr().err
    assert not (folder / "rows").exists()


def test_settings_of_ray_need_its_runner(folder, capsys):
    arguments = ["dataset", cam_hub.DEFAULT_MODEL, str(folder / "photos"), str(folder / "rows")]
    assert main([*arguments, "--ray-gpus", "1"]) == 1
    assert "--runner='local' does not work: expected ray, which --ray-gpus is for" in (
        capsys.readouterr().err
    )
    assert not (folder / "rows").exists()


def test_labels_that_the_model_does_not_have_are_stated(folder, capsys):
    (folder / "photos" / "tiger cat").rename(folder / "photos" / "my cat")
    arguments = ["dataset", cam_hub.DEFAULT_MODEL, str(folder / "photos"), str(folder / "rows"),
                 "--method", "layercam", "--device", "cpu"]  # fmt: skip
    assert main(arguments) == 0
    stated = "1 row with labels that the model does not have, such as 'my cat'"
    assert capsys.readouterr().out.splitlines()[2] == stated


def test_progress_of_an_unknown_number_of_images_goes_on_in_a_log(monkeypatch, capsys):
    line = cli._ProgressLine()
    for seconds in (100.0, 110.0, 131.0, 140.0, 162.0):
        with monkeypatch.context() as patch:
            patch.setattr(cli.time, "monotonic", lambda now=seconds: now)
            line(0.0, f"{seconds:.0f} images")
    assert capsys.readouterr().err.splitlines() == ["100 images", "131 images", "162 images"]


def test_progress_is_one_line_on_a_terminal(monkeypatch):
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    monkeypatch.setattr("sys.stderr", terminal := Terminal())
    line = cli._ProgressLine()
    line(0.1, "1,000 of 10,000 images")
    line(1.0, "all")
    line.end()
    assert terminal.getvalue() == "\r1,000 of 10,000 images\rall" + " " * 19 + "\n"


def test_rows_are_pushed_to_the_hub(hub, folder, capsys, monkeypatch):
    arguments = ["dataset", cam_hub.DEFAULT_MODEL, str(folder / "photos"), str(folder / "rows"),
                 "--method", "layercam", "--device", "cpu", "--push", "ann/rows"]  # fmt: skip
    assert main(arguments) == 1
    assert "there is no access token" in capsys.readouterr().err
    assert not (folder / "rows").exists()
    monkeypatch.setenv("HF_TOKEN", "hf_ann")
    hub.uploads.writers["hf_ann"] = {"ann"}
    assert main(arguments) == 0
    printed = capsys.readouterr()
    assert "/datasets/ann/rows" in printed.out.splitlines()[-1]
    assert "2 of 2 rows" in printed.err
    assert "data/part-00000.parquet" in hub.uploaded["datasets/ann/rows"].files
