"""Where memory does not suffice: smaller chunks, then a clear error, and nothing left behind."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor

import cam_hub
from cam_hub import explain, explain_many
from cam_hub.errors import OutOfMemory
from cam_hub.memory import is_out_of_memory
from cam_hub.passes import RECENT
from tests.engine_nets import Pooled, Pyramid, apart, picture
from tests.module_state import state_of

TOO_MUCH = 2**50


class Hungry(Pyramid):
    """Asks the allocator for a pebibyte where more than ``room`` images come at once."""

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


def test_where_one_image_is_too_much_the_error_says_so_and_nothing_is_left(model):
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


def test_what_onednn_says_is_known_too_unless_it_goes_on():
    assert is_out_of_memory(RuntimeError("could not create a primitive"))
    assert not is_out_of_memory(RuntimeError("could not create a primitive descriptor for it"))


def test_batches_go_on_one_by_one_and_those_after_them_in_smaller_chunks(model):
    images = [picture(model, seed) for seed in range(8)]
    options = {"target_layers": "last", "method": "layercam"}
    whole = [outcome.explanation for outcome in explain_many(model, images, **options)]
    model.module.room = 2
    model.module.batches.clear()
    parts = list(explain_many(model, images, batch_size=4, **options))
    assert model.module.batches == [4, 1, 1, 1, 1, 2, 2]
    for one, other in zip(whole, parts, strict=True):
        assert apart(one.cam(), other.explanation.cam()) < 1e-5


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
    return cam_hub.explain(model, image, **given).cam()

def allow(mebibytes):
    size = int(re.search(r"VmSize:\\s+(\\d+)", Path("/proc/self/status").read_text())[1]) << 10
    hard = resource.RLIM_INFINITY
    limit = size + (mebibytes << 20) if mebibytes else hard
    resource.setrlimit(resource.RLIMIT_AS, (limit, hard))

expected = explained(1)
allow(700)  # sixteen images take 512 MiB per layer, one takes 32
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
def test_a_process_whose_memory_runs_out_goes_on():
    done = subprocess.run(
        [sys.executable, "-c", LIMITED],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        cwd=Path(__file__).parents[1],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert (done.returncode, done.stdout) == (0, "survived\n"), done.stderr[-2000:]
