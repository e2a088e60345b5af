"""Small networks of every layout and kind of output, with random weights; a plain reference."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import timm
import torch
from torch import Tensor, nn

import cam_hub
from cam_hub import LoadedModel, Method
from cam_hub.attribution.passes import Noise
from cam_hub.attribution.preparation import prepare, resolve_target
from cam_hub.hooks.recording import main_tensor
from cam_hub.layers.layouts import LAYOUTS, batch_first, to_maps
from cam_hub.layers.listing import list_layers


class Pyramid(nn.Module):
    """Convolutions with in-place layers, a residual, and a head of any kind."""

    def __init__(self, head: nn.Module, width: int = 8) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, width, 3, 2, 1)
        self.norm, self.act = nn.BatchNorm2d(width), nn.ReLU(inplace=True)
        self.block = nn.Conv2d(width, width, 3, padding=1)
        self.mix = nn.Conv2d(width, width, 3, padding=1)
        self.last = nn.Conv2d(width, width, 1)
        self.head = head

    def forward(self, x: Tensor) -> object:
        x = self.act(self.norm(self.stem(x)))
        x = self.mix(self.block(x).relu_()) + x
        return self.head(self.last(x).relu_())


class Pooled(nn.Module):
    def __init__(self, classes: int | None = None) -> None:
        super().__init__()
        self.fc = nn.Linear(8, classes) if classes else nn.Identity()

    def forward(self, maps: Tensor) -> Tensor:
        return self.fc(maps.mean((2, 3)))


class Counting(Pyramid):
    """Counts the images that have passed."""

    def __init__(self) -> None:
        super().__init__(Pooled(5))
        self.images = 0

    def forward(self, x: Tensor) -> object:
        self.images += len(x)
        return super().forward(x)


class Boxes(nn.Module):
    """One box for each of two classes per image."""

    def forward(self, maps: Tensor) -> list[dict[str, Tensor]]:
        boxes = torch.tensor([[0.0, 0.0, 16.0, 32.0], [16.0, 0.0, 32.0, 32.0]])
        return [
            {"boxes": boxes, "labels": torch.tensor([0, 1]), "scores": one[:2].mean((1, 2))}
            for one in maps
        ]


class Detector(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.net = Pyramid(Boxes())

    def forward(self, images: list[Tensor]) -> object:
        return self.net(torch.stack(images))


def _drawn(module: nn.Module) -> nn.Module:
    for child in module.modules():
        if isinstance(child, nn.BatchNorm2d):
            nn.init.uniform_(child.weight, 0.5, 1.5)
            nn.init.normal_(child.bias, std=0.2)
    return module


def _wrapped(module: nn.Module, **given: object) -> LoadedModel:
    return cam_hub.wrap_model(_drawn(module), input_size=(3, 32, 32), **given)


def _timm(name: str, **given: object) -> Callable[[], LoadedModel]:
    def make() -> LoadedModel:
        module = timm.create_model(name, **given)
        size = given.get("img_size", 64)
        return cam_hub.wrap_model(_drawn(module), input_size=(3, size, size))

    return make


NETS: dict[str, Callable[[], LoadedModel]] = {
    "channels first": _timm("test_resnet"),
    "depthwise": _timm("test_efficientnet"),
    "tokens": _timm("test_vit", img_size=64),
    "channels last": _timm("test_mambaout"),
    "features": _timm("test_convnext", num_classes=0),
    "one logit": lambda: _wrapped(Pyramid(Pooled(1))),
    "segmentation": lambda: _wrapped(Pyramid(nn.Conv2d(8, 3, 1)), task="segmentation"),
    "detection": lambda: _wrapped(Detector(), task="detection"),
}


def make_net(name: str) -> LoadedModel:
    """A network by its kind; with the same weights each time.

    In double precision, so that a difference is not rounding (which Smooth Grad-CAM++ amplifies
    where its denominator nearly vanishes), but an error in the computation.
    """
    torch.manual_seed(0)
    model = NETS[name]()
    model.module.eval().double()
    return model


def picture(model: LoadedModel, seed: int = 0) -> Tensor:
    """A preprocessed image of the model's size."""
    noise = torch.randn(1, *model.input_size, generator=torch.Generator().manual_seed(seed))
    return nn.functional.avg_pool2d(noise, 5, 1, 2) * 3


def some_layers(model: LoadedModel) -> list[str]:
    """A few usable layers, early to late, whose output later layers may write to."""
    usable = [layer.name for layer in list_layers(model) if layer.usable]
    return usable[:: max(1, len(usable) // 4)]


def plainly(
    model: LoadedModel, method: Method, image: Tensor, layer: str, index: int, noise: Noise
) -> np.ndarray:
    """A reference map: that of ``plain_tensors``.

    Returns:
        ``(rows, cols)``; for a clip, the grids of its steps one below the other.
    """
    return method(*plain_tensors(model, image, layer, index, noise))[0].numpy()


def plain_tensors(
    model: LoadedModel, image: Tensor, layer: str, index: int, noise: Noise
) -> tuple[Tensor, Tensor, Tensor]:
    """What methods combine: one image at a time, with the whole graph, without shared memory.

    Args:
        model: The model.
        image: ``(1, …)``, preprocessed.
        layer: Name of the target layer.
        index: Index of the class.
        noise: Noise of the noisy copies.

    Returns:
        The activation, its gradient, and the gradients of the noisy copies.
    """
    arrangement = next(found for found in list_layers(model) if found.name == layer).arrangement
    target = resolve_target(model, prepare(model, image)).aim(model, image.to(model.dtype))

    def both(one: Tensor) -> tuple[Tensor, Tensor]:
        kept = []

        def hook(_module: nn.Module, _inputs: object, output: object) -> object:
            found = main_tensor(output)
            kept.append(found.clone())  # other uses of this tensor do not count
            return kept[-1].clone() if output is found else None

        handle = model.module.get_submodule(layer).register_forward_hook(hook)
        try:
            score = target.scores(model.task.run(model.module, one))[0, index]
        finally:
            handle.remove()
        (gradient,) = torch.autograd.grad(score, kept[-1])
        # One clip passes at a time, so that all frames in the batch are its own.
        folded = LAYOUTS[arrangement.layout].folded
        parts = (
            part.detach()[None] if folded else batch_first(part.detach(), arrangement)
            for part in (kept[-1], gradient)
        )
        return tuple(to_maps(part, arrangement) for part in parts)

    with torch.enable_grad():
        image = image.to(model.dtype)
        activation, gradient = both(image.clone().requires_grad_())
        noisy = [both(copy.requires_grad_())[1] for copy in noisy_copies(noise, image)]
    return activation, gradient, torch.stack(noisy)


def noisy_copies(noise: Noise, image: Tensor) -> list[Tensor]:
    """The noisy copies of an image."""
    return [image + drawn for drawn in noise.draws(image, torch.contiguous_format)]


def apart(one: np.ndarray, other: np.ndarray) -> float:
    """The maximum difference of two maps, relative to the larger maximum."""
    return float(np.abs(one - other).max() / max(one.max(), other.max(), 1e-30))
