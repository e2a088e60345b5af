"""Batches pass in the memory layout that has proved faster."""

from __future__ import annotations

import time

import pytest
import torch
from torch import nn

import cam_hub
from cam_hub.batch_layout import laid_out
from tests.law_nets import inputs, of_layout


def is_channels_last(batch: torch.Tensor) -> bool:
    return batch.is_contiguous(memory_format=torch.channels_last)


def passed(model: cam_hub.LoadedModel, batch: torch.Tensor, slow: bool) -> bool:
    """Passes a batch that takes longer in one layout; whether it was channels-last."""
    with laid_out(model, batch) as laid:
        last = is_channels_last(laid)
        assert torch.equal(laid, batch)
        if last == slow:
            time.sleep(0.005)
    return last


@pytest.mark.parametrize("slow", [False, True], ids=["channels-first", "channels-last"])
def test_after_two_batches_in_each_layout_the_faster_one_stays(slow):
    model = of_layout("NCHW")
    batch = torch.stack(inputs(model, 4))
    assert sorted(passed(model, batch, slow) for _ in range(4)) == [False, False, True, True]
    assert [passed(model, batch, slow) for _ in range(3)] == [not slow] * 3


def test_batches_of_other_sizes_are_another_question():
    model = of_layout("NCHW")
    batch = torch.stack(inputs(model, 4))
    for _ in range(4):
        passed(model, batch, slow=True)
    assert sorted(passed(model, batch[:3], slow=True) for _ in range(4)) == [
        False, False, True, True,
    ]  # fmt: skip


def test_where_it_cannot_matter_nothing_is_tried():
    patches = nn.Sequential(nn.Conv2d(3, 4, 8, 8), nn.Flatten(), nn.Linear(96, 2))
    without = cam_hub.wrap_model(patches, input_size=(3, 32, 48))
    single, clips = of_layout("NCHW"), of_layout("NCTHW")
    for model, count in ((without, 4), (single, 1), (clips, 4)):
        batch = torch.stack(inputs(model, count))
        for _ in range(3):
            with laid_out(model, batch) as laid:
                assert laid is batch
