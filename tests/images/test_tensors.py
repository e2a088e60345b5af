"""Preprocessed tensors: used unchanged, or refused with the reason."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torchvision import tv_tensors

from cam_hub.errors import ImageRefused
from cam_hub.images.decoding import open_image
from cam_hub.images.preprocessing import check_tensor, pixels_of


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("shape", [(3, 4, 5), (1, 3, 4, 5)])
def test_a_preprocessed_tensor_becomes_one_float32_image(shape, dtype):
    tensor = torch.randn(shape, generator=torch.Generator().manual_seed(0)).to(dtype)
    checked = check_tensor(tensor, 3)
    assert checked.shape == (1, 3, 4, 5)
    assert checked.dtype == torch.float32
    assert torch.equal(checked, tensor.float().view(1, 3, 4, 5))


def test_the_checked_tensor_is_a_copy_outside_any_graph():
    tensor = torch.zeros(1, 3, 2, 2, requires_grad=True)
    checked = check_tensor(tensor, 3)
    assert not checked.requires_grad
    checked += 1
    assert tensor.sum() == 0


@pytest.mark.parametrize(
    ("tensor", "message"),
    [
        (torch.zeros(3, 4, 4, dtype=torch.uint8), "uint8 is not preprocessed; pass the pixels"),
        (torch.zeros(3, 4, 4, dtype=torch.int64), "int64 is not preprocessed"),
        (torch.zeros(3, 4, 4, dtype=torch.bool), "bool is not preprocessed"),
        (torch.zeros(2, 3, 4, 4), "2 images; give one image at a time"),
        (torch.zeros(4, 4), r"\(4, 4\) is not a single image"),
        (torch.zeros(1, 1, 3, 4, 4), "is not a single image"),
        (torch.zeros(1, 4, 4), "has 1 channels, and the model takes 3"),
        (torch.zeros(4, 5, 3), "permute"),
        (torch.zeros(3, 0, 4), "is empty"),
        (torch.zeros(0, 3, 4, 4), "is empty"),
        (torch.tensor([math.nan, math.inf, 0.0]).view(3, 1, 1), "2 of the tensor's 3 values"),
        (torch.full((3, 1, 1), 1e300, dtype=torch.float64), "3 of the tensor's 3 values"),
    ],
)
def test_a_tensor_that_is_not_a_preprocessed_image_is_refused_with_the_reason(tensor, message):
    with pytest.raises(ImageRefused, match=message):
        check_tensor(tensor, 3)


class TestPixels:
    PIXELS = np.random.default_rng(0).integers(0, 256, (5, 4, 3), dtype=np.uint8)

    @pytest.mark.parametrize(
        "tensor",
        [
            torch.from_numpy(PIXELS).permute(2, 0, 1),
            torch.from_numpy(PIXELS).permute(2, 0, 1)[None],
            torch.from_numpy(PIXELS),
            tv_tensors.Image(torch.from_numpy(PIXELS).permute(2, 0, 1)),
            tv_tensors.Image(torch.from_numpy(PIXELS).permute(2, 0, 1) / 255),
            torch.from_numpy(PIXELS) / 255,
            torch.from_numpy(PIXELS.astype(np.uint16) * 257).permute(2, 0, 1),
        ],
        ids=["CHW", "1CHW", "HWC", "tv_tensor", "tv_tensor float", "HWC float", "uint16"],
    )
    def test_decoded_pixels_are_the_image_that_was_decoded(self, tensor):
        found = pixels_of(tensor, 3)
        np.testing.assert_array_equal(np.asarray(open_image(found)), self.PIXELS)

    @pytest.mark.parametrize(
        "tensor",
        [
            torch.rand(3, 5, 4),
            torch.rand(1, 3, 5, 4),
            torch.rand(5, 4, 3) - 1,
            tv_tensors.Image(torch.rand(3, 5, 4) - 1),
            torch.zeros(3, 5, 4, dtype=torch.int64),
        ],
    )
    def test_a_preprocessed_tensor_is_not_read_as_pixels(self, tensor):
        assert pixels_of(tensor, 3) is None

    def test_grey_and_the_channels_that_a_model_takes(self):
        assert pixels_of(torch.zeros(5, 4, dtype=torch.uint8), 3).shape == (5, 4)
        assert pixels_of(torch.zeros(1, 5, 4, dtype=torch.uint8), 3).shape == (5, 4, 1)
        assert pixels_of(torch.zeros(13, 5, 4, dtype=torch.uint8), 13).shape == (5, 4, 13)

    @pytest.mark.parametrize("shape", [(6, 3, 5, 4), (6, 5, 4, 3)])
    def test_the_frames_of_a_clip(self, shape):
        found = pixels_of(torch.zeros(shape, dtype=torch.uint8), 3, clip=True)
        assert found.shape == (6, 5, 4, 3)
