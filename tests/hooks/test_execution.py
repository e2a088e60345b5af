"""Networks that are not pure functions of the image: the same call gives the same map."""

from __future__ import annotations

import pickle
import random

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

import cam_hub
from cam_hub.hooks.execution import PLAIN, watch
from cam_hub.models.loaded_model import LoadedModel

SIZE = (3, 32, 32)


class Net(nn.Module):
    """A small network; the changes of its subclasses are between ``body`` and ``head``."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.body = nn.Sequential(
            nn.Conv2d(3, 8, 3, 2, 1), nn.ReLU(), nn.Conv2d(8, 16, 3, 2, 1), nn.ReLU()
        )
        self.fc = nn.Linear(16, 5)

    def head(self, features: Tensor) -> Tensor:
        return self.fc(features.mean((2, 3)))

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.body(x))


class Dropout(Net):
    """Drops cells, also in evaluation mode."""

    def forward(self, x: Tensor) -> Tensor:
        return self.head(functional.dropout(self.body(x), 0.3, training=True))


class Depth(Net):
    """Skips a part of its depth at random, with Python's generator."""

    def forward(self, x: Tensor) -> Tensor:
        found = self.body(x)
        return self.head(found if random.random() < 0.5 else 2 * found)


class Augmented(Net):
    """Shifts the image's brightness at random, with NumPy's generator."""

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.body(x + float(np.random.rand())))


class OwnNumbers(Net):
    """Uses a generator of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.numbers = torch.Generator().manual_seed(3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.body(x) * torch.rand(1, generator=self.numbers))


class Counting(Net):
    """Returns a result that depends on the number of calls."""

    def __init__(self) -> None:
        super().__init__()
        self.calls = 0

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        return self.head(self.body(x) * (1 + self.calls % 7))


class Averaging(Net):
    """Writes a running average to a buffer and counts in a plain tensor."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("average", torch.ones(1))
        self.seen = torch.zeros(())

    def forward(self, x: Tensor) -> Tensor:
        found = self.body(x)
        self.average.mul_(0.9).add_(found.detach().mean())
        self.seen += 1
        return self.head(found * self.average)


class Observing(Net):
    """Stores the range of its inputs, which a single image may leave unchanged."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("greatest", torch.full((), 0.5))

    def forward(self, x: Tensor) -> Tensor:
        found = self.body(x)
        self.greatest.copy_(torch.maximum(self.greatest, found.detach().max()))
        return self.head(found / self.greatest)


class Training(Net):
    """A network whose batch normalisation is always in training mode."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(16)

    def forward(self, x: Tensor) -> Tensor:
        self.norm.train()
        return self.head(self.norm(self.body(x)).relu())


class Flattening(Net):
    """Merges the batch into one row."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(16 * 64, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.body(x).reshape(1, -1))


class Fixed(Net):
    """Holds a second input, for one image."""

    def __init__(self) -> None:
        super().__init__()
        self.other = torch.randn(1, 16, 8, 8)
        self.fc = nn.Linear(32, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.cat([self.body(x), self.other], dim=1))


class Mixing(Net):
    """Subtracts the mean over the images of a batch."""

    def forward(self, x: Tensor) -> Tensor:
        found = self.body(x)
        return self.head(2 * found - found.mean(dim=0, keepdim=True))


VARYING = [Dropout, Depth, Augmented, OwnNumbers, Counting]
WRITING = [Averaging, Observing, Training]
ALONE = [Flattening, Fixed, Mixing]


def wrapped(kind: type[Net]) -> LoadedModel:
    return cam_hub.wrap_model(kind(), input_size=SIZE)


def image(seed: int = 1) -> Tensor:
    return torch.randn(SIZE, generator=torch.Generator().manual_seed(seed))


def numbers() -> list[object]:
    """The states of the process's random generators."""
    return [torch.get_rng_state().tolist(), random.getstate(), np.random.get_state()[1].tolist()]


@pytest.mark.parametrize("kind", [*VARYING, *WRITING, *ALONE])
@pytest.mark.parametrize("method", ["layercam", "smoothgradcampp"])
def test_the_same_call_gives_the_same_map_and_leaves_everything_as_it_was(kind, method):
    model = wrapped(kind)
    state = {name: value.clone() for name, value in model.module.state_dict().items()}
    before = numbers()
    first, second = (
        cam_hub.explain(model, image(), method=method, classes=1, reuse=False) for _ in range(2)
    )
    assert first.layers == (("norm",) if kind is Training else ("body",))
    assert np.array_equal(first.cam(), second.cam())
    assert first.predictions == second.predictions
    assert numbers() == before
    for name, value in model.module.state_dict().items():
        assert torch.equal(value, state[name]), name


@pytest.mark.parametrize("kind", VARYING)
def test_a_network_that_varies_is_reported(kind):
    found = cam_hub.explain(wrapped(kind), image(), method="layercam", classes=1)
    assert "changes from pass to pass" in found.manifest["notes"][0]


@pytest.mark.parametrize("kind", WRITING)
def test_tensors_that_were_restored_are_reported(kind):
    found = cam_hub.explain(wrapped(kind), image(), method="layercam", classes=1)
    assert any("restored" in note for note in found.manifest["notes"])


def test_nothing_is_reported_of_other_networks():
    model = wrapped(Net)
    assert "notes" not in cam_hub.explain(model, image(), method="layercam").manifest
    assert model.execution == PLAIN


@pytest.mark.parametrize("kind", ALONE)
def test_a_network_of_one_image_at_a_time_has_the_map_of_a_pass_of_its_own(kind):
    model = wrapped(kind)
    found = cam_hub.explain(model, image(), method="gradcam", classes=1)
    kept: list[Tensor] = []
    module = model.module.eval()

    def keep(_module: nn.Module, _inputs: object, output: Tensor) -> None:
        output.retain_grad()
        kept.append(output)

    hook = module.body.register_forward_hook(keep)
    module(image()[None])[0, 1].backward()
    hook.remove()
    (activation,) = kept
    weights = activation.grad.mean((2, 3), keepdim=True)
    expected = (weights * activation).sum(1)[0].relu().detach().numpy()
    assert np.allclose(found.cam(), expected, atol=1e-6)


@pytest.mark.parametrize("kind", [Dropout, Averaging, Flattening])
def test_many_images_are_explained_as_each_alone(kind):
    model = wrapped(kind)
    images = [image(seed) for seed in range(3)]
    outcomes = cam_hub.explain_many(model, images, method="layercam", classes=1)
    for given, outcome in zip(images, outcomes, strict=True):
        alone = cam_hub.explain(model, given, method="layercam", classes=1, reuse=False)
        assert np.allclose(outcome.explanation.cam(), alone.cam(), atol=1e-6)


@pytest.mark.parametrize("kind", [*VARYING, *WRITING])
def test_predictions_are_repeatable_before_anything_is_known_of_the_network(kind):
    model = wrapped(kind)
    state = {name: value.clone() for name, value in model.module.state_dict().items()}
    before = numbers()
    if kind is not Counting:  # which one pass does not show
        assert cam_hub.predict(model, image()) == cam_hub.predict(model, image())
    assert numbers() == before
    assert all(torch.equal(v, state[k]) for k, v in model.module.state_dict().items())


def test_tensors_are_also_restored_after_a_failure():
    module = Averaging()

    def fail() -> None:
        module(image()[None])
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError), watch(module):
        fail()
    assert module.average.item() == 1
    assert module.seen.item() == 0


class Drawing(nn.Module):
    """Keeps random generators of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.of_torch, self.of_python = torch.Generator(), random.Random(0)
        self.of_numpy = np.random.default_rng(0)


@pytest.mark.parametrize(
    "draw",
    [
        lambda net: torch.rand(1),
        lambda net: random.random(),
        lambda net: np.random.rand(),
        lambda net: np.random.standard_normal(),
        lambda net: torch.rand(1, generator=net.of_torch),
        lambda net: net.of_python.random(),
        lambda net: net.of_numpy.random(),
    ],
    ids=["torch", "python", "numpy", "numpy, normal", "own, torch", "own, python", "own, numpy"],
)
def test_every_source_of_random_numbers_is_watched_and_put_back(draw):
    net = Drawing()
    with watch(net) as seen:
        pass
    assert not seen.drawn
    with watch(net) as seen:
        first = draw(net)
    assert seen.drawn
    assert draw(net) == first


def test_the_users_own_tensors_stay_the_same_objects():
    model = wrapped(Averaging)
    average, seen = model.module.average, model.module.seen
    cam_hub.explain(model, image(), method="layercam")
    assert model.module.average is average
    assert model.module.seen is seen


def test_a_pickled_model_is_run_as_the_original():
    model = wrapped(Dropout)
    found = cam_hub.explain(model, image(), method="layercam", classes=1)
    again = cam_hub.explain(
        pickle.loads(pickle.dumps(model)), image(), method="layercam", classes=1
    )
    assert np.array_equal(found.cam(), again.cam())
    assert found.manifest == again.manifest
