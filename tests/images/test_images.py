"""open_image: every unusual file that can be read becomes an upright RGB image."""

from __future__ import annotations

import io
import os
import struct
import warnings
from threading import Thread

import numpy as np
import pytest
from PIL import Image, ImageFile

from cam_hub.images.decoding import FORMATS, open_image
from tests.fakes.image_files import PIXELS, SMOOTH, array_of, encoded, png

# --- kinds of input ---


def test_path_bytes_file_image_and_array_give_the_same_pixels(tmp_path):
    data = encoded(Image.fromarray(PIXELS))
    path = tmp_path / "a photo ü.png"
    path.write_bytes(data)
    sources = [
        path,
        str(path),
        data,
        bytearray(data),
        memoryview(data),
        io.BytesIO(data),
        Image.open(path),
        Image.fromarray(PIXELS),
        PIXELS,
        np.asfortranarray(PIXELS),
        PIXELS[::-1][::-1],
    ]
    for source in sources:
        np.testing.assert_array_equal(array_of(source), PIXELS)


def test_a_file_object_is_read_from_its_start_and_left_where_it_was():
    data = encoded(Image.fromarray(PIXELS))
    file = io.BytesIO(data)
    for position in (0, 17, len(data)):  # at the end, as just after writing
        file.seek(position)
        np.testing.assert_array_equal(array_of(file), PIXELS)
        assert file.tell() == position


def test_a_stream_that_cannot_seek_is_also_read():
    read_end, write_end = os.pipe()
    with os.fdopen(write_end, "wb") as sender:
        sender.write(encoded(Image.fromarray(PIXELS)))
    with os.fdopen(read_end, "rb") as stream:
        np.testing.assert_array_equal(array_of(stream), PIXELS)


def test_the_callers_image_and_array_are_neither_changed_nor_shared():
    picture, array = Image.fromarray(PIXELS), PIXELS.copy()
    picture.info["note"] = "mine"
    for source in (picture, array):
        opened = open_image(source)
        assert opened is not source
        opened.putpixel((0, 0), (1, 2, 3))
    np.testing.assert_array_equal(np.asarray(picture), PIXELS)
    np.testing.assert_array_equal(array, PIXELS)
    assert picture.info == {"note": "mine"}


def test_the_result_no_longer_needs_its_file(tmp_path):
    path = tmp_path / "photo.png"
    path.write_bytes(encoded(Image.fromarray(PIXELS)))
    opened = open_image(path)
    path.unlink()
    np.testing.assert_array_equal(np.asarray(opened), PIXELS)
    assert not isinstance(opened, ImageFile.ImageFile)


@pytest.mark.parametrize("shape", [(6, 9), (6, 9, 1)])
def test_a_grey_array_becomes_equal_channels(shape):
    grey = PIXELS[..., 0]
    np.testing.assert_array_equal(array_of(grey.reshape(shape)), np.stack([grey] * 3, axis=-1))


def test_a_bool_array_is_black_and_white():
    assert array_of(np.array([[True, False]])).tolist() == [[[255] * 3, [0] * 3]]


@pytest.mark.parametrize("kind", FORMATS)
def test_an_image_of_one_pixel_works_in_every_supported_format(kind):
    options = {"sizes": [(1, 1)]} if kind == "ICO" else {}
    data = encoded(Image.new("RGB", (1, 1), (200, 100, 50)), kind, **options)
    np.testing.assert_allclose(array_of(data), [[[200, 100, 50]]], atol=4)


def test_threads_open_images_concurrently():
    data = encoded(Image.fromarray(PIXELS))
    wrong: list[int] = []

    def work(number: int) -> None:
        opened = (np.asarray(open_image(data)) for _ in range(20))
        wrong.extend(number for pixels in opened if not (pixels == PIXELS).all())

    threads = [Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


# --- orientation and metadata ---


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_every_exif_orientation_is_turned_upright(orientation, kind):
    upright = SMOOTH
    # The stored form of a camera: the inverse of the orientation's transform.
    stored = {
        1: upright,
        2: upright[:, ::-1],
        3: upright[::-1, ::-1],
        4: upright[::-1],
        5: upright.transpose(1, 0, 2),
        6: upright.transpose(1, 0, 2)[::-1],
        7: upright.transpose(1, 0, 2)[::-1, ::-1],
        8: upright.transpose(1, 0, 2)[:, ::-1],
    }[orientation]
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = {"JPEG": {"quality": 100, "subsampling": 0}, "WEBP": {"lossless": True}}
    data = encoded(
        Image.fromarray(np.ascontiguousarray(stored)), kind, exif=exif, **options.get(kind, {})
    )
    opened = open_image(data)
    np.testing.assert_allclose(np.asarray(opened).astype(int), upright, atol=4)
    assert open_image(opened).size == opened.size  # no orientation is left
    assert opened.info == {}


def test_a_broken_exif_block_is_ignored():
    for junk in (b"Exif\0\0MM\0*\0\0\0\x08\xff\xff", b"Exif\0\0" + b"\xff" * 40, b"Exif\0\0"):
        data = encoded(Image.fromarray(SMOOTH), "JPEG", exif=junk)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow's own warning about the block
            assert array_of(data).shape == SMOOTH.shape


def test_an_orientation_that_does_not_exist_is_ignored():
    exif = Image.Exif()
    exif[0x0112] = 77
    assert array_of(encoded(Image.fromarray(SMOOTH), "JPEG", exif=exif)).shape == SMOOTH.shape


# --- frames ---


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "PNG", "TIFF"])
def test_the_first_frame_of_an_animation_is_taken(kind):
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "lime", "blue")]
    options = {"lossless": True} if kind == "WEBP" else {}
    data = encoded(frames[0], kind, save_all=True, append_images=frames[1:], **options)
    assert Image.open(io.BytesIO(data)).n_frames == 3
    assert (array_of(data) == (255, 0, 0)).all()


def test_a_pil_image_gives_its_current_frame_and_keeps_it():
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "lime", "blue")]
    data = encoded(frames[0], "GIF", save_all=True, append_images=frames[1:])
    picture = Image.open(io.BytesIO(data))
    picture.seek(2)
    assert (array_of(picture) == (0, 0, 255)).all()
    assert picture.tell() == 2


# --- modes ---


@pytest.mark.parametrize("mode", ["1", "L", "P", "YCbCr", "HSV", "CMYK", "LAB"])
def test_other_colour_modes_keep_black_and_white(mode):
    strip = Image.fromarray(np.repeat([[0, 255]], 3, axis=1).astype(np.uint8).repeat(4, axis=0))
    if mode == "LAB":
        picture = Image.merge("LAB", [strip, *(Image.new("L", strip.size, 128),) * 2])
    else:
        picture = strip.convert("RGB").convert(mode)
    opened = array_of(picture)
    np.testing.assert_allclose(opened[:, :3], 0, atol=2)
    np.testing.assert_allclose(opened[:, 3:], 255, atol=2)


def test_a_cmyk_jpeg_keeps_its_colours():
    flat = Image.new("RGB", (16, 16), (30, 160, 220)).convert("CMYK")
    assert (abs(array_of(encoded(flat, "JPEG", quality=95)).astype(int) - (30, 160, 220)) < 6).all()


@pytest.mark.parametrize("order", ["<u2", ">u2"])
def test_16_bit_grey_keeps_its_order_and_its_full_range(order):
    ramp = np.linspace(0, 65535, 1000).round()
    kind = "TIFF" if order == "<u2" else "PNG"
    if kind == "PNG":
        data = png(1000, 1, 16, 0, b"\0" + ramp.astype(">u2").tobytes())
    else:
        data = encoded(Image.fromarray(ramp.astype("<u2")[None]), kind)
    opened = array_of(data)[0]
    assert (opened[:, 0] == opened[:, 1]).all()
    np.testing.assert_array_equal(opened[:, 0], np.rint(ramp / 257))
    assert opened[0, 0] == 0
    assert opened[-1, 0] == 255


@pytest.mark.parametrize("mode", ["I;16", "I;16B", "I;16L"])
def test_16_bit_grey_in_memory_is_scaled_whatever_its_byte_order(mode):
    picture = Image.new(mode, (2, 1))
    picture.putpixel((1, 0), 257 * 100)
    assert array_of(picture)[0, :, 0].tolist() == [0, 100]


@pytest.mark.parametrize(
    ("highest", "grey"),
    [(0, 0), (255, 255), (256, 16), (4095, 255), (4096, 16), (65535, 255)],
)
def test_16_bits_that_hold_fewer_are_scaled_by_the_least_full_scale_that_fits(highest, grey):
    values = np.array([[0, highest]], np.uint16)
    swapped = values.astype(">u2" if values.dtype == np.dtype("<u2") else "<u2")
    file = encoded(Image.fromarray(values), "TIFF")
    for source in (values, swapped, Image.fromarray(values), file):
        assert array_of(source)[0, :, 0].tolist() == [0, grey]


def test_a_declared_white_goes_before_what_the_pixels_suggest():
    values = Image.fromarray(np.array([[0, 1000, 2000]], np.uint16))
    data = encoded(values, "TIFF", tiffinfo={281: 4000})  # MaxSampleValue
    assert array_of(data)[0, :, 0].tolist() == [0, 64, 128]
    lie = encoded(values, "TIFF", tiffinfo={281: 1000})  # fewer than there are
    assert array_of(lie)[0, :, 0].tolist() == [0, 62, 125]


@pytest.mark.parametrize("white", [1.0, 255.0])
@pytest.mark.parametrize("kind", [np.float16, np.float32, np.float64])
def test_floating_point_arrays_are_taken_in_either_full_scale(white, kind):
    values = np.array([[[0, 0.2, 1], [0.4, 0.6, 0.8]]]) * white
    assert array_of(values.astype(kind)).tolist() == [[[0, 51, 255], [102, 153, 204]]]


def test_a_path_may_begin_with_a_tilde_or_be_a_file_address(tmp_path, monkeypatch):
    (tmp_path / "a photo%20.png").write_bytes(encoded(Image.fromarray(PIXELS)))
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    for source in ("~/a photo%20.png", (tmp_path / "a photo%20.png").as_uri()):
        np.testing.assert_array_equal(array_of(source), PIXELS)
    (tmp_path / "~me.png").write_bytes(encoded(Image.fromarray(PIXELS)))
    np.testing.assert_array_equal(array_of("~me.png"), PIXELS)


@pytest.mark.parametrize("given", ["bytes", "path", "both"])
def test_a_row_of_the_library_datasets(tmp_path, given):
    data = encoded(Image.fromarray(PIXELS))
    (tmp_path / "a.png").write_bytes(data)
    row = {
        "bytes": None if given == "path" else data,
        "path": {"bytes": None, "path": str(tmp_path / "a.png"), "both": "gone.png"}[given],
    }
    np.testing.assert_array_equal(array_of(row), PIXELS)


@pytest.mark.parametrize(
    ("values", "mode", "grey"),
    [
        ([0, 100, 255], "I", [0, 100, 255]),  # 8 bits fit
        ([0, 257, 65535], "I", [0, 1, 255]),  # 16 bits fit
        ([0, 50_000, 100_000], "I", [0, 128, 255]),  # neither: stretched
        ([-10, 0, 10], "I", [0, 128, 255]),
        ([0.0, 0.2, 1.0], "F", [0, 51, 255]),
        ([0.0, 100.0, 254.6], "F", [0, 100, 255]),
        ([0.0, 257.0, 65535.0], "F", [0, 1, 255]),
        ([-1.0, 0.0, 1.0], "F", [0, 128, 255]),
        ([-7.0, -7.0, -7.0], "F", [0, 0, 0]),  # constant, nothing to stretch
    ],
)
def test_32_bit_grey_is_scaled_by_the_least_full_scale_that_fits(values, mode, grey):
    picture = Image.fromarray(np.array([values], np.int32 if mode == "I" else np.float32))
    assert picture.mode == mode
    assert array_of(picture)[0, :, 0].tolist() == grey


# --- transparency, on white ---


def test_transparent_parts_become_white_and_half_transparent_ones_mix():
    pixels = np.zeros((1, 3, 4), np.uint8)
    pixels[0, :, 3] = (0, 128, 255)
    wanted = [[[255] * 3, [127] * 3, [0] * 3]]
    rgba = Image.fromarray(pixels)
    for source in (rgba, encoded(rgba), pixels, rgba.convert("RGBa"), rgba.convert("LA")):
        assert array_of(source).tolist() == wanted
    assert array_of(rgba.convert("LA").convert("La")).tolist() == wanted


def test_a_palettes_transparent_colour_becomes_white():
    picture = Image.new("P", (2, 1))
    picture.putpalette([10, 20, 30, 40, 50, 60])
    picture.putpixel((1, 0), 1)
    assert array_of(encoded(picture)).tolist() == [[[10, 20, 30], [40, 50, 60]]]
    for kind in ("PNG", "GIF"):
        data = encoded(picture, kind, transparency=1)
        assert array_of(data).tolist() == [[[10, 20, 30], [255, 255, 255]]], kind
    # One alpha per colour.
    data = encoded(picture, transparency=bytes([255, 0]))
    assert array_of(data).tolist() == [[[10, 20, 30], [255, 255, 255]]]


def test_a_palette_with_an_alpha_band_or_alpha_colours_is_laid_on_white():
    picture = Image.new("PA", (1, 1), (0, 0))
    assert array_of(picture).tolist() == [[[255] * 3]]
    picture = Image.new("P", (1, 1))
    picture.putpalette([9, 9, 9, 0], "RGBA")
    assert array_of(picture).tolist() == [[[255] * 3]]


def test_the_transparent_colour_of_grey_and_rgb_pngs_becomes_white():
    grey = png(2, 1, 8, 0, bytes([0, 7, 8]), b"tRNS" + struct.pack(">H", 7))
    assert array_of(grey)[0, :, 0].tolist() == [255, 8]
    rgb = png(2, 1, 8, 2, bytes([0, 1, 2, 3, 4, 5, 6]), b"tRNS" + struct.pack(">3H", 1, 2, 3))
    assert array_of(rgb)[0].tolist() == [[255] * 3, [4, 5, 6]]
