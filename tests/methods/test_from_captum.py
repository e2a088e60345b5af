"""captum's methods through our targets, against captum run directly on a plain network."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import cam_hub
from cam_hub import explain
from cam_hub.attribution import preparation
from cam_hub.errors import InvalidArgument, NoMap
from cam_hub.methods import METHODS
from tests.fakes.law_nets import inputs
from tests.fakes.module_state import state_of

captum = pytest.importorskip("captum.attr")

CAPTUM = {name: method for name, method in METHODS.items() if method.requires == "captum"}
CONTRIBUTIONS = {
    "inputxgradient": "InputXGradient",
    "integratedgradients": "IntegratedGradients",
    "deeplift": "DeepLift",
    "lrp": "LRP",
}


def plain() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 6, 3, padding=1), nn.BatchNorm2d(6), nn.ReLU(inplace=True),
        nn.Conv2d(6, 8, 3, 2), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Conv2d(8, 5, 1),
    ).eval()  # fmt: skip


class Flat(nn.Module):
    def __init__(self, trunk: nn.Module) -> None:
        super().__init__()
        self.trunk = trunk

    def forward(self, x: Tensor) -> Tensor:
        return self.trunk(x).flatten(1)


@pytest.fixture(scope="module")
def model() -> cam_hub.LoadedModel:
    return cam_hub.wrap_model(Flat(plain()), input_size=(3, 32, 40))


@pytest.fixture(scope="module")
def image(model: cam_hub.LoadedModel) -> Tensor:
    return inputs(model, 1)[0]


def reference() -> nn.Module:
    module = Flat(plain())
    module.trunk[2].inplace = False  # on which captum's hooks fail
    return module


@pytest.mark.filterwarnings("ignore:Setting")
@pytest.mark.parametrize("name", CONTRIBUTIONS)
def test_contributions_are_captums_summed_over_the_channels(model, image, name: str) -> None:
    before = state_of(model.module)
    found = explain(model, image, method=name, classes=[1, 3], sign="both")
    assert state_of(model.module) == before
    for index in (1, 3):
        method = getattr(captum, CONTRIBUTIONS[name])(reference())
        theirs = method.attribute(image[None].clone().requires_grad_(), target=index)
        expected = theirs.detach().sum(1)[0].numpy()
        scale = np.abs(expected).max()
        np.testing.assert_allclose(found.cam(index), expected, rtol=0, atol=1e-5 * scale)


def test_integrated_gradients_sum_to_the_gain_of_the_score(model, image) -> None:
    found = explain(model, image, method="integratedgradients", classes=1, sign="both")
    with torch.no_grad():
        gain = model.module(image[None])[0, 1] - model.module(0 * image[None])[0, 1]
    assert float(found.cam().sum()) == pytest.approx(float(gain), rel=1e-2, abs=1e-3)


@pytest.mark.filterwarnings("ignore:Setting")
def test_guided_backprop_is_captums_largest_magnitude(model, image) -> None:
    found = explain(model, image, method="guidedbackprop", classes=2)
    theirs = captum.GuidedBackprop(reference()).attribute(
        image[None].clone().requires_grad_(), target=2
    )
    np.testing.assert_allclose(found.cam(), theirs.abs().amax(1)[0], rtol=1e-4, atol=1e-7)


def test_smooth_grad_is_the_mean_gradient_of_the_noisy_copies(model, image) -> None:
    found = explain(model, image, method="smoothgrad", classes=2, num_samples=3, std=0.2, seed=5)
    generator = torch.Generator().manual_seed(5)
    total = torch.zeros_like(image)
    for _ in range(3):
        noise = torch.randn((1, *image.shape), generator=generator) * 0.2
        noisy = (image[None] + noise).requires_grad_()
        total += torch.autograd.grad(model.module(noisy)[0, 2], noisy)[0][0]
    expected = (total / 3).abs().amax(0)
    np.testing.assert_allclose(found.cam(), expected, rtol=1e-4, atol=1e-7)
    assert found.manifest["parameters"] == {"num_samples": 3, "std": 0.2, "seed": 5}
    with pytest.raises(InvalidArgument, match="magnitudes"):
        explain(model, image, method="smoothgrad", sign="against")


class Functional(nn.Module):
    """Its activation function is a plain function, or a module that runs twice."""

    def __init__(self, *, shared: bool) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.one, self.two = nn.Conv2d(3, 6, 3), nn.Conv2d(6, 6, 3)
        self.fc = nn.Linear(6, 5)
        self.act = nn.ReLU() if shared else nn.Identity()
        self.shared = shared

    def forward(self, x: Tensor) -> Tensor:
        act = self.act if self.shared else torch.relu
        return self.fc(act(self.two(act(self.one(x) - 1) * 3)).mean((2, 3)))


def test_what_captum_cannot_do_on_a_network_is_refused_with_the_reason(image) -> None:
    functional = cam_hub.wrap_model(Functional(shared=False), input_size=(3, 32, 40))
    shared = cam_hub.wrap_model(Functional(shared=True), input_size=(3, 32, 40))
    with pytest.raises(NoMap, match="ReLU modules, and this network has none"):
        explain(functional, image, method="guidedbackprop")
    with pytest.raises(NoMap, match="activation functions that captum has a rule for"):
        explain(functional, image, method="deeplift")
    before = state_of(shared.module)
    with pytest.raises(NoMap, match="run once"):
        explain(shared, image, method="deeplift")
    odd = cam_hub.wrap_model(
        nn.Sequential(nn.Conv2d(3, 4, 3), nn.GELU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()),
        input_size=(3, 32, 40),
    )
    with pytest.raises(NoMap, match="layers that captum has rules for"):
        explain(odd, image, method="lrp")
    assert state_of(shared.module) == before


def test_weights_that_no_rule_accounts_for_are_refused(image) -> None:
    class Scaled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.scale = nn.Parameter(torch.ones(1))
            self.inner = plain()

        def forward(self, x: Tensor) -> Tensor:
            return self.inner(self.scale * x).flatten(1)

    scaled = cam_hub.wrap_model(Scaled(), input_size=(3, 32, 40))
    with pytest.raises(NoMap, match="weights that belong to none"):
        explain(scaled, image, method="lrp")


@pytest.mark.parametrize("name", CAPTUM)
def test_without_captum_it_is_listed_and_refused_with_the_command(
    model, image, name: str, monkeypatch
) -> None:
    monkeypatch.setattr(preparation, "find_spec", lambda _: None)
    assert name in METHODS
    for call in (
        lambda: explain(model, image, method=name),
        lambda: cam_hub.explain_many(model, [image], method=name),
    ):
        with pytest.raises(InvalidArgument, match=r"pip install 'cam-hub\[captum\]'"):
            call()


@pytest.mark.parametrize("name", CAPTUM)
def test_the_users_network_is_never_written_to_nor_hooked(image, name: str, monkeypatch) -> None:
    module = Flat(plain())
    twin = copy.deepcopy(module)
    wrapped = cam_hub.wrap_model(module, input_size=(3, 32, 40))
    cam_hub.list_layers(wrapped)

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("a hook on the user's network")

    for part in module.modules():
        object.__setattr__(part, "register_full_backward_hook", refuse)
    explain(wrapped, image, method=name)
    for ours, theirs in zip(module.parameters(), twin.parameters(), strict=True):
        assert torch.equal(ours, theirs)
    assert module.trunk[2].inplace
