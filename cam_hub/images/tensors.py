"""Checks of tensors that hold preprocessed images."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torchvision.tv_tensors import TVTensor

from cam_hub.errors import ImageRefused

__all__ = ["check_tensor", "is_finite", "pixels_of", "same"]


def check_tensor(tensor: Tensor, channels: int, *, clip: bool = False) -> Tensor:
    """Checks a preprocessed image or clip.

    Args:
        tensor: Floating point, of shape ``(C, H, W)`` or ``(1, C, H, W)``; of a clip
            ``(C, T, H, W)`` or ``(1, C, T, H, W)``.
        channels: The number of channels that the model takes.
        clip: Whether a clip is wanted.

    Returns:
        A float32 copy of shape ``(1, C, H, W)`` or ``(1, C, T, H, W)`` on the same device,
        detached from any graph.

    Raises:
        ImageRefused: Whole numbers (not preprocessed), another shape, several images, the wrong
            number of channels, no pixels, or values that are not finite in float32.
    """
    _refuse_other_kinds(tensor)
    shape = tuple(tensor.shape)
    axes, kind_of, wanted = (4, "clip", "(C, T, H, W)") if clip else (3, "image", "(C, H, W)")
    if not tensor.is_floating_point():
        kind = str(tensor.dtype).removeprefix("torch.")
        raise ImageRefused(
            f"a tensor of {kind} is not preprocessed; pass the pixels as uint8, or normalise "
            "them to float first"
        )
    if len(shape) == axes + 1 and shape[0] > 1:
        raise ImageRefused(
            f"the tensor holds {shape[0]} {kind_of}s; give one {kind_of} at a time, or all of them "
            "to explain_many"
        )
    if len(shape) not in (axes, axes + 1):
        raise ImageRefused(
            f"a tensor of shape {shape} is not a single {kind_of}; it takes {wanted}"
        )
    if 0 in shape:
        raise ImageRefused(f"a tensor of shape {shape} is empty")
    if shape[-axes] != channels:
        hint = ""
        if shape[-1] == channels:
            order = "3, 0, 1, 2" if clip else "2, 0, 1"
            hint = f"; it looks channels-last: move them to the front with permute({order})"
        elif clip and shape[-3] == channels:
            hint = (
                "; it looks like frames of their own: swap the first two axes, permute(1, 0, 2, 3)"
            )
        raise ImageRefused(
            f"a tensor of shape {shape} has {shape[-axes]} channels, and the model takes "
            f"{channels}{hint}"
        )
    checked = tensor.detach().to(torch.float32, copy=True).reshape(1, *shape[-axes:])
    if not is_finite(checked):
        bad = int((~torch.isfinite(checked)).sum())
        raise ImageRefused(f"{bad} of the tensor's {checked.numel()} values are NaN or infinite")
    return checked


def pixels_of(tensor: Tensor, channels: int, *, clip: bool = False) -> NDArray[Any] | None:
    """The pixels of a tensor that holds an image as it was decoded, not a preprocessed one.

    That is one of uint8, uint16 or bool, such as ``torchvision.io.decode_image`` returns; a
    floating-point one with its channels last and values in [0, 1]; and torchvision's
    ``tv_tensors.Image`` with values in [0, 1].

    Args:
        tensor: ``(C, H, W)``, ``(H, W, C)``, ``(H, W)`` or ``(1, C, H, W)``; for a clip
            ``(T, C, H, W)`` or ``(T, H, W, C)``.
        channels: The number of channels that the model takes.
        clip: Whether the model takes clips.

    Returns:
        An array ``(H, W, C)``, ``(H, W)`` or ``(T, H, W, C)``; None for a preprocessed tensor.

    Raises:
        ImageRefused: If the tensor is sparse, nested, or on the meta device.
    """
    _refuse_other_kinds(tensor)
    shape = tuple(tensor.shape)
    known = {1, 3, 4, channels}
    first = bool(shape) and len(shape) > 2 and shape[-3] in known
    last = bool(shape) and shape[-1] in known
    if tensor.is_floating_point():
        marked = isinstance(tensor, TVTensor)
        if clip or len(shape) != 3 or not (marked or (last and not first)):
            return None
        low, high = (float(extreme) for extreme in torch.aminmax(tensor.detach().float()))
        if not (low >= 0 and high <= 1):
            return None
    elif tensor.dtype not in (torch.uint8, torch.uint16, torch.bool):
        return None
    plain = tensor.detach().as_subclass(Tensor).cpu()
    if plain.dtype in (torch.float16, torch.bfloat16):
        plain = plain.float()
    if plain.ndim == 4 and not clip and len(plain) == 1:
        plain = plain[0]
    if plain.ndim > 2 and first:
        plain = plain.movedim(-3, -1)
    return np.asarray(plain.numpy())


def _refuse_other_kinds(tensor: Tensor) -> None:
    """Refuses a tensor whose values cannot be read one by one."""
    if tensor.is_meta:
        raise ImageRefused("a tensor on the meta device has a shape, but no values")
    if tensor.is_nested:
        raise ImageRefused("a nested tensor holds several images; give one, or all to explain_many")
    if tensor.layout != torch.strided:
        raise ImageRefused(f"a tensor of layout {tensor.layout} is not read; call .to_dense()")


def is_finite(tensor: Tensor) -> bool:
    """Whether no value is NaN or infinite."""
    if not tensor.numel():
        return True
    return all(math.isfinite(extreme.item()) for extreme in torch.aminmax(tensor.detach()))


def same(one: Tensor, other: Tensor) -> bool:
    """Whether two tensors are of one type and place, and hold the same values."""
    alike = (one.shape, one.dtype, one.device) == (other.shape, other.dtype, other.device)
    return alike and torch.equal(one, other)
