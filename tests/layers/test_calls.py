"""Layers that run several times in a pass, and networks that fold frames into the batch."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import cam_hub
from cam_hub.errors import InvalidArgument
from cam_hub.models.loaded_model import LoadedModel


def body() -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1), nn.ReLU(), nn.Conv2d(8, 16, 3, 2, 1), nn.ReLU())


def image(*size: int) -> Tensor:
    return torch.randn(size, generator=torch.Generator().manual_seed(1))


def outputs(module: nn.Module, layer: nn.Module, x: Tensor, index: int) -> list[Tensor]:
    """Grad-CAM by hand at each call of a layer: ``(parts, rows, cols)``."""
    kept: list[Tensor] = []

    def keep(_module: nn.Module, _inputs: object, output: Tensor) -> None:
        output.retain_grad()
        kept.append(output)

    hook = layer.register_forward_hook(keep)
    module.eval()(x[None])[0, index].backward()
    hook.remove()
    return kept


def by_hand(activation: Tensor) -> np.ndarray:
    """Grad-CAM of one part."""
    assert activation.grad is not None
    weights = activation.grad.mean((2, 3), keepdim=True)
    return (weights * activation).sum(1).relu().detach().numpy()


# Several calls


class Views(nn.Module):
    """Two views in six channels, through one backbone."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.backbone, self.fc = body(), nn.Linear(32, 4)

    def forward(self, x: Tensor) -> Tensor:
        views = [self.backbone(x[:, start : start + 3]).mean((2, 3)) for start in (0, 3)]
        return self.fc(torch.cat(views, dim=1))


class Flipped(nn.Module):
    """Adds the scores of the mirrored image, either before or after those of the image."""

    def __init__(self, *, first: bool) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.backbone, self.fc, self.first = body(), nn.Linear(16, 4), first

    def forward(self, x: Tensor) -> Tensor:
        pair = (x.flip(-1), x) if self.first else (x, x.flip(-1))
        return sum(self.fc(self.backbone(each).mean((2, 3))) for each in pair)  # type: ignore[return-value]


@pytest.fixture
def views() -> LoadedModel:
    return cam_hub.wrap_model(Views(), input_size=(6, 32, 32), mean=[0.5] * 6, std=[0.2] * 6)


@pytest.mark.parametrize("call", [0, 1, -1, None])
@pytest.mark.parametrize("method", ["gradcam", "layercam"])
def test_each_call_of_a_shared_backbone_has_a_map_of_its_own(views, call, method):
    x = image(6, 32, 32)
    found = cam_hub.explain(views, x, method=method, classes=2, call=call)
    assert found.layers == ("backbone",)
    number = 1 if call is None else call % 2
    activation = outputs(views.module, views.module.backbone, x, 2)[number]
    expected = by_hand(activation)
    if method == "layercam":
        expected = (activation.grad.relu() * activation).sum(1).relu().detach().numpy()
    assert np.allclose(found.cam(), expected[0], atol=1e-6)
    assert f"call {number} is shown" in found.manifest["layer_notes"]["backbone"]


def test_the_same_call_comes_out_of_the_manifest(views):
    x = image(6, 32, 32)
    found = cam_hub.explain(views, x, method="gradcam", classes=2, call=0)
    again = cam_hub.reproduce(found.manifest, x, model=views)
    assert np.array_equal(found.cam(), again.cam())
    assert again.manifest == found.manifest


def test_calls_do_not_share_what_is_kept_of_a_pass(views):
    x = image(6, 32, 32)
    kept = [cam_hub.explain(views, x, method="gradcam", classes=2, call=c).cam() for c in (0, 1)]
    assert not np.allclose(*kept)


@pytest.mark.parametrize("call", [2, -3])
def test_a_call_that_there_is_not_is_refused_with_those_that_there_are(views, call):
    with pytest.raises(InvalidArgument, match=r"0 to 1.*runs 2 times"):
        cam_hub.explain(views, image(6, 32, 32), call=call)


def test_layers_report_their_number_of_calls(views):
    layers = {layer.name: layer for layer in cam_hub.list_layers(views)}
    assert (layers["backbone"].calls, layers["backbone"].readable_calls) == (2, (0, 1))
    assert "call 1 of its 2 calls" in layers["backbone"].reason
    assert layers["fc"].calls == 1


@pytest.mark.parametrize("first", [False, True])
def test_of_a_mirrored_and_a_plain_call_the_plain_one_is_explained(first):
    model = cam_hub.wrap_model(Flipped(first=first), input_size=(3, 32, 32))
    x = image(3, 32, 32)
    found = cam_hub.explain(model, x, method="gradcam", classes=2)
    plain, mirrored = (int(first), int(not first))
    activation = outputs(model.module, model.module.backbone, x, 2)[plain]
    assert found.layers == ("backbone",)
    assert np.allclose(found.cam(), by_hand(activation)[0], atol=1e-6)
    with pytest.raises(InvalidArgument, match="mirrored"):
        cam_hub.explain(model, x, call=mirrored)


def test_a_relu_that_is_used_in_several_places_is_not_a_shared_layer():
    class Reused(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.one, self.two = nn.Conv2d(3, 8, 3, 2, 1), nn.Conv2d(8, 16, 3, 2, 1)
            self.relu, self.fc = nn.ReLU(), nn.Linear(16, 4)

        def forward(self, x: Tensor) -> Tensor:
            return self.fc(self.relu(self.two(self.relu(self.one(x)))).mean((2, 3)))

    model = cam_hub.wrap_model(Reused(), input_size=(3, 32, 32))
    (best,) = (layer for layer in cam_hub.list_layers(model) if layer.recommended)
    assert (best.name, best.calls, best.call, best.readable_calls) == ("relu", 2, 1, ())
    assert "notes" not in cam_hub.explain(model, image(3, 32, 32), method="layercam").manifest


# Frames in the batch


class Recurrent(nn.Module):
    """Frames of a clip through an image network, and its outputs for them through an LSTM."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.cnn, self.fc = body(), nn.Linear(32, 5)
        self.rnn = nn.LSTM(16, 32, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        images, frames = x.shape[0], x.shape[2]
        found = self.cnn(x.transpose(1, 2).flatten(0, 1)).mean((2, 3))
        return self.fc(self.rnn(found.unflatten(0, (images, frames)))[0][:, -1])


class TimeFirst(Recurrent):
    """The same, with all images' first frames before their second ones."""

    def forward(self, x: Tensor) -> Tensor:
        images, frames = x.shape[0], x.shape[2]
        found = self.cnn(x.permute(2, 0, 1, 3, 4).flatten(0, 1)).mean((2, 3))
        found = found.unflatten(0, (frames, images)).transpose(0, 1)
        return self.fc(self.rnn(found)[0][:, -1])


class Segments(nn.Module):
    """Consecutive frames in an image's channels; the mean of their scores."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.cnn, self.fc = body(), nn.Linear(16, 5)

    def forward(self, x: Tensor) -> Tensor:
        found = self.cnn(x.reshape(-1, 3, *x.shape[2:])).mean((2, 3))
        return self.fc(found).unflatten(0, (len(x), -1)).mean(dim=1)


class Attending(Recurrent):
    """Features of frames through a transformer over time."""

    def __init__(self) -> None:
        super().__init__()
        layer = nn.TransformerEncoderLayer(16, 2, 32, batch_first=True, norm_first=True)
        self.rnn, self.fc = (
            nn.TransformerEncoder(layer, 2, enable_nested_tensor=False),
            nn.Linear(16, 5),
        )

    def forward(self, x: Tensor) -> Tensor:
        images, frames = x.shape[0], x.shape[2]
        found = self.cnn(x.transpose(1, 2).flatten(0, 1)).mean((2, 3))
        return self.fc(self.rnn(found.unflatten(0, (images, frames))).mean(1))


class Last(nn.Module):
    """Frames in the batch, channels last."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.cnn, self.mix, self.fc = body(), nn.Linear(16, 16), nn.Linear(16, 5)

    def forward(self, x: Tensor) -> Tensor:
        found = self.mix(self.cnn(x.transpose(1, 2).flatten(0, 1)).permute(0, 2, 3, 1)).relu()
        return self.fc(found.mean((1, 2)).unflatten(0, (len(x), -1)).mean(dim=1))


FRAMES = {
    Recurrent: (3, 8, 32, 32),
    TimeFirst: (3, 8, 32, 32),
    Attending: (3, 8, 32, 32),
    Segments: (12, 32, 32),
}


def wrapped(kind: type[nn.Module], size: tuple[int, ...]) -> LoadedModel:
    colours = {} if size[0] == 3 else {"mean": [0.5] * size[0], "std": [0.2] * size[0]}
    return cam_hub.wrap_model(kind(), input_size=size, **colours)  # type: ignore[arg-type]


@pytest.mark.parametrize("kind", FRAMES)
def test_frames_in_the_batch_have_one_map_each(kind):
    size = FRAMES[kind]
    model, x = wrapped(kind, size), image(*size)
    found = cam_hub.explain(model, x, method="layercam", classes=2)
    (activation,) = outputs(model.module, model.module.cnn, x, 2)
    expected = (activation.grad.relu() * activation).sum(1).relu().detach().numpy()
    assert found.layers == ("cnn",)
    assert found.steps == len(expected) == (8 if len(size) == 4 else 4)
    for step, cam in enumerate(expected):
        assert np.allclose(found.cam(step=step), cam, atol=1e-6)


@pytest.mark.parametrize("kind", FRAMES)
def test_such_explanations_are_drawn_saved_and_read_again(kind, tmp_path: Path):
    model, x = wrapped(kind, FRAMES[kind]), image(*FRAMES[kind])
    found = cam_hub.explain(model, x, classes=2, num_samples=2)
    found.save(tmp_path / "saved")
    again = cam_hub.Explanation.load(tmp_path / "saved")
    assert np.array_equal(again.cam(step=1), found.cam(step=1))
    assert found.overlay(step=1).size == (32, 32)
    assert cam_hub.activations(model, x, ["cnn"])["cnn"].shape == (16, found.steps, 8, 8)


class Loop(nn.Module):
    """Frames one at a time through an image network and a cell with memory."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.cnn, self.cell, self.fc = body(), nn.LSTMCell(16, 16), nn.Linear(16, 5)

    def forward(self, x: Tensor) -> Tensor:
        state = None
        for frame in x.unbind(2):
            state = self.cell(self.cnn(frame).mean((2, 3)), state)
        assert state is not None
        return self.fc(state[0])


@pytest.mark.parametrize("call", [0, 3, None])
def test_of_frames_that_pass_one_after_the_other_each_call_has_a_map(call):
    model, x = wrapped(Loop, (3, 4, 32, 32)), image(3, 4, 32, 32)
    found = cam_hub.explain(model, x, method="gradcam", classes=2, call=call)
    number = 3 if call is None else call
    activation = outputs(model.module, model.module.cnn, x, 2)[number]
    assert found.layers == ("cnn",)
    assert np.allclose(found.cam(), by_hand(activation)[0], atol=1e-6)
    assert f"call {number} is shown" in found.manifest["layer_notes"]["cnn"]


def test_time_may_be_folded_into_channels():
    class Folding(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.early, self.late = nn.Conv3d(3, 8, 3, (1, 2, 2), 1), nn.Conv2d(32, 16, 3, 2, 1)
            self.fc = nn.Linear(16, 5)

        def forward(self, x: Tensor) -> Tensor:
            return self.fc(self.late(self.early(x).relu().flatten(1, 2)).relu().mean((2, 3)))

    model, x = wrapped(Folding, (3, 4, 32, 32)), image(3, 4, 32, 32)
    found = cam_hub.explain(model, x, method="gradcam", classes=2)
    (activation,) = outputs(model.module, model.module.late, x, 2)
    assert found.layers == ("late",)
    assert np.allclose(found.cam(), by_hand(activation)[0], atol=1e-6)


def test_channels_may_come_last_in_the_frames():
    model = wrapped(Last, (3, 4, 32, 32))
    layers = {layer.name: layer for layer in cam_hub.list_layers(model)}
    assert (layers["mix"].layout, layers["mix"].grid, layers["mix"].frames) == (
        "(NT)HWC",
        (8, 8),
        4,
    )
    assert cam_hub.explain(model, image(3, 4, 32, 32), method="gradcam", classes=0).steps == 4


def test_many_clips_are_explained_as_each_alone():
    model = wrapped(Recurrent, (3, 8, 32, 32))
    clips = [image(3, 8, 32, 32) + number for number in range(2)]
    outcomes = list(cam_hub.explain_many(model, clips, method="layercam", classes=1))
    for clip, outcome in zip(clips, outcomes, strict=True):
        alone = cam_hub.explain(model, clip, method="layercam", classes=1, reuse=False)
        assert np.allclose(outcome.explanation.cam(step=3), alone.cam(step=3), atol=1e-6)
