"""Images that worker processes read: the same inputs, whatever happens to a process."""

from __future__ import annotations

import io
import logging
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from itertools import count
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import cam_hub
from cam_hub import explain, explain_many
from cam_hub.attribution.read_ahead import Ready, Refused, read_ahead
from cam_hub.attribution.samples import Sample, open_samples
from cam_hub.errors import ImageRefused, InvalidArgument
from tests.fakes.deadly import DEADLY, DEADLY_ONCE, Deadly, Unreadable
from tests.fakes.law_nets import of_layout
from tests.fakes.tiny_datasets import Colours, colours

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def model() -> cam_hub.LoadedModel:
    return colours()


@pytest.fixture(autouse=True)
def no_process_is_left():
    yield
    assert multiprocessing.active_children() == []


def read(model, samples, **options) -> list[Ready | Refused]:
    return list(read_ahead(model, samples, threads=1, **{"ahead": 5, "workers": 2, **options}))


def of_size(size: tuple[int, int]) -> bytes:
    """A PNG file that is red, and green in its right half."""
    photo = Image.new("RGB", size, "red")
    photo.paste("green", (size[0] // 2, 0, *size))
    buffer = io.BytesIO()
    photo.save(buffer, "PNG")
    return buffer.getvalue()


def deadly(tmp_path) -> cam_hub.LoadedModel:
    return cam_hub.wrap_model(Colours(), transform=Deadly(tmp_path))


def test_inputs_are_those_of_threads_whatever_an_image_is(
    model, lion, photos, tmp_path, monkeypatch
):
    """Only what is still a file goes to another process; no key, and nothing that is decoded.

    What workers cannot decode is tried here, where plugins of Pillow may be registered.
    """

    def decode(file, _):
        return Image.open(io.BytesIO(file.read()[4:]))

    plugin = decode, lambda start: start.startswith(b"HEIF")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(Image.OPEN, "HEIF", plugin)
    path = tmp_path / "lion.jpg"
    photos["cat"].save(path)
    (tmp_path / "bad.jpg").write_bytes(path.read_bytes()[:2000])
    pictures = [
        path, str(path), path.read_bytes(), {"bytes": path.read_bytes(), "path": None}, lion,
        np.asarray(lion), torch.ones(3, 32, 32), path.open("rb"), tmp_path / "bad.jpg",
        tmp_path / "missing.jpg", memoryview(path.read_bytes()), None, b"HEIF" + path.read_bytes(),
        "lion.jpg",
    ]  # fmt: skip
    samples = [Sample(lambda: None, picture) for picture in pictures]  # no key can be pickled
    samples.insert(3, Sample(0, None, error=ImageRefused("it was not there")))
    alone, together = read(model, samples, workers=0), read(model, samples, workers=1)
    assert [each.sample for each in together] == samples
    for one, two in zip(alone, together, strict=True):
        assert type(one) is type(two)
        if isinstance(one, Refused):
            assert str(one.error) == str(two.error)
        else:
            assert torch.equal(one.prepared.tensor, two.prepared.tensor)
            assert one.prepared.placement == two.prepared.placement
            assert one.prepared.pictures.facts == two.prepared.pictures.facts
            assert one.prepared.pictures.photo.tobytes() == two.prepared.pictures.photo.tobytes()
    assert sum(isinstance(each, Refused) for each in together) == 4


@pytest.mark.slow
def test_an_error_of_the_iterable_comes_after_the_images_before_it(model):
    def samples():
        yield from (Sample(number, of_size((40 + number, 40))) for number in range(3))
        raise OSError("the disk is gone")

    stream = read_ahead(model, samples(), threads=1, ahead=9, workers=1)
    assert [next(stream).sample.key for _ in range(3)] == [0, 1, 2]
    with pytest.raises(OSError, match="the disk is gone"):
        next(stream)


def test_closing_it_early_ends_the_processes(model):
    taken = []

    def samples():
        for number in count():
            taken.append(number)
            yield Sample(number, of_size((40, 40)))

    stream = read_ahead(model, samples(), threads=1, ahead=4, workers=1)
    assert not multiprocessing.active_children()  # before the first image is needed
    next(stream)
    (worker,) = multiprocessing.active_children()
    assert len(taken) == 4
    time.sleep(0.3)  # until it waits for more
    os.kill(worker.pid, signal.SIGINT)  # as Ctrl+C does, which this process handles
    for _ in range(4):
        next(stream)
    assert multiprocessing.active_children() == [worker]
    stream.close()
    assert not multiprocessing.active_children()


def test_tensors_start_no_process(model):
    images = [torch.ones(3, 32, 32)] * 3
    for outcome in explain_many(model, images, method="layercam", workers=2):
        assert outcome.error is None
        assert not multiprocessing.active_children()


@pytest.mark.slow
def test_an_image_that_ends_two_processes_is_refused_and_the_others_continue(tmp_path):
    sizes = [(40, 40), DEADLY, (41, 40), DEADLY_ONCE, *[(42 + more, 40) for more in range(5)]]
    images = {str(size): of_size(size) for size in sizes}
    found = {
        outcome.key: outcome
        for outcome in explain_many(
            deadly(tmp_path), images, method="layercam", workers=2, batch_size=8
        )
    }
    assert list(found) == list(images)
    assert {key for key, outcome in found.items() if outcome.error} == {str(DEADLY)}
    assert "ended two worker processes" in str(found[str(DEADLY)].error)
    assert isinstance(found[str(DEADLY)].error, ImageRefused)
    once = found[str(DEADLY_ONCE)].explanation
    assert once.overlay().size == DEADLY_ONCE
    alone = explain(deadly(tmp_path), images[str(DEADLY_ONCE)], method="layercam")
    np.testing.assert_allclose(once.cam(), alone.cam(), rtol=1e-5)


@pytest.mark.slow
def test_a_process_that_is_killed_from_outside_costs_no_image(model):
    stream = read_ahead(
        model, [Sample(n, of_size((40, 40 + n))) for n in range(30)], threads=1, ahead=6, workers=2
    )
    found = []
    for each in stream:
        found.append(each)
        if len(found) in (3, 15):
            os.kill(multiprocessing.active_children()[0].pid, signal.SIGKILL)
    assert [each.sample.key for each in found] == list(range(30))
    assert all(isinstance(each, Ready) for each in found)
    assert [each.prepared.placement.photo_size[1] for each in found] == list(range(40, 70))


@pytest.mark.parametrize(
    "transform",
    [lambda photo: Deadly(Path())(photo) / 2, pytest.param(Unreadable(), marks=pytest.mark.slow)],
)
def test_a_transform_that_cannot_be_sent_is_used_by_threads(transform, caplog):
    model = cam_hub.wrap_model(Colours(), transform=transform)
    with caplog.at_level(logging.WARNING, "cam_hub"):
        (found,) = read(model, [Sample(0, of_size((40, 40)))])
    assert isinstance(found, Ready)
    assert "cannot be sent to worker processes" in caplog.text


@pytest.mark.slow
def test_clips_are_read_by_workers(photos, tmp_path):
    model = of_layout("NCTHW")
    moving = tmp_path / "moving.gif"
    frames = [photos["cat"].resize((90, 60)).rotate(angle) for angle in range(0, 90, 10)]
    frames[0].save(moving, save_all=True, append_images=frames[1:])
    still = tmp_path / "still.png"
    frames[1].save(still)
    samples = list(open_samples([moving, [moving, still], [still, frames[0]]], clips=True))
    for one, two in zip(read(model, samples, workers=0), read(model, samples), strict=True):
        assert torch.equal(one.prepared.tensor, two.prepared.tensor)
        assert one.prepared.pictures.facts == two.prepared.pictures.facts


@pytest.mark.parametrize("workers", [0, pytest.param(1, marks=pytest.mark.slow)])
def test_reduced_photos_are_shown_in_full(lite0, photos, tmp_path, workers):
    large = tmp_path / "cat.jpg"
    photos["cat"].resize((1804, 1200)).save(large, quality=95)
    pictures = [large, photos["lion"]]
    exact = explain(lite0, large, method="layercam")
    options = {"method": "layercam", "workers": workers}
    for mode in ("draft", "device"):
        found, other = (
            each.explanation
            for each in explain_many(lite0, pictures, preprocessing=mode, **options)
        )
        assert found.manifest["approximation"] == mode
        assert "approximation" not in other.manifest  # an image that is no file
        assert found.overlay().size == exact.overlay().size == (1804, 1200)
        assert found.manifest["image"] == exact.manifest["image"]
        assert found.placement == exact.placement
        assert found.predictions[0].class_index == exact.predictions[0].class_index
        difference = abs(found.cam() - exact.cam()).max() / exact.cam().max()
        assert 0 < difference < 0.05


def test_a_photo_that_has_changed_is_not_shown(lite0, photos, tmp_path):
    file = tmp_path / "cat.jpg"
    results = []
    for _ in range(2):
        photos["cat"].resize((1804, 1200)).save(file)
        outcomes = explain_many(lite0, [file], method="layercam", preprocessing="draft")
        results.append(next(outcomes).explanation)
    photos["cat"].save(file)
    with pytest.raises(ImageRefused, match="451 x 300 now, and was 1804 x 1200"):
        results[0].overlay()
    file.unlink()
    with pytest.raises(ImageRefused, match="there is no file"):
        results[1].overlay()
    assert results[1].cam().any()


def test_where_no_process_can_be_started_it_is_stated(model, monkeypatch):
    """As within the workers of a DataLoader, which are daemons."""
    monkeypatch.setitem(multiprocessing.current_process()._config, "daemon", True)
    with pytest.raises(InvalidArgument, match=r"workers=2 .* 0, since .*daemonic processes"):
        next(explain_many(model, [of_size((40, 40))], workers=2))


SCRIPT = """
import itertools, multiprocessing, sys
from cam_hub.attribution.read_ahead import read_ahead
from cam_hub.attribution.samples import Sample
from tests.fakes.tiny_datasets import colours
from tests.attribution.test_workers import of_size

{guard}
    samples = (Sample(0, of_size((40, 40))) for _ in itertools.count())
    for each in read_ahead(colours(), samples, threads=1, ahead=4, workers=2):
        pids = [child.pid for child in multiprocessing.active_children()]
        if len(pids) == 2:
            print(*pids, flush=True)
"""


def script(folder: Path, guard: str) -> subprocess.Popen[str]:
    file = folder / "script.py"
    file.write_text(SCRIPT.format(guard=guard))
    return subprocess.Popen(
        [sys.executable, str(file)], cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True,
    )  # fmt: skip


def is_alive(process: int) -> bool:
    try:
        return Path(f"/proc/{process}/stat").read_text().split()[2] != "Z"
    except OSError:
        return False


@pytest.mark.slow
@pytest.mark.parametrize("by", ["kill", "Ctrl+C"])
def test_processes_end_with_the_one_that_started_them(tmp_path, by):
    running = script(tmp_path, "if __name__ == '__main__':")
    workers = list(map(int, running.stdout.readline().split()))
    assert len(workers) == 2
    assert all(map(is_alive, workers))
    if by == "kill":
        running.kill()
    else:
        os.killpg(running.pid, signal.SIGINT)
    _, errors = running.communicate(timeout=60)
    assert by == "kill" or errors.rstrip().endswith("KeyboardInterrupt")
    end = time.monotonic() + 10
    while any(map(is_alive, workers)) and time.monotonic() < end:
        time.sleep(0.05)
    assert not any(map(is_alive, workers))


@pytest.mark.slow
def test_a_script_without_a_guard_ends_with_a_readable_error(tmp_path):
    running = script(tmp_path, "if True:")
    _, errors = running.communicate(timeout=120)
    assert running.returncode == 1
    assert "workers=2 does not work: expected 0, since no worker process" in errors
    assert "if __name__ == '__main__':" in errors.splitlines()[-1]
