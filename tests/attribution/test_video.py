"""Clips end to end: a moving object is found at its position and its time."""

from __future__ import annotations

import io
import json
import zipfile

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw
from torch import nn

import cam_hub
from cam_hub.cli import main
from cam_hub.errors import ImageRefused, InvalidArgument, NoMap
from space.service.exports import Exports
from tests.fakes.methods import ONE_PASS

FRAMES, SIDE, CELL = 8, 32, 8
STEPS = 4


class Brightness(nn.Module):
    """Scores a clip by the squared brightness of its cells, of two frames each, then of four."""

    def __init__(self) -> None:
        super().__init__()
        self.cells = nn.Conv3d(3, 1, (2, CELL, CELL), (2, CELL, CELL), bias=False)
        nn.init.constant_(self.cells.weight, 1 / (3 * 2 * CELL * CELL))
        self.coarse = nn.AvgPool3d(2)

    def forward(self, x):
        return self.coarse(self.cells(x)).square().sum(dim=(1, 2, 3, 4))[:, None]


@pytest.fixture(scope="module")
def model():
    return cam_hub.wrap_model(
        Brightness(),
        input_size=(3, FRAMES, SIDE, SIDE),
        mean=(0, 0, 0),
        std=(1, 1, 1),
        crop_pct=1.0,
    )


def clip_with_spot(frames, width=SIDE, height=SIDE, box=(16, 8, 23, 15)) -> list[Image.Image]:
    """Black frames, with a white box in some of them."""
    clip = [Image.new("RGB", (width, height)) for _ in range(FRAMES)]
    for frame in frames:
        ImageDraw.Draw(clip[frame]).rectangle(box, fill="white")
    return clip


@pytest.fixture(scope="module")
def spot(model):
    """The white box of cell (1, 2) in the frames 4 and 5, which are step 2."""
    return cam_hub.explain(model, clip_with_spot([4, 5]), method="layercam", target_layers="cells")


def test_a_spot_lights_its_moment_and_its_place_and_nothing_else(spot):
    assert spot.steps == STEPS
    for step in range(STEPS):
        cam = spot.cam(step=step)
        assert cam.shape == (4, 4)
        assert bool(cam.any()) == (step == 2)
    assert np.argwhere(spot.cam(step=2)).tolist() == [[1, 2]]


@pytest.mark.parametrize("method", ONE_PASS)
def test_every_method_finds_the_moment_and_the_place(model, method):
    clip = clip_with_spot([0, 1], box=(0, 24, 7, 31))
    result = cam_hub.explain(model, clip, method=method, target_layers="cells", std=0.01)
    maps = np.stack([result.cam(step=step) for step in range(STEPS)])
    assert np.unravel_index(maps.argmax(), maps.shape) == (0, 3, 0)


def test_over_time_the_largest_value_of_each_place_counts(model):
    clip = clip_with_spot([0, 1, 4])
    result = cam_hub.explain(model, clip, method="layercam", target_layers="cells")
    steps = np.stack([result.cam(step=step) for step in range(STEPS)])
    np.testing.assert_array_equal(result.cam(), steps.max(axis=0))
    # All four steps on one scale: the step in which only one of two frames is lit is weaker.
    peaks = [float(result.heatmap(step=step).max()) for step in range(STEPS)]
    assert peaks[0] > 0.85  # the centre of the cell lies between pixels
    assert 0 < peaks[2] < peaks[0] / 2
    assert peaks[1] == peaks[3] == 0


def test_the_heat_lies_on_the_frames_that_were_given(model):
    # 128 by 64: the model sees the central 64 by 64, halved. Its cell (1, 2) is 16 pixels wide.
    clip = clip_with_spot([4, 5], 128, 64, box=(64, 16, 79, 31))
    result = cam_hub.explain(model, clip, method="layercam", target_layers="cells")
    heat = result.heatmap(step=2)
    assert heat.shape == (64, 128)
    assert np.unravel_index(heat.argmax(), heat.shape)[0] in range(16, 32)
    assert np.unravel_index(heat.argmax(), heat.shape)[1] in range(64, 80)
    assert not result.seen[:, :32].any()
    assert not result.seen[:, 96:].any()
    assert result.seen[:, 32:96].all()
    left, top, right, bottom = result.boxes(0.5, step=2)[0]
    assert left < 72 < right
    assert top < 24 < bottom
    assert result.boxes(0.5, step=0) == []


def test_a_step_is_drawn_on_the_frame_in_its_middle_and_the_fusion_on_that_of_the_clip(model):
    clip = [Image.new("RGB", (SIDE, SIDE), (10 * index,) * 3) for index in range(1, FRAMES + 1)]
    result = cam_hub.explain(
        model, clip, method="layercam", target_layers=["cells", "coarse"], classes=1
    )
    assert [frame.getpixel((0, 0))[0] for frame in result.frames] == list(range(10, 90, 10))
    bare = [result.overlay(layer="cells", step=step, alpha=0) for step in range(STEPS)]
    assert [picture.getpixel((0, 0))[0] for picture in bare] == [20, 40, 60, 80]
    assert result.photo.getpixel((0, 0))[0] == 50
    assert result.cutout(0.01, layer="cells", step=3).getpixel((31, 31))[:3] == (80, 80, 80)


def test_layers_of_different_steps_share_one_time(model):
    clip = clip_with_spot([4, 5])
    result = cam_hub.explain(model, clip, method="layercam", target_layers=["cells", "coarse"])
    assert {name: cam.shape for (_, name), cam in result.cams.items()} == {
        "cells": (4, 4, 4),
        "coarse": (2, 2, 2),
    }
    assert result.steps == 4
    lit = [bool(result.cam(layer="coarse", step=step).any()) for step in range(4)]
    assert lit == [False, False, True, True]
    fused = np.stack([result.cam(step=step) for step in range(4)])
    assert np.unravel_index(fused.argmax(), fused.shape) == (2, 1, 2)
    assert 0 <= fused.min() <= fused.max() <= 1


def test_activations_of_a_clip_keep_time_apart(model):
    found = cam_hub.activations(model, clip_with_spot([4, 5]), ["cells", "coarse"])
    assert found["cells"].shape == (1, 4, 4, 4)
    assert found["coarse"].shape == (1, 2, 2, 2)
    assert found["cells"].nonzero().tolist() == [[0, 2, 1, 2]]
    assert float(found["cells"][0, 2, 1, 2]) == pytest.approx(1, abs=1e-4)


def test_a_preprocessed_clip_gives_the_same_map(model, spot):
    tensor = model.preprocess(clip_with_spot([4, 5]))
    assert tensor.shape == (1, 3, FRAMES, SIDE, SIDE)
    for given in (tensor, tensor[0]):
        result = cam_hub.explain(model, given, method="layercam", target_layers="cells")
        np.testing.assert_array_equal(result.cams[1, "cells"], spot.cams[1, "cells"])
        assert [f.tobytes() for f in result.frames] == [f.tobytes() for f in spot.frames]


def test_a_static_image_has_the_same_map_at_all_steps(model):
    still = clip_with_spot([0])[0]
    result = cam_hub.explain(model, still, method="layercam", target_layers="cells")
    assert result.steps == STEPS
    for step in range(STEPS):
        np.testing.assert_array_equal(result.cam(step=step), result.cam())
    assert len(result.frames) == FRAMES


def test_a_longer_clip_is_sampled_and_a_shorter_one_repeated(model):
    long = [frame for frame in clip_with_spot([4, 5]) for _ in range(3)]
    short = clip_with_spot([1])[:2]
    thrice = cam_hub.explain(model, long, method="layercam", target_layers="cells")
    assert [bool(thrice.cam(step=step).any()) for step in range(4)] == [False, False, True, False]
    halves = cam_hub.explain(model, short, method="layercam", target_layers="cells")
    assert [bool(halves.cam(step=step).any()) for step in range(4)] == [False, False, True, True]


def test_noise_on_a_clip_is_seeded(model):
    def made(seed):
        clip = clip_with_spot([4, 5])
        return cam_hub.explain(model, clip, target_layers="cells", seed=seed).cams[1, "cells"]

    assert made(1).tobytes() == made(1).tobytes()
    assert made(1).tobytes() != made(2).tobytes()


# --- files ---


def test_what_is_saved_is_loaded_and_made_again(model, spot, tmp_path):
    folder = spot.save(tmp_path / "out")
    names = {path.name for path in folder.iterdir()}
    assert {f"frame-{index:03d}.png" for index in range(FRAMES)} <= names
    assert {"overlay-1.png", "animation-1.gif", "photo.png", "manifest.json"} <= names
    loaded = cam_hub.Explanation.load(folder)
    assert loaded.steps == spot.steps
    np.testing.assert_array_equal(loaded.cams[1, "cells"], spot.cams[1, "cells"])
    assert [f.tobytes() for f in loaded.frames] == [f.tobytes() for f in spot.frames]
    again = cam_hub.reproduce(loaded.manifest, list(loaded.frames), model=model)
    assert again.cams[1, "cells"].tobytes() == spot.cams[1, "cells"].tobytes()
    with pytest.raises(ImageRefused, match="not the picture"):
        cam_hub.reproduce(loaded.manifest, list(loaded.frames)[::-1], model=model)


def test_the_manifest_lists_frames_and_steps(spot):
    manifest = json.loads(json.dumps(dict(spot.manifest)))
    assert manifest["model"]["input_size"] == [3, FRAMES, SIDE, SIDE]
    assert manifest["image"]["frames"] == FRAMES
    assert manifest["maps"][0]["grid"] == [4, 4]
    assert manifest["maps"][0]["steps"] == STEPS


def test_a_frame_that_is_shown_more_than_once_is_saved_once(model, tmp_path):
    result = cam_hub.explain(model, clip_with_spot([0])[0], method="layercam")
    folder = result.save(tmp_path / "still")
    assert [path.name for path in folder.glob("frame-*")] == ["frame-000.png"]
    assert len(cam_hub.Explanation.load(folder).frames) == FRAMES


def test_the_pages_archive_of_a_clip_is_an_explanation_again(spot, tmp_path):
    folder = tmp_path / "kept"
    folder.mkdir()
    spot.save_data(folder)
    with zipfile.ZipFile(Exports(spot, folder, 0.5, "jet").archive()) as file:
        file.extractall(tmp_path / "unpacked")
    again = cam_hub.Explanation.load(tmp_path / "unpacked")
    assert [f.tobytes() for f in again.frames] == [f.tobytes() for f in spot.frames]


def test_an_animation_has_a_frame_for_each_of_the_clips(spot, tmp_path):
    pictures = spot.animation(alpha=1)
    assert len(pictures) == FRAMES
    red = [np.asarray(picture)[12, 20, 0] for picture in pictures]
    assert int(np.argmax(red)) in (4, 5)
    assert red[0] == red[1] == 0
    for suffix in (".gif", ".webp", ".png"):
        with Image.open(spot.save_animation(tmp_path / f"moving{suffix}")) as image:
            assert image.n_frames > 1
            assert image.size == (SIDE, SIDE)


def test_a_large_clip_is_animated_in_small(model):
    clip = clip_with_spot([4, 5], 128, 64, box=(64, 16, 79, 31))
    result = cam_hub.explain(model, clip, method="layercam", target_layers="cells")
    small = result.animation(alpha=1, max_side=32)
    assert {picture.size for picture in small} == {(32, 16)}
    red = np.asarray(small[4])[..., 0]
    assert red[6, 18] == red.max()  # the centre of the box, at a quarter


@pytest.mark.parametrize(
    ("name", "options", "argument"),
    [
        ("moving.mp4", {}, "path"),
        ("moving.gif", {"frame_ms": 0}, "frame_ms"),
        ("moving.gif", {"max_side": 0}, "max_side"),
        ("moving.gif", {"alpha": 2.0}, "alpha"),
    ],
)
def test_an_animation_that_cannot_be_is_refused(spot, tmp_path, name, options, argument):
    with pytest.raises(InvalidArgument, match=argument):
        spot.save_animation(tmp_path / name, **options)
    assert not list(tmp_path.iterdir())


def test_a_montage_shows_the_steps_of_each_layer(model):
    clip = clip_with_spot([4, 5])
    one = cam_hub.explain(model, clip, method="layercam", target_layers="cells").montage()
    two = cam_hub.explain(
        model, clip, method="layercam", target_layers=["cells", "coarse"]
    ).montage()
    assert one.width == two.width > 5 * 256
    assert two.height > 2.5 * one.height  # the fusion is the third row


# --- images, as before ---


def test_an_image_is_one_step_and_one_frame(lite0, lion):
    result = cam_hub.explain(lite0, lion, method="layercam")
    assert result.steps == 1
    assert result.frames == (result.photo,)
    np.testing.assert_array_equal(result.cam(step=0), result.cam())
    np.testing.assert_array_equal(result.heatmap(step=0), result.heatmap())
    assert "frames" not in result.manifest
    assert "steps" not in result.manifest["maps"][0]
    for step in (1, -1, True, 0.0):
        with pytest.raises(InvalidArgument, match="step"):
            result.cam(step=step)


def test_several_images_are_refused_by_an_image_model(lite0, lion):
    with pytest.raises(ImageRefused, match="list is not a kind of picture"):
        cam_hub.explain(lite0, [lion, lion])


def test_a_clip_to_which_nothing_answers_is_refused(model):
    with pytest.raises(NoMap, match="blank"):
        cam_hub.explain(model, clip_with_spot([]), method="layercam")


@pytest.mark.parametrize("size", [(3,), (3, 4), (3, 0, 8, 8), (3, 4, 8, 8, 8)])
def test_an_input_size_of_neither_image_nor_clip_is_refused(size):
    with pytest.raises(InvalidArgument, match="input_size"):
        cam_hub.wrap_model(Brightness(), input_size=size)


# --- torchvision's ---


@pytest.fixture(scope="module")
def resnet():
    torch.manual_seed(0)
    return cam_hub.load_model("torchvision/r3d_18", pretrained=False, device="cpu")


def test_torchvisions_video_models_know_their_clips_and_classes(resnet):
    assert resnet.input_size == (3, 16, 112, 112)
    assert len(resnet.class_names) == 400
    assert "abseiling" in resnet.class_names


def test_a_real_network_with_random_weights_is_explained(resnet):
    # Smaller than the model's own size, to be fast.
    clip = torch.randn((3, 4, 48, 48), generator=torch.Generator().manual_seed(0))
    result = cam_hub.explain(
        resnet, clip, method="layercam", target_layers=["layer2", "layer3"], classes="archery"
    )
    assert {name: cam.shape for (_, name), cam in result.cams.items()} == {
        "layer2": (2, 12, 12),
        "layer3": (1, 6, 6),
    }
    assert np.isfinite(result.cam()).all()
    assert len(result.frames) == 4
    assert cam_hub.suggest_layers(resnet, input_size=(3, 4, 48, 48)) == ["layer4"]


@pytest.mark.slow
def test_the_command_line_explains_an_animation(tmp_path, capsys):
    file = io.BytesIO()
    first, *others = clip_with_spot([2, 3], 171, 128)
    first.save(file, "GIF", save_all=True, append_images=others)
    (tmp_path / "clip.gif").write_bytes(file.getvalue())
    out = tmp_path / "out"
    command = ["explain", str(tmp_path / "clip.gif"), "--model", "torchvision/r3d_18", "--random"]
    assert main([*command, "--method", "layercam", "--out", str(out)]) == 0
    assert "saved to" in capsys.readouterr().out
    assert cam_hub.Explanation.load(out).steps == 2
