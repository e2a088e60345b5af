"""Shortcuts give the same numbers, and are used only where they are faster."""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any

import numpy as np
import pytest
import timm
import torch
from torch import Tensor, nn

import cam_hub
from cam_hub.hooks.execution import Shortcuts, Worth, shortcuts, worth

CPU = torch.device("cpu")


class Whole(nn.Module):
    """Features, and a head whose first convolution covers all of them."""

    def __init__(self, **settings: Any) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.features = nn.Conv2d(3, 256, 4, stride=4)
        self.whole = nn.Conv2d(256, 256, 4, **settings)
        self.head = nn.Linear(256, 5)

    def forward(self, image: Tensor) -> Tensor:
        found: Tensor = self.head(self.whole(self.features(image).relu()).relu().mean((2, 3)))
        return found


@pytest.fixture
def image() -> Tensor:
    return torch.randn(1, 3, 16, 16, generator=torch.Generator().manual_seed(1))


def _operations(module: nn.Module, batch: Tensor) -> list[str]:
    """What torch computed in a pass with the shortcuts."""
    with (
        torch.no_grad(),
        torch.profiler.profile() as profile,
        Shortcuts(convolutions=True, tokens=True),
    ):
        module(batch)
    return [each.name for each in profile.events()]


@pytest.mark.parametrize("images", [1, 4])
@pytest.mark.parametrize("order", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("bias", [True, False])
def test_a_convolution_that_covers_its_input_gives_the_same_as_a_product(
    image: Tensor, images: int, order: torch.memory_format, bias: bool
) -> None:
    module = Whole(bias=bias).requires_grad_(False).to(memory_format=order)
    batch = (image * torch.arange(1, images + 1).view(-1, 1, 1, 1)).requires_grad_()
    expected = module(batch)
    with Shortcuts(convolutions=True, tokens=False):
        found = module(batch)
    torch.testing.assert_close(found, expected, atol=1e-6, rtol=1e-5)
    (theirs,) = torch.autograd.grad(expected[:, 2].sum(), batch)
    (ours,) = torch.autograd.grad(found[:, 2].sum(), batch)
    torch.testing.assert_close(ours, theirs, atol=1e-7, rtol=1e-5)


def test_such_a_convolution_of_one_image_is_replaced_by_a_product(image: Tensor) -> None:
    assert _operations(Whole(), image).count("aten::conv2d") == 1
    last = Whole().to(memory_format=torch.channels_last)
    assert _operations(last, image).count("aten::conv2d") == 1


@pytest.mark.parametrize(
    "settings",
    [{"padding": 1}, {"padding": (0, 1)}, {"groups": 2}],
    ids=["padded", "padded at the sides", "in groups"],
)
def test_other_convolutions_are_not_changed(image: Tensor, settings: dict[str, Any]) -> None:
    assert _operations(Whole(**settings), image).count("aten::conv2d") == 2


def test_a_larger_image_is_convolved() -> None:
    assert _operations(Whole(), torch.zeros(1, 3, 20, 16)).count("aten::conv2d") == 2


def test_an_input_that_does_not_fit_is_refused_as_by_torch() -> None:
    def error(around: Any) -> str:
        with around, pytest.raises(RuntimeError) as caught:
            Whole()(torch.zeros(1, 3, 8, 8))
        return str(caught.value)

    assert error(Shortcuts(convolutions=True, tokens=True)) == error(nullcontext())


def test_only_networks_with_a_large_convolution_take_its_shortcut() -> None:
    assert worth(Whole().modules()).convolutions
    small = [nn.Conv2d(3, 64, 7), nn.Conv2d(512, 2048, 1), nn.Linear(4096, 4096)]
    assert worth(small) == Worth(convolutions=False, tokens=True)


def test_attention_that_is_faster_by_itself_is_left_alone() -> None:
    assert not worth(nn.TransformerEncoderLayer(8, 2, batch_first=True).modules()).tokens


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
def test_compiled_networks_take_none(image: Tensor) -> None:
    assert worth(torch.jit.trace(Whole(), image).modules()) == Worth()
    compiled = Whole()
    compiled.compile()
    assert worth(compiled.modules()) == Worth()
    assert worth(torch.compile(Whole()).modules()) == Worth()


def test_there_is_no_context_without_a_benefit() -> None:
    every, neither = Worth(convolutions=True, tokens=True), Worth()
    assert isinstance(shortcuts(every, CPU), Shortcuts)
    assert isinstance(shortcuts(Worth(tokens=True), CPU, tokens=True), Shortcuts)
    assert isinstance(shortcuts(Worth(tokens=True), CPU), nullcontext)
    assert isinstance(shortcuts(neither, CPU, tokens=True), nullcontext)
    assert isinstance(shortcuts(every, torch.device("meta"), tokens=True), nullcontext)
    with torch.autocast("cpu", torch.bfloat16):
        assert isinstance(shortcuts(every, CPU, tokens=True), nullcontext)


def test_maps_of_a_class_token_are_those_of_plain_autograd() -> None:
    """LayerCAM by its formula, with torch alone."""
    model = cam_hub.load_model("timm/vit_tiny_patch16_224", pretrained=False, device="cpu")
    module, name = model.module, "blocks.11.norm1"
    image = torch.rand(1, *model.input_size, generator=torch.Generator().manual_seed(2))
    kept: list[Tensor] = []
    handle = module.get_submodule(name).register_forward_hook(
        lambda _module, _inputs, output: kept.append(output.requires_grad_()) or output
    )
    scores = module(image)
    handle.remove()
    (gradient,) = torch.autograd.grad(scores[0, 7], kept[0])
    expected = (gradient.relu() * kept[0]).detach()[0, 1:].sum(1).relu().view(14, 14)

    result = cam_hub.explain(
        model, image, method="layercam", target_layers=[name], classes=7, reuse=False
    )
    (found,) = result.cams.values()
    np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-5 * float(expected.max()))


def test_a_network_that_switches_autocast_on_itself_is_explained_at_tokens() -> None:
    """Trainers patch the forward pass of a network like this for mixed precision."""
    plain = timm.create_model("test_vit", num_classes=3).eval()

    class Mixed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.network = plain

        def forward(self, image: Tensor) -> Tensor:
            with torch.autocast("cpu", torch.bfloat16):
                scores: Tensor = self.network(image)
            return scores.float()

    image = torch.rand(3, 160, 160, generator=torch.Generator().manual_seed(2))
    given: dict[str, Any] = {"method": "layercam", "classes": 1}
    models = [cam_hub.wrap_model(each, input_size=(3, 160, 160)) for each in (plain, Mixed())]
    (name,) = cam_hub.suggest_layers(models[0])
    names = [name, f"network.{name}"]
    results = [
        cam_hub.explain(model, image, target_layers=name, **given)
        for model, name in zip(models, names, strict=True)
    ]
    expected, found = (result.cam() for result in results)
    assert np.corrcoef(expected.ravel(), found.ravel())[0, 1] > 0.99
