"""Preprocessing: equal to timm's and torchvision's bit for bit, with the right geometry."""

from __future__ import annotations

import dataclasses
import json
import math
from functools import cache

import numpy as np
import pytest
import torch
from PIL import Image
from timm.data import create_transform
from torchvision import models
from torchvision.transforms import InterpolationMode
from torchvision.transforms._presets import ImageClassification, SemanticSegmentation

from cam_hub.errors import ImageRefused, InvalidArgument
from cam_hub.images import preprocessing
from cam_hub.images.preprocessing import CROP_MODES, INTERPOLATIONS, Preprocessing

IMAGENET = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}
HALVES = {"mean": (0.5, 0.5, 0.5), "std": (0.5, 0.5, 0.5)}

# Landscape, portrait, odd, square, exactly the input, a strip, smaller than the input, tiny.
PHOTOS = [(320, 240), (240, 320), (333, 217), (150, 150), (96, 96), (300, 21), (57, 101), (3, 2)]


@cache
def photo(width: int, height: int) -> Image.Image:
    """Noise on a gradient, which makes every filter and every shift by a pixel visible."""
    rng = np.random.default_rng(width * 10_000 + height)
    ramp = np.linspace(0, 200, width)[None, :, None] + np.zeros((height, 1, 3))
    return Image.fromarray((ramp + rng.integers(0, 56, ramp.shape)).astype(np.uint8))


# --- the same tensor as timm and torchvision ---


@pytest.mark.parametrize("size", [(96, 96), (64, 97), (96, 61)], ids=str)
@pytest.mark.parametrize("crop_pct", [0.875, 0.9, 0.95, 1.0, 1.15])
@pytest.mark.parametrize("crop_mode", CROP_MODES)
def test_it_is_timms_transform_bit_for_bit(crop_mode, crop_pct, size):
    for index, (width, height) in enumerate(PHOTOS):
        config = {
            "input_size": (3, *size),
            "interpolation": ("bicubic", "bilinear", "nearest", "lanczos")[index % 4],
            "crop_pct": crop_pct,
            "crop_mode": crop_mode,
            **IMAGENET,
        }
        wanted = create_transform(**config, is_training=False)(photo(width, height))
        got = Preprocessing.from_timm(config)(photo(width, height))
        assert torch.equal(got, wanted[None]), (width, height, config)


@pytest.mark.parametrize("interpolation", INTERPOLATIONS)
def test_every_interpolation_is_timms(interpolation):
    config = {"input_size": (3, 64, 64), "interpolation": interpolation, **HALVES}
    for size in PHOTOS:
        wanted = create_transform(**config, is_training=False)(photo(*size))
        assert torch.equal(Preprocessing.from_timm(config)(photo(*size)), wanted[None])


def test_what_timms_config_leaves_out_means_what_timm_takes_it_for():
    config = {"input_size": (3, 64, 64), "interpolation": "bilinear", "mean": [0.4], "std": (0.2,)}
    wanted = create_transform(**config, is_training=False)(photo(320, 240))
    assert torch.equal(Preprocessing.from_timm(config)(photo(320, 240)), wanted[None])
    empty = {**config, "crop_pct": None, "crop_mode": None}
    assert Preprocessing.from_timm(empty) == Preprocessing.from_timm(config)


def test_it_is_every_torchvision_classification_preset_bit_for_bit():
    presets = {}
    for name in models.list_models(module=models):
        for weights in models.get_model_weights(name):
            preset = weights.transforms()
            presets[Preprocessing.from_torchvision(preset)] = preset
    assert len(presets) > 20  # otherwise the loop below shows little
    for index, (described, preset) in enumerate(presets.items()):
        picture = photo(*PHOTOS[index % len(PHOTOS)])
        assert torch.equal(described(picture), preset(picture)[None]), described


def test_torchvisions_nearest_exact_is_pillows_nearest():
    preset = ImageClassification(crop_size=40, interpolation=InterpolationMode.NEAREST_EXACT)
    described = Preprocessing.from_torchvision(preset)
    assert torch.equal(described(photo(320, 240)), preset(photo(320, 240))[None])


def test_a_preset_without_a_fixed_input_size_is_refused():
    with pytest.raises(InvalidArgument, match="ImageClassification"):
        Preprocessing.from_torchvision(SemanticSegmentation(resize_size=520))


def test_a_timm_config_with_fields_missing_is_refused_by_their_names():
    with pytest.raises(InvalidArgument, match=r"\['interpolation', 'std'\]"):
        Preprocessing.from_timm({"input_size": (3, 8, 8), "mean": (0, 0, 0)})


def test_a_model_with_one_channel_gets_the_photo_in_grey():
    config = {"input_size": (1, 48, 48), "mean": (0.5,), "std": (0.25,), "crop_mode": "border"}
    config["interpolation"] = "bicubic"
    wanted = create_transform(**config, is_training=False)(photo(320, 240).convert("L"))
    got = Preprocessing.from_timm(config)(photo(320, 240))
    assert got.shape == (1, 1, 48, 48)
    assert torch.equal(got, wanted[None])


def test_preprocessing_leaves_the_photo_as_it_was():
    before = photo(320, 240).tobytes()
    Preprocessing(input_size=(3, 32, 32), **HALVES)(photo(320, 240))
    assert photo(320, 240).tobytes() == before


# --- geometry ---


@pytest.mark.parametrize("crop_mode", CROP_MODES)
@pytest.mark.parametrize("size", [(96, 96), (64, 97)], ids=str)
def test_a_spot_on_the_photo_is_found_at_the_computed_position(crop_mode, size):
    rng = np.random.default_rng(7)
    for width, height in [(400, 300), (300, 401), (96, 96), (500, 90), (60, 45), (1000, 1000)]:
        for crop_pct in (0.875, 1.0):
            described = Preprocessing(
                input_size=(3, *size), crop_pct=crop_pct, crop_mode=crop_mode, **HALVES
            )
            placement = described.place((width, height))
            # A spot of about three input pixels, wholly inside the part that the model sees.
            half = [max(1, math.ceil(1.5 / scale)) for scale in placement.scale]
            left, top, right, bottom = placement.seen_box
            x = int(rng.integers(math.ceil(left) + half[0], math.floor(right) - half[0] + 1))
            y = int(rng.integers(math.ceil(top) + half[1], math.floor(bottom) - half[1] + 1))
            pixels = np.zeros((height, width, 3), np.uint8)
            pixels[y - half[1] : y + half[1], x - half[0] : x + half[0]] = 255
            tensor = described(Image.fromarray(pixels))[0, 0] * 0.5 + 0.5
            u, v = _centre_of_light(tensor.numpy(), placement)
            found_x, found_y = placement.to_photo(u, v)
            assert abs(found_x - x) * placement.scale[0] < 1
            assert abs(found_y - y) * placement.scale[1] < 1


def _centre_of_light(values: np.ndarray, placement) -> tuple[float, float]:
    """The brightness-weighted centre of the part of the input that shows the photo."""
    left, top, right, bottom = placement.seen_box
    (u0, v0), (u1, v1) = placement.to_input(left, top), placement.to_input(right, bottom)
    v, u = np.mgrid[: values.shape[0], : values.shape[1]] + 0.5
    light = np.where((u > u0) & (u < u1) & (v > v0) & (v < v1), values, 0)
    return float((light * u).sum() / light.sum()), float((light * v).sum() / light.sum())


def test_placement_by_hand_in_the_three_modes():
    photo_size = (400, 200)

    def placed(mode):
        described = Preprocessing(
            input_size=(3, 80, 80), resize_size=(100, 100), crop_mode=mode, **HALVES
        )
        placement = described.place(photo_size)
        return placement.scale, placement.offset

    # 400 x 200 -> 200 x 100, and 60 columns and 10 rows are cropped on each side.
    assert placed("center") == ((0.5, 0.5), (-60.0, -10.0))
    # -> 100 x 100, and 10 pixels are cropped on all sides.
    assert placed("squash") == ((0.25, 0.5), (-10.0, -10.0))
    # -> 100 x 50, which is cropped by 10 columns and padded by 15 rows on each side.
    assert placed("border") == ((0.25, 0.25), (-10.0, 15.0))


def test_the_border_is_the_mean_so_that_it_becomes_zero():
    described = Preprocessing(
        input_size=(3, 40, 40), mean=(0.2, 0.4, 0.6), std=(1, 1, 1), crop_mode="border"
    )
    tensor = described(photo(300, 21))
    assert tensor[0, :, 0].abs().max() < 1e-6
    assert tensor[0, :, 20].abs().min(dim=-1).values.max() > 0


@pytest.mark.parametrize("crop_mode", CROP_MODES)
@pytest.mark.parametrize("size", [(1, 30_000), (30_000, 1)])
def test_a_strip_of_pixels_is_never_blown_up_whole(monkeypatch, size, crop_mode):
    areas = []
    resize = Image.Image.resize

    def watched(self, size, *args, **options):
        areas.append(math.prod(size))
        return resize(self, size, *args, **options)

    monkeypatch.setattr(Image.Image, "resize", watched)
    described = Preprocessing(input_size=(3, 224, 224), crop_mode=crop_mode, **HALVES)
    tensor = described(photo(*size))
    assert tensor.shape == (1, 3, 224, 224)
    assert tensor.isfinite().all()
    # Resized completely to cover the crop, the strip would be 256 x 7,680,000 pixels.
    assert max(areas) <= 256 * 256
    assert described.place(size).seen_mask().any()


# "nearest" and "box" jump from pixel to pixel, and may jump one step later.
@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic", "lanczos", "hamming"])
@pytest.mark.parametrize("crop_mode", CROP_MODES)
def test_resizing_only_what_is_kept_agrees_with_resizing_all(monkeypatch, crop_mode, interpolation):
    described = Preprocessing(
        input_size=(3, 64, 50), crop_mode=crop_mode, interpolation=interpolation, **HALVES
    )
    for size in [*PHOTOS, (40, 4000), (4000, 40)]:
        whole = described(photo(*size))
        with monkeypatch.context() as patch:
            patch.setattr(preprocessing, "_WHOLE_PIXELS", 0)
            patch.setattr(preprocessing, "_WHOLE_CROPS", 0)
            part = described(photo(*size))
        grey_levels = (whole - part).abs().max() * 0.5 * 255
        assert grey_levels <= 2, size


# --- denormalising, and the description itself ---


def test_denormalising_gives_the_pixels_back():
    described = Preprocessing(input_size=(3, 96, 96), crop_pct=1.0, **IMAGENET)
    shown = described.denormalise(described(photo(96, 96)))
    assert shown.mode == "RGB"
    np.testing.assert_array_equal(np.asarray(shown), np.asarray(photo(96, 96)))


def test_denormalising_clamps_takes_any_size_and_leaves_the_tensor_alone():
    described = Preprocessing(input_size=(3, 8, 8), **HALVES)
    tensor = torch.tensor([-9.0, 0.0, 9.0]).view(3, 1, 1).expand(3, 2, 5).clone()
    kept = tensor.clone()
    shown = described.denormalise(tensor)
    assert shown.size == (5, 2)
    assert shown.getpixel((0, 0)) == (0, 128, 255)
    assert torch.equal(tensor, kept)


@pytest.mark.parametrize("channels", [1, 2, 5])
def test_other_than_three_channels_are_shown_as_their_average_in_grey(channels):
    described = Preprocessing(
        input_size=(channels, 4, 4), mean=[0.0] * channels, std=[1.0] * channels
    )
    tensor = torch.linspace(0, 1, channels + 1)[1:].view(1, -1, 1, 1).expand(1, -1, 4, 6)
    grey = round(255 * float(tensor[0, :, 0, 0].mean()))
    assert described.denormalise(tensor).getpixel((5, 3)) == (grey, grey, grey)


@pytest.mark.parametrize("crop_mode", CROP_MODES)
def test_a_description_survives_json(crop_mode):
    described = Preprocessing(input_size=(3, 64, 97), crop_pct=0.9, crop_mode=crop_mode, **IMAGENET)
    again = Preprocessing(**json.loads(json.dumps(described.as_dict())))
    assert again == described
    assert hash(again) == hash(described)


def test_replacing_a_field_keeps_the_others():
    described = Preprocessing(input_size=(3, 64, 64), crop_pct=0.5, **HALVES)
    smoother = dataclasses.replace(described, interpolation="lanczos")
    assert smoother.resize_size == described.resize_size == (128, 128)
    assert smoother.interpolation == "lanczos"


@pytest.mark.parametrize(
    ("change", "argument"),
    [
        ({"input_size": (3, 0, 8)}, "input_size"),
        ({"input_size": (3, 8)}, "input_size"),
        ({"input_size": (3, 8.5, 8)}, "input_size"),
        ({"input_size": (3, 10**6, 10**6)}, "input_size"),
        ({"mean": (0.5, 0.5)}, "mean"),
        ({"mean": (0.5, 0.5, math.nan)}, "mean"),
        ({"mean": 0.5}, "mean"),
        ({"std": (1, 1, 0)}, "std"),
        ({"std": (1, 1, -1)}, "std"),
        ({"std": (1, 1, 1e-60)}, "std"),  # zero in float32
        ({"std": (1, 1, math.inf)}, "std"),
        ({"crop_pct": 0}, "crop_pct"),
        ({"crop_pct": -0.9}, "crop_pct"),
        ({"crop_pct": math.nan}, "crop_pct"),
        ({"crop_pct": 1e-9}, "crop_pct"),
        ({"crop_pct": 100.0}, "crop_pct"),  # nothing would be left of 8 pixels
        ({"crop_pct": "most"}, "crop_pct"),
        ({"resize_size": (10, 10**6)}, "resize_size"),
        ({"resize_size": (10,)}, "resize_size"),
        ({"crop_mode": "centre"}, "crop_mode"),
        ({"interpolation": "random"}, "interpolation"),
        ({"interpolation": None}, "interpolation"),
    ],
)
def test_a_description_that_cannot_be_is_refused_by_the_name_of_its_field(change, argument):
    with pytest.raises(InvalidArgument) as refusal:
        Preprocessing(**{"input_size": (3, 8, 8), **HALVES, **change})
    assert refusal.value.argument == argument


def test_a_photo_for_a_model_of_five_channels_is_refused_with_what_works():
    described = Preprocessing(input_size=(5, 8, 8), mean=[0.0] * 5, std=[1.0] * 5)
    with pytest.raises(ImageRefused, match="already preprocessed float tensor"):
        described(photo(96, 96))


@pytest.mark.parametrize("odd", [Image.new("RGBA", (4, 4)), Image.new("RGB", (0, 4))])
def test_an_image_that_open_image_would_not_return_is_refused(odd):
    with pytest.raises(ImageRefused, match="open_image"):
        Preprocessing(input_size=(3, 8, 8), **HALVES)(odd)
