"""ZeroGPU: a GPU that is lent to marked functions only, for the time of one call.

Such a function runs in a process of its own, which knows nothing that happened since it was
started; what it gets and gives is pickled. So models are loaded on the CPU as ever, go over as a
file, and are moved to the GPU there. (Shared memory is scarce in containers, and takes a descriptor
for every tensor.) Elsewhere than on such a Space nothing here is used.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from PIL import Image

import cam_hub
from cam_hub.attribution.compare_work import CellQuery, ProgressReport, make_row
from cam_hub.attribution.evidence import add_evidence
from cam_hub.attribution.predict import Predicted
from cam_hub.errors import CamHubError
from cam_hub.models.loaded_model import LoadedModel
from cam_hub.models.loading import pick_device
from cam_hub.results.comparison_grid import Row
from cam_hub.results.explanation import Explanation

__all__ = ["SECONDS", "explain", "make_row_on_gpu", "marked", "on_zero_gpu", "predict"]

SECONDS = 30
"""The seconds that one call may take; shorter calls wait less."""

_PARTS = ("id", "preprocessing", "class_names", "source", "revision", "pretrained", "task", "notes")
"""What of a model goes over beside its network; locks cannot, and facts are found again."""

_MODEL = "model.pt"

Work = Callable[[str, Mapping[str, Any], Mapping[str, Any], str], Any]
"""Takes the name of a task, the model's parts, the task's arguments, and the folder of the model;
returns the result, or the error."""


def on_zero_gpu() -> bool:
    """Whether this is a Space whose GPU is lent call by call."""
    return os.environ.get("SPACES_ZERO_GPU", "").lower() in ("1", "t", "true") and bool(
        find_spec("spaces")
    )


def explain(
    model: LoadedModel,
    photo: Image.Image,
    options: Mapping[str, Any],
    tests: Mapping[str, Any] | None = None,
) -> Explanation:
    """``cam_hub.explain`` on the lent GPU.

    Args:
        model: On the CPU.
        photo: The photo.
        options: Of ``cam_hub.explain``; what can be pickled.
        tests: Arguments of ``cam_hub.evidence``, whose result is then in the manifest; or None.

    Raises:
        CamHubError: As ``cam_hub.explain``.
    """
    found: Explanation = _lent("explain", model, photo=photo, options=options, tests=tests)
    return found


def predict(model: LoadedModel, photo: Image.Image, options: Mapping[str, Any]) -> Predicted:
    """``cam_hub.predict`` on the lent GPU.

    Args:
        model: On the CPU.
        photo: The photo.
        options: Of ``cam_hub.predict``.

    Raises:
        CamHubError: As ``cam_hub.predict``.
    """
    found: Predicted = _lent("predict", model, photo=photo, options=options)
    return found


def make_row_on_gpu(
    model: LoadedModel, question: CellQuery, report: ProgressReport, started: float
) -> Row:
    """A row of ``cam_hub.compare`` on the lent GPU; arguments as for ``make_row``.

    Raises:
        CamHubError: As ``make_row``.
    """
    report(0.1, "explaining")
    found: Row = _lent("compare", model, question=question, started=started)
    return found


def marked(work: Work) -> Work:
    """The function, marked as one that the GPU is lent to, where that is done."""
    if not on_zero_gpu():
        return work
    import spaces  # noqa: PLC0415 (only Spaces have it)

    found: Work = spaces.GPU(duration=SECONDS)(work)
    return found


def _lent(task: str, model: LoadedModel, **given: Any) -> Any:
    """The result of a task on the lent GPU.

    Raises:
        CamHubError: The error of the task.
    """
    parts = {name: getattr(model, name) for name in _PARTS}
    with tempfile.TemporaryDirectory() as folder:
        torch.save(model.module, Path(folder) / _MODEL)
        found = _marked_work(task, parts, given, folder)
    if isinstance(found, CamHubError):
        raise found
    return found


def _work(task: str, parts: Mapping[str, Any], given: Mapping[str, Any], folder: str) -> Any:
    """Runs a task; an error is returned, since it would not survive being raised."""
    # A forked process must not wait for the threads that its parent has computed with.
    torch.set_num_threads(1)
    try:
        # A file of our own, written a moment ago.
        module = torch.load(Path(folder) / _MODEL, mmap=True, weights_only=False)
        model = LoadedModel(module=module.to(pick_device("auto")), **parts)
        return _TASKS[task](model, **given)
    except CamHubError as error:
        return error


def _explain(
    model: LoadedModel,
    photo: Image.Image,
    options: Mapping[str, Any],
    tests: Mapping[str, Any] | None,
) -> Explanation:
    found = cam_hub.explain(model, photo, **options)
    if tests is not None:
        add_evidence(found, **tests)
    return found


def _predict(model: LoadedModel, photo: Image.Image, options: Mapping[str, Any]) -> Predicted:
    return cam_hub.predict(model, photo, **options)


def _compare(model: LoadedModel, question: CellQuery, started: float) -> Row:
    return make_row(model, question, ProgressReport(None), started)


_TASKS: Mapping[str, Callable[..., Any]] = {
    "explain": _explain,
    "predict": _predict,
    "compare": _compare,
}

# Where GPUs are lent, the mark must be there when the app starts.
_marked_work = marked(_work)
