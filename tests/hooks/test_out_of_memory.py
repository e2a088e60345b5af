"""Out of memory: smaller chunks, then a clear error, and no state is left behind."""

from __future__ import annotations

import os
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest
import torch
from torch import Tensor

import cam_hub
from cam_hub.attribution.passes import RECENT
from cam_hub.errors import OutOfMemory
from cam_hub.hooks.memory import group_room, is_out_of_memory
from tests.fakes.engine_nets import Counting, Pooled, Pyramid, apart, picture
from tests.fakes.module_state import state_of

TOO_MUCH = 2**50

# By name: the choice by evidence makes passes of its own.
explain = partial(cam_hub.explain, method="smoothgradcampp")
explain_many = partial(cam_hub.explain_many, method="smoothgradcampp")


class Hungry(Pyramid):
    """Requests a pebibyte from the allocator if more than ``room`` images come at once."""

    def __init__(self) -> None:
        super().__init__(Pooled(5))
        self.room, self.batches = 99, []

    def forward(self, x: Tensor) -> object:
        self.batches.append(len(x))
        if len(x) > self.room:
            torch.empty(TOO_MUCH, dtype=torch.uint8)
        return super().forward(x)


@pytest.fixture
def model():
    torch.manual_seed(0)
    made = cam_hub.wrap_model(Hungry(), input_size=(3, 32, 32))
    explain(made, picture(made), target_layers="last", reuse=False)
    made.module.batches.clear()
    return made


def test_chunks_are_halved_until_they_fit(model):
    whole = explain(model, picture(model), target_layers="last", reuse=False).cam()
    model.module.room = 1
    model.module.batches.clear()
    parts = explain(model, picture(model), target_layers="last", reuse=False).cam()
    assert model.module.batches == [5, 2, 1, 1, 1, 1, 1]
    assert apart(whole, parts) < 1e-5


def test_if_one_image_is_too_much_an_error_is_raised_and_nothing_is_left(model):
    RECENT.clear()
    model.module.room = 0
    before = state_of(model.module)
    with pytest.raises(OutOfMemory, match=r"(?s)one image of \(3, 32, 32\).*memory of cpu"):
        explain(model, picture(model), target_layers="last")
    assert state_of(model.module) == before
    assert len(RECENT) == 0
    model.module.room = 99
    explain(model, picture(model), target_layers="last")


def test_the_allocators_own_words_are_known():
    with pytest.raises(RuntimeError) as caught:
        torch.empty(TOO_MUCH, dtype=torch.uint8)
    assert is_out_of_memory(caught.value)
    assert is_out_of_memory(torch.OutOfMemoryError("CUDA out of memory."))
    assert is_out_of_memory(MemoryError())
    assert not is_out_of_memory(RuntimeError("shapes do not fit"))
    assert not is_out_of_memory(ValueError("out of memory"))


def test_the_message_of_onednn_is_also_recognised_but_only_as_a_whole():
    assert is_out_of_memory(RuntimeError("could not create a primitive"))
    assert not is_out_of_memory(RuntimeError("could not create a primitive descriptor for it"))


def test_batches_continue_one_by_one_and_later_ones_in_smaller_chunks(model):
    images = [picture(model, seed) for seed in range(8)]
    options = {"target_layers": "last", "method": "layercam"}
    whole = [outcome.explanation for outcome in explain_many(model, images, **options)]
    model.module.room = 2
    model.module.batches.clear()
    parts = list(explain_many(model, images, batch_size=4, **options))
    assert model.module.batches == [4, 1, 1, 1, 1, 2, 2]
    for one, other in zip(whole, parts, strict=True):
        assert apart(one.cam(), other.explanation.cam()) < 1e-5


class Greedy(torch.autograd.Function):
    """Its backward pass asks the allocator for a pebibyte as often as its network's ``greed``."""

    @staticmethod
    def forward(ctx, maps: Tensor, net: Costly) -> Tensor:
        ctx.net = net
        return maps.clone()

    @staticmethod
    def backward(ctx, gradient: Tensor) -> tuple[Tensor, None]:
        if ctx.net.greed:
            ctx.net.greed -= 1
            torch.empty(TOO_MUCH, dtype=torch.uint8)
        return gradient, None


class Costly(Counting):
    def __init__(self) -> None:
        super().__init__()
        self.greed = 0
        self.last.register_forward_hook(lambda _, __, maps: Greedy.apply(maps, self))


def test_where_a_cached_graph_is_too_much_the_picture_passes_once_more():
    torch.manual_seed(0)
    model = cam_hub.wrap_model(Costly(), input_size=(3, 32, 32))
    options = {"target_layers": "block", "method": "gradcam"}
    expected = explain(model, picture(model), classes=1, reuse=False, **options)
    RECENT.clear()
    explain(model, picture(model), classes=0, **options)
    model.module.images, model.module.greed = 0, 1
    found = explain(model, picture(model), classes=1, **options)
    assert (model.module.images, model.module.greed) == (1, 0)
    assert apart(found.cam(), expected.cam()) < 1e-5


LIMITED = """
import re, resource
from pathlib import Path
import torch
from torch import nn
import cam_hub
from cam_hub.errors import OutOfMemory

torch.set_num_threads(1)
torch.manual_seed(0)
net = nn.Sequential(
    nn.Conv2d(3, 32, 1), nn.Tanh(), nn.Tanh(), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
    nn.Linear(32, 3),
)
model = cam_hub.wrap_model(net.eval(), input_size=(3, 512, 512))
image = torch.randn(1, 3, 512, 512)

def explained(size):
    given = {"target_layers": "1", "num_samples": 15, "batch_size": size, "reuse": False}
    given |= {"method": "smoothgradcampp"}
    return cam_hub.explain(model, image, **given).cam()

def allow(mebibytes):
    size = int(re.search(r"VmSize:\\s+(\\d+)", Path("/proc/self/status").read_text())[1]) << 10
    hard = resource.RLIM_INFINITY
    limit = size + (mebibytes << 20) if mebibytes else hard
    resource.setrlimit(resource.RLIMIT_AS, (limit, hard))

expected = explained(1)
# Sixteen images take 512 MiB per layer, one takes 32; the sums of noisy copies take 400.
allow(1000)
assert abs(explained(16) - expected).max() < 1e-5 * expected.max()
allow(60)
try:
    explained(16)
except OutOfMemory as error:
    assert "one image of (3, 512, 512)" in str(error)
else:
    raise AssertionError("it cannot have fitted")
allow(None)
assert abs(explained(2) - expected).max() < 1e-5 * expected.max()
print("survived")
"""


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs Linux's limits")
def test_a_process_whose_memory_runs_out_continues():
    done = subprocess.run(
        [sys.executable, "-c", LIMITED],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        cwd=Path(__file__).parents[2],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert (done.returncode, done.stdout) == (0, "survived\n"), done.stderr[-2000:]


# Before the first map


class Wrapping(Hungry):
    """Raises its own error if memory is short."""

    def forward(self, x: Tensor) -> object:
        try:
            return super().forward(x)
        except RuntimeError as error:
            raise ValueError("the backbone failed") from error


def fresh(kind: type[Hungry], room: int) -> cam_hub.LoadedModel:
    torch.manual_seed(0)
    made = cam_hub.wrap_model(kind(), input_size=(3, 32, 32))
    made.module.room = room
    return made


@pytest.mark.parametrize("kind", [Hungry, Wrapping])
@pytest.mark.parametrize("room", [5, 3, 2, 1])
def test_layers_are_found_in_chunks_that_fit(kind, room):
    found = cam_hub.list_layers(fresh(kind, room))
    expected = cam_hub.list_layers(fresh(kind, 99))
    assert [layer.name for layer in found if layer.usable] == [
        layer.name for layer in expected if layer.usable
    ]
    assert [layer.name for layer in found if layer.recommended] == [
        layer.name for layer in expected if layer.recommended
    ]


@pytest.mark.parametrize("kind", [Hungry, Wrapping])
@pytest.mark.parametrize("method", ["layercam", "smoothgradcampp"])
def test_an_explanation_from_the_start_needs_room_for_one_image(kind, method):
    tight, wide = fresh(kind, 1), fresh(kind, 99)
    maps = [explain(model, picture(wide), method=method, classes=1) for model in (tight, wide)]
    assert apart(maps[0].cam(), maps[1].cam()) < 1e-5
    (outcome,) = explain_many(fresh(kind, 1), [picture(wide)], method=method, classes=1)
    assert apart(outcome.explanation.cam(), maps[1].cam()) < 1e-5


@pytest.mark.parametrize("kind", [Hungry, Wrapping])
@pytest.mark.parametrize(
    "work",
    [
        cam_hub.list_layers,
        lambda model: explain(model, picture(model)),
        lambda model: list(explain_many(model, [picture(model)])),
        lambda model: cam_hub.activations(model, picture(model)),
        lambda model: cam_hub.predict(model, picture(model)),
        lambda model: cam_hub.compare(model, picture(model)),
    ],
)
def test_if_not_even_one_image_fits_every_function_raises_out_of_memory(kind, work):
    model = fresh(kind, 0)
    with pytest.raises(OutOfMemory):
        found = work(model)
        if isinstance(found, cam_hub.Comparison):
            raise found.rows[0].cells[0].error


def test_activations_and_predictions_of_a_known_network_also_raise_it(model):
    model.module.room = 0
    for work in (cam_hub.predict, cam_hub.activations):
        with pytest.raises(OutOfMemory, match="one image"):
            work(model, picture(model))


# Free memory


def test_a_container_may_leave_less_than_the_machine_has(tmp_path):
    root, own = tmp_path / "cgroup", tmp_path / "own"
    (root / "a" / "b").mkdir(parents=True)
    own.write_text("0::/a/b\n")
    assert group_room(root, own) is None
    limits = {root / "a": ("3000", "1000", 500), root / "a" / "b": ("max", "900", 400)}
    for folder, (limit, used, cached) in limits.items():
        (folder / "memory.max").write_text(f"{limit}\n")
        (folder / "memory.current").write_text(f"{used}\n")
        files = f"inactive_file {cached - 100}\nactive_file 100"
        (folder / "memory.stat").write_text(f"anon 5\n{files}\n")
    assert group_room(root, own) == 3000 - 1000 + 500
    (root / "a" / "b" / "memory.max").write_text("1000\n")
    assert group_room(root, own) == 1000 - 900 + 400


def test_the_first_version_of_control_groups_is_also_supported(tmp_path):
    root, own = tmp_path / "cgroup", tmp_path / "own"
    (root / "memory").mkdir(parents=True)
    own.write_text("5:cpu:/x\n4:memory:/docker/abc\n")
    (root / "memory" / "memory.limit_in_bytes").write_text("2000\n")
    (root / "memory" / "memory.usage_in_bytes").write_text("1500\n")
    (root / "memory" / "memory.stat").write_text("total_inactive_file 60\ntotal_active_file 40\n")
    assert group_room(root, own) == 600
