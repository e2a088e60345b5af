"""The amount of memory that is available for planning."""

from __future__ import annotations

import torch

from cam_hub.hooks.memory import free_part

CPU = torch.device("cpu")


def test_it_is_never_more_than_was_asked_for():
    assert free_part(CPU, 300 << 20) == 300 << 20


def test_it_is_a_part_of_the_free_memory_but_enough_to_continue():
    everything = free_part(CPU, 1 << 60)
    assert 256 << 20 <= everything < 1 << 60


def test_a_device_of_which_nothing_is_known_gets_what_was_asked_for():
    assert free_part(torch.device("meta"), 5) == 5
