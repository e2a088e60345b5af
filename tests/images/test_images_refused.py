"""Refusals of open_image: files that are not images, or too large, with the reason."""

from __future__ import annotations

import io
import os
import random
import warnings
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageCms

from cam_hub.errors import ImageRefused, InvalidArgument
from cam_hub.images.decoding import MAX_PIXELS, open_image
from tests.fakes.image_files import PIXELS, SMOOTH, array_of, encoded, png

# --- paths and URLs ---


def test_paths_that_are_not_image_files_are_refused_each_with_its_reason(tmp_path):
    cases = {
        str(tmp_path / "missing.png"): "there is no file",
        str(tmp_path): "is a folder",
        "": "the path is empty",
        "a\0b.png": "cannot be opened",
        str(tmp_path / ("x" * 5000)): "cannot be opened",
    }
    (tmp_path / "empty.jpg").touch()
    cases[str(tmp_path / "empty.jpg")] = "is empty"
    (tmp_path / "notes.png").write_text("dear diary")
    cases[str(tmp_path / "notes.png")] = "JPEG, PNG, WEBP"
    if hasattr(os, "mkfifo"):
        os.mkfifo(tmp_path / "pipe")
        cases[str(tmp_path / "pipe")] = "a device or a pipe"
    for path, reason in cases.items():
        with pytest.raises(ImageRefused, match=reason):
            open_image(path)
        if path:
            with pytest.raises(ImageRefused, match=reason):
                open_image(Path(path))


@pytest.mark.parametrize(
    "address",
    [
        "http://host/cat.jpg",
        "HTTPS://host/cat.jpg",
        " https://host/cat.jpg",
        "data:image/png;base64,iVBORw0KGgo=",
        "hf://owner/name/cat.jpg",
    ],
)
def test_an_address_is_refused_with_the_advice_to_download_it(address):
    with pytest.raises(ImageRefused, match="download it first"):
        open_image(address)


def test_a_message_quotes_only_the_start_of_a_long_name():
    with pytest.raises(ImageRefused) as refusal:
        open_image("x" * 100_000)
    assert len(str(refusal.value)) < 500


# --- content of files ---


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "is empty"),
        (b"dear diary", "JPEG, PNG, WEBP"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "SVG"),
        (b"\xef\xbb\xbf<?xml version='1.0'?><svg/>", "SVG"),
        (b"<!DOCTYPE html><html>404</html>", "web page"),
        (b"version https://git-lfs.github.com/spec/v1\n", "git lfs pull"),
        (b"%PDF-1.7\n", "PDF"),
        (b"\0\0\0\x18ftypheic\0\0\0\0mif1heic", "HEIF"),
        (b"\0\0\0\x18ftypmp42\0\0\0\0mp42isom", "video"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n", "not an image"),
        (b"\x89PNG\r\n\x1a\n", "damaged"),
    ],
)
def test_bytes_that_are_not_an_image_are_refused_with_their_apparent_kind(data, reason):
    for source in (data, io.BytesIO(data)):
        with pytest.raises(ImageRefused, match=reason):
            open_image(source)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "GIF", "WEBP", "BMP", "TIFF", "PPM", "QOI"])
def test_a_cut_off_file_is_refused_or_still_holds_every_pixel(kind):
    whole = encoded(Image.fromarray(SMOOTH), kind)
    pixels = array_of(whole)
    refused = 0
    for length in {*range(0, len(whole), max(1, len(whole) // 60)), *range(len(whole) - 8)[-8:]}:
        try:
            np.testing.assert_array_equal(array_of(whole[:length]), pixels)
        except ImageRefused:
            refused += 1
    assert refused > 50
    with pytest.raises(ImageRefused, match="damaged"):
        open_image(whole[: len(whole) // 2])


def test_random_and_scrambled_bytes_are_opened_or_refused_and_nothing_else():
    rng = random.Random(0)
    samples = [rng.randbytes(rng.randrange(1, 400)) for _ in range(100)]
    for kind in ("JPEG", "PNG", "GIF", "WEBP", "TIFF", "BMP", "ICO"):
        whole = encoded(Image.fromarray(PIXELS), kind)
        for _ in range(40):
            broken = bytearray(whole)
            for _ in range(rng.randrange(1, 6)):
                broken[rng.randrange(len(broken))] = rng.randrange(256)
            samples.append(bytes(broken))
    refused = 0
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pillow's own warning about the damage
        for sample in samples:
            try:
                # A corrupt header may request gigabytes.
                opened = open_image(sample, max_pixels=1_000_000)
            except ImageRefused:
                refused += 1
            else:
                assert opened.mode == "RGB"
    assert 100 <= refused < len(samples)


# --- too many pixels ---


def test_a_header_that_promises_too_many_pixels_is_refused_before_decoding():
    rows = b"\0\0\0\0"
    with pytest.raises(ImageRefused, match="too large"):
        open_image(png(100_000, 100_000, 8, 2, rows))  # also beyond Pillow's own limit
    with pytest.raises(ImageRefused, match="200 x 100 is 20,000 pixels, and the limit is 19,999"):
        open_image(png(200, 100, 8, 2, rows), max_pixels=19_999)
    with pytest.raises(ImageRefused, match="cut off"):  # within the limit, it is decoded
        open_image(png(200, 100, 8, 2, rows), max_pixels=20_000)


def test_the_limit_also_applies_to_images_and_arrays():
    for source in (Image.new("L", (11, 10)), np.zeros((11, 10), np.uint8)):
        assert open_image(source, max_pixels=110).mode == "RGB"
        with pytest.raises(ImageRefused, match="too large"):
            open_image(source, max_pixels=109)


def test_the_default_limit_is_pillows_and_pillows_is_left_alone():
    before = Image.MAX_IMAGE_PIXELS
    open_image(PIXELS, max_pixels=5_000)
    assert before == Image.MAX_IMAGE_PIXELS
    assert 2 * before == MAX_PIXELS


def test_pillows_bomb_warning_made_an_error_is_a_refusal(monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 50)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(ImageRefused, match="too large"):
            open_image(encoded(Image.fromarray(PIXELS)))


@pytest.mark.parametrize("limit", [0, -1, 1.5, True, None])
def test_a_limit_that_cannot_be_is_refused(limit):
    with pytest.raises(InvalidArgument, match="max_pixels"):
        open_image(PIXELS, max_pixels=limit)


# --- images, arrays and other objects ---


@pytest.mark.parametrize(
    ("array", "reason"),
    [
        (np.full((4, 4, 3), 255.5), r"values from 256 to 256; scale it to \[0, 1\]"),
        (np.full((4, 4, 3), -0.1), r"already normalised, give it as a float tensor \(C, H, W\)"),
        (np.full((2, 2, 3), np.nan, np.float32), "12 of the array's 12 values are NaN"),
        (np.zeros((4, 4), np.int16), "int16 is not read"),
        (np.zeros((4, 4), np.int64), "int64 is not read"),
        (np.array("cat"), "is not read"),
        (np.zeros(4, np.uint8), r"shape \(4,\) is not a picture"),
        (np.zeros((4, 4, 2), np.uint8), r"shape \(4, 4, 2\) is not a picture"),
        (np.zeros((3, 8, 9), np.uint8), r"transpose\(1, 2, 0\)"),
        (np.zeros((2, 8, 9, 3), np.uint8), "one image at a time"),
        (np.zeros((0, 9, 3), np.uint8), "holds no pixels"),
    ],
)
def test_an_array_that_is_not_an_image_is_refused_with_what_would_work(array, reason):
    with pytest.raises(ImageRefused, match=reason):
        open_image(array)


@pytest.mark.parametrize("source", [None, 3, [1, 2], {"file": "cat.jpg"}, object()])
def test_another_kind_of_thing_is_refused_by_its_type(source):
    with pytest.raises(ImageRefused, match=f"{type(source).__name__} is not a kind of picture"):
        open_image(source)


def test_an_image_without_pixels_and_a_closed_one_are_refused():
    with pytest.raises(ImageRefused, match="holds no pixels"):
        open_image(Image.new("RGB", (0, 5)))
    closed = Image.open(io.BytesIO(encoded(Image.fromarray(PIXELS))))
    closed.close()
    with pytest.raises(ImageRefused, match="PIL image"):
        open_image(closed)


def test_file_objects_that_cannot_be_read_are_refused(tmp_path):
    with pytest.raises(ImageRefused, match="'rb'"):
        open_image(io.StringIO("text"))
    closed = io.BytesIO(b"x")
    closed.close()
    with pytest.raises(ImageRefused, match="cannot be read"):
        open_image(closed)
    with (
        (tmp_path / "new.png").open("wb") as write_only,
        pytest.raises(ImageRefused, match="cannot be read"),
    ):
        open_image(write_only)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_float_pixels_that_are_not_finite_are_refused_with_their_number(bad):
    picture = Image.fromarray(np.array([[0, bad, bad]], np.float32))
    with pytest.raises(
        ImageRefused, match="2 of the 3 pixels of the PIL image are NaN or infinite"
    ):
        open_image(picture)


def test_a_mode_that_this_pillow_cannot_turn_into_rgb_is_refused_by_its_name(monkeypatch):
    def missing(*_: object) -> None:
        raise ImportError("built without LittleCMS")

    monkeypatch.setattr(ImageCms, "createProfile", missing)
    with pytest.raises(ImageRefused, match=r"its LAB pixels .* built without LittleCMS"):
        open_image(Image.new("LAB", (2, 2)))
