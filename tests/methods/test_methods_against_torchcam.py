"""The same maps as torchcam 0.5 where it follows the papers, and evidence where it does not."""

import copy
from dataclasses import dataclass
from types import SimpleNamespace

import pytest
import timm
import torch
from torch import Tensor, nn
from torchcam import methods as torchcam

from cam_hub.methods import METHODS, Evidence, Moments, fuse, gradcampp, smoothgradcampp
from cam_hub.methods.gradient_cams import smoothgradcampp_weights, weighted_map

CLASSES = [7, 3]
STD = 0.3

# The outputs of two stages, after their ReLU, and one convolution with outputs of both signs.
every_layer = pytest.mark.parametrize("layer", ["layer3", "layer4", "layer4.0.conv2"])


@pytest.fixture(scope="module")
def network() -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        # float64, because torchcam's denominators of Smooth Grad-CAM++ come close to 0 at inner
        # layers: in float32 the order of a sum already moves its weights by 1e-5.
        model = timm.create_model("test_resnet", num_classes=10, zero_init_last=False)
        return model.double().eval()


@pytest.fixture(scope="module")
def images() -> Tensor:
    return torch.randn(
        2, 3, 96, 96, dtype=torch.float64, generator=torch.Generator().manual_seed(1)
    )


@dataclass
class Pass:
    """Activation and gradient of one layer, by a hook of our own."""

    activation: Tensor
    gradient: Tensor


def run(network: nn.Module, layer: str, images: Tensor) -> Pass:
    seen: list[Tensor] = []
    handle = network.get_submodule(layer).register_forward_hook(lambda *args: seen.append(args[2]))
    try:
        scores = network(images)
    finally:
        handle.remove()
    (gradient,) = torch.autograd.grad(scores[range(2), CLASSES].sum(), seen)
    return Pass(seen[0].detach().clone(), gradient)


def assert_same(ours: Tensor, theirs: Tensor) -> None:
    """Equal to 1e-5 of the largest value."""
    assert theirs.abs().max() > 0
    torch.testing.assert_close(
        ours / theirs.abs().max(), theirs / theirs.abs().max(), rtol=0, atol=1e-5
    )


@every_layer
@pytest.mark.parametrize(
    ("name", "extractor"),
    [
        ("layercam", torchcam.LayerCAM),
        ("gradcam", torchcam.GradCAM),
        ("xgradcam", torchcam.XGradCAM),
    ],
)
def test_first_order_methods_equal_torchcam(
    network: nn.Module, images: Tensor, layer: str, name: str, extractor: type
) -> None:
    clean = run(network, layer, images)
    ours = METHODS[name].compute(Evidence(clean.activation, clean.gradient))
    with extractor(network, layer) as cam:
        (theirs,) = cam(CLASSES, network(images), normalized=False)
    if name == "xgradcam" and bool((clean.activation < 0).any()):
        # Where ΣA cancels, torchcam divides by what is left of it; see the test below.
        assert (ours / ours.amax() - theirs / theirs.amax()).abs().max() > 0.01
    else:
        assert_same(ours, theirs)


def test_torchcams_xgradcam_weights_exceed_all_gradients_of_their_channel_and_ours_do_not(
    network: nn.Module, images: Tensor
) -> None:
    # A mean of gradients lies between the smallest and the largest, a quotient by a cancelling
    # sum does not: here the weights of a convolution before its ReLU.
    layer = "layer4.0.conv2"
    clean = run(network, layer, images)
    a, g = clean.activation, clean.gradient
    with torchcam.XGradCAM(network, layer) as cam:
        (weights,) = cam._get_weights(CLASSES, network(images))
    assert_same((a * g).sum((2, 3)) / a.sum((2, 3)), weights)
    assert (weights.abs() > 2 * g.abs().amax((2, 3))).any()
    ours = METHODS["xgradcam"].signed("both").compute(Evidence(a, g))
    assert (ours.abs() <= (g.abs().amax((2, 3), keepdim=True) * a.abs()).sum(1)).all()
    torch.testing.assert_close(ours.sum((1, 2)), (a * g).sum((1, 2, 3)))
    assert (METHODS["xgradcam"].cancellation(Evidence(a, g)) > 0.3).all()
    assert not METHODS["xgradcam"].cancellation(Evidence(a.relu(), g)).any()


def test_fused_layercam_maps_equal_torchcam_once_their_maximum_is_1(
    network: nn.Module, images: Tensor
) -> None:
    # torchcam leaves the division by the maximum, which equation 9 requires, to its caller.
    with torchcam.LayerCAM(network, ["layer3", "layer4"]) as cam:
        maps = cam(CLASSES, network(images), normalized=False)
        theirs = cam.fuse_cams([m / m.amax((1, 2), keepdim=True) for m in maps])
    assert_same(fuse(maps, METHODS["layercam"]), theirs)


# --- Smooth Grad-CAM++ ----------------------------------------------------------------------------


def torchcam_smooth(
    network: nn.Module, layer: str, images: Tensor, noises: list[Tensor]
) -> tuple[Tensor, Tensor]:
    """torchcam's weights and un-normalised map, given the noise it is to draw."""
    with torchcam.SmoothGradCAMpp(network, layer, num_samples=len(noises), std=STD) as cam:
        results = []
        for ask in (cam._get_weights, lambda c: cam(c, normalized=False)):
            draws = iter(noises)
            cam._distrib = SimpleNamespace(sample=lambda size, draws=draws: next(draws))
            network(images)
            results.append(ask(CLASSES)[0])
    return results[0], results[1]


def some_noise(images: Tensor, samples: int) -> list[Tensor]:
    generator = torch.Generator().manual_seed(5)
    return [STD * torch.randn(images.shape, generator=generator) for _ in range(samples)]


def smooth_moments(passes: list[Pass]) -> Moments:
    return Moments.of(torch.stack([noisy.gradient for noisy in passes]))


def with_large_gradients(network: nn.Module) -> nn.Module:
    """A copy with larger scores: torchcam's eps of 1e-8 is not small compared with squares of
    1e-3."""
    scaled = copy.deepcopy(network)
    with torch.no_grad():
        scaled.get_submodule("fc").weight.mul_(1000)
    return scaled


def torchcam_weights(activation: Tensor, moments: Moments) -> Tensor:
    """torchcam's formula in plain algebra: A and D3 summed together, with their signs."""
    curvature = (activation * moments.third).sum((2, 3), keepdim=True)
    alpha = moments.second / (2 * moments.second + curvature + 1e-8)
    return (alpha * moments.first.relu()).sum((2, 3), keepdim=True)


def test_smoothgradcampp_weights_equal_torchcam_where_its_sum_is_that_of_the_paper(
    network: nn.Module, images: Tensor
) -> None:
    # layer4 ends in a ReLU, and average pooling makes its gradient the same at all positions.
    network = with_large_gradients(network)
    # torchcam draws from the global generator: the same seed gives us the same noise.
    with torch.random.fork_rng():
        torch.manual_seed(5)
        noise = torch.distributions.Normal(0.0, STD).sample(images.shape)
        with torchcam.SmoothGradCAMpp(network, "layer4", num_samples=1, std=STD) as cam:
            network(images)
            torch.manual_seed(5)
            (theirs,) = cam._get_weights(CLASSES)
    clean, noisy = run(network, "layer4", images), run(network, "layer4", images + noise)
    ours = smoothgradcampp_weights(clean.activation, smooth_moments([noisy])).flatten(1)
    assert_same(ours, theirs)


@every_layer
def test_torchcam_gives_the_weights_of_its_own_formula(
    network: nn.Module, images: Tensor, layer: str
) -> None:
    noises = some_noise(images, 1)
    clean, noisy = run(network, layer, images), run(network, layer, images + noises[0])
    theirs, _ = torchcam_smooth(network, layer, images, noises)
    moments = smooth_moments([noisy])
    assert_same(torchcam_weights(clean.activation, moments).flatten(1), theirs)


def test_torchcam_gives_weights_of_any_sign_and_size_and_we_do_not(
    network: nn.Module, images: Tensor
) -> None:
    # A convolution before its ReLU: activations of both signs, which torchcam's sum cancels.
    network, noises, layer = with_large_gradients(network), some_noise(images, 1), "layer4.0.conv2"
    clean, noisy = run(network, layer, images), run(network, layer, images + noises[0])
    theirs, _ = torchcam_smooth(network, layer, images, noises)
    ours = smoothgradcampp_weights(clean.activation, smooth_moments([noisy])).flatten(1)
    bound = noisy.gradient.relu().sum((2, 3)) / 2  # α = 1/2 everywhere
    assert (ours >= 0).all()
    assert (ours <= bound * (1 + 1e-9)).all()
    assert (theirs < 0).any()
    assert (theirs.abs() > 2 * bound).any()


@every_layer
def test_torchcam_ends_with_the_noisy_activations_and_we_with_the_clean_ones(
    network: nn.Module, images: Tensor, layer: str
) -> None:
    noises = some_noise(images, 1)
    clean, noisy = run(network, layer, images), run(network, layer, images + noises[0])
    moments = smooth_moments([noisy])
    _, theirs = torchcam_smooth(network, layer, images, noises)
    assert_same(weighted_map(torchcam_weights(clean.activation, moments), noisy.activation), theirs)
    weights = smoothgradcampp_weights(clean.activation, moments)
    ours = smoothgradcampp(clean.activation, moments)
    assert torch.equal(ours, weighted_map(weights, clean.activation))


def test_torchcam_uses_the_last_noisy_copy_and_we_use_all_of_them(
    network: nn.Module, images: Tensor
) -> None:
    # Not layer4: only a mean and a linear layer follow it, so its gradient does not depend on
    # noise.
    noises = some_noise(images, 3)
    clean = run(network, "layer3", images)
    passes = [run(network, "layer3", images + noise) for noise in noises]
    moments = smooth_moments(passes)
    ours = smoothgradcampp_weights(clean.activation, moments).flatten(1)
    our_reverse = smoothgradcampp_weights(clean.activation, smooth_moments(passes[::-1])).flatten(1)
    theirs, _ = torchcam_smooth(network, "layer3", images, noises)
    their_reverse, _ = torchcam_smooth(network, "layer3", images, noises[::-1])

    assert_same(our_reverse, ours)
    assert (their_reverse - theirs).abs().max() > 0.01 * theirs.max()
    # torchcam uses the last gradient in place of the mean gradient.
    last = Moments(passes[-1].gradient, moments.second, moments.third)
    assert_same(torchcam_weights(clean.activation, last).flatten(1), theirs)


# --- Grad-CAM++ -----------------------------------------------------------------------------------


def test_torchcam_loses_the_division_of_gradcampp_and_we_do_not(
    network: nn.Module, images: Tensor
) -> None:
    clean = run(network, "layer3", images)
    a, g = clean.activation, clean.gradient
    with torchcam.GradCAMpp(network, "layer3") as cam:
        (weights,) = cam._get_weights(CLASSES, network(images))
        (theirs,) = cam(CLASSES, network(images), normalized=False)
    assert_same((g.pow(2) * g.relu()).sum((2, 3)), weights)

    area = a.sum((2, 3), keepdim=True)
    assert (a >= 0).all()
    alpha = torch.where(g == 0, 0.0, g.pow(2) / (2 * g.pow(2) + area * g.pow(3)))
    ours = gradcampp(a, g)
    assert_same(ours, ((alpha * g.relu()).sum((2, 3), keepdim=True) * a).sum(1).relu())
    # Not the same map at another scale, either.
    assert (ours / ours.amax() - theirs / theirs.amax()).abs().max() > 0.01
