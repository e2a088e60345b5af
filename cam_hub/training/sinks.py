"""Where pictures and numbers go while a network is being trained.

A sink takes pictures and numbers under a tag, at a step. Anything with the two methods of ``Sink``
is one. ``open_sink`` finds the right one for an object of TensorBoard, W&B, MLflow, trackio or
Lightning by its type, so that none of these packages is imported unless it is in use already.
"""

from __future__ import annotations

import csv
import inspect
import logging
import os
import re
from collections.abc import Callable, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any, Protocol, runtime_checkable
from weakref import WeakKeyDictionary

import numpy as np
from PIL import Image

from cam_hub.errors import InvalidArgument

__all__ = ["Sink", "clean_tag", "open_sink"]

_LOG = logging.getLogger("cam_hub")

_WANTED = (
    "a SummaryWriter, a run of W&B or the module wandb, the module mlflow, a run of MLflow or "
    "(client, run_id), the module trackio or a run of it, a logger of Lightning, a folder, an "
    "object with log_image and log_scalar, a function of (tag, value, step), or a list of these"
)


@runtime_checkable
class Sink(Protocol):
    """Takes pictures and numbers."""

    def log_image(self, tag: str, image: Image.Image, step: int) -> None:
        """Takes an RGB picture."""

    def log_scalar(self, tag: str, value: float, step: int) -> None:
        """Takes a number."""


def clean_tag(text: str) -> str:
    """A tag that every sink takes, also as the path of a file: letters, digits, ``_ - . /``."""
    parts = (re.sub(r"[^\w.-]+", "_", part, flags=re.ASCII) for part in text.split("/"))
    return "/".join(part for part in parts if part.strip("._")) or "_"


def open_sink(to: Any) -> Sink:
    """The sink for an object of another package, a folder, a function, or several of these.

    Args:
        to: As for ``ExplanationLogger``.

    Raises:
        InvalidArgument: If it is none of them.
    """
    if isinstance(to, (str, os.PathLike)):
        return _Folder(Path(os.fsdecode(to)).expanduser())
    if isinstance(to, (list, tuple)):
        if len(to) == 2 and isinstance(to[1], str) and _package(to[0]) == "mlflow":
            return _Mlflow(to[0], to[1])
        if not to:
            raise InvalidArgument("to", to, _WANTED)
        return _Several([open_sink(each) for each in to])
    package = _package(to)
    if inspect.ismodule(to):
        makers: dict[str, Callable[[Any], Sink]]
        makers = {"wandb": _Wandb, "mlflow": _Mlflow, "trackio": _Trackio}
        if package not in makers:
            raise InvalidArgument("to", to.__name__, _WANTED)
        return makers[package](to)
    if all(callable(getattr(to, name, None)) for name in ("add_image", "add_scalar")):
        return _TensorBoard(to)
    if package in ("lightning", "pytorch_lightning") and hasattr(type(to), "experiment"):
        return _Lightning(to)
    if package in ("wandb", "trackio") and callable(getattr(to, "log", None)):
        return _Wandb(to) if package == "wandb" else _Trackio(to)
    if package == "mlflow" and isinstance(run_id := _run_id(to), str):
        return _Mlflow(import_module("mlflow").MlflowClient(), run_id)
    if isinstance(to, Sink) and not isinstance(to, type):
        return to
    if callable(to) and not isinstance(to, type):
        return _Function(to)
    raise InvalidArgument("to", type(to).__name__, _WANTED)


def _package(value: Any) -> str:
    """The package that a module, or the type of an object or of one it is derived from, is of."""
    if inspect.ismodule(value):
        return value.__name__.partition(".")[0]
    packages = [kind.__module__.partition(".")[0] for kind in type(value).__mro__]
    known = ("lightning", "pytorch_lightning", "wandb", "mlflow", "trackio")
    return next((package for package in packages if package in known), packages[0])


def _run_id(run: Any) -> object:
    return getattr(getattr(run, "info", None), "run_id", None)


class _Several:
    """Several sinks; one that fails does not keep others from getting theirs."""

    def __init__(self, sinks: Sequence[Sink]) -> None:
        self._sinks = sinks

    def log_image(self, tag: str, image: Image.Image, step: int) -> None:
        self._each(lambda sink: sink.log_image(tag, image, step))

    def log_scalar(self, tag: str, value: float, step: int) -> None:
        self._each(lambda sink: sink.log_scalar(tag, value, step))

    def _each(self, log: Callable[[Sink], None]) -> None:
        trouble: Exception | None = None
        for sink in self._sinks:
            try:
                log(sink)
            except Exception as error:  # noqa: BLE001 - whatever another package raises
                trouble = error
        if trouble is not None:
            raise trouble


class _Folder:
    """PNG files ``<tag>/step-<step>.png``, and numbers in the table ``scalars.csv``.

    Args:
        folder: Made if need be. Pictures of the same tag and step are replaced.
    """

    def __init__(self, folder: Path) -> None:
        if folder.exists() and not folder.is_dir():
            raise InvalidArgument("to", str(folder), "a folder, and this is a file")
        self._folder = folder

    def log_image(self, tag: str, image: Image.Image, step: int) -> None:
        path = self._folder / clean_tag(tag) / f"step-{step:08d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        image.save(path)

    def log_scalar(self, tag: str, value: float, step: int) -> None:
        self._folder.mkdir(parents=True, exist_ok=True)
        path = self._folder / "scalars.csv"
        new = not path.exists()
        with path.open("a", encoding="utf-8", newline="") as file:
            rows = csv.writer(file)
            if new:
                rows.writerow(("step", "tag", "value"))
            rows.writerow((step, tag, value))


class _Function:
    """A function that is called with the tag, the picture or the number, and the step."""

    def __init__(self, function: Callable[[str, Image.Image | float, int], object]) -> None:
        self._function = function

    def log_image(self, tag: str, image: Image.Image, step: int) -> None:
        self._function(tag, image, step)

    def log_scalar(self, tag: str, value: float, step: int) -> None:
        self._function(tag, value, step)


class _TensorBoard:
    """A ``SummaryWriter`` of torch or of tensorboardX."""

    def __init__(self, writer: Any) -> None:
        self._writer = writer

    def log_image(self, tag: str, image: Image.Image, step: int) -> None:
        self._writer.add_image(tag, np.asarray(image), step, dataformats="HWC")

    def log_scalar(self, tag: str, value: float, step: int) -> None:
        self._writer.add_scalar(tag, value, step)


class _Wandb:
    """A run of Weights & Biases, or the module with the run that is active at the time.

    W&B drops what is logged for an earlier step than the last, and many programs leave its steps to
    W&B. So ours is logged as a value, which is the x-axis of our charts, into the current row.
    """

    def __init__(self, run: Any) -> None:
        self._given = run
        self._run: Any = None  # whose x-axis is defined

    def log_image(self, tag: str, image: Image.Image, step: int) -> None:
        self._log(tag, import_module("wandb").Image(image), step)

    def log_scalar(self, tag: str, value: float, step: int) -> None:
        self._log(tag, value, step)

    def _log(self, tag: str, value: Any, step: int) -> None:
        run = self._given.run if inspect.ismodule(self._given) else self._given
        if run is None:
            raise InvalidArgument("to", "wandb", "a run: wandb.init() comes first")
        group = tag.partition("/")[0]
        if run is not self._run:
            run.define_metric(f"{group}/step")
            run.define_metric(f"{group}/*", step_metric=f"{group}/step")
            self._run = run
        if run in _ROWS and _ROWS[run][0] != step and _ROWS[run][1] == run.step:
            run.log({}, commit=True)  # nothing else was logged since: a row for each of our steps
        run.log({tag: value, f"{group}/step": step}, commit=False)
        _ROWS[run] = step, run.step


_ROWS: WeakKeyDictionary[Any, tuple[int, int]] = WeakKeyDictionary()
"""Of each run of W&B the last step of ours, and the number of the row that it was written to."""


class _Mlflow:
    """The module ``mlflow`` with its active run, or a client and the ID of a run."""

    def __init__(self, client: Any, run_id: str | None = None) -> None:
        self._client = client
        self._run = () if run_id is None else (run_id,)

    def log_image(self, tag: str, image: Image.Image, step: int) -> None:
        self._client.log_image(*self._run, image, key=tag, step=step)

    def log_scalar(self, tag: str, value: float, step: int) -> None:
        self._client.log_metric(*self._run, tag, value, step=step)


class _Trackio:
    """The module ``trackio`` with its current run, or a run."""

    def __init__(self, run: Any) -> None:
        self._run = run

    def log_image(self, tag: str, image: Image.Image, step: int) -> None:
        self._run.log({tag: import_module("trackio").Image(image)}, step=step)

    def log_scalar(self, tag: str, value: float, step: int) -> None:
        self._run.log({tag: value}, step=step)


class _Lightning:
    """A logger of Lightning: what it logs to; without pictures where that takes none."""

    def __init__(self, logger: Any) -> None:
        self._logger = logger
        self._sink: Sink | None = None

    def log_image(self, tag: str, image: Image.Image, step: int) -> None:
        self._opened.log_image(tag, image, step)

    def log_scalar(self, tag: str, value: float, step: int) -> None:
        self._opened.log_scalar(tag, value, step)

    @property
    def _opened(self) -> Sink:
        # An experiment begins when it is first accessed, in the main process only.
        if self._sink is None:
            experiment = self._logger.experiment
            run_id = getattr(self._logger, "run_id", None)
            pair = _package(experiment) == "mlflow" and isinstance(run_id, str)
            try:
                found: Sink = open_sink((experiment, run_id) if pair else experiment)
            except InvalidArgument:
                found = _NumbersOnly(self._logger)
            if isinstance(found, (_Function, _NumbersOnly)):  # an experiment of another kind
                found = _NumbersOnly(self._logger)
                name = type(self._logger).__name__
                _LOG.warning("%s: only numbers are logged, no pictures", name)
            self._sink = found
        return self._sink


class _NumbersOnly:
    """A logger of Lightning that takes no pictures."""

    def __init__(self, logger: Any) -> None:
        self._logger = logger

    def log_image(self, tag: str, image: Image.Image, step: int) -> None:
        del tag, image, step

    def log_scalar(self, tag: str, value: float, step: int) -> None:
        self._logger.log_metrics({tag: value}, step)
