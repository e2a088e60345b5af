"""``runner="ray"``: the rows of the local runner, whatever happens to its processes."""

from __future__ import annotations

import io
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn

import cam_hub
from cam_hub import DatasetReport, RayRunner, cli, errors, explain_dataset
from cam_hub.datasets import ray_runner
from cam_hub.datasets.ray_session import open_session
from cam_hub.datasets.runner import MAX_FAILURES
from tests.datasets.test_explain_dataset import ROOT, stored_keys
from tests.fakes.tiny_datasets import colours, folder_of, image

ray = pytest.importorskip("ray")
pytestmark = pytest.mark.slow  # each worker takes seconds to start

SCRIPT = ROOT / "tests" / "fakes" / "tiny_datasets.py"

MARK = "CAM_HUB_RAY_TESTS"
os.environ.setdefault(MARK, str(os.getpid()))  # inherited by all processes of Ray started here


@pytest.fixture(scope="module")
def session() -> Iterator[None]:
    """A session of the user's, with two CPUs."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ray, "init", partial(ray.init, num_cpus=2, num_gpus=0))
        with open_session(None):
            yield


@pytest.fixture
def on_ray(session: None) -> Iterator[Callable[..., DatasetReport]]:
    """Runs a job in that session; afterwards it is as it was before."""

    def run(model: object, source: object, out: Path, **options: Any) -> DatasetReport:
        settings = {"method": "layercam", "runner": RayRunner(workers=2), "batch_size": 4}
        return explain_dataset(model, source, out, **settings | options)  # type: ignore[arg-type]

    yield run
    assert ray.is_initialized()
    until(lambda: ray.available_resources().get("CPU") == ray.cluster_resources()["CPU"])
    until(lambda: not workers())


def until(happens: Callable[[], object], seconds: float = 60) -> None:
    """Waits for something."""
    end = time.monotonic() + seconds
    while not happens():
        assert time.monotonic() < end, "waited too long"
        time.sleep(0.1)


def workers() -> list[int]:
    """The processes of workers that explain images or have done so, of nodes started here."""
    mark = f"{MARK}={os.environ[MARK]}".encode()
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):  # it has just ended
            if (folder / "cmdline").read_bytes().startswith(b"ray::_Explainer"):
                parent = (folder / "stat").read_text().rpartition(")")[2].split()[1]
                if mark in Path(f"/proc/{parent}/environ").read_bytes().split(b"\0"):
                    found.append(int(folder.name))
    return found


def local(model: object, source: object, out: Path) -> DatasetReport:
    return explain_dataset(model, source, out, method="layercam", batch_size=4)  # type: ignore[arg-type]


def assert_same_rows(report: DatasetReport, expected: DatasetReport) -> None:
    assert sorted(report.keys()) == sorted(expected.keys())
    frames = [
        each.to_pandas().set_index("key").sort_index().drop(columns="message")  # which name paths
        for each in (report, expected)
    ]
    pd.testing.assert_frame_equal(*frames, check_exact=False)
    for row in expected:
        other = report[row.key]
        assert (other.path, other.boxes, other.error) == (row.path, row.boxes, row.error)
        assert set(other.maps) == set(row.maps)
        for place, cam in row.maps.items():
            np.testing.assert_allclose(other.maps[place], cam, 1e-5)
        if row.error is None:
            assert other.manifest()["parameters"] == row.manifest()["parameters"]


class TestTheRows:
    def test_of_a_folder_are_those_of_the_local_runner(self, on_ray, tmp_path):
        source = folder_of(tmp_path / "photos", 70)
        (source / "red" / "damaged.png").write_bytes(b"no image")
        said: list[tuple[float, str]] = []
        report = on_ray(
            colours(), source, tmp_path / "out", progress=lambda *each: said.append(each)
        )
        assert_same_rows(report, local(colours(), source, tmp_path / "local"))
        assert said[-1][0] == 1.0
        assert "71 of 71 images" in said[-1][1]

    def test_of_objects_are_those_of_the_local_runner(self, on_ray, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        image(4).save("relative.png")
        encoded = io.BytesIO()
        image(5).save(encoded, "PNG")
        pictures = {
            "PIL": image(1),
            "array": np.asarray(image(2)),
            "tensor": torch.from_numpy(np.array(image(3))).permute(2, 0, 1),
            "path": "relative.png",
            "bytes": encoded.getvalue(),
            "missing": "missing.png",
        }
        report = on_ray(colours(), pictures, tmp_path / "out")
        assert_same_rows(report, local(colours(), pictures, tmp_path / "local"))
        assert list(report.errors()) == ["missing"]

    def test_say_which_images_cannot_be_sent(self, on_ray, tmp_path):
        with Path(os.devnull).open("rb") as file:
            report = on_ray(colours(), {"0": image(0), "1": file, "2": image(2)}, tmp_path / "out")
        ((key, (code, message)),) = report.errors().items()
        assert (key, code) == ("1", "image_refused")
        assert "cannot be sent" in message

    def test_of_noise_and_of_an_id_are_those_of_the_local_runner(self, on_ray, photos, tmp_path):
        given = {
            "method": "smoothgradcampp", "num_samples": 2, "sampling": "fixed", "seed": 3,
            "evidence": "class_check",
        }  # fmt: skip
        pictures = [photos["cat"], photos["espresso"]]
        report = on_ray(cam_hub.DEFAULT_MODEL, pictures, tmp_path / "out", **given)
        expected = explain_dataset(cam_hub.DEFAULT_MODEL, pictures, tmp_path / "local", **given)
        assert [report[key].predictions[0].label for key in ("0", "1")] == ["tiger cat", "espresso"]
        for row in expected:
            np.testing.assert_allclose(report[row.key].map, row.map, 1e-3, 1e-5)


class TestAWorker:
    def test_that_an_image_kills_costs_the_row_of_this_image(self, on_ray, tmp_path):
        pictures = {str(number): image(number) for number in range(40)}
        pictures["13"].paste((255, 255, 255), (0, 0, 16, 16))
        report = on_ray(colours(deadly=0.99), pictures, tmp_path / "out")
        assert sorted(stored_keys(tmp_path / "out"), key=int) == list(pictures)
        assert list(report.errors()) == ["13"]
        code, message = report.errors()["13"]
        assert code == "worker_died"
        assert "3 processes died" in message

    def test_that_is_killed_from_outside_costs_no_row(self, on_ray, tmp_path):
        killed: list[int] = []

        def kill(*_: object) -> None:
            if not killed and len(workers()) == 2:
                killed.extend(workers())
                for process in killed:
                    os.kill(process, signal.SIGKILL)

        source = folder_of(tmp_path / "photos", 200)
        report = on_ray(colours(seconds=0.1), source, tmp_path / "out", progress=kill)
        assert len(killed) == 2
        assert len(report) == len(stored_keys(tmp_path / "out")) == 200
        assert not report.errors()

    def test_that_dies_whenever_it_loads_the_model_stops_the_job(self, on_ray, tmp_path):
        model = colours()
        model.module.register_module("trap", Deadly())
        with pytest.raises(errors.ModelRefused, match="3 workers in a row died"):
            on_ray(model, [image(0)], tmp_path / "out")
        assert stored_keys(tmp_path / "out") == []


class Deadly(nn.Module):
    """Ends the process that it is unpickled in."""

    def __reduce__(self):
        return os._exit, (1,)


class Missing(nn.Module):
    """Cannot be unpickled."""

    def __reduce__(self):
        return _raise, ("no such driver",)


def _raise(reason: str) -> None:
    raise OSError(reason)


class TestAModel:
    def test_that_fails_stops_the_job_without_rows_for_its_failures(self, on_ray, tmp_path):
        source, out = folder_of(tmp_path / "photos", 200), tmp_path / "out"
        with pytest.raises(errors.ModelRefused, match=f"{MAX_FAILURES} images in a row"):
            on_ray(colours(passes=10), source, out)
        assert 0 < len(stored_keys(out)) <= 80
        assert not DatasetReport.open(out).errors()
        on_ray(colours(), source, out)
        assert len(set(stored_keys(out))) == len(stored_keys(out)) == 200

    def test_that_cannot_be_pickled_is_refused(self, on_ray, tmp_path):
        model = colours()
        model.module.lock = threading.Lock()
        with pytest.raises(errors.ModelRefused, match="cannot be sent to other processes"):
            on_ray(model, [image(0)], tmp_path / "out")

    def test_that_workers_cannot_load_is_refused(self, on_ray, tmp_path):
        model = colours()
        model.module.register_module("trap", Missing())
        with pytest.raises(errors.ModelRefused, match=r"could not load it: .*no such driver"):
            on_ray(model, [image(0)], tmp_path / "out")

    def test_that_no_worker_has_room_for_is_refused(self, on_ray, tmp_path, monkeypatch):
        monkeypatch.setattr(ray_runner, "_PATIENCE", 0.1)
        monkeypatch.setattr(ray_runner, "_MAX_WAIT", 1)
        said: list[str] = []
        with pytest.raises(
            errors.ClusterUnavailable, match="1 CPU and 1 GPU, and there are 2 CPU and 0"
        ):
            on_ray(
                colours(), [image(0)], tmp_path / "out", runner=RayRunner(num_gpus=1),
                progress=lambda _, words: said.append(words),
            )  # fmt: skip
        assert said[0].startswith("waiting for a worker")


class TestAJob:
    def test_that_is_interrupted_keeps_its_rows(self, on_ray, tmp_path):
        def interrupt(part: float, _: str) -> None:
            if part > 0:
                raise KeyboardInterrupt

        pictures = [image(number) for number in range(80)]
        out = tmp_path / "out"
        with pytest.raises(KeyboardInterrupt):
            on_ray(colours(seconds=0.2), pictures, out, progress=interrupt)
        assert 0 < len(stored_keys(out)) < 80
        local(colours(), pictures, out)  # any runner goes on
        assert sorted(stored_keys(out), key=int) == [str(number) for number in range(80)]

    def test_whose_source_fails_has_the_rows_before(self, on_ray, tmp_path):
        def pictures() -> Iterator[Any]:
            yield from ((str(number), image(number)) for number in range(5))
            raise ConnectionError("the server is gone")

        with pytest.raises(ConnectionError):
            on_ray(colours(), pictures(), tmp_path / "out")
        assert stored_keys(tmp_path / "out") == ["0", "1", "2", "3", "4"]


class TestASessionOfItsOwn:
    """These run in processes of their own: here, Ray is connected already."""

    def test_goes_on_after_the_driver_was_killed(self, tmp_path):
        source, out = folder_of(tmp_path / "photos", 120), tmp_path / "out"
        command = [sys.executable, str(SCRIPT), str(source), str(out), "0.2", "ray"]
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "HOME": str(tmp_path / "home")}
        with subprocess.Popen(command, env=environment) as process:
            while len(list(out.glob("*.parquet"))) < 4 and process.poll() is None:
                time.sleep(0.01)
            process.send_signal(signal.SIGKILL)
        assert process.returncode == -signal.SIGKILL
        for folder in Path("/tmp").glob(f"cam-hub-ray-*/session_*_{process.pid}"):
            shutil.rmtree(folder.parent)
        until(lambda: not workers())  # Ray ends with its driver
        assert 0 < len(stored_keys(out)) < 120
        subprocess.run(command, env=environment, check=True, timeout=200)
        assert len(set(stored_keys(out))) == len(stored_keys(out)) == 120
        assert not DatasetReport.open(out).errors()

    @pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
    def test_ends_with_its_rows_at_a_signal(self, tmp_path, number):
        source, out = folder_of(tmp_path / "photos", 120), tmp_path / "out"
        command = [sys.executable, str(SCRIPT), str(source), str(out), "0.2", "ray"]
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "HOME": str(tmp_path / "home")}
        with subprocess.Popen(command, env=environment, stderr=subprocess.DEVNULL) as process:
            while len(list(out.glob("*.parquet"))) < 4 and process.poll() is None:
                time.sleep(0.01)
            process.send_signal(number)
            process.wait(timeout=60)
        assert process.returncode != 0
        assert 0 < len(stored_keys(out)) < 120
        assert not list(Path("/tmp").glob(f"cam-hub-ray-*/session_*_{process.pid}"))
        until(lambda: not workers())

    def test_leaves_nothing_and_is_reached_from_this_machine_only(self, tmp_path):
        source = folder_of(tmp_path / "photos", 12)
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "HOME": str(tmp_path / "home")}
        environment = {name: each for name, each in environment.items() if name[:4] != "RAY_"}
        (tmp_path / "home").mkdir()
        done = subprocess.run(
            [sys.executable, "-c", OWN_SESSION, str(source), str(tmp_path / "out")],
            env=environment, check=True, timeout=200, capture_output=True, text=True,
        )  # fmt: skip
        address, loopback, folder, closed = done.stdout.splitlines()[-4:]
        assert address.startswith("127.0.0.1:")
        assert loopback == "True"
        assert not Path(folder).exists()
        assert closed == "True"
        assert len(stored_keys(tmp_path / "out")) == 12
        assert list((tmp_path / "home").rglob("*")) == []


OWN_SESSION = """
import signal, sys
from pathlib import Path
import ray
from cam_hub import explain_dataset
from tests.fakes.tiny_datasets import colours

def look(*_):
    context = ray.get_runtime_context()
    print(context.gcs_address)
    port = f":{int(context.gcs_address.split(':')[1]):04X}"
    lines = [line.split() for table in ("tcp", "tcp6")
             for line in Path("/proc/net", table).read_text().splitlines()]
    bound = [line[1] for line in lines if line[1].endswith(port) and line[3] == "0A"]
    print(bool(bound) and all(each.startswith("0100007F") or "0100007F:" in each for each in bound))
    print(Path(ray._private.worker._global_node.get_session_dir_path()).parent)

before = signal.getsignal(signal.SIGTERM)
looked = []
explain_dataset(colours(), sys.argv[1], sys.argv[2], method="layercam", runner="ray",
                progress=lambda *_: looked or looked.append(look()))
print(not ray.is_initialized() and signal.getsignal(signal.SIGTERM) is before)
"""


class TestAClusterOfTwoNodes:
    """Both nodes are on this machine, with one CPU each."""

    def test_runs_a_job_and_stays_when_it_ends(self, cluster, tmp_path):
        source, out = folder_of(tmp_path / "photos", 60), tmp_path / "out"
        for count in (60, 90):
            folder_of(source, count)
            done = cluster.run(source, out, wait_for=2)
            assert done.returncode == 0, done.stderr
            assert len(set(stored_keys(out))) == len(stored_keys(out)) == count
        assert not DatasetReport.open(out).errors()

    def test_loses_no_row_with_a_node(self, cluster, tmp_path):
        source, out = folder_of(tmp_path / "photos", 160), tmp_path / "out"

        def lose() -> None:
            until(lambda: len(list(out.glob("*.parquet"))) > 3)
            cluster.nodes[1].kill()

        loss = threading.Thread(target=lose)
        loss.start()
        done = cluster.run(source, out, seconds=0.2)
        loss.join()
        assert done.returncode == 0, done.stderr
        assert len(set(stored_keys(out))) == len(stored_keys(out)) == 160
        assert not DatasetReport.open(out).errors()


@dataclass
class Cluster:
    """Two nodes, started by ``ray start``."""

    address: str
    environment: dict[str, str]
    nodes: list[Node]

    def run(
        self, source: Path, out: Path, seconds: float = 0, wait_for: int = 0
    ) -> subprocess.CompletedProcess[str]:
        """Runs a job on it, from a process of its own, that waits for so many workers."""
        options = map(str, (source, out, seconds, wait_for, self.address))
        return subprocess.run(
            [sys.executable, "-c", ON_CLUSTER, *options],
            env=self.environment, timeout=200, capture_output=True, text=True, check=False,
        )  # fmt: skip


ON_CLUSTER = """
import sys
from cam_hub import RayRunner, explain_dataset
from tests.datasets.test_ray_run import until, workers
from tests.fakes.tiny_datasets import colours

source, out, seconds, count, address = sys.argv[1:]
explain_dataset(colours(seconds=float(seconds)), source, out, method="layercam", batch_size=4,
                part_size=4, runner=RayRunner(workers=2, address=address),
                progress=lambda part, _: until(lambda: part == 1 or len(workers()) >= int(count)))
"""


class Node:
    """A process of ``ray start`` and those that it has started."""

    def __init__(self, environment: dict[str, str], *arguments: str) -> None:
        command = [str(Path(sys.executable).with_name("ray")), "start", "--block", *arguments]
        command += ["--num-cpus=1", "--node-ip-address=127.0.0.1", "--object-store-memory=80000000"]
        self._process = subprocess.Popen(
            command, env=environment, start_new_session=True, stdout=subprocess.DEVNULL
        )

    def kill(self) -> None:
        """Ends them, and no others: ``ray stop`` would end every node of this machine."""
        children = [int(each) for each in descendants(self._process.pid)]
        for process in [*children, self._process.pid]:
            with suppress(ProcessLookupError):
                os.kill(process, signal.SIGKILL)
        self._process.wait()


def descendants(process: int) -> list[int]:
    """The processes that a process has started, and so on."""
    children = Path(f"/proc/{process}/task/{process}/children").read_text().split()
    return [each for child in map(int, children) for each in (child, *descendants(child))]


@pytest.fixture
def cluster() -> Iterator[Cluster]:
    environment = {
        **os.environ,
        "PYTHONPATH": str(ROOT),
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": "0" * 64,
    }
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    address = f"127.0.0.1:{port}"
    folder = tempfile.mkdtemp(prefix="ray-", dir="/tmp")  # sockets need a short path
    nodes = []
    try:
        head = ("--head", f"--port={port}", "--include-dashboard=false", f"--temp-dir={folder}")
        nodes.append(Node(environment, *head))
        nodes.append(Node(environment, f"--address={address}"))
        yield Cluster(address, environment, nodes)
    finally:
        for node in reversed(nodes):
            with suppress(FileNotFoundError):
                node.kill()
        shutil.rmtree(folder, ignore_errors=True)


def test_the_command_runs_on_ray(session, tmp_path, capsys):
    source = folder_of(tmp_path / "photos", 6)
    arguments = ["dataset", "timm/resnet18.a1_in1k", str(source), str(tmp_path / "out"),
                 "--random", "--method", "layercam", "--runner", "ray",
                 "--ray-workers", "1"]  # fmt: skip
    assert cli.main(arguments) == 0
    assert re.search(r"^6 rows, 0 of them with an error$", capsys.readouterr().out, re.MULTILINE)
