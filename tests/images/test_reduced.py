"""Photos that are decoded at a fraction of their size: same geometry, nearly the same input."""

from __future__ import annotations

import io

import numpy as np
import pytest
import torch
from PIL import ExifTags, Image

from cam_hub.images.decoding import encoded, open_image, open_reduced
from cam_hub.images.preprocessing import OpenedImage, Preprocessing

SQUARE = Preprocessing(
    input_size=(3, 64, 64), mean=[0.5] * 3, std=[0.5] * 3, resize_size=(72, 72),
    interpolation="bicubic",
)  # fmt: skip
LEVEL = 2 / 255
"""One of 255 levels, in the units of the input."""


def file_of(photo: Image.Image, kind: str = "JPEG", orientation: int = 1) -> bytes:
    buffer = io.BytesIO()
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    photo.save(buffer, kind, exif=exif, **({"quality": 95} if kind == "JPEG" else {}))
    return buffer.getvalue()


def dots(size: tuple[int, int], places: list[tuple[float, float]], radius: float) -> Image.Image:
    """White dots with soft edges on black."""
    x, y = np.arange(size[0]) + 0.5, np.arange(size[1])[:, None] + 0.5
    heat = sum(np.exp(-((x - u) ** 2 + (y - v) ** 2) / (2 * radius**2)) for u, v in places)
    return Image.fromarray(np.rint(255 * heat).astype(np.uint8)).convert("RGB")


def centre(tensor: torch.Tensor, x: float, y: float) -> tuple[float, float]:
    """The centre of the light within 6 pixels of a place in the input."""
    light = (tensor[0, 0].numpy() + 1) / 2
    u, v = np.arange(light.shape[1]) + 0.5, np.arange(light.shape[0])[:, None] + 0.5
    light = np.where((abs(u - x) < 6) & (abs(v - y) < 6), light, 0)
    return float((light * u).sum() / light.sum()), float((light * v).sum() / light.sum())


def sides(file: bytes, turn: Preprocessing = SQUARE) -> tuple[int, int]:
    return open_reduced(file, turn._least).photo.size


class TestSize:
    @pytest.mark.parametrize(
        ("size", "decoded"),
        [
            ((287, 143), (287, 143)),  # a half would be less than twice 72
            ((288, 288), (144, 144)),
            ((289, 301), (145, 151)),  # rounded up
            ((1151, 1151), (288, 288)),
            ((1152, 2304), (144, 288)),
            ((9000, 1152), (1125, 144)),  # an eighth is the least
        ],
    )
    def test_at_least_twice_the_size_of_the_resize_remains(self, size, decoded):
        assert sides(file_of(Image.new("RGB", size))) == decoded

    def test_other_formats_are_decoded_in_full(self):
        assert sides(file_of(Image.new("RGB", (600, 600)), "PNG")) == (600, 600)

    @pytest.mark.parametrize("change", [{"interpolation": "nearest"}, {"antialias": False}])
    def test_a_resize_that_does_not_average_is_exact(self, change):
        turn = replace_in(SQUARE, **{"interpolation": "bilinear", **change})
        file = file_of(dots((700, 500), [(300, 200)], 9))
        opened = turn.open_reduced(file)
        assert torch.equal(opened.tensor, turn.open(file).tensor)
        assert (opened.approximation, opened.frames[0].size) == ("", (700, 500))

    def test_a_photo_that_is_not_reduced_is_the_exact_one(self, lion):
        file = file_of(lion.resize((240, 200)))
        for opened in (SQUARE.open_reduced(file), SQUARE.open(file)):
            assert opened.approximation == ""
            assert opened.frames[0].tobytes() == open_image(file).tobytes()
            assert torch.equal(opened.tensor, SQUARE(open_image(file)))


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("crop_mode", ["center", "squash", "border"])
def test_what_is_marked_lies_where_the_full_photo_places_it(orientation, crop_mode):
    """An eighth of 1161 pixels is 145.125: the 146th has a seventh of its width in the photo."""
    turn = replace_in(SQUARE, crop_mode=crop_mode, resize_size=(64, 64))
    stored = dots((1161, 1161), [(60, 60), (1101, 60), (60, 1101), (1101, 1101)], 16)
    opened = turn.open_reduced(file_of(stored, orientation=orientation))
    assert opened.approximation == "draft"
    assert opened.frames == ()
    exact = turn.open(file_of(stored, orientation=orientation))
    assert opened.placement == exact.placement
    for place in ((60, 60), (1101, 60), (60, 1101), (1101, 1101)):
        x, y = opened.placement.to_input(*place)
        assert centre(opened.tensor, x, y) == pytest.approx(centre(exact.tensor, x, y), abs=0.02)


@pytest.mark.parametrize("orientation", [1, 3, 6, 8])
def test_a_real_photo_of_any_orientation_and_odd_size_is_nearly_the_exact_one(photos, orientation):
    file = file_of(photos["cat"].resize((1203, 803)), orientation=orientation)
    exact, reduced = SQUARE.open(file), SQUARE.open_reduced(file)
    assert reduced.approximation == "draft"
    assert reduced.placement == exact.placement
    difference = (reduced.tensor - exact.tensor).abs()
    assert 0 < difference.max() <= 4 * LEVEL
    assert difference.mean() <= 0.5 * LEVEL


def test_a_file_of_several_jpegs_is_reduced_too(photos):
    buffer = io.BytesIO()
    large = photos["cat"].resize((1200, 800))
    large.save(buffer, "MPO", save_all=True, append_images=[large.rotate(180)])
    opened = SQUARE.open_reduced(buffer.getvalue())
    assert opened.approximation == "draft"
    exact = SQUARE.open(buffer.getvalue()).tensor
    assert (opened.tensor - exact).abs().max() <= 4 * LEVEL


class TestDevice:
    @staticmethod
    def made(turn: Preprocessing, file: bytes) -> tuple[OpenedImage, torch.Tensor]:
        opened = turn.open_reduced(file, device=True)
        assert opened.tensor.dtype == torch.uint8
        assert opened.approximation == "device"
        return opened, turn.resized(opened.tensor, opened.placement)

    @pytest.mark.parametrize("crop_mode", ["center", "squash", "border"])
    @pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
    @pytest.mark.parametrize("crop_pct", [0.8, 1.3])
    @pytest.mark.parametrize("channels", [1, 3])
    def test_torch_resizes_as_pillow_does_but_for_rounding(
        self, photos, crop_mode, interpolation, crop_pct, channels
    ):
        turn = Preprocessing(
            input_size=(channels, 64, 80), mean=[0.4] * channels, std=[0.5] * channels,
            crop_pct=crop_pct, crop_mode=crop_mode, interpolation=interpolation,
        )  # fmt: skip
        for size in ((1280, 960), (90, 47), (640, 656)):
            file = file_of(photos["cat"].resize(size))
            opened, tensor = self.made(turn, file)
            draft = turn.open_reduced(file)
            assert tensor.shape == draft.tensor.shape
            assert opened.placement == draft.placement
            assert (tensor - draft.tensor).abs().max() <= 4.01 * LEVEL
            assert (tensor - draft.tensor).abs().mean() <= 0.3 * LEVEL

    @pytest.mark.parametrize("size", [(577, 600), (577, 500), (500, 577)])
    def test_what_torch_cannot_place_is_resized_by_pillow(self, size):
        """A fraction of a pixel, and a photo that is far too large."""
        kind = "JPEG" if size == (577, 600) else "PNG"
        file = file_of(Image.new("RGB", size), kind)
        opened = replace_in(SQUARE, crop_mode="squash").open_reduced(file, device=True)
        assert opened.approximation == ("draft" if kind == "JPEG" else "")
        assert opened.tensor.dtype == torch.float32

    def test_other_filters_are_those_of_pillow(self):
        turn = replace_in(SQUARE, interpolation="lanczos")
        file = file_of(dots((640, 640), [(300, 300)], 20))
        opened = turn.open_reduced(file, device=True)
        assert opened.approximation == "draft"
        assert torch.equal(opened.tensor, turn.open_reduced(file).tensor)


def test_files_are_plain_and_what_is_decoded_is_not(lion, tmp_path):
    path = tmp_path / "lion.png"
    assert encoded(path) == str(path)
    assert encoded(bytearray(b"ab")) == encoded(memoryview(b"ab")) == b"ab"
    assert encoded({"bytes": None, "path": path}) == str(path)
    assert encoded([path, b"ab"]) == [str(path), b"ab"]
    for other in (lion, np.zeros((2, 2, 3)), io.BytesIO(), [path, lion], {}, {"image": b""}, None):
        assert encoded(other) is None


def replace_in(turn: Preprocessing, **changes: object) -> Preprocessing:
    fields = {name: getattr(turn, name) for name in turn.as_dict()}
    return Preprocessing(**{**fields, **changes})  # type: ignore[arg-type]
