"""Padding and cropping inside a network: which part of the input a grid covers."""

from __future__ import annotations

import html
from collections.abc import Callable

import numpy as np
import pytest
import timm
import torch
from torch import Tensor, nn
from torch.nn import functional

import cam_hub
from cam_hub.layers.correspondence import fit_extent, follows
from cam_hub.layers.layouts import FULL, on_input
from space.components.formatting import summary

Change = Callable[[Tensor], Tensor]

SIZE = (3, 64, 64)
SPOT = (slice(20, 28), slice(36, 44))


def nothing(x: Tensor) -> Tensor:
    return x


class Bright(nn.Module):
    """A map of the input's brightness, with an operation on the input or on the way."""

    def __init__(self, first: Change = nothing, later: Change = nothing, patch: int = 8) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.later = first, later
        self.embed, self.act = nn.Conv2d(3, 8, patch, patch, bias=False), nn.ReLU()
        self.more = nn.Conv2d(8, 8, 3, padding=1, bias=False)
        self.head = nn.Linear(8, 3)
        for layer, most in ((self.embed, 0.1), (self.more, 0.03), (self.head, 1.0)):
            nn.init.uniform_(layer.weight, 0, most)

    def forward(self, x: Tensor) -> Tensor:
        x = self.more(self.embed(self.first(x)))
        return self.head(self.act(self.later(x)).mean((2, 3)))


def pad(*border: int, mode: str = "reflect") -> Change:
    return lambda x: functional.pad(x, border, mode=mode)


CHANGED = {
    "reflection": (Bright(pad(16, 16, 16, 16), patch=4), (-0.25, -0.25, 1.25, 1.25)),
    "a small border": (Bright(pad(8, 8, 8, 8), patch=4), (-0.125, -0.125, 1.125, 1.125)),
    "zeros": (Bright(pad(16, 16, 16, 16, mode="constant"), patch=4), (-0.25, -0.25, 1.25, 1.25)),
    "one side": (Bright(pad(16, 0, 0, 0), patch=4), (0, -0.25, 1, 1)),
    "crop": (Bright(lambda x: x[..., 12:-12, 12:-12], patch=4), (0.19, 0.19, 0.81, 0.81)),
    "crop of columns": (Bright(lambda x: x[..., 16:], patch=4), (0, 0.25, 1, 1)),
    "offset": (Bright(lambda x: x[..., 8:, 8:], patch=4), (0.125, 0.125, 1, 1)),
    "crop of cells": (
        Bright(later=lambda x: x[..., 4:-4, 4:-4], patch=4),
        (0.25, 0.25, 0.75, 0.75),
    ),
    "crop of a few": (
        Bright(later=lambda x: x[..., 2:-2, 2:-2], patch=4),
        (0.12, 0.12, 0.88, 0.88),
    ),
}


def recommended(net: nn.Module) -> tuple[cam_hub.LoadedModel, cam_hub.LayerInfo]:
    model = cam_hub.wrap_model(net.eval(), input_size=SIZE)
    return model, next(layer for layer in cam_hub.list_layers(model) if layer.recommended)


@pytest.mark.parametrize("title", CHANGED)
def test_a_map_is_placed_on_the_used_region_or_a_note_reports_the_doubt(title):
    net, expected = CHANGED[title]
    model, layer = recommended(net)
    image = torch.full(SIZE, -0.1)
    image[:, *SPOT] = 3
    found = cam_hub.explain(model, image, method="gradcam", classes=0)
    assert found.manifest["layer_notes"][layer.name] == layer.note
    assert html.escape(layer.note) in summary(found, 0, layer.name)
    if layer.extent == FULL:
        assert "may not cover the whole input" in layer.note
        return
    assert layer.extent == pytest.approx(expected, abs=0.1)
    heat = found.heatmap(0)
    places = np.argwhere(heat >= 0.99 * heat.max()).mean(axis=0)
    assert places == pytest.approx([24, 40], abs=6)


def test_most_of_these_networks_are_placed():
    placed = [recommended(net)[1].extent != FULL for net, _ in CHANGED.values()]
    assert sum(placed) >= len(placed) - 1


@pytest.mark.parametrize(
    ("border", "expected"),
    [
        pytest.param((20, 20, 20, 20), (-0.09, -0.09, 1.09, 1.09), id="padded by 9 %"),
        pytest.param(
            (-20, -20, -20, -20),
            (0.09, 0.09, 0.91, 0.91),
            id="cropped by 9 %",
            marks=pytest.mark.slow,
        ),
        pytest.param((20, 0, 0, 0), (0, -0.09, 1, 1), id="one side", marks=pytest.mark.slow),
        pytest.param((0, 0, 0, 0), FULL, id="unchanged"),
    ],
)
def test_the_deepest_layer_of_a_strided_network_lies_where_its_finer_ones_show(border, expected):
    class Padded(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.net = timm.create_model("resnet18", num_classes=5)

        def forward(self, x: Tensor) -> Tensor:
            return self.net(functional.pad(x, border))

    model = cam_hub.wrap_model(Padded().eval(), input_size=(3, 224, 224))
    layer = next(layer for layer in cam_hub.list_layers(model) if layer.recommended)
    assert layer.name == "net.layer4"
    assert layer.extent == pytest.approx(expected, abs=0.03)
    assert bool(layer.note) == (expected != FULL)


@pytest.mark.parametrize("patch", [4, 8, 16])
def test_a_plain_network_covers_its_input_and_has_no_note(patch):
    _, layer = recommended(Bright(patch=patch))
    assert layer.extent == FULL
    assert layer.note == ""


def test_windows_that_run_from_one_end_to_the_other_cover_the_input():
    bands = torch.zeros(8, 8, 8)
    for band in range(4):
        bands[band, 2 * band : 2 * band + 2] = 1
        bands[4 + band, :, 2 * band : 2 * band + 2] = 1
    assert fit_extent(bands, (8, 8)) == ((0, 1, True), (0, 1, True))
    # Four rows that see one band and four that see the next cover the central half.
    bands[:4] = 0
    bands[1, :4], bands[2, 4:] = 1, 1
    rows, _ = fit_extent(bands, (8, 8))
    assert rows == pytest.approx((0.25, 0.75, True), abs=0.03)


@pytest.mark.parametrize("cells", [28, 14], ids=["all", "every second one"])
def test_a_shift_by_half_a_cell_as_strides_cause_it_is_the_whole_input(cells):
    # Row n of 28 sees the region around n / 28, where its centre would be at (n + 1/2) / 28.
    middle = torch.arange(28)[28 // cells - 1 :: 28 // cells] / 28
    edges = torch.arange(4)[:, None] / 4
    seen = (middle + 0.05).clamp(max=1).minimum(edges + 0.25) - (middle - 0.05).maximum(edges)
    bands = torch.ones(8, cells, 8)
    bands[:4] = seen.clamp_min(0).sqrt()[:, :, None]
    rows, _ = fit_extent(bands, (28, 8))
    assert rows == (0, 1, True)


def test_cells_that_answer_to_all_bands_show_nothing():
    assert not any(fit.clear for fit in fit_extent(torch.ones(8, 8, 8), (8, 8)))


@pytest.mark.parametrize(
    ("side", "finer", "expected"),
    [
        (28, 56, True),
        (7, 56, True),
        (17, 35, True),
        (73, 75, True),
        (12, 16, False),
        (40, 56, False),
    ],
)
def test_a_stride_divides_a_side_but_for_the_border_of_a_kernel(side, finer, expected):
    assert follows(side, finer) is expected


def test_a_map_is_laid_onto_the_whole_input():
    cam = np.arange(1, 17, dtype=np.float32).reshape(4, 4)
    assert on_input(cam, FULL) is cam
    # A grid over the central half: two more cells on each side, in the part that the network
    # ignores.
    wide = on_input(cam, (0.25, 0.25, 0.75, 0.75))
    assert np.allclose(wide, np.pad(cam, 2))
    # A grid with a border of one cell beyond the input.
    assert np.allclose(on_input(cam, (-0.5, -0.5, 1.5, 1.5)), cam[1:3, 1:3])
    # Time, and one axis only.
    assert np.allclose(on_input(cam[None], (0, 0, 1, 2))[0], cam[:, :2])
