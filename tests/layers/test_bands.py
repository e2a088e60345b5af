"""Images with many channels, and the image on which their maps are drawn."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

import cam_hub
from cam_hub.errors import ImageRefused, InvalidArgument
from tests.fakes.law_nets import of_layout


def net(channels: int, **options: object) -> cam_hub.LoadedModel:
    torch.manual_seed(0)
    module = nn.Sequential(
        nn.Conv2d(channels, 8, 4, 4), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
        nn.Linear(8, 4),
    )  # fmt: skip
    options = {"mean": [0.5] * channels, "std": [0.25] * channels, **options}
    return cam_hub.wrap_model(module, input_size=(channels, 32, 32), crop_pct=1.0, **options)


def bands(channels: int, height: int = 32, width: int = 32) -> np.ndarray:
    return np.random.default_rng(0).random((height, width, channels))


@pytest.mark.parametrize("channels", [2, 4, 13])
@pytest.mark.parametrize(
    ("kind", "white"), [(np.uint8, 255), (np.uint16, 65535), (np.float32, 1), (np.float64, 1)]
)
def test_every_band_is_scaled_and_normalised(channels, kind, white):
    values = (bands(channels) * white).astype(kind)
    model = net(channels, mean=list(np.linspace(0.1, 0.9, channels)))
    means = torch.linspace(0.1, 0.9, channels)[:, None, None]
    scaled = torch.from_numpy(values.astype(np.float64) / white).permute(2, 0, 1)
    wanted = (scaled - means) / 0.25
    torch.testing.assert_close(model.preprocess(values)[0], wanted.float(), atol=1e-5, rtol=0)


def test_12_bits_in_16_are_scaled_by_their_own_white():
    values = (bands(5) * 4095).astype(np.uint16)
    scaled = torch.from_numpy(values / 4095).permute(2, 0, 1)
    found = net(5).preprocess(values)[0]
    torch.testing.assert_close(found, ((scaled - 0.5) / 0.25).float(), atol=1e-5, rtol=0)


def test_bands_are_resized_and_cut_as_photos_are():
    photo = np.random.default_rng(0).integers(0, 256, (50, 70, 3), dtype=np.uint8)
    options = {"mean": [0.5] * 3, "std": [0.25] * 3}
    as_photo = net(3, **options).preprocess(photo)[0]
    doubled = net(6).preprocess(np.concatenate([photo, photo], axis=2))[0]
    # Photos are rounded to 8 bits after each half of the resize, bands are not.
    for part in (doubled[:3], doubled[3:]):
        assert (part - as_photo).abs().max() < 1 / 255 / 0.25


def test_maps_lie_on_the_bands_and_are_shown_on_the_background():
    model, values = net(13), bands(13, 40, 60)
    plain = cam_hub.explain(model, values, method="layercam")
    assert plain.photo.size == (60, 40)
    assert plain.heatmap().shape == (40, 60)
    assert plain.manifest["image"]["bands"] == 13
    photo = Image.new("RGB", (120, 80), "green")
    shown = cam_hub.explain(model, values, method="layercam", background=photo)
    assert shown.photo.size == (60, 40)
    assert shown.photo.getpixel((0, 0)) == (0, 128, 0)
    np.testing.assert_array_equal(shown.heatmap(), plain.heatmap())
    assert shown.manifest["image"] == plain.manifest["image"]
    again = cam_hub.reproduce(shown.manifest, values, model=model) if shown.manifest else None
    np.testing.assert_array_equal(again.cam(), plain.cam())


def test_other_bands_are_other_images():
    one, other = (cam_hub.explain(net(5), bands(5) * x, method="layercam") for x in (1.0, 0.9))
    assert one.manifest["image"]["sha256"] != other.manifest["image"]["sha256"]


def test_a_background_also_works_for_photos_and_tensors(lion):
    model, other = net(3), Image.new("RGB", lion.size, "red")
    for image in (lion, torch.randn(3, 32, 32)):
        shown = cam_hub.explain(model, image, method="layercam", background=other)
        assert shown.photo.getpixel((0, 0)) == (255, 0, 0)


@pytest.mark.parametrize(
    ("values", "why"),
    [
        (bands(5), r"give an array \(H, W, 13\)|does not fit|is not a picture"),
        (bands(13).astype(np.int32), "int32 is not read"),
        (np.where(bands(13) > 0.5, np.nan, 0), "NaN"),
        (np.zeros((0, 4, 13)), "does not fit"),
    ],
)
def test_what_does_not_fit_is_refused(values, why):
    with pytest.raises(ImageRefused, match=why):
        cam_hub.explain(net(13), values)


def test_a_background_of_other_proportions_or_for_a_clip_is_refused():
    with pytest.raises(ImageRefused, match="proportions"):
        cam_hub.explain(net(3), Image.new("RGB", (32, 32)), background=Image.new("RGB", (64, 32)))
    clips = of_layout("NCTHW")
    frames = np.zeros((8, 32, 32, 3), np.uint8)
    with pytest.raises(InvalidArgument, match="background"):
        cam_hub.explain(clips, frames, background=Image.new("RGB", (32, 32)))


def test_many_images_may_have_many_channels():
    found = list(cam_hub.explain_many(net(5), [bands(5), bands(5)[::-1]], method="layercam"))
    assert [outcome.error for outcome in found] == [None, None]


def test_preprocessing_refuses_a_tensor_that_is_preprocessed_already():
    with pytest.raises(ImageRefused, match="preprocessed already"):
        net(3).preprocess(torch.randn(3, 32, 32))
