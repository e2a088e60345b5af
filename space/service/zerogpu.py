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
from cam_hub.attribution.evidence import add_evidence
from cam_hub.errors import CamHubError
from cam_hub.models.loaded_model import LoadedModel
from cam_hub.models.loading import pick_device
from cam_hub.results.explanation import Explanation

__all__ = ["SECONDS", "explain", "marked", "on_zero_gpu"]

SECONDS = 30
"""The seconds that one call may take; shorter calls wait less."""

_PARTS = ("id", "preprocessing", "class_names", "source", "revision", "pretrained", "task", "notes")
"""What of a model goes over beside its network; locks cannot, and facts are found again."""

_MODEL = "model.pt"

_TESTS = "tests"
"""Among the options: the arguments of ``cam_hub.evidence``."""

Work = Callable[[Mapping[str, Any], Image.Image, Mapping[str, Any], str], CamHubError | None]
"""Takes the model's parts, the photo, the options, and the folder of the model and the answer."""


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
    work: Work | None = None,
) -> Explanation:
    """``cam_hub.explain`` on the lent GPU.

    Args:
        model: On the CPU.
        photo: The photo.
        options: Of ``cam_hub.explain``; what can be pickled.
        tests: Arguments of ``cam_hub.evidence``, whose result is then in the manifest; or None.
        work: The marked function; None for the one of this module.

    Raises:
        CamHubError: As ``cam_hub.explain``.
    """
    parts = {name: getattr(model, name) for name in _PARTS}
    with tempfile.TemporaryDirectory() as folder:
        torch.save(model.module, Path(folder) / _MODEL)
        error = (work or _marked_work)(parts, photo, {**options, _TESTS: tests}, folder)
        if error is not None:
            raise error
        return Explanation.load(Path(folder))


def marked(work: Work) -> Work:
    """The function, marked as one that the GPU is lent to, where that is done."""
    if not on_zero_gpu():
        return work
    import spaces  # noqa: PLC0415 (only Spaces have it)

    found: Work = spaces.GPU(duration=SECONDS)(work)
    return found


def _work(
    parts: Mapping[str, Any], photo: Image.Image, options: Mapping[str, Any], folder: str
) -> CamHubError | None:
    """Explains; the answer goes into a folder, an error is returned since it would not survive."""
    # A forked process must not wait for the threads that its parent has computed with.
    torch.set_num_threads(1)
    try:
        # A file of our own, written a moment ago.
        module = torch.load(Path(folder) / _MODEL, mmap=True, weights_only=False)
        model = LoadedModel(module=module.to(pick_device("auto")), **parts)
        asked = dict(options)
        tests = asked.pop(_TESTS, None)
        found = cam_hub.explain(model, photo, **asked)
        if tests is not None:
            add_evidence(found, **tests)
        found.save_data(Path(folder))
    except CamHubError as error:
        return error
    return None


# Where GPUs are lent, the mark must be there when the app starts.
_marked_work = marked(_work)
