"""Each method on numbers worked out by hand, and compared with its formula in plain loops."""

from itertools import product
from math import prod

import numpy as np
import pytest
import torch

from cam_hub.errors import InvalidArgument
from cam_hub.methods import (
    METHODS,
    Evidence,
    Moments,
    MomentSum,
    eigencam,
    gradcam,
    gradcampp,
    hirescam,
    layercam,
    smoothgradcampp,
    xgradcam,
)
from cam_hub.methods.eigen_cam import principal_projection
from cam_hub.methods.gradient_cams import (
    gradcampp_cancellation,
    smoothgradcampp_weights,
    xgradcam_cancellation,
)
from tests.fakes.methods import ONE_PASS

# One sample, two channels, a grid of 2 × 2. The activations sum to 4 and 2.
ACTIVATION = torch.tensor([[[[1.0, 2.0], [0.0, 1.0]], [[2.0, -2.0], [1.0, 1.0]]]])
GRADIENT = torch.tensor([[[[1.0, -1.0], [2.0, 0.0]], [[-3.0, 1.0], [0.0, 1.0]]]])


def grid(*rows: list[float]) -> torch.Tensor:
    return torch.tensor([rows])


def test_gradcam_weighs_channels_by_their_mean_gradient() -> None:
    # w = (1 - 1 + 2 + 0)/4 = 1/2 and (-3 + 1 + 0 + 1)/4 = -1/4.
    # Σ w A = [[1/2 - 1/2, 1 + 1/2], [0 - 1/4, 1/2 - 1/4]], and ReLU.
    expected = grid([0.0, 1.5], [0.0, 0.25])
    torch.testing.assert_close(gradcam(ACTIVATION, GRADIENT), expected)


def test_layercam_weighs_every_position_by_its_positive_gradient() -> None:
    # ReLU(g) A = [[1, 0], [0, 0]] + [[0, -2], [0, 1]], and ReLU.
    expected = grid([1.0, 0.0], [0.0, 1.0])
    torch.testing.assert_close(layercam(ACTIVATION, GRADIENT), expected)


def test_xgradcam_weighs_channels_by_their_gradient_where_they_are_active() -> None:
    # Channel 1: w = (1 - 2 + 0 + 0)/4 = -1/4. Channel 2: where A > 0, w = (-6 + 0 + 1)/4 = -5/4,
    # and where A < 0, w = 1.
    # Σ w A = [[-1/4 - 10/4, -1/2 - 2], [0 - 5/4, -1/4 - 5/4]], and ReLU.
    assert not xgradcam(ACTIVATION, GRADIENT).any()
    # The negated score: 11/4, 5/2, 5/4, 6/4.
    expected = grid([2.75, 2.5], [1.25, 1.5])
    torch.testing.assert_close(xgradcam(ACTIVATION, -GRADIENT), expected)


def test_xgradcam_is_the_paper_where_the_activations_of_a_channel_have_one_sign() -> None:
    # w = (1·2 + 3·1)/(1 + 3) = 5/4 and (-2·1 - 2·5)/(-2 - 2) = 3: 5/4·1 - 3·2, 5/4·3 - 3·2.
    activation = torch.tensor([[[1.0, 3.0], [-2.0, -2.0]]])
    gradient = torch.tensor([[[2.0, 1.0], [1.0, 5.0]]])
    both = METHODS["xgradcam"].signed("both").compute(Evidence(activation, gradient))
    torch.testing.assert_close(both, torch.tensor([[1.25 - 6, 3.75 - 6]]))
    assert xgradcam_cancellation(activation, gradient).item() == 0


@pytest.mark.parametrize("nudge", [-1e-3, 0.0, 1e-3])
def test_xgradcam_is_steady_where_the_sum_of_the_activations_changes_its_sign(nudge: float) -> None:
    # The paper's weight is (1 - 3 + nudge)/(1 - 1 + nudge). Ours are 1 and 3: (1 + nudge, -3).
    activation, gradient = torch.tensor([[[1.0 + nudge, -1.0]]]), torch.tensor([[[1.0, 3.0]]])
    both = METHODS["xgradcam"].signed("both").compute(Evidence(activation, gradient))
    torch.testing.assert_close(both, torch.tensor([[1.0 + nudge, -3.0]]))
    share = xgradcam_cancellation(activation, gradient).item()
    assert share == pytest.approx(1 - abs(nudge) / (2 + nudge), abs=1e-6)


def test_signed_xgradcam_sums_to_gradient_times_activation_at_any_signs() -> None:
    draw = torch.randn(2, 3, 5, 4, 6, generator=torch.Generator().manual_seed(7))
    evidence = Evidence(draw[0], draw[1])
    both = METHODS["xgradcam"].signed("both").compute(evidence)
    torch.testing.assert_close(both.sum((1, 2)), (draw[0] * draw[1]).sum((1, 2, 3)))


def test_gradcampp_corrects_gradients_for_the_activation_of_the_whole_channel() -> None:
    # Channel 1, ΣA = 4: g = 1 has α = 1/(2 + 4) = 1/6, g = 2 has α = 4/(8 + 4·8) = 1/10;
    # w = 1/6·1 + 1/10·2 = 11/30. Channel 2, Σ ReLU(A) = 4: g = 1 has α = 1/6; w = 1/3.
    # Σ w A = [[11/30 + 2/3, 22/30 - 2/3], [0 + 1/3, 11/30 + 1/3]].
    expected = grid([31 / 30, 2 / 30], [1 / 3, 21 / 30])
    torch.testing.assert_close(gradcampp(ACTIVATION, GRADIENT), expected)


def test_gradcampp_is_steady_where_the_denominator_of_the_paper_vanishes() -> None:
    # ΣA = -2 and g = 1: 2·1 + (-2)·1 = 0. Ours, Σ ReLU(A) = 1: α = 1/(2 + 1) and 1/(2 + 3), so
    # w = 1/3·1 + 1/5·3 = 14/15.
    activation, gradient = torch.tensor([[[1.0, -3.0]]]), torch.tensor([[[1.0, 3.0]]])
    torch.testing.assert_close(gradcampp(activation, gradient), torch.tensor([[14 / 15, 0.0]]))
    assert gradcampp_cancellation(activation, gradient).item() == pytest.approx(1)


def test_the_share_of_gradcampp_that_comes_from_cancellation() -> None:
    # ΣA = -1, Σ|A| = 3, g = 1: the paper's quotients are 1/(2 - 1) = 1, and 1/(2 + 3) = 1/5 with
    # the magnitudes of the same terms. The second channel has no negative activation: 1/(2 + 3).
    # Weighed by Σ|A| = 3 each: 1 - (3/5 + 3/5)/(3 + 3/5) = 2/3.
    activation = torch.tensor([[[1.0, -2.0], [1.0, 2.0]]])
    gradient = torch.tensor([[[1.0, 0.0], [1.0, 0.0]]])
    assert gradcampp_cancellation(activation, gradient).item() == pytest.approx(2 / 3)
    assert gradcampp_cancellation(activation, -gradient).item() == 0  # no weight at all
    assert gradcampp_cancellation(activation.abs(), gradient).item() == 0


def test_the_share_of_xgradcam_that_comes_from_cancellation() -> None:
    # |Σ g A| = 1 and 1; ΣA = -1 of Σ|A| = 3, and 3 of 3: 1 - (1 + 1)/(1·3 + 1) = 1/2.
    activation = torch.tensor([[[1.0, -2.0], [1.0, 2.0]]])
    gradient = torch.tensor([[[1.0, 0.0], [1.0, 0.0]]])
    assert xgradcam_cancellation(activation, gradient).item() == pytest.approx(1 / 2)


@pytest.mark.parametrize("name", [n for n, m in METHODS.items() if m.cancellation is not None])
def test_a_share_of_cancellation_is_between_0_and_1_and_that_of_a_sign_is_of_its_gradient(
    name: str,
) -> None:
    method, generator = METHODS[name], torch.Generator().manual_seed(8)
    draw = torch.randint(-2, 3, (2, 200, 2, 2, 2), generator=generator).float()
    one, other = (Evidence(draw[0], sign * draw[1]) for sign in (1, -1))
    shares = method.cancellation(one)
    assert shares.shape == (200,)
    assert 0 <= shares.min() < 0.1 < 0.9 < shares.max() <= 1
    assert not method.cancellation(Evidence(draw[0].abs(), draw[1])).any()
    against, both = (method.signed(sign).cancellation(one) for sign in ("against", "both"))
    assert torch.equal(against, method.cancellation(other))
    assert torch.equal(both, torch.maximum(shares, against))


def test_gradcampp_is_smoothgradcampp_of_one_copy_without_noise() -> None:
    activation, gradient = torch.randn(
        2, 3, 5, 4, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(9)
    )
    smooth = smoothgradcampp(activation, Moments.of(gradient[None]))
    torch.testing.assert_close(gradcampp(activation, gradient), smooth)


@pytest.mark.parametrize("size", [1e-30, 1e-15, 1e15, 1e30])
def test_gradcampp_holds_for_gradients_whose_powers_leave_float32(size: float) -> None:
    # With ΣA = 1/size, α = 1/(2 + 1) at any size of the gradient: w A = 1/3 · size · 1/size.
    activation = torch.tensor([[[1 / size, 0.0]]])
    gradient = torch.tensor([[[size, 0.0]]])
    expected = torch.tensor([[1 / 3, 0.0]])
    torch.testing.assert_close(gradcampp(activation, gradient), expected, rtol=1e-6, atol=0)


def test_hirescam_is_gradient_times_activation_summed_over_channels() -> None:
    # g A = [[1, -2], [0, 0]] + [[-6, -2], [0, 1]] = [[-5, -4], [0, 1]], and ReLU.
    torch.testing.assert_close(hirescam(ACTIVATION, GRADIENT), grid([0.0, 0.0], [0.0, 1.0]))
    both = METHODS["hirescam"].signed("both").compute(Evidence(ACTIVATION, GRADIENT))
    torch.testing.assert_close(both, grid([-5.0, -4.0], [0.0, 1.0]))


def test_hirescam_is_both_signs_of_layercam_where_activations_are_not_negative() -> None:
    # And LayerCAM without the ReLU of its weights at any activations; here it differs.
    draw = torch.randn(2, 3, 5, 4, 6, generator=torch.Generator().manual_seed(4))
    for activation, equal in ((draw[0].relu(), True), (draw[0], False)):
        evidence = Evidence(activation, draw[1])
        one, other = (METHODS[n].signed("both").compute(evidence) for n in ("hirescam", "layercam"))
        assert torch.allclose(one, other, atol=1e-5) is equal


def test_signed_hirescam_sums_to_the_score_of_a_linear_layer_without_its_bias() -> None:
    generator = torch.Generator().manual_seed(5)
    activation = torch.randn(1, 3, 4, 4, generator=generator, requires_grad=True)
    head = torch.nn.Linear(3, 1)
    score = head(activation.mean((2, 3))).sum()
    (gradient,) = torch.autograd.grad(score, activation)
    both = METHODS["hirescam"].signed("both").compute(Evidence(activation.detach(), gradient))
    torch.testing.assert_close(both.sum(), (score - head.bias.sum()).detach())


@pytest.mark.parametrize("seed", range(4))
def test_hirescam_is_blank_before_a_norm_where_only_rounding_is_left(seed: int) -> None:
    # A norm over the channels is blind to the scale of a position: d score(t A) / dt = Σ_k g A = 0.
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        activation = torch.randn(1, 64, 7, 7, requires_grad=True)
        head = torch.nn.Linear(64, 1)
        rows = torch.nn.functional.layer_norm(activation.movedim(1, -1), [64], eps=1e-6)
        (gradient,) = torch.autograd.grad(head(rows.mean((1, 2))).sum(), activation)
    evidence = Evidence(activation.detach(), gradient)
    assert (activation * gradient).sum(1).any()  # noise of 1e-8
    assert not METHODS["hirescam"].signed("both").compute(evidence).any()
    assert METHODS["gradcam"].compute(evidence).any()


def test_eigencam_projects_positions_onto_the_first_principal_component() -> None:
    # Channels (1, 2, 0, 1) and (2, 4, 0, 2): rank one, v = (1, 2)/√5, A v = √5 · (1, 2, 0, 1).
    one = torch.tensor([[1.0, 2.0], [0.0, 1.0]])
    activation = torch.stack([one, 2 * one])[None]
    torch.testing.assert_close(eigencam(activation), 5**0.5 * one[None])
    # Orthogonal channels: the one with the larger sum of squares, 9 against 1 + 4.
    activation = torch.tensor([[[1.0, 0.0, 2.0], [0.0, 3.0, 0.0]]])
    torch.testing.assert_close(eigencam(activation), torch.tensor([[0.0, 3.0, 0.0]]))


def test_eigencam_takes_the_sign_with_the_larger_sum_over_positions() -> None:
    # v = ±(1, -2)/√5 and positions (1, -2) and (-2, 4): A v = ±(5, -10)/√5.
    activation = torch.tensor([[[1.0, -2.0], [-2.0, 4.0]]])
    torch.testing.assert_close(eigencam(activation), torch.tensor([[0.0, 10 / 5**0.5]]))
    torch.testing.assert_close(eigencam(-activation), eigencam(activation))


def test_eigencam_of_activations_that_are_not_negative_has_no_negative_value_to_remove() -> None:
    activation = torch.rand(4, 6, 3, 3, generator=torch.Generator().manual_seed(6))
    assert (principal_projection(activation) >= 0).all()
    torch.testing.assert_close(eigencam(1e30 * activation), 1e30 * eigencam(activation))


def test_eigencam_does_not_subtract_the_mean_of_a_channel() -> None:
    # One channel: the paper's map is the channel; with its mean subtracted, (0, 0, 1).
    activation = torch.tensor([[[1.0, 2.0, 3.0]]])
    torch.testing.assert_close(eigencam(activation), activation[:, 0])


def test_eigencam_is_nan_for_the_sample_that_is_not_finite_only() -> None:
    activation = torch.ones(2, 3, 2, 2)
    activation[1, 0, 0, 0] = torch.inf
    found = eigencam(activation)
    torch.testing.assert_close(found[0], torch.full((2, 2), 3**0.5))
    assert found[1].isnan().all()
    assert torch.equal(eigencam(torch.zeros(1, 2, 3)), torch.zeros(1, 3))


# One sample, two channels, two positions, two noisy copies.
CLEAN = torch.tensor([[[1.0, 2.0], [1.0, -1.0]]])
NOISY = torch.tensor([[[[1.0, 2.0], [2.0, -1.0]]], [[[1.0, 0.0], [0.0, -1.0]]]])


def test_moments_are_means_of_powers_over_the_noisy_copies() -> None:
    # Channel 1: g = (1, 2) and (1, 0). Channel 2: g = (2, -1) and (0, -1).
    moments = Moments.of(NOISY)
    assert torch.equal(moments.first, torch.tensor([[[1.0, 1.0], [1.0, -1.0]]]))
    assert torch.equal(moments.second, torch.tensor([[[1.0, 2.0], [2.0, 1.0]]]))
    assert torch.equal(moments.third, torch.tensor([[[1.0, 4.0], [4.0, -1.0]]]))


def test_smoothgradcampp_puts_moments_where_gradcampp_has_powers() -> None:
    # Channel 1, Σ ReLU(A) = 3: α = 1/(2·1 + 3·1), 2/(2·2 + 3·4); w = 1/5·1 + 1/8·1 = 13/40.
    # Channel 2, Σ ReLU(A) = 1: α = 2/(2·2 + 1·4), 1/(2·1 + 0); w = 1/4·1 + 1/2·ReLU(-1) = 1/4.
    # Σ w A = [13/40 + 1/4, 26/40 - 1/4] = [23/40, 2/5].
    moments = Moments.of(NOISY)
    expected = torch.tensor([[[13 / 40], [1 / 4]]])
    torch.testing.assert_close(smoothgradcampp_weights(CLEAN, moments), expected)
    expected = torch.tensor([[23 / 40, 2 / 5]])
    torch.testing.assert_close(smoothgradcampp(CLEAN, moments), expected)


def test_smoothgradcampp_is_the_paper_where_activations_and_gradients_are_positive() -> None:
    # ΣA = 3: α = g²/(2 g² + 3 g³) = 1/(2 + 3 g), so 1/5 and 1/8; w = 1/5·1 + 1/8·2 = 9/20.
    # Grad-CAM++ has the same α, without noise.
    activation, gradient = torch.tensor([[[1.0, 2.0]]]), torch.tensor([[[1.0, 2.0]]])
    moments = Moments.of(gradient[None])
    assert smoothgradcampp_weights(activation, moments).item() == pytest.approx(9 / 20)
    torch.testing.assert_close(
        smoothgradcampp(activation, moments), gradcampp(activation, gradient)
    )


@pytest.mark.parametrize("nudge", [-0.01, 0.0, 0.01])
def test_smoothgradcampp_is_steady_where_a_signed_denominator_changes_its_sign(
    nudge: float,
) -> None:
    # 2·D2 + Σ A·D3 = 2 + (1 - 3 + nudge)·1 = nudge: α of that formula would be 1/nudge.
    # Ours: Σ ReLU(A) = 1 + nudge, so α = 1/(3 + nudge) at both positions.
    activation = torch.tensor([[[1.0 + nudge, -3.0]]])
    ones = torch.ones(1, 1, 2)
    weight = smoothgradcampp_weights(activation, Moments(ones, ones, ones)).item()
    assert weight == pytest.approx(2 / (3 + nudge))


def test_smoothgradcampp_takes_half_the_gradient_where_its_cubes_are_negative() -> None:
    # g = -2, 1, 1, 1: D1 = 1/4, D2 = 7/4, D3 = -5/4; α = D2/(2·D2) = 1/2, w = 1/8.
    gradients = torch.tensor([-2.0, 1.0, 1.0, 1.0]).reshape(4, 1, 1, 1)
    weight = smoothgradcampp_weights(torch.ones(1, 1, 1), Moments.of(gradients))
    assert weight.item() == pytest.approx(1 / 8)


@pytest.mark.parametrize("size", [1e-18, 1e-9, 1e-3, 1.0, 1e6])
def test_smoothgradcampp_holds_for_gradients_of_any_size(size: float) -> None:
    # Without positive activations α = 1/2 at any size of the gradient: w = 1/2 · size.
    weight = smoothgradcampp_weights(
        -torch.ones(1, 1, 1), Moments.of(torch.full((1, 1, 1, 1), size))
    )
    assert weight.item() == pytest.approx(size / 2, rel=1e-5)


def test_smoothgradcampp_gives_no_weight_where_there_is_no_gradient() -> None:
    none = torch.zeros(1, 1, 1)
    assert smoothgradcampp_weights(none, Moments(none, none, none)).item() == 0


def loops(name: str, evidence: Evidence) -> np.ndarray:
    """A second version of the formulas: one number at a time, in the order in which they are
    printed."""
    noisy = evidence.noisy
    assert noisy is not None
    tensors = (evidence.activation, evidence.gradient, noisy.first, noisy.second, noisy.third)
    a, g, d1, d2, d3 = (tensor.numpy() for tensor in tensors)
    batch, channels, *sizes = a.shape
    places = list(product(*map(range, sizes)))
    cam = np.zeros((batch, *sizes))
    if name == "eigencam":
        for b in range(batch):
            values = a[b].reshape(channels, -1).T
            _, _, rows = np.linalg.svd(values)
            projection = (values @ rows[0]).reshape(sizes)
            cam[b] = projection * np.sign(projection.sum())
        return np.maximum(cam, 0.0)
    for b, k in product(range(batch), range(channels)):
        positive = sum(max(a[(b, k, *p)], 0.0) for p in places)
        weight = 0.0
        for p in places:
            at = (b, k, *p)
            if name == "gradcam":
                weight += g[at] / prod(sizes)
            elif name == "gradcampp" and g[at] > 0:
                weight += g[at] ** 2 / (2 * g[at] ** 2 + positive * g[at] ** 3) * g[at]
            elif name == "smoothgradcampp" and d1[at] > 0:
                weight += d2[at] / (2 * d2[at] + positive * max(d3[at], 0.0)) * d1[at]
        for p in places:
            at = (b, k, *p)
            if name == "xgradcam":
                alike = [q for q in places if a[(b, k, *q)] * a[at] > 0]
                total = sum(a[(b, k, *q)] for q in alike)
                weight = sum(a[(b, k, *q)] * g[(b, k, *q)] for q in alike) / total
            own = {"layercam": max(g[at], 0.0), "hirescam": g[at]}.get(name, weight)
            cam[(b, *p)] += own * a[at]
    return np.maximum(cam, 0.0)


@pytest.mark.parametrize("name", ONE_PASS)
@pytest.mark.parametrize("shape", [(2, 3, 3, 4), (1, 2, 5), (2, 2, 2, 3, 2)], ids=str)
def test_a_method_is_its_formula(name: str, shape: tuple[int, ...]) -> None:
    generator = torch.Generator().manual_seed(1)
    draw = torch.randn(5, *shape, dtype=torch.float64, generator=generator)
    evidence = Evidence(draw[0] + 0.5, draw[1], Moments.of(draw[2:]))
    expected = torch.from_numpy(loops(name, evidence))
    assert expected.max() > 0
    torch.testing.assert_close(METHODS[name].compute(evidence), expected)


# --- Moments, chunk by chunk ----------------------------------------------------------------------


def some_gradients(samples: int) -> torch.Tensor:
    return torch.randn(samples, 2, 3, 4, 4, generator=torch.Generator().manual_seed(2))


def same(one: Moments, other: Moments) -> bool:
    pairs = ((one.first, other.first), (one.second, other.second), (one.third, other.third))
    return all(torch.equal(a, b) for a, b in pairs)


@pytest.mark.parametrize("sizes", [[7], [1] * 7, [3, 4], [0, 5, 0, 2]], ids=str)
def test_how_samples_are_cut_into_chunks_does_not_change_a_bit(sizes: list[int]) -> None:
    gradients, total = some_gradients(7), MomentSum()
    for chunk in gradients.split(sizes):
        total.add(chunk)
    assert total.count == 7
    assert same(total.mean(), Moments.of(gradients))


def test_samples_may_be_added_after_a_mean_was_taken() -> None:
    gradients, total = some_gradients(5), MomentSum()
    total.add(gradients[:2])
    early = total.mean()
    total.add(gradients[2:])
    assert same(early, Moments.of(gradients[:2]))
    assert same(total.mean(), Moments.of(gradients))


def test_adding_leaves_the_gradients_as_they_were() -> None:
    gradients = some_gradients(3)
    before, total = gradients.clone(), MomentSum()
    total.add(gradients)
    total.add(gradients)
    assert torch.equal(gradients, before)


def test_half_precision_gradients_are_averaged_in_float32() -> None:
    # 100³ = 1e6 is beyond float16.
    moments = Moments.of(torch.full((2, 1, 1, 1), 100.0, dtype=torch.float16))
    assert moments.third.dtype == torch.float32
    assert moments.third.item() == 1e6


def test_the_order_of_noisy_copies_does_not_matter() -> None:
    gradients = some_gradients(6).double()
    activation = gradients[0].abs()
    forth, back = (
        smoothgradcampp(activation, Moments.of(g)) for g in (gradients, gradients.flip(0))
    )
    torch.testing.assert_close(forth, back)


def test_no_samples_have_no_mean() -> None:
    with pytest.raises(InvalidArgument, match="at least one noisy sample"):
        Moments.of(some_gradients(0))


def test_samples_of_different_shapes_are_refused() -> None:
    total = MomentSum()
    total.add(some_gradients(1))
    with pytest.raises(InvalidArgument, match=r"\(2, 3, 4, 4\)"):
        total.add(torch.ones(1, 2, 3, 4, 5))
    with pytest.raises(InvalidArgument, match="samples, batch, channels"):
        total.add(torch.ones(2, 3, 4))
    with pytest.raises(InvalidArgument, match="first moment"):
        Moments(torch.ones(1, 1, 2), torch.ones(1, 1, 2), torch.ones(1, 1, 3))
