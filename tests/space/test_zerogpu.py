"""A GPU allocated per call, simulated by a stand-in for the package of such Spaces."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

from space.service import zerogpu

ROOT = Path(__file__).resolve().parents[2]

STAND_IN = '''
"""Runs what is marked in a forked process; what goes over is pickled."""
import multiprocessing, os, pickle

def GPU(duration):
    def mark(task):
        def call(*args):
            context = multiprocessing.get_context("fork")
            here, there = context.Pipe()
            packed = pickle.dumps(args)
            def child():
                answer = task(*pickle.loads(packed))
                there.send_bytes(pickle.dumps((os.getpid(), answer)))
            process = context.Process(target=child)
            process.start()
            assert here.poll(120), "no answer"
            pid, answer = pickle.loads(here.recv_bytes())
            process.join()
            print("LENT", duration, pid != os.getpid(), len(packed) < 100_000_000)
            return answer
        return call
    return mark
'''

PROGRAM = """
import sys, numpy as np
from dataclasses import replace
from PIL import Image
import cam_hub
from cam_hub.errors import ClassNotFound, CamHubError
from cam_hub.options import options_for
from space.service.explainer import Explainer
from space.service.zerogpu import on_zero_gpu
from space.service.photos import Photo
from space.service.explain_form import CompareForm, ExplainForm
from space.config.settings import Settings
from pathlib import Path

assert on_zero_gpu()
app = Explainer(Settings(device="cuda", zero_gpu=True))
photo = Path(sys.argv[1])

def request(*classes):
    return ExplainForm(Photo("a.png", path=photo), cam_hub.DEFAULT_MODEL, "layercam", ("best",),
                   classes, 4, 0.3, 0, 0.5, "jet")

explained = app.explain(request("lion", "293"), lambda *_: None)
direct = cam_hub.explain(cam_hub.DEFAULT_MODEL, photo, method="layercam", classes=["lion", 293])
assert explained.result.manifest["maps"] == direct.manifest["maps"]
for key, cam in direct.cams.items():
    assert np.abs(explained.result.cams[key] - cam).max() <= 1e-5 * cam.max()
assert explained.layers
try:
    app.explain(request("lyon"), lambda *_: None)
except ClassNotFound as error:
    assert "lion" in str(error)
    print("REFUSED")
tested = app.explain(request("lion"), lambda *_: None, None, {"checks": ["cover"]})
print("TESTED", tested.result.evidence.passes)
seen = app.predict(Photo("a.png", path=photo), cam_hub.DEFAULT_MODEL, 3, lambda *_: None)
print("SEEN", seen.predictions[0].class_index, len(seen.predictions))
form = request("lion", "lyon")
options = {name: value for name, value in form.options.items() if name in options_for("compare")}
compared = CompareForm(
    replace(form, options=options), (cam_hub.DEFAULT_MODEL,), ("layercam",), "shares"
)
grid = app.compare(compared, lambda *_: None)
print("COMPARED", [cell.error and cell.error.code for cell in grid.cells])
cam, direct = grid.cells[0].explanation.cam(291), direct.cam(291)
assert np.abs(cam - direct).max() <= 1e-5 * direct.max()
"""


@pytest.mark.slow  # a process that loads torch
def test_an_explanation_from_another_process_is_the_same_and_so_are_its_errors(
    tmp_path: Path, lion
):
    (tmp_path / "spaces.py").write_text(STAND_IN, "utf-8")
    lion.save(tmp_path / "lion.png")
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(tmp_path / "lion.png")],
        env={
            **os.environ,
            "PYTHONPATH": f"{tmp_path}{os.pathsep}{ROOT}",
            "SPACES_ZERO_GPU": "true",
        },
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [
        f"LENT {zerogpu.SECONDS} True True",
        f"LENT {zerogpu.SECONDS} True True",
        "REFUSED",
        f"LENT {zerogpu.SECONDS} True True",
        "TESTED 8",
        f"LENT {zerogpu.SECONDS} True True",
        "SEEN 291 3",
        f"LENT {zerogpu.SECONDS} True True",
        "COMPARED [None, 'class_not_found']",
    ]


def test_elsewhere_nothing_is_marked(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv("SPACES_ZERO_GPU", raising=False)
    assert not zerogpu.on_zero_gpu()

    def work(*_: object) -> None:
        """Would explain."""

    assert zerogpu.marked(work) is work


@pytest.mark.parametrize("said", ["", "false", "0"])
def test_a_space_without_zero_gpu_is_detected(monkeypatch: pytest.MonkeyPatch, said: str):
    monkeypatch.setenv("SPACES_ZERO_GPU", said)
    assert not zerogpu.on_zero_gpu()


def test_where_gpus_are_lent_the_function_is_marked_with_its_time(
    monkeypatch: pytest.MonkeyPatch,
):
    marks: list[int] = []

    def mark(duration: int):
        marks.append(duration)
        return lambda task: task

    stand_in = ModuleType("spaces")
    stand_in.GPU = mark  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "spaces", stand_in)
    monkeypatch.setattr(zerogpu, "on_zero_gpu", lambda: True)
    zerogpu.marked(lambda *_: None)
    assert marks == [zerogpu.SECONDS]


def test_in_one_process_the_answer_is_also_that_of_explain(lite0, lion):
    import numpy as np

    import cam_hub

    options = {"method": "layercam", "classes": ["lion"]}
    found = zerogpu.explain(lite0, lion, options)
    direct = cam_hub.explain(lite0, lion, **options)
    for key, cam in direct.cams.items():
        assert np.allclose(found.cams[key], cam, rtol=0, atol=1e-5 * cam.max())
    assert found.predictions[0].class_index == 291
