"""Already preprocessed images: what is accepted as one, and what is not."""

from __future__ import annotations

import torch
from torch import Tensor

from cam_hub.errors import ImageRefused

__all__ = ["check_tensor"]


def check_tensor(tensor: Tensor, channels: int) -> Tensor:
    """Take an already preprocessed image, or say why it is none.

    Args:
        tensor: Floating point, of shape ``(C, H, W)`` or ``(1, C, H, W)``.
        channels: The number of channels that the model takes.

    Returns:
        A float32 copy of shape ``(1, C, H, W)`` on the same device, detached from any graph.

    Raises:
        ImageRefused: Whole numbers (not preprocessed), another shape, several images, the wrong
            number of channels, no pixels, or values that are not finite in float32.
    """
    shape = tuple(tensor.shape)
    if not tensor.is_floating_point():
        kind = str(tensor.dtype).removeprefix("torch.")
        raise ImageRefused(
            f"a tensor of {kind} is not preprocessed; pass a PIL image or an HWC uint8 array, "
            "or normalise it to float first"
        )
    if len(shape) == 4 and shape[0] > 1:
        raise ImageRefused(f"the tensor holds {shape[0]} images; give one image at a time")
    if len(shape) not in (3, 4):
        raise ImageRefused(f"a tensor of shape {shape} is no image; it takes (C, H, W)")
    if 0 in shape:
        raise ImageRefused(f"a tensor of shape {shape} is empty")
    if shape[-3] != channels:
        hint = ""
        if shape[-1] == channels:
            hint = "; it looks channels-last: move them to the front with permute(2, 0, 1)"
        raise ImageRefused(
            f"a tensor of shape {shape} has {shape[-3]} channels, and the model takes "
            f"{channels}{hint}"
        )
    checked = tensor.detach().to(torch.float32, copy=True).reshape(1, *shape[-3:])
    bad = int((~torch.isfinite(checked)).sum())
    if bad:
        raise ImageRefused(f"{bad} of the tensor's {checked.numel()} values are NaN or infinite")
    return checked
