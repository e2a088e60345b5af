"""Clips: opened from anything that contains several images, and converted to a model's input."""

from __future__ import annotations

import io

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision import models
from torchvision.transforms import InterpolationMode, functional
from torchvision.transforms._presets import VideoClassification

from cam_hub.errors import ImageRefused, InvalidArgument
from cam_hub.images import clips
from cam_hub.images.clips import ClipPreprocessing, evenly, open_clip, over_frames
from cam_hub.images.preprocessing import Preprocessing, resize_plainly

COLOURS = ["red", "lime", "blue", "yellow", "black", "white"]
"""Colours that GIF preserves exactly."""

PICTURES = [Image.new("RGB", (8, 6), colour) for colour in COLOURS]
MOVING = {"GIF": {}, "WEBP": {"lossless": True}, "PNG": {}, "TIFF": {}}


def animated(kind="GIF", pictures=PICTURES) -> bytes:
    file = io.BytesIO()
    first, *others = pictures
    first.save(file, kind, save_all=True, append_images=others, **MOVING[kind])
    return file.getvalue()


def noise(frames, height, width) -> np.ndarray:
    rng = np.random.default_rng(height * 1000 + width)
    return rng.integers(0, 256, (frames, height, width, 3), dtype=np.uint8)


# --- time ---


def test_the_middle_of_each_equal_part_is_taken():
    assert evenly(16, 4) == [2, 6, 10, 14]
    assert evenly(10, 3) == [1, 5, 8]
    assert evenly(5, 1) == [2]


@pytest.mark.parametrize("count", [1, 2, 7, 16, 300])
def test_as_many_as_there_are_is_each_once(count):
    assert evenly(count, count) == list(range(count))


@pytest.mark.parametrize(("count", "wanted"), [(1, 16), (3, 8), (100, 16), (17, 16), (10_000, 7)])
def test_what_is_taken_is_spread_in_order_and_alike_from_both_ends(count, wanted):
    found = evenly(count, wanted)
    assert found == sorted(found)
    assert 0 <= found[0] <= found[-1] < count
    gaps = np.diff(found)
    assert gaps.max() - gaps.min() <= 1


def test_between_the_middles_of_two_steps_the_map_is_mixed():
    steps = np.array([[[0.0]], [[1.0]]], dtype=np.float32)
    # Two steps over four frames: their centres are at frames 0.5 and 2.5.
    found = over_frames(steps, 4)[:, 0, 0]
    np.testing.assert_allclose(found, [0, 0.25, 0.75, 1])


def test_a_step_per_frame_is_unchanged_and_a_single_step_applies_to_all():
    steps = np.random.default_rng(0).random((5, 2, 3), dtype=np.float32)
    np.testing.assert_allclose(over_frames(steps, 5), steps)
    np.testing.assert_array_equal(over_frames(steps[:1], 3), steps[[0, 0, 0]])


# --- opening ---


@pytest.mark.parametrize("kind", MOVING)
def test_every_frame_of_an_animation_is_read(kind):
    found = open_clip(animated(kind), len(COLOURS))
    assert [picture.tobytes() for picture in found] == [p.tobytes() for p in PICTURES]


def test_a_path_a_file_object_and_a_pil_image_give_what_bytes_give(tmp_path):
    data = animated()
    path = tmp_path / "clip.gif"
    path.write_bytes(data)
    wanted = [picture.tobytes() for picture in open_clip(data, 4)]
    with path.open("rb") as file, Image.open(path) as image:
        for source in (path, str(path), file, image):
            assert [picture.tobytes() for picture in open_clip(source, 4)] == wanted


def test_a_pil_image_is_left_at_its_frame():
    with Image.open(io.BytesIO(animated())) as image:
        image.seek(2)
        open_clip(image, 6)
        assert image.tell() == 2


def test_an_image_is_a_static_clip():
    for source in (PICTURES[0], np.asarray(PICTURES[0]), animated("PNG", PICTURES[:1])):
        found = open_clip(source, 5)
        assert len(found) == 5
        assert all(picture is found[0] for picture in found)
        assert found[0].tobytes() == PICTURES[0].tobytes()


def test_an_array_and_a_list_of_anything_are_clips():
    array = noise(4, 6, 8)
    pictures = [Image.fromarray(array[0]), array[1], animated("PNG", [Image.fromarray(array[2])])]
    for source in (array, list(array), (*pictures, array[3])):
        assert np.array_equal(np.stack([np.asarray(p) for p in open_clip(source, 4)]), array)


def test_only_the_frames_that_are_taken_are_opened():
    source = ["no such file"] * 100
    for index in evenly(100, 4):
        source[index] = PICTURES[index % 6]
    assert len(open_clip(source, 4)) == 4


@pytest.mark.parametrize(
    ("source", "why"),
    [
        ([], "no frames"),
        ([PICTURES[0], Image.new("RGB", (8, 7))], "frame 0 is 8 x 6, frame 1 8 x 7"),
        ([PICTURES[0], "missing.png"], "frame 1 of the clip: there is no file 'missing.png'"),
        ([PICTURES[0], None], "NoneType is not a kind of picture"),
        (noise(2, 4, 4).astype(np.float32) + 300, "scale it to"),
        (noise(2, 4, 4)[None], "is not a picture"),
        (animated()[:-20], "damaged"),
        (None, "NoneType is not a kind of picture"),
    ],
)
def test_an_invalid_clip_is_refused_with_the_reason(source, why):
    with pytest.raises(ImageRefused, match=why):
        open_clip(source, 6)


def test_clips_beyond_the_limits_are_refused(monkeypatch):
    with pytest.raises(ImageRefused, match="6 frames of 8 x 6 are 288 pixels"):
        open_clip(PICTURES, 6, max_pixels=287)
    assert len(open_clip(PICTURES, 6, max_pixels=288)) == 6
    monkeypatch.setattr(clips, "MAX_DECODED", 287)
    with pytest.raises(ImageRefused, match="the limit is 287"):
        open_clip(animated(), 2)
    monkeypatch.setattr(clips, "MAX_FRAMES", 5)
    for source in (PICTURES, animated()):
        with pytest.raises(ImageRefused, match="6 frames, and the limit is 5"):
            open_clip(source, 2)


@pytest.mark.parametrize("frames", [0, -1, True, 2.0, None])
def test_a_count_of_frames_that_makes_no_sense_is_refused(frames):
    with pytest.raises(InvalidArgument, match="frames"):
        open_clip(PICTURES, frames)


# --- preprocessing ---

# Landscape, portrait, odd, square, a strip, smaller than the input, tiny.
SIZES = [(320, 240), (240, 320), (333, 217), (150, 150), (300, 21), (57, 101), (3, 2)]


def test_it_is_every_torchvision_video_preset_bit_for_bit():
    presets = {}
    for name in models.list_models(module=models.video):
        for weights in models.get_model_weights(name):
            preset = weights.transforms()
            presets[ClipPreprocessing.from_torchvision(preset, 2)] = preset
    assert len(presets) >= 4  # otherwise the loop below shows little
    for described, preset in presets.items():
        for width, height in SIZES:
            array = noise(2, height, width)
            clip = torch.from_numpy(array).permute(0, 3, 1, 2)
            wanted = preset(clip.contiguous())[None]
            assert torch.equal(described(open_clip(array, 2)), wanted), (width, height)


@pytest.mark.parametrize(
    "mode", [InterpolationMode.NEAREST_EXACT, InterpolationMode.BILINEAR, InterpolationMode.BICUBIC]
)
@pytest.mark.parametrize("size", [(20, 13), (90, 71), (31, 200)])
def test_resizing_without_antialiasing_is_torchvisions(mode, size):
    picture = Image.fromarray(noise(1, 47, 60)[0])
    word = mode.value.removesuffix("-exact")
    tensor = functional.pil_to_tensor(picture)
    wanted = functional.resize(tensor, size[::-1], interpolation=mode, antialias=False)
    assert torch.equal(functional.pil_to_tensor(resize_plainly(picture, size, word)), wanted)
    assert resize_plainly(picture.convert("L"), size, word).mode == "L"


def test_without_antialiasing_a_fine_pattern_is_sampled_and_with_it_averaged():
    stripes = np.zeros((32, 32, 3), dtype=np.uint8)
    stripes[:, ::4] = 255  # one column in four; the samples fall between the second and third
    facts = {"input_size": (3, 8, 8), "mean": (0,) * 3, "std": (1,) * 3, "crop_pct": 1.0}
    picture = Image.fromarray(stripes)
    assert float(Preprocessing(**facts, antialias=False)(picture).max()) == 0
    assert float(Preprocessing(**facts)(picture).mean()) == pytest.approx(0.25, abs=0.05)


def test_a_filter_that_only_antialiases_is_refused_without():
    with pytest.raises(InvalidArgument, match="lanczos"):
        Preprocessing(
            input_size=(3, 8, 8),
            mean=(0,) * 3,
            std=(1,) * 3,
            interpolation="lanczos",
            antialias=False,
        )


def test_a_clip_lies_where_its_frames_lie():
    preset = VideoClassification(crop_size=(112, 112), resize_size=(128, 171))
    described = ClipPreprocessing.from_torchvision(preset, 16)
    assert described.input_size == (3, 16, 112, 112)
    assert described.as_dict()["input_size"] == [3, 16, 112, 112]
    place = described.place((342, 256))  # twice the target size of the resize
    assert place.scale == (0.5, 0.5)
    # 171 - 112 = 59 columns are cut, 30 of them on the left (half to even); 16 rows on top.
    assert place.offset == (-30.0, -8.0)


def test_a_preprocessed_clip_is_shown_as_its_frames():
    array = noise(3, 16, 16)
    frame = Preprocessing(input_size=(3, 16, 16), mean=(0.4,) * 3, std=(0.2,) * 3, crop_pct=1.0)
    described = ClipPreprocessing(frame, 3)
    shown = described.denormalise(described(open_clip(array, 3)))
    assert np.array_equal(np.stack([np.asarray(picture) for picture in shown]), array)


@pytest.mark.parametrize(
    ("shape", "why"),
    [
        ((3, 8, 8), r"is not a single clip; it takes \(C, T, H, W\)"),
        ((2, 3, 4, 8, 8), "holds 2 clips"),
        ((4, 3, 8, 8), "frames of their own"),
        ((4, 8, 8, 3), "channels-last"),
        ((3, 0, 8, 8), "is empty"),
    ],
)
def test_a_tensor_that_is_not_a_preprocessed_clip_is_refused(shape, why):
    frame = Preprocessing(input_size=(3, 8, 8), mean=(0,) * 3, std=(1,) * 3)
    with pytest.raises(ImageRefused, match=why):
        ClipPreprocessing(frame, 4).denormalise(torch.zeros(shape))


def test_frames_of_different_sizes_are_not_a_clip():
    frame = Preprocessing(input_size=(3, 8, 8), mean=(0,) * 3, std=(1,) * 3)
    for pictures in ([], [PICTURES[0], Image.new("RGB", (9, 9))]):
        with pytest.raises(ImageRefused, match="all of one size"):
            ClipPreprocessing(frame, 2)(pictures)
