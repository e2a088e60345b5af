"""Repeated explanations: memory does not grow, no hook is left, nothing is changed."""

from __future__ import annotations

import contextlib
import ctypes
import gc
import itertools
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

import cam_hub
from cam_hub import explain
from cam_hub.attribution.passes import RECENT
from cam_hub.errors import CamHubError
from tests.fakes.law_nets import inputs, of_layout
from tests.fakes.methods import ONE_PASS
from tests.fakes.module_state import state_of


def resident() -> int:
    """The memory of this process in bytes, after free memory has been returned."""
    gc.collect()
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
    except OSError:
        pytest.skip("this system does not report the memory of a process")
    return pages * 4096


def live_tensors() -> int:
    RECENT.clear()  # limited, and kept on purpose
    gc.collect()
    return sum(issubclass(type(found), torch.Tensor) for found in gc.get_objects())


def calls(model: cam_hub.LoadedModel, image: torch.Tensor, layer: str) -> Iterator[int]:
    """Endless calls, of which every third fails, each in another way; counts the failures."""
    failed = 0
    broken = (
        {"classes": 10_000},
        {"target_layers": "nowhere"},
        {"progress": _stop},
        {"image": torch.full_like(image, torch.nan)},
        {"num_samples": 0},
    )
    for number, method in enumerate(itertools.cycle(ONE_PASS)):
        options = {"target_layers": layer, "classes": cam_hub.top(2), "num_samples": 3}
        options |= {"image": image, "method": method, "reuse": number % 2 == 0}
        if number % 3 == 2:
            options |= broken[(number // 3) % len(broken)]
        try:
            explain(model, options.pop("image"), **options)
        except (CamHubError, _Stopped):
            failed += 1
        if number % 25 == 0:
            batch = [image, b"no picture", image]
            list(cam_hub.explain_many(model, batch, method="layercam", target_layers=layer))
        yield failed


class _Stopped(Exception):
    pass


def _stop(part: float, text: str) -> None:
    raise _Stopped


def run(work: Iterator[int], count: int) -> int:
    """The number of failures after this many calls."""
    return list(itertools.islice(work, count))[-1]


def test_no_tensor_stays_and_nothing_is_changed_however_often_one_explains():
    model = of_layout("NCHW")
    work = calls(model, inputs(model, 1)[0], "laid")
    run(work, 15)
    before, tensors = state_of(model.module), live_tensors()
    assert run(work, 30) == 15
    assert live_tensors() <= tensors
    assert state_of(model.module) == before


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "layer"), [("test_resnet.r160_in1k", "layer2"), ("test_vit.r160_in1k", "blocks.2")]
)
def test_five_hundred_explanations_with_errors_in_between_take_no_more_memory(name, layer):
    model = cam_hub.load_model(name, pretrained=False, device="cpu")
    work = calls(model, inputs(model, 1)[0], layer)
    run(work, 100)
    before, tensors, held = state_of(model.module), live_tensors(), resident()
    assert run(work, 500) == 200
    assert live_tensors() <= tensors
    assert state_of(model.module) == before
    assert resident() - held < 8 << 20
