"""A layer that mixes the image's quadrants is rejected in favour of a late one that does not."""

from __future__ import annotations

import functools
import math

import pytest
import torch
from torch import nn

import cam_hub
from cam_hub.layers.correspondence import ROUNDS, _smallest_lead, match_all, quadrant_leads
from cam_hub.layers.discovery import discover_layers
from cam_hub.layers.findings import Finding
from cam_hub.layers.layouts import Arrangement
from cam_hub.layers.probe import disturb
from cam_hub.layers.recommendation import late_layers, read_layouts
from cam_hub.models.loaded_model import with_output
from tests.layers.test_discovery import Do

SIZE = (3, 64, 64)
GRID = (8, 8)
ORDINARY, ONE_ROUND, ALL_ROUNDS = 11, 11 + 5, 11 + 5 * ROUNDS


def shuffled(x: torch.Tensor) -> torch.Tensor:
    """Every quadrant is swapped with the opposite one."""
    return x.roll((x.shape[2] // 2, x.shape[3] // 2), (2, 3))


def smeared(x: torch.Tensor) -> torch.Tensor:
    """Every position gets the mean."""
    return x.mean((2, 3), keepdim=True).expand_as(x)


def loud(x: torch.Tensor, volume: float = 60) -> torch.Tensor:
    """Every position keeps its own value, but the lower right one, which receives all, is
    largest."""
    rows, cols = (torch.linspace(0, 1, side, device=x.device).to(x) for side in x.shape[2:])
    return x + volume * smeared(x) * (rows[:, None] * cols).square()


class Chain(nn.Module):
    """Patches, twenty steps that change nothing, and a last one; then class scores."""

    def __init__(self, last: nn.Module) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.embed = nn.Conv2d(3, 12, 8, 8)
        self.steps = nn.Sequential(*(nn.Identity() for _ in range(20)))
        self.last = last
        self.head = nn.Linear(12, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.last(self.between(self.steps(self.embed(x)))).square().mean((2, 3)))

    def between(self, x: torch.Tensor) -> torch.Tensor:
        return x


def examined(module: nn.Module) -> tuple[cam_hub.LayerInfo, int]:
    """The recommended layer, and the number of images that were needed to find it."""
    images: list[int] = []
    model = with_output(cam_hub.wrap_model(module, input_size=SIZE))
    handle = module.register_forward_pre_hook(lambda _, args: images.append(len(args[0])))
    layers = cam_hub.list_layers(model)
    handle.remove()
    assert not any(child._forward_hooks for child in module.modules())
    return next(layer for layer in layers if layer.recommended), sum(images)


def leads_of(
    last: nn.Module, *, at_once: int = 4, grid: tuple[int, int] = GRID, seed: int = 0
) -> list[float]:
    """The leads of the quadrants of a layer on patches of noise, after each round."""
    clean = torch.randn(1, *SIZE, generator=torch.Generator().manual_seed(0))
    layers = {"last": ((12, *grid), Arrangement("NCHW", grid, 12))}
    rounds = quadrant_leads(
        Chain(last), clean, lambda net, x: net(x), layers, at_once=at_once, seed=seed
    )
    return [found["last"] for found in rounds]


class TestTheLeadOfAQuarter:
    def test_is_one_where_places_answer_to_themselves_alone(self):
        assert leads_of(nn.Identity()) == [1] * ROUNDS

    def test_is_minus_one_where_quarters_have_changed_places(self):
        assert leads_of(Do(shuffled)) == [-1] * ROUNDS

    def test_is_zero_if_all_positions_respond_equally(self):
        assert leads_of(Do(smeared)) == pytest.approx([0] * ROUNDS, abs=1e-6)

    def test_is_negative_where_one_quarter_answers_loudest_to_everything(self):
        assert max(leads_of(Do(loud))) < 0

    def test_depends_on_the_images_and_not_on_the_batch_size(self):
        soft = Do(lambda x: x + 2 * smeared(x))
        found = leads_of(soft)
        assert len(set(found)) == ROUNDS, "each round has pictures of its own"
        assert leads_of(soft, at_once=1) == pytest.approx(found, abs=1e-5)
        assert leads_of(soft, at_once=3) == pytest.approx(found, abs=1e-5)

    def test_is_that_of_the_mean_change_over_all_rounds(self):
        four = [[4, 1, 1, 1], [1, 4, 1, 1], [1, 1, 4, 1], [1, 1, 1, 4]]
        once = [[1, 2, 1, 1], *four[1:]]  # in one image, the second quadrant responded to the first
        grid = (2, 2)
        assert _smallest_lead([once], grid) == -0.5
        assert _smallest_lead([once, four], grid) == pytest.approx((2.5 - 1.5) / 2.5)
        assert math.isnan(_smallest_lead([four, []], grid)), "it did not answer in each"

    def test_of_a_single_row_compares_left_and_right_alone(self):
        assert leads_of(nn.AdaptiveAvgPool2d((1, 8)), grid=(1, 8)) == [1] * ROUNDS

    def test_is_no_number_where_the_output_is_not_of_the_expected_shape(self):
        assert all(map(math.isnan, leads_of(nn.AvgPool2d(2))))


def test_halves_of_a_layer_are_compared_under_the_bands():
    bands = torch.zeros(8, 2, 4, 4)
    for band in range(4):
        bands[band, :, band, :] = 1
        bands[4 + band, :, :, band] = 1
    assert match_all(bands[None])[0].halves == 1
    # The lower half receives half as much of the upper as that does itself.
    bands[:2, :, 2:] = 0.25
    assert match_all(bands[None])[0].halves == pytest.approx(0.5)
    assert match_all(bands[None].flip(3))[0].halves == 0, "upside down they follow nothing"


class TestTheChoice:
    def test_a_layer_that_keeps_quarters_apart_costs_no_further_pass(self):
        best, images = examined(Chain(nn.Conv2d(12, 12, 1)))
        assert (best.name, images) == ("last", ORDINARY)
        assert "quarters" not in best.reason

    def test_one_that_mixes_them_is_passed_over_for_the_deepest_late_one_that_does_not(self):
        net = Chain(Do(loud))
        best, images = examined(net)
        assert (best.name, images) == ("steps", ALL_ROUNDS)
        assert "'last', mixes the picture's quarters" in best.reason
        assert "the deepest late one that keeps them apart" in best.reason
        cam_hub.explain(cam_hub.wrap_model(net, input_size=SIZE), torch.rand(SIZE))

    def test_a_layer_that_mixes_them_in_some_images_but_not_on_average_is_kept(self):
        faint = Do(functools.partial(loud, volume=34))
        singly = [leads_of(faint, seed=seed)[0] for seed in range(20)]
        assert min(singly) < 0 < max(singly)
        assert 0 < leads_of(faint)[-1] < 0.05
        best, images = examined(Chain(faint))
        assert (best.name, images) == ("last", ALL_ROUNDS)
        assert "quarters" not in best.reason

    def test_without_a_late_one_that_does_not_it_stays(self):
        late = nn.Sequential(Do(loud), *(nn.Identity() for _ in range(5)))
        best, images = examined(Chain(late))
        assert (best.name, images) == ("last", ONE_ROUND), "no use in asking on"
        assert "quarters" not in best.reason

    def test_one_that_turns_out_clearly_apart_costs_one_round(self, lite0):
        """Trained weights: halves hardly differ under the bands, but the quadrants do."""
        images: list[int] = []
        handle = lite0.module.register_forward_pre_hook(lambda _, a: images.append(len(a[0])))
        layers = discover_layers(lite0, lite0.input_size)
        handle.remove()
        assert [layer.name for layer in layers if layer.recommended] == ["bn2"]
        assert sum(images) == ONE_ROUND

    def test_the_second_choice_is_one_of_which_every_second_row_and_column_counts(self):
        class Strided(Chain):
            """The layer after the steps reads every second row and column of them."""

            def between(self, x: torch.Tensor) -> torch.Tensor:
                return x[:, :, ::2, ::2]

        best, _ = examined(Strided(Do(loud)))
        assert best.name == "steps"
        best, _ = examined(Strided(nn.Sequential(nn.Identity(), Do(loud))))
        assert best.name == "last.0", "the whole is preferred"


class TestLateLayers:
    def test_have_at_most_a_tenth_of_the_leaves_behind_them(self):
        findings = {f"body.{i}": Finding((4, 8, 8)) for i in range(20)}
        findings |= {"body": Finding((4, 8, 8)), "pool": Finding((4, 1, 1)), "head": Finding((9,))}
        assert late_layers(findings) == {"body.17", "body.18", "body.19", "body", "pool", "head"}

    def test_windows_as_separate_items_also_have_positions(self):
        findings = {f"{i}": Finding((4, 49, 8), batched=False) for i in range(10)}
        assert late_layers(findings) == {"8", "9"}

    def test_of_a_network_without_places_are_all(self):
        assert late_layers({"a": Finding(None), "b": Finding((5,))}) == {"a", "b"}


def test_what_is_read_of_the_loud_layer_by_its_bands_is_still_that_it_follows_the_image():
    """So only the quadrants exclude it."""
    clean = torch.randn(1, *SIZE, generator=torch.Generator().manual_seed(0))
    reading = read_layouts(disturb(Chain(Do(loud)), clean, lambda net, x: net(x)))["last"]
    assert reading.measured
    assert reading.match.correlation > 0.85
