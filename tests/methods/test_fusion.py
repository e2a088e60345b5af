"""Normalising maps to [0, 1], refusing blank ones, and fusing the maps of several layers."""

from collections.abc import Callable
from math import tanh

import pytest
import torch
from torch import Tensor

from cam_hub.errors import InvalidArgument, NoMap
from cam_hub.methods import METHODS, Method, check_map, fuse, normalise
from cam_hub.methods.evidence import by_maximum

Scale = Callable[[Tensor], Tensor]

GRADCAM, LAYERCAM = METHODS["gradcam"], METHODS["layercam"]


def some_maps(*shape: int, seed: int = 0) -> Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed))


# --- normalise and by_maximum ---------------------------------------------------------------------


def test_normalise_stretches_each_sample_from_its_minimum_to_its_maximum() -> None:
    maps = torch.tensor([[[2.0, 3.0], [4.0, 6.0]], [[-1.0, 0.0], [0.0, 0.0]]])
    expected = torch.tensor([[[0.0, 0.25], [0.5, 1.0]], [[0.0, 1.0], [1.0, 1.0]]])
    assert torch.equal(normalise(maps), expected)


@pytest.mark.parametrize("unit", [1e-30, 1e-8, 1.0, 1e30])
def test_normalise_reaches_0_and_1_exactly_however_small_or_large_the_map(unit: float) -> None:
    scaled = normalise(unit * some_maps(20, 5, 5))
    assert torch.equal(scaled.amin((1, 2)), torch.zeros(20))
    assert torch.equal(scaled.amax((1, 2)), torch.ones(20))


@pytest.mark.parametrize("value", [0.0, 3.7, -2.0, 1e-30])
def test_normalise_gives_zeros_for_a_flat_map(value: float) -> None:
    assert torch.equal(normalise(torch.full((2, 3, 3), value)), torch.zeros(2, 3, 3))


def test_normalise_does_not_stretch_rounding_errors_into_a_pattern() -> None:
    barely = torch.tensor([[1.0, 1.0 + 2e-7, 1.0]])
    assert barely[0, 1] > 1
    assert torch.equal(normalise(barely), torch.zeros(1, 3))


@pytest.mark.parametrize("unit", [1e-30, 1.0, 1e30])
def test_by_maximum_keeps_zero_where_it_is_and_reaches_1_exactly(unit: float) -> None:
    maps = unit * torch.tensor([[2.0, 4.0], [0.0, 3.0], [0.0, 0.0]])
    assert torch.equal(by_maximum(maps), torch.tensor([[0.5, 1.0], [0.0, 1.0], [0.0, 0.0]]))


@pytest.mark.parametrize("scale", [normalise, by_maximum])
@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_scaling_does_not_hide_what_is_not_finite(scale: Scale, bad: float) -> None:
    assert not scale(torch.tensor([[1.0, bad, 2.0]])).isfinite().all()


@pytest.mark.parametrize("scale", [normalise, by_maximum])
def test_scaling_leaves_its_input_as_it_was_and_widens_half_precision(scale: Scale) -> None:
    maps = some_maps(2, 4, 4)
    before = maps.clone()
    scale(maps)
    assert torch.equal(maps, before)
    assert scale(maps.half()).dtype == torch.float32


@pytest.mark.parametrize("scale", [normalise, by_maximum])
def test_scaling_refuses_a_map_without_batch_and_grid(scale: Scale) -> None:
    with pytest.raises(InvalidArgument, match="grid"):
        scale(torch.ones(3))


# --- check_map ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("cam", "reason"),
    [
        ([[0.0, float("nan")], [1.0, float("inf")]], "2 of 4 positions are NaN or infinite"),
        ([[0.0, 0.0], [0.0, 0.0]], "no position at this layer is evidence for the class"),
        ([[2.5, 2.5], [2.5, 2.5]], r"all 4 positions are equal evidence for the class \(2.5\)"),
        ([[3.0]], "all 1 positions are equal evidence"),
        ([[]], "no positions"),
    ],
    ids=["not finite", "zero", "flat", "a single cell", "empty"],
)
def test_a_map_that_would_show_nothing_is_refused_with_the_reason(
    cam: list[list[float]], reason: str
) -> None:
    with pytest.raises(NoMap, match=reason) as caught:
        check_map(torch.tensor(cam), "layer4")
    assert caught.value.layer == "layer4"


@pytest.mark.parametrize("unit", [1e-30, 1.0, 1e30])
def test_a_map_that_differs_anywhere_is_accepted_and_normalises_to_a_maximum_of_1(
    unit: float,
) -> None:
    cam = torch.tensor([[0.0, 0.0], [0.0, unit]])
    check_map(cam)
    assert normalise(cam[None]).max() == 1


# --- fuse -----------------------------------------------------------------------------------------


def test_maps_are_scaled_then_resized_then_combined_by_the_larger_value() -> None:
    coarse = torch.tensor([[[0.0, 10.0]]])  # by its maximum: 0, 1; on four columns: 0, ¼, ¾, 1
    fine = torch.tensor([[[0.2, 0.0, 0.0, 0.1]]])  # by its maximum: 1, 0, 0, ½
    fused = fuse([coarse, fine], GRADCAM)
    torch.testing.assert_close(fused, torch.tensor([[[1.0, 0.25, 0.75, 1.0]]]))


def test_layercam_maps_are_scaled_by_the_tanh_of_twice_their_share_of_the_maximum() -> None:
    maps = torch.tensor([[[0.0, 5.0], [2.5, 1.0]]])
    expected = torch.tensor([[[0.0, tanh(2)], [tanh(1), tanh(0.4)]]])
    torch.testing.assert_close(fuse([maps], LAYERCAM), expected)


def test_every_axis_is_as_long_as_the_longest() -> None:
    assert fuse([some_maps(2, 2, 8), some_maps(2, 4, 4)], GRADCAM).shape == (2, 4, 8)


@pytest.mark.parametrize("grids", [[(3,), (7,)], [(3, 2), (6, 5)], [(2, 3, 2), (2, 6, 5)]], ids=str)
def test_maps_of_one_to_three_grid_axes_are_interpolated_linearly(
    grids: list[tuple[int, ...]],
) -> None:
    # A ramp remains a ramp between the outer cell centres, which a nearest-neighbour resize breaks.
    coarse, fine = grids
    ramp = torch.linspace(0, 1, coarse[-1]).expand(1, *coarse)
    fused = fuse([ramp, torch.zeros(1, *fine)], GRADCAM)
    assert fused.shape == (1, *fine)
    centres = ((torch.arange(fine[-1]) + 0.5) / fine[-1] * coarse[-1] - 0.5) / (coarse[-1] - 1)
    torch.testing.assert_close(fused, centres.clamp(0, 1).expand_as(fused))


def test_the_order_of_layers_does_not_matter() -> None:
    maps = [some_maps(2, n, n, seed=n) for n in (3, 7, 5)]
    assert torch.equal(fuse(maps, LAYERCAM), fuse(maps[::-1], LAYERCAM))


def test_a_layer_does_not_win_by_larger_numbers() -> None:
    one, two = some_maps(2, 4, 4, seed=1), some_maps(2, 4, 4, seed=2)
    torch.testing.assert_close(fuse([1000 * one, two], GRADCAM), fuse([one, two], GRADCAM))


def test_each_sample_is_fused_on_its_own() -> None:
    maps = [some_maps(3, 4, 4, seed=1), some_maps(3, 8, 8, seed=2)]
    alone = torch.cat([fuse([cam[i : i + 1] for cam in maps], GRADCAM) for i in range(3)])
    torch.testing.assert_close(fuse(maps, GRADCAM), alone)


def test_a_layer_that_saw_nothing_adds_nothing() -> None:
    seen = some_maps(1, 4, 4)
    fused = fuse([seen, torch.zeros(1, 4, 4)], GRADCAM)
    assert torch.equal(fused, fuse([seen], GRADCAM))
    assert torch.equal(fuse([torch.zeros(1, 4, 4)] * 2, LAYERCAM), torch.zeros(1, 4, 4))


@pytest.mark.parametrize("method", METHODS.values(), ids=list(METHODS))
def test_a_fused_map_stays_within_0_and_1(method: Method) -> None:
    # Constant maps, which reveal interpolation weights whose sum exceeds 1.
    maps = [torch.full((1, n, n), 0.3) for n in (1, 3, 7, 11)] + [some_maps(1, 56, 48)]
    fused = fuse(maps, method)
    assert fused.min() >= 0
    assert 0.9 < fused.max() <= 1


def test_fusing_leaves_the_maps_as_they_were() -> None:
    maps = [some_maps(2, 4, 4, seed=1), some_maps(2, 4, 4, seed=2)]
    before = [cam.clone() for cam in maps]
    for method in METHODS.values():
        fuse(maps, method)
        fuse(maps[:1], method)
    assert all(map(torch.equal, maps, before))


@pytest.mark.parametrize(
    "shapes",
    [[], [(1, 4, 4), (2, 4, 4)], [(1, 4, 4), (1, 4)], [(1,)], [(1, 2, 2, 2, 2)]],
    ids=["none", "batch sizes", "numbers of axes", "no grid", "too many axes"],
)
def test_maps_that_do_not_fit_together_are_refused(shapes: list[tuple[int, ...]]) -> None:
    with pytest.raises(InvalidArgument, match="maps"):
        fuse([torch.ones(shape) for shape in shapes], GRADCAM)
