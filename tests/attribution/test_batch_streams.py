"""``explain_many`` as a stream: when items are read, how it ends, and its progress."""

from __future__ import annotations

import gc
import io
import threading
import time

import pytest

import cam_hub
from cam_hub import explain_many
from tests.fakes.law_nets import inputs, of_layout
from tests.fakes.module_state import state_of

THREADS = "cam-hub-reading"


@pytest.fixture(scope="module")
def model() -> cam_hub.LoadedModel:
    return of_layout("NCHW")


def readers() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name.startswith(THREADS)]


def test_images_are_read_as_they_are_needed(model):
    asked = 0

    def pictures():
        nonlocal asked
        for image in inputs(model, 40):
            asked += 1
            yield image

    options = {"method": "layercam", "target_layers": "laid", "batch_size": 4, "threads": 2}
    for done, _ in enumerate(explain_many(model, pictures(), **options), start=1):
        assert asked <= min(done + 8, 40)
    assert done == asked == 40


def test_closing_it_stops_the_work_and_leaves_nothing(model):
    before = state_of(model.module)
    asked = []
    pictures = (asked.append(1) or image for image in inputs(model, 40))
    stream = explain_many(model, pictures, method="layercam", batch_size=2, threads=2)
    next(stream)
    assert readers()
    stream.close()
    assert not readers()
    assert len(asked) <= 6
    assert state_of(model.module) == before
    assert list(stream) == []


def test_letting_go_of_it_is_closing_it(model):
    stream = explain_many(model, inputs(model, 9), method="layercam", batch_size=2)
    next(stream)
    del stream
    gc.collect()
    assert not readers()


def test_an_error_of_the_callers_iterable_comes_after_the_images_before_it(model):
    def pictures():
        yield from inputs(model, 3)
        raise OSError("the disk is gone")

    stream = explain_many(model, pictures(), method="layercam", batch_size=2)
    assert all(next(stream).error is None for _ in range(3))
    with pytest.raises(OSError, match="the disk is gone"):
        next(stream)
    assert not readers()


def test_slow_images_are_read_concurrently(model, lion):
    class Slow:
        """A file that is slow to read."""

        def __init__(self) -> None:
            self.file = open_lion(lion)

        def __getattr__(self, name):
            return getattr(self.file, name)

        def read(self, size=-1):
            time.sleep(0.01)
            return self.file.read(size)

    def seconds(threads):
        start = time.perf_counter()
        images = [Slow() for _ in range(6)]
        for outcome in explain_many(model, images, method="layercam", threads=threads):
            assert outcome.error is None
        return time.perf_counter() - start

    assert seconds(6) < 0.6 * seconds(1)


def test_progress_rises_to_the_end_and_can_stop_the_work(model):
    seen = []
    images = inputs(model, 5)
    options = {"num_samples": 3, "batch_size": 4, "target_layers": "laid"}
    options["method"] = "smoothgradcampp"
    list(explain_many(model, images, progress=lambda *told: seen.append(told), **options))
    parts = [part for part, _ in seen]
    assert parts == sorted(parts)
    assert parts == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0])
    assert seen[-1][1] == "5 of 5 pictures"

    def stop(part, text):
        raise KeyboardInterrupt

    before = state_of(model.module)
    with pytest.raises(KeyboardInterrupt):
        list(explain_many(model, images, progress=stop, **options))
    assert state_of(model.module) == before
    assert not readers()


def test_without_a_known_end_progress_counts(model):
    seen = []
    options = {"method": "layercam", "batch_size": 2, "target_layers": "laid"}
    pictures = iter(inputs(model, 3))
    list(explain_many(model, pictures, progress=lambda *told: seen.append(told), **options))
    assert seen == [(0.0, "2 pictures"), (0.0, "3 pictures")]


def open_lion(lion):
    buffer = io.BytesIO()
    lion.resize((32, 32)).save(buffer, "PNG")
    buffer.seek(0)
    return buffer
