"""The Ray runner: explains the images of a source in worker processes, on one machine or many.

Each worker is an actor of Ray with a model of its own. This process reads the source, hands out a
few small tasks at a time, and writes the rows, so that resuming and the checks of the folder are
those of the local runner.

Workers are managed here rather than by Ray Data's pool of actors, which has no answer to an image
that kills its worker: without a limit of restarts (its default) the job never ends; with one, it
ends at that image, or, where errors are tolerated, waits for ever for a worker that is not
replaced. Nor does it stream from an iterator of this process. Here, a worker that died is replaced,
its task is handed out again image by image, and an image that was alone with the next workers that
died has a row with an error.
"""

from __future__ import annotations

import copy
import os
import re
import time
from collections import deque
from collections.abc import Generator, Iterable, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass, field, replace
from itertools import chain
from typing import Any, Final

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from cam_hub._text import first_line
from cam_hub._validation import check_numbers, check_whole
from cam_hub.attribution.samples import Sample
from cam_hub.datasets.ray_session import Session, open_session, require_ray
from cam_hub.datasets.rows import RowMaker
from cam_hub.datasets.runner import Entry, Job, Made, explained
from cam_hub.errors import (
    CamHubError,
    ClusterUnavailable,
    ImageRefused,
    InvalidArgument,
    ModelRefused,
    WorkerDied,
)
from cam_hub.models.loaded_model import LoadedModel, is_as_loaded
from cam_hub.options import OPTIONS

__all__ = ["RayRunner", "run_on_ray"]

_MAX_DEATHS: Final = 3
"""An image that so many workers died at is not tried again, and nor is loading the model."""

_QUEUED: Final = 2
"""The tasks of a worker at most: the one that it works on, and the next."""

_BATCHES: Final = 4
"""The batches of a task: within it, the next one is read while another is explained."""

_TASK_BYTES: Final = 32 << 20
"""About how much memory the images of a task take at most, as far as they are not files."""

_PATIENCE: Final = 10.0
"""While no worker has started, that is reported after so many seconds."""

_MAX_WAIT: Final = 900.0
"""After so many seconds without a worker, in which a cluster may grow, the job ends."""

_NOT_RELATIVE: Final = re.compile(r"[/\\~]|\w+:|\s*$")
"""How texts begin that are an absolute path, the address of a file, or no path at all."""

_SETTINGS: Final = ("HF_", "TRANSFORMERS_", "TORCH_HOME", "CAM_HUB_")
"""How the names of the environment variables begin that set caches and access to the Hub."""


@dataclass(frozen=True)
class RayRunner:
    """Has ``explain_dataset`` run on Ray; ``runner="ray"`` is ``runner=RayRunner()``.

        explain_dataset(id, "photos", "rows", runner=RayRunner(num_gpus=1, address="auto"))

    Attributes:
        workers: Maximum number of processes, each with a model of its own; None for as many as
            there is room for.
        num_cpus: The CPUs of a worker, and its threads.
        num_gpus: The GPUs of a worker, where its model is then; 0.5 lets two workers share one.
            None for one if the model is on a GPU, else for none.
        address: The address of a cluster, or ``"auto"`` for the one that runs on this machine; None
            for the environment variable ``RAY_ADDRESS``, and without it for a session on this
            machine alone that ends with the job. If the program is connected to Ray already, that
            session is used.
    """

    workers: int | None = None
    num_cpus: float = 1
    num_gpus: float | None = None
    address: str | None = None

    def __post_init__(self) -> None:
        if self.workers is not None:
            check_whole("workers", self.workers)
        check_numbers("num_cpus", self.num_cpus, 0.01, 10_000, 1)
        if self.num_gpus is not None:
            check_numbers("num_gpus", self.num_gpus, 0, 1000, 1)
            if self.num_gpus > 1 and self.num_gpus != int(self.num_gpus):
                raise InvalidArgument("num_gpus", self.num_gpus, "a whole number, or less than 1")
        if self.address is not None and not (isinstance(self.address, str) and self.address):
            raise InvalidArgument("address", self.address, "an address, 'auto' or None")

    def needs(self, model: LoadedModel) -> dict[str, float]:
        """What a worker takes, by the names of Ray's resources.

        Raises:
            PackageMissing: If Ray is not installed.
            InvalidArgument: If the model is on a GPU, and workers have none.
        """
        require_ray()
        on_gpu = model.device.type == "cuda"
        gpus = float(on_gpu) if self.num_gpus is None else self.num_gpus
        if on_gpu and not gpus:
            raise InvalidArgument("num_gpus", gpus, "more than 0 for a model that is on a GPU")
        return {"CPU": self.num_cpus, "GPU": gpus}


def run_on_ray(job: Job, runner: RayRunner) -> None:
    """Runs a job on Ray.

    Args:
        job: The job.
        runner: The settings.

    Raises:
        ClusterUnavailable: If Ray does not start, or has no room for a worker.
        ModelRefused: If workers cannot get the model.
        CamHubError: As ``Job.write``.
    """
    job.write(_rows(job, runner))


def _rows(job: Job, runner: RayRunner) -> Generator[Made, None, None]:
    entries = job.entries()
    first = next(entries, None)
    if first is None:  # Ray takes seconds to start
        return
    with open_session(runner.address) as session, closing(_Pool(job, runner, session)) as pool:
        yield from pool.rows(chain([first], entries))


class _Explainer:
    """What a worker is."""

    def prepare(
        self, maker: RowMaker, arguments: Mapping[str, Any], threads: int, on_gpu: bool
    ) -> None:
        torch.set_num_threads(threads)
        if on_gpu:
            maker.model.module.to("cuda")
        self._maker, self._arguments = maker, arguments

    def rows(self, entries: list[Entry]) -> list[dict[str, Any]]:
        return [row for row, _ in explained(self._maker, iter(entries), self._arguments)]


@dataclass(frozen=True)
class _Task:
    """Images that a worker explains.

    Attributes:
        entries: The images.
        deaths: How many workers died at them.
    """

    entries: list[Entry]
    deaths: int = 0


@dataclass(eq=False)
class _Worker:
    """A worker, as this process sees it.

    Attributes:
        actor: Its handle.
        results: What it is working on, in order: references to results with their tasks; at
            first its preparation, with None.
    """

    actor: Any
    results: deque[tuple[Any, _Task | None]] = field(default_factory=deque)

    @property
    def is_ready(self) -> bool:
        return not self.results or self.results[0][1] is not None


class _Pool:
    """The workers of a job, which are replaced if they die."""

    def __init__(self, job: Job, runner: RayRunner, session: Session) -> None:
        self._job, self._ray = job, session.ray
        self._needs = needs = runner.needs(job.maker.model)
        threads = max(1, int(runner.num_cpus))
        arguments = {
            **job.arguments,
            "reference": _full_path(job.arguments.get("reference")),
            "threads": job.arguments["threads"] or threads,
        }
        self._size = _BATCHES * arguments.get("batch_size", OPTIONS["batch_size"].default)
        options: dict[str, Any] = {
            "num_cpus": needs["CPU"],
            "num_gpus": needs["GPU"],
            "max_restarts": 0,
            "max_task_retries": 0,
            "scheduling_strategy": "SPREAD",
        }
        if not session.own:  # whose processes have the environment that it was started in
            options["runtime_env"] = {"env_vars": _settings()}
        self._actors = self._ray.remote(_Explainer).options(**options)
        self._setup = (*self._put(arguments), threads, needs["GPU"] > 0)
        self._again: deque[_Task] = deque()
        self._chunks: Iterator[list[Entry]] | None = None
        self._trouble: Exception | None = None
        self._failed_starts = 0
        self._workers: list[_Worker] = []
        self._since = time.monotonic()
        for _ in range(self._room(runner.workers, session)):
            self._workers.append(self._start())

    def rows(self, entries: Iterator[Entry]) -> Generator[Made, None, None]:
        """The rows of images, in the order in which they are done."""
        self._chunks = _chunks(entries, self._size)
        while True:
            self._hand_out()
            first = {each.results[0][0]: each for each in self._workers if each.results}
            in_work = any(task for worker in self._workers for _, task in worker.results)
            if not (in_work or self._again or self._chunks):
                break
            found, _ = self._ray.wait(list(first), timeout=_PATIENCE)
            if not found:
                self._wait()
            for reference in found:
                yield from self._finish(first[reference])
        if self._trouble is not None:
            raise self._trouble

    def close(self) -> None:
        """Ends the workers."""
        for worker in self._workers:
            self._ray.kill(worker.actor)

    def _put(self, arguments: Mapping[str, Any]) -> tuple[Any, Any]:
        """References to the model and the arguments, which are stored once for all workers."""
        maker = self._job.maker
        if maker.model.device.type != "cpu" and not is_as_loaded(maker.model):
            # Elsewhere, its device has another number.
            maker = replace(maker, model=copy.deepcopy(maker.model))
            maker.model.module.to("cpu")
        try:
            stored = self._ray.put(maker)
        except Exception as error:  # whatever a class of the model raises when it is pickled
            reason = first_line(error.__cause__ or error)
            raise ModelRefused(
                maker.model.id, f"it cannot be sent to other processes ({reason})"
            ) from error
        try:
            return stored, self._ray.put(arguments)
        except Exception as error:
            expected = f"arguments that can be pickled ({first_line(error.__cause__ or error)})"
            raise InvalidArgument("runner", "ray", expected) from error

    def _start(self) -> _Worker:
        actor = self._actors.remote()
        return _Worker(actor, deque([(actor.prepare.remote(*self._setup), None)]))

    def _hand_out(self) -> None:
        """Gives tasks to the workers that are ready, first to those that have none."""
        for depth in range(_QUEUED):
            for worker in self._workers:
                if worker.is_ready and len(worker.results) == depth:
                    task = self._next()
                    if task is None:
                        return
                    worker.results.append((self._send(worker, task), task))

    def _next(self) -> _Task | None:
        if self._again:
            return self._again.popleft()
        if self._chunks is not None:
            try:
                return _Task(next(self._chunks))
            except StopIteration:
                self._chunks = None
            except Exception as error:  # noqa: BLE001 - raised after the images before it
                self._chunks, self._trouble = None, error
        return None

    def _send(self, worker: _Worker, task: _Task) -> Any:
        try:
            return worker.actor.rows.remote(task.entries)
        except Exception:  # noqa: BLE001 - whatever an image raises when it is pickled
            task.entries[:] = [(key, self._sendable(sample)) for key, sample in task.entries]
            return worker.actor.rows.remote(task.entries)

    def _sendable(self, sample: Sample) -> Sample:
        """A sample, with its error in place of an image that cannot be pickled."""
        try:
            self._ray.cloudpickle.dumps(sample)
        except Exception as error:  # noqa: BLE001 - as above
            reason = f"it cannot be sent to another process: {first_line(error)}"
            return replace(sample, picture=None, error=ImageRefused(reason))
        return sample

    def _finish(self, worker: _Worker) -> Iterator[Made]:
        """What has become of the first task of a worker."""
        exceptions = self._ray.exceptions
        reference, task = worker.results[0]
        try:
            rows = self._ray.get(reference)
        except exceptions.RayTaskError as error:
            worker.results.popleft()
            yield from self._failed(task, error.cause)
        except exceptions.RayError:
            self._replace(worker)
            yield from self._died(task)
        else:
            worker.results.popleft()
            self._failed_starts, self._since = 0, time.monotonic()
            yield from ((row, None) for row in rows or ())

    def _failed(self, task: _Task | None, error: Exception) -> Iterator[Made]:
        """Goes on after an exception outside of what is a row's, as when images are unpickled."""
        model = self._job.maker.model
        if task is None:
            if isinstance(error, CamHubError):
                raise error
            reason = f"a worker could not load it: {first_line(error)}"
            raise ModelRefused(model.id, reason) from error
        if len(task.entries) == 1:
            yield self._job.maker.row(*task.entries[0], error), error
        else:
            self._again.extend(_Task([entry], task.deaths) for entry in task.entries)

    def _died(self, task: _Task | None) -> Iterator[Made]:
        """Goes on after the death of a worker."""
        if task is None:
            self._failed_starts += 1
            if self._failed_starts >= _MAX_DEATHS:
                reason = f"{_MAX_DEATHS} workers in a row died when they loaded it"
                raise ModelRefused(self._job.maker.model.id, reason)
            return
        deaths = task.deaths + 1
        if len(task.entries) == 1 and deaths >= _MAX_DEATHS:
            error = WorkerDied(deaths)
            yield self._job.maker.row(*task.entries[0], error), error
        else:
            self._again.extend(_Task([entry], deaths) for entry in task.entries)

    def _replace(self, worker: _Worker) -> None:
        """Starts a worker in place of one that died; tasks that it had not begun do not count."""
        self._ray.kill(worker.actor)  # a worker that cannot be reached may still be running
        self._again.extend(task for _, task in list(worker.results)[1:] if task is not None)
        self._workers[self._workers.index(worker)] = self._start()

    def _room(self, wanted: int | None, session: Session) -> int:
        """How many workers are started; in a cluster, which may grow, some may have to wait."""
        total = self._ray.cluster_resources()
        room = min(int(total.get(name, 0) / each) for name, each in self._needs.items() if each)
        if not session.own:
            return wanted or max(room, 1)
        if not room:
            raise self._no_room()
        return min(wanted or room, room)

    def _wait(self) -> None:
        """Reports that no worker has started yet; raises ``ClusterUnavailable`` in the end."""
        if any(worker.is_ready for worker in self._workers):
            return
        error = self._no_room()
        if time.monotonic() - self._since > _MAX_WAIT:
            raise error
        if self._job.progress is not None:
            self._job.progress(0.0, f"waiting for a worker: {error.reason}")

    def _no_room(self) -> ClusterUnavailable:
        total = self._ray.cluster_resources()
        takes = " and ".join(f"{each:g} {name}" for name, each in self._needs.items() if each)
        found = " and ".join(f"{total.get(name, 0):g} {name}" for name in self._needs)
        return ClusterUnavailable(f"a worker takes {takes}, and there are {found}")


def _settings() -> dict[str, str]:
    """The environment of workers; tokens, which anyone in the cluster could see, are left out."""
    return {
        name: value
        for name, value in os.environ.items()
        if name.startswith(_SETTINGS) and "TOKEN" not in name
    }


def _chunks(entries: Iterable[Entry], size: int) -> Iterator[list[Entry]]:
    """Entries in lists of a size, fewer where images are large; an error comes after the rest."""
    chunk: list[Entry] = []
    total = 0
    try:
        for key, sample in entries:
            chunk.append((key, replace(sample, picture=_full_path(sample.picture))))
            total += _bytes(sample.picture)
            if len(chunk) == size or total >= _TASK_BYTES:
                yield chunk
                chunk, total = [], 0
    except Exception:
        if chunk:
            yield chunk
        raise
    if chunk:
        yield chunk


def _full_path(image: object) -> object:
    """An image; of a file the path that does not depend on the folder that a process runs in."""
    if not isinstance(image, (str, os.PathLike)) or _NOT_RELATIVE.match(os.fsdecode(image)):
        return image
    return os.path.abspath(image)  # noqa: PTH100 - keeps ".." of links


def _bytes(picture: object) -> int:
    """About how much memory an image takes; none that is a file."""
    if isinstance(picture, (bytes, bytearray)):
        return len(picture)
    if isinstance(picture, (np.ndarray, Tensor, memoryview)):
        return picture.nbytes
    if isinstance(picture, Image.Image):
        return picture.width * picture.height * len(picture.getbands())
    if isinstance(picture, Mapping):  # as the library datasets stores an image
        return sum(map(_bytes, picture.values()))
    if isinstance(picture, (list, tuple)):  # a clip
        return sum(map(_bytes, picture))
    return 0
