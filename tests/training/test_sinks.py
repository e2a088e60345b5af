"""Sinks: what is logged can be read back, with the packages themselves where they are installed."""

from __future__ import annotations

import csv
import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from cam_hub import ExplanationLogger
from cam_hub.errors import InvalidArgument
from cam_hub.training.sinks import clean_tag, open_sink
from tests.fakes.trained import Collected, Net, pictures, wrap

TAGS = {"explanations/square-0.png", "explanations/square-1.png"}
NUMBERS = {f"{tag}/{name}" for tag in TAGS for name in ("focus", "probability")} | {
    "explanations/mean_focus"
}
STEPS = [0, 2, 4]


def log_to(to: Any, steps: Any = range(5)) -> Collected:
    """Logs the same to a sink and to one that keeps everything."""
    seen = Collected()
    log = ExplanationLogger(wrap(Net()), pictures(), to=[to, seen], every=2)
    for step in steps:
        log.step(step)
    assert {tag for tag, _ in seen.images} == TAGS
    assert {tag for tag, _ in seen.scalars} == NUMBERS
    return seen


def assert_same(content: bytes, expected: Image.Image) -> None:
    found = Image.open(io.BytesIO(content)).convert("RGB")
    np.testing.assert_array_equal(np.asarray(found), np.asarray(expected))


def test_a_folder_gets_png_files_and_a_table(tmp_path: Path):
    seen = log_to(tmp_path / "maps")
    for (tag, step), image in seen.images.items():
        assert_same((tmp_path / "maps" / tag / f"step-{step:08d}.png").read_bytes(), image)
    with (tmp_path / "maps" / "scalars.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert {(row["tag"], int(row["step"])): float(row["value"]) for row in rows} == seen.scalars


def test_a_function_gets_pictures_and_numbers():
    found: dict[tuple[str, int], Any] = {}
    seen = log_to(lambda tag, value, step: found.update({(tag, step): value}))
    assert found.keys() == seen.images.keys() | seen.scalars.keys()
    assert isinstance(found["explanations/square-0.png", 4], Image.Image)


def test_tensorboard_reads_back_what_a_summary_writer_was_given(tmp_path: Path):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    from torch.utils.tensorboard import SummaryWriter

    with SummaryWriter(tmp_path) as writer:
        seen = log_to(writer)
    events = EventAccumulator(str(tmp_path), {"images": 0, "scalars": 0})
    events.Reload()
    assert set(events.Tags()["images"]) == TAGS
    assert set(events.Tags()["scalars"]) == NUMBERS
    for tag in TAGS:
        assert [event.step for event in events.Images(tag)] == STEPS
        for event in events.Images(tag):
            assert_same(event.encoded_image_string, seen.images[tag, event.step])
    for tag in NUMBERS:
        for event in events.Scalars(tag):
            assert event.value == pytest.approx(seen.scalars[tag, event.step], rel=1e-6)


@pytest.mark.parametrize("as_run", [False, True])
def test_trackio_has_them_in_its_local_store(tmp_path: Path, monkeypatch, as_run: bool):
    trackio = pytest.importorskip("trackio")
    from trackio import utils
    from trackio.sqlite_storage import SQLiteStorage

    project = f"maps-{as_run}"
    run = trackio.init(
        project=project, name="one", embed=False, auto_log_gpu=False, auto_log_cpu=False
    )
    seen = log_to(run if as_run else trackio)
    trackio.log({"loss": 0.5})  # of a program that leaves steps to trackio
    trackio.finish()
    rows = SQLiteStorage.get_logs(project, "one")
    assert [row["step"] for row in rows if "loss" in row] == [5]
    found = {(name, row["step"]): value for row in rows for name, value in row.items()}
    for key, number in seen.scalars.items():
        assert found[key] == pytest.approx(number)
    for key, image in seen.images.items():
        assert found[key]["_type"] == "trackio.image"
        assert_same((utils.MEDIA_DIR / found[key]["file_path"]).read_bytes(), image)


@pytest.mark.parametrize("kind", ["module", "run", "client"])
def test_mlflow_has_them_in_its_store(tmp_path: Path, monkeypatch, kind: str):
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")  # a database needs sqlalchemy
    mlflow = pytest.importorskip("mlflow")

    mlflow.set_tracking_uri((tmp_path / "store").as_uri())
    client = mlflow.MlflowClient()
    with mlflow.start_run() as run:
        run_id = run.info.run_id
        to = {"module": mlflow, "run": run, "client": (client, run_id)}[kind]
        seen = log_to(to)
    for tag in NUMBERS:
        history = {each.step: each.value for each in client.get_metric_history(run_id, tag)}
        assert history == {step: seen.scalars[tag, step] for step in STEPS}
    files = [each.path for each in client.list_artifacts(run_id, "images")]
    assert sum(path.endswith(".png") for path in files) == len(seen.images)


class FakeRun:
    """W&B's rows, by the rules of its documentation: ``step`` opens a row, ``commit`` closes it."""

    __module__ = "wandb.sdk.wandb_run"

    def __init__(self) -> None:
        self.step = 0
        self.rows: dict[int, dict[str, Any]] = {}
        self.axes: dict[str, Any] = {}

    def define_metric(self, name: str, step_metric: str | None = None) -> None:
        self.axes[name] = step_metric

    def log(self, data: dict[str, Any], step: int | None = None, commit: bool | None = None):
        if step is not None:
            if step < self.step:
                return  # W&B warns, and drops it
            self.step = step
        self.rows.setdefault(self.step, {}).update(data)
        if commit or (commit is None and step is None):
            self.step += 1


@pytest.mark.parametrize("steps_of", ["program", "wandb", "nobody"])
def test_no_row_of_wandb_is_lost(monkeypatch, steps_of: str):
    """Also where the program logs before and after with steps of its own."""
    monkeypatch.setattr("cam_hub.training.sinks.import_module", lambda _: _ImagesAsTheyAre)
    run, seen = FakeRun(), Collected()
    log = ExplanationLogger(wrap(Net()), pictures(), to=[run, seen], every=1)
    logged = {"program": lambda step: {"step": step * 10}, "wandb": lambda _: {}}.get(steps_of)
    for step in range(3):
        if logged is not None:
            run.log({f"before-{step}": step}, **logged(step))
        log.step(step)
        if logged is not None:
            run.log({f"after-{step}": step}, **logged(step))
    rows = [row for row in run.rows.values() if "explanations/step" in row]
    assert [row["explanations/step"] for row in rows] == [0, 1, 2]
    for row, step in zip(rows, range(3), strict=True):
        for tag in TAGS:
            assert row[tag] is seen.images[tag, step]
        for tag in NUMBERS:
            assert row[tag] == seen.scalars[tag, step]
    assert run.axes == {"explanations/step": None, "explanations/*": "explanations/step"}
    if logged is not None:
        names = {name for row in run.rows.values() for name in row}
        assert {f"{when}-{step}" for when in ("before", "after") for step in range(3)} <= names


class _ImagesAsTheyAre:
    @staticmethod
    def Image(image: Image.Image) -> Image.Image:  # noqa: N802 - W&B's name
        return image


def test_wandb_itself_stores_them(tmp_path: Path):
    wandb = pytest.importorskip("wandb")
    settings = wandb.Settings(console="off", silent=True)
    with wandb.init(mode="offline", dir=tmp_path, project="maps", settings=settings) as run:
        log_to(run)
        log_to(wandb, range(10, 12))
        folder = Path(run.dir)
        assert run.step == 3, "a row for each of the steps before the one that is open"
    assert len(list(folder.rglob("square-*.png"))) == len(TAGS) * 4


def test_wandb_without_a_run_says_what_is_missing(caplog):
    wandb = pytest.importorskip("wandb")
    with caplog.at_level("WARNING", "cam_hub"):
        ExplanationLogger(wrap(Net()), pictures(), to=wandb).step()
    assert "wandb.init" in caplog.text


@pytest.mark.parametrize("to", [None, 3, [], int, np, object(), b"folder"])
def test_what_is_no_sink_is_refused(to: Any):
    with pytest.raises(InvalidArgument, match="SummaryWriter"):
        open_sink(to)


def test_a_file_is_not_a_folder(tmp_path: Path):
    (tmp_path / "file").write_text("mine")
    with pytest.raises(InvalidArgument, match="file"):
        open_sink(tmp_path / "file")


@pytest.mark.parametrize(
    ("text", "tag"),
    [
        ("explanations/cat.jpg", "explanations/cat.jpg"),
        ("/data/../val/a cat.jpg", "data/val/a_cat.jpg"),
        ("Känguru, grau", "K_nguru_grau"),
        ("C:\\photos\\cat.jpg", "C_photos_cat.jpg"),
        ("../../etc", "etc"),
        ("…", "_"),
    ],
)
def test_tags_work_everywhere(text: str, tag: str):
    assert clean_tag(text) == tag
