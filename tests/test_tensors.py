"""Tensors that are already preprocessed: taken as they are, or refused with the reason."""

from __future__ import annotations

import math

import pytest
import torch

from cam_hub.errors import ImageRefused
from cam_hub.tensors import check_tensor


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
        (torch.zeros(3, 4, 4, dtype=torch.uint8), "uint8 is not preprocessed; pass a PIL image"),
        (torch.zeros(3, 4, 4, dtype=torch.int64), "int64 is not preprocessed"),
        (torch.zeros(3, 4, 4, dtype=torch.bool), "bool is not preprocessed"),
        (torch.zeros(2, 3, 4, 4), "2 images; give one image at a time"),
        (torch.zeros(4, 4), r"\(4, 4\) is no image"),
        (torch.zeros(1, 1, 3, 4, 4), "is no image"),
        (torch.zeros(1, 4, 4), "has 1 channels, and the model takes 3"),
        (torch.zeros(4, 5, 3), "permute"),
        (torch.zeros(3, 0, 4), "is empty"),
        (torch.zeros(0, 3, 4, 4), "is empty"),
        (torch.tensor([math.nan, math.inf, 0.0]).view(3, 1, 1), "2 of the tensor's 3 values"),
        (torch.full((3, 1, 1), 1e300, dtype=torch.float64), "3 of the tensor's 3 values"),
    ],
)
def test_a_tensor_that_is_no_preprocessed_image_is_refused_with_the_reason(tensor, message):
    with pytest.raises(ImageRefused, match=message):
        check_tensor(tensor, 3)
