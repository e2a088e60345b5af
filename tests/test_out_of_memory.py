"""Where memory does not suffice: smaller chunks, then a clear error, and nothing left behind."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

import cam_hub
from cam_hub import explain
from cam_hub.errors import OutOfMemory
from cam_hub.memory import is_out_of_memory
from cam_hub.passes import RECENT
from tests.engine_nets import Pooled, Pyramid, apart, picture
from tests.test_explain import state_of

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
