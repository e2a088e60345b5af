"""One map out of the maps of several layers."""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.functional import interpolate

from cam_hub.errors import InvalidArgument
from cam_hub.methods.registry import Method

__all__ = ["fuse"]

# Number of grid axes -> the interpolation that is linear along each of them.
_LINEAR = {1: "linear", 2: "bilinear", 3: "trilinear"}


def fuse(maps: Sequence[Tensor], method: Method) -> Tensor:
    """Combine the maps that one method made of several layers.

    Each map is brought to [0, 1] by the method's own scale, resized linearly to the finest grid
    and combined with the others by the largest value, as the authors of LayerCAM do (Jiang et al.
    2021). Scaling comes first, so that no layer wins merely by larger numbers. Signed maps are
    brought to [-1, 1], and the value of the largest magnitude wins.

    torchcam 0.5 differs: it counts on maps that were normalised before, resizes 1-D maps by the
    nearest neighbour, and hands back a single map unscaled.

    Args:
        maps: One un-normalised map per layer, ``(B, *grid)``, at least 0 unless the method is
            signed; the grids may differ in size, but have the same one to three axes.
        method: The method that made them.

    Returns:
        ``(B, *grid)`` in [0, 1], signed in [-1, 1], each axis as long as the longest of the maps.

    Raises:
        InvalidArgument: There are no maps, or they do not fit together.
    """
    shapes = [tuple(cam.shape) for cam in maps]
    if not shapes:
        raise InvalidArgument("maps", maps, "the map of at least one layer")
    if len({(shape[:1], len(shape)) for shape in shapes}) > 1 or len(shapes[0]) - 1 not in _LINEAR:
        expected = "maps (batch, *grid) of one batch size, all with the same 1, 2 or 3 grid axes"
        raise InvalidArgument("maps", shapes, expected)
    finest = [max(sizes) for sizes in zip(*(shape[1:] for shape in shapes), strict=True)]
    fused = _resize(_scaled(maps[0], method), finest)
    for cam in maps[1:]:
        other = _resize(_scaled(cam, method), finest)
        fused = torch.where(other.abs() > fused.abs(), other, fused)
    # The two weights of an interpolation may add up to a rounding more than 1.
    return fused.clamp(min=-1, max=1)


def _scaled(cam: Tensor, method: Method) -> Tensor:
    """A map on the method's own scale; of a signed one the magnitude is scaled, the sign kept."""
    return method.scale(cam) if method.sign != "both" else method.scale(cam.abs()) * cam.sign()


def _resize(maps: Tensor, grid: list[int]) -> Tensor:
    mode = _LINEAR[len(grid)]
    return interpolate(maps.unsqueeze(1), grid, mode=mode, align_corners=False).squeeze(1)
