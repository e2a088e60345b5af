"""Geometry end to end: a bright spot planted in a photo is found at its position.

The map of the network is known beforehand: its layer averages brightness over cells, and its score
is the sum of the squares of these cells. The hottest position must therefore be the spot, for every
resize and crop between the photo and the network.
"""

from __future__ import annotations

import io

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw
from torch import nn

import cam_hub
from tests.fakes.sweep import diagonal

CELL = 16
SIDE = 224
SIZES = {
    "square": (256, 256),
    "landscape": (640, 360),
    "portrait": (300, 500),
    "panorama": (1600, 400),
    "tower": (200, 900),
    "smaller than the input": (97, 120),
    "tiny": (16, 12),
    "large": (4000, 3000),
}
CROPS = [("center", 0.875), ("center", 1.0), ("squash", 1.0), ("squash", 0.9), ("border", 1.0)]


class Brightness(nn.Module):
    """Scores an image by the squared brightness of its cells."""

    def __init__(self) -> None:
        super().__init__()
        self.cells = nn.Conv2d(3, 1, CELL, CELL, bias=False)
        nn.init.constant_(self.cells.weight, 1 / (3 * CELL * CELL))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.cells(x).square().sum(dim=(1, 2, 3))[:, None]


def brightness_model(mode: str, part: float, rows: int = SIDE, cols: int = SIDE):
    return cam_hub.wrap_model(
        Brightness(),
        input_size=(3, rows, cols),
        mean=(0, 0, 0),
        std=(1, 1, 1),
        crop_mode=mode,
        crop_pct=part,
    )


def cell_in_photo(model, size) -> tuple[float, float]:
    """Width and height, in the photo's pixels, of one cell of the layer's grid."""
    scale_x, scale_y = model.preprocessing.place(size).scale
    return CELL / scale_x, CELL / scale_y


def places(model, size, rng, count=4):
    """Positions in the part of a photo that the model sees, half a cell from its edge."""
    left, upper, right, lower = model.preprocessing.place(size).seen_box
    wide, high = cell_in_photo(model, size)
    for _ in range(count):
        yield (
            rng.uniform(min(left + wide / 2, right), max(right - wide / 2, left)),
            rng.uniform(min(upper + high / 2, lower), max(lower - high / 2, upper)),
        )


def with_spot(size, x, y, radius) -> Image.Image:
    """A black photo with a white spot, of at least one pixel."""
    photo = Image.new("RGB", size)
    photo.putpixel((int(x), int(y)), (255, 255, 255))
    ImageDraw.Draw(photo).ellipse(
        (x - radius[0], y - radius[1], x + radius[0], y + radius[1]), "white"
    )
    return photo


def hottest(heatmap) -> tuple[float, float]:
    """Centre of the hottest pixels."""
    ys, xs = np.nonzero(heatmap >= heatmap.max() - 1e-6)
    return xs.mean() + 0.5, ys.mean() + 0.5


@pytest.mark.parametrize(("name", "crop"), diagonal(SIZES, CROPS))
def test_the_spot_comes_back_within_one_cell(name, crop, rng):
    size, (mode, part) = SIZES[name], crop
    model = brightness_model(mode, part)
    wide, high = cell_in_photo(model, size)
    for x, y in places(model, size, rng):
        photo = with_spot(size, x, y, (wide / 3, high / 3))
        result = cam_hub.explain(model, photo, method="layercam", target_layers="cells")
        found_x, found_y = hottest(result.heatmap())
        assert abs(found_x - x) <= wide
        assert abs(found_y - y) <= high
        inside = [
            box for box in result.boxes(0.5)
            if box.left - 1 <= x <= box.right + 1 and box.top - 1 <= y <= box.bottom + 1
        ]  # fmt: skip
        assert inside, "one of the boxes holds the spot"
        assert result.mask(0.5).any()


def test_an_input_that_is_not_square_works_in_the_same_way(rng):
    model = brightness_model("center", 0.9, rows=160, cols=320)
    size = (500, 400)
    wide, high = cell_in_photo(model, size)
    for x, y in places(model, size, rng):
        photo = with_spot(size, x, y, (wide / 3, high / 3))
        result = cam_hub.explain(model, photo, method="layercam", target_layers="cells")
        assert result.cam().shape == (10, 20)
        found_x, found_y = hottest(result.heatmap())
        assert abs(found_x - x) <= wide
        assert abs(found_y - y) <= high


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_photo_that_the_camera_turned_is_explained_upright(orientation):
    model = brightness_model("center", 0.875)
    upright = with_spot((400, 300), 120, 80, (8, 8))
    # The stored pixels, so that the EXIF orientation makes the photo upright again.
    stored = {
        1: upright,
        2: upright.transpose(Image.Transpose.FLIP_LEFT_RIGHT),
        3: upright.transpose(Image.Transpose.ROTATE_180),
        4: upright.transpose(Image.Transpose.FLIP_TOP_BOTTOM),
        5: upright.transpose(Image.Transpose.TRANSPOSE),
        6: upright.transpose(Image.Transpose.ROTATE_90),
        7: upright.transpose(Image.Transpose.TRANSVERSE),
        8: upright.transpose(Image.Transpose.ROTATE_270),
    }[orientation]
    exif = Image.Exif()
    exif[0x0112] = orientation
    file = io.BytesIO()
    stored.save(file, "PNG", exif=exif)
    result = cam_hub.explain(model, file.getvalue(), method="layercam", target_layers="cells")
    assert result.photo.size == (400, 300)
    found_x, found_y = hottest(result.heatmap())
    wide, high = cell_in_photo(model, (400, 300))
    assert abs(found_x - 120) <= wide
    assert abs(found_y - 80) <= high


def test_the_part_outside_the_crop_is_marked_and_never_hot():
    model = brightness_model("center", 1.0)
    photo = with_spot((600, 200), 40, 100, (20, 20))  # in the strip that the crop cuts off
    ImageDraw.Draw(photo).ellipse((290, 90, 310, 110), "gray")
    result = cam_hub.explain(model, photo, method="layercam", target_layers="cells")
    assert not result.seen[100, 40]
    assert result.seen[100, 300]
    assert not result.heatmap()[~result.seen].any()
    found_x, _ = hottest(result.heatmap())
    assert abs(found_x - 300) <= cell_in_photo(model, (600, 200))[0]


def test_a_real_network_finds_a_photo_again_wherever_it_is_pasted(lite0, photos, rng):
    """The cup, pasted small into a grey field: the heat follows it from corner to corner."""
    cup = photos["espresso"].crop((130, 0, 430, 300)).resize((150, 150))
    for x, y in [(40, 40), (210, 40), (40, 210), (210, 210)]:
        field = Image.new("RGB", (400, 400), (120, 120, 120))
        field.paste(cup, (x, y))
        result = cam_hub.explain(lite0, field, method="layercam", classes="espresso")
        found_x, found_y = hottest(result.heatmap())
        assert x - 29 <= found_x <= x + 150 + 29  # one cell of the 7×7 grid is 57 pixels
        assert y - 29 <= found_y <= y + 150 + 29
