"""Occlusion and RISE by hand, on scores that are plain algebra; laws of methods with own passes."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor

from cam_hub.errors import InvalidArgument
from cam_hub.methods import METHODS, BlackBox, Evidence, Method, occlusion, rise
from cam_hub.methods.perturbation import RandomMasks
from tests.fakes.methods import OWN_PASSES


def linear(weight: Tensor) -> Callable[[Tensor], Tensor]:
    """Scores ``Σ w x``, one for each of the weights ``(B, C, *sides)``."""
    return lambda images: images.flatten(1) @ weight.flatten(1).T


def test_the_drop_of_a_window_is_the_sum_of_weight_times_pixel_in_it() -> None:
    # 28 by 28 pixels are 14 by 14 cells of two by two pixels; one pixel counts, in cell (3, 5).
    weight = torch.zeros(1, 1, 28, 28)
    weight[0, 0, 6, 11] = 2.0
    image = torch.full((1, 1, 28, 28), 5.0)
    found = occlusion(BlackBox(image, linear(weight)))
    # Its drop is 10, of the windows that start at cells 2 and 3, and 4 and 5. The cell itself is in
    # these four alone, its neighbours on the diagonal in one of them, those beside it in two.
    expected = torch.zeros(14, 14)
    expected[2:5, 4:7] = torch.tensor([[2.5, 5.0, 2.5], [5.0, 10.0, 5.0], [2.5, 5.0, 2.5]])
    torch.testing.assert_close(found[0], expected)


@pytest.mark.parametrize("sides", [(28, 42), (30, 17), (9, 14), (1, 1), (224, 224)])
@pytest.mark.parametrize("batch_size", [1, 7, 500])
def test_occlusion_is_the_mean_drop_over_the_windows_of_a_cell(
    sides: tuple[int, int], batch_size: int
) -> None:
    generator = torch.Generator().manual_seed(0)
    image = torch.randn(1, 3, *sides, generator=generator, dtype=torch.float64)
    weight = torch.randn(2, 3, *sides, generator=generator, dtype=torch.float64)
    found = occlusion(BlackBox(image, linear(weight), 2, batch_size=batch_size))
    rows, cols = (min(14, side) for side in sides)
    tops, lefts = (
        [cell * side // count for cell in range(count + 1)]
        for side, count in zip(sides, (rows, cols), strict=True)
    )
    products = (weight * image).sum(1).numpy()
    total, count = np.zeros((2, rows, cols)), np.zeros((rows, cols))
    for row in range(max(1, rows - 1)):
        for col in range(max(1, cols - 1)):
            end = min(row + 2, rows), min(col + 2, cols)
            window = products[:, tops[row] : tops[end[0]], lefts[col] : lefts[end[1]]]
            total[:, row : end[0], col : end[1]] += window.sum((1, 2))[:, None, None]
            count[row : end[0], col : end[1]] += 1
    expected = np.maximum(total / count, 0)
    np.testing.assert_allclose(found.numpy(), expected, atol=1e-9)


def test_masks_are_half_visible_and_smooth_and_those_of_the_seed() -> None:
    drawn = RandomMasks(600, (45, 70), seed=3)
    one = drawn[0:600]
    assert torch.equal(one, torch.cat([drawn[0:7], RandomMasks(600, (45, 70), 3)[7:600]]))
    assert one.shape == (600, 45, 70)
    assert one.min() == 0
    assert one.max() == 1
    assert float((one.mean(0) - 0.5).abs().max()) < 0.1
    assert float(one.diff(dim=1).abs().max()) <= 1 / 7 + 1e-6  # cells of ceil(45 / 7) = 7 pixels
    other = RandomMasks(600, (45, 70), seed=4)[0:600]
    assert not torch.equal(one, other)


def test_rise_is_the_mean_score_where_a_pixel_is_visible_less_the_mean_score() -> None:
    generator = torch.Generator().manual_seed(0)
    image = torch.randn(1, 3, 20, 30, generator=generator)
    weight = torch.randn(2, 3, 20, 30, generator=generator)
    seen: list[Tensor] = []

    def score(images: Tensor) -> Tensor:
        seen.append(images)
        return linear(weight)(images) + 7

    found = rise(BlackBox(image, score, 2, seed=5, batch_size=100))
    masks = (torch.cat(seen) / image).mean(1).double()  # as they were applied
    assert len(masks) == METHODS["rise"].passes.forward - 1
    scores = (weight * image).double().flatten(1) @ masks.repeat(1, 3, 1).view(len(masks), -1).T
    for index in range(2):
        mean = scores[index].mean()
        expected = ((scores[index] - mean)[:, None, None] * masks).sum(0) / masks.sum(0)
        torch.testing.assert_close(
            found[index].double(), expected.clamp(min=0), rtol=1e-3, atol=1e-3
        )


def test_in_expectation_rise_is_half_of_what_the_pixels_of_a_cell_add() -> None:
    # All of the score comes from one place. Where that is visible, half of it is gained over the
    # mean; far away, masks say nothing about it.
    weight = torch.zeros(1, 1, 70, 70)
    weight[0, 0, 35, 35] = 8.0
    both = METHODS["rise"].signed("both").attribute
    assert both is not None
    maps = torch.cat(
        [both(BlackBox(torch.ones(1, 1, 70, 70), linear(weight), seed=seed)) for seed in range(4)]
    )
    mean = maps.mean(0)
    # Near a corner of a cell a mask is between 0 and 1: E[m²] / E[m] - E[m] is 1/3 to 1/2 of it.
    assert 8 * 0.15 < mean[35, 35] < 8 * 0.5
    assert float(mean[:15].abs().max()) < 8 * 0.06
    peak = divmod(int(mean.argmax()), 70)
    assert max(abs(place - 35) for place in peak) <= 3


def test_a_constant_added_to_the_score_changes_nothing() -> None:
    image, weight = torch.ones(1, 1, 28, 28), torch.linspace(-1, 1, 784).view(1, 1, 28, 28)
    for method in (occlusion, rise):
        one = method(BlackBox(image, linear(weight)))
        other = method(BlackBox(image, lambda x: linear(weight)(x) + 100))
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-2)


@pytest.mark.parametrize("method", OWN_PASSES.values(), ids=list(OWN_PASSES))
def test_the_evidence_of_one_pass_does_not_suffice(method: Method) -> None:
    tensor = torch.ones(1, 2, 3, 3)
    for made in (lambda: method(tensor, tensor), lambda: method.compute(Evidence(tensor, tensor))):
        with pytest.raises(InvalidArgument, match="passes of their own"):
            made()


@pytest.mark.parametrize("method", [METHODS["occlusion"], METHODS["rise"]], ids=lambda m: m.name)
class TestLaws:
    def box(self, sides: tuple[int, ...] = (16, 20), **more: object) -> BlackBox:
        generator = torch.Generator().manual_seed(1)
        weight = torch.randn(3, 2, *sides, generator=generator)
        image = torch.randn(1, 2, *sides, generator=generator)
        return BlackBox(image, lambda x: torch.tanh(linear(weight)(x)), 3, **more)

    def test_maps_of_another_sign_are_those_of_the_negated_score(self, method: Method) -> None:
        box = self.box()
        maps = {sign: method.signed(sign).attribute(box) for sign in ("for", "against", "both")}
        negated = method.attribute(BlackBox(box.image, lambda x: -box.score(x), 3))
        torch.testing.assert_close(maps["against"], negated)
        torch.testing.assert_close(maps["both"], maps["for"] - maps["against"])
        assert maps["for"].min() == maps["against"].min() == 0
        assert maps["both"].min() < 0 < maps["both"].max()

    def test_it_states_how_many_images_pass(self, method: Method) -> None:
        box, passed = self.box(), []
        for sign in ("for", "both"):
            passed.append(0)

            def score(images: Tensor) -> Tensor:
                passed[-1] += len(images)
                return box.score(images)

            method.signed(sign).attribute(BlackBox(box.image, score, 3))
        classes = int(method.name == "rise")  # the image itself passes once, for the classes
        assert passed == [method.passes.forward - classes] * 2
        assert method.passes.backward == 0

    def test_of_a_clip_the_same_place_is_covered_in_every_frame(self, method: Method) -> None:
        box = self.box((4, 16, 20))
        seen: list[Tensor] = []

        def score(images: Tensor) -> Tensor:
            seen.append(images / box.image)
            return box.score(images)

        found = method.attribute(BlackBox(box.image, score, 3))
        assert found.shape[:2] == (3, 1)
        share = torch.cat(seen)
        torch.testing.assert_close(share, share[:, :, :1].expand_as(share))

    def test_progress_rises_from_0_and_may_stop_the_work(self, method: Method) -> None:
        told: list[float] = []
        method.attribute(self.box(report=told.append, batch_size=32))
        assert told[0] == 0
        assert told == sorted(told)
        assert told[-1] < 1

        def stop(part: float) -> None:
            if part > 0.1:
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            method.attribute(self.box(report=stop, batch_size=8))

    def test_the_image_is_not_written_to(self, method: Method) -> None:
        box = self.box()
        before = box.image.clone()
        method.attribute(box)
        assert torch.equal(box.image, before)
