"""Images and image files for the tests of open_image."""

from __future__ import annotations

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from cam_hub.images.decoding import open_image

RNG = np.random.default_rng(0)
PIXELS = RNG.integers(0, 256, (6, 9, 3), dtype=np.uint8)
# Larger than any decoder's first block, and smooth enough to survive a lossy format.
SMOOTH = np.stack(
    np.broadcast_arrays(
        np.linspace(0, 255, 80)[None, :], np.linspace(255, 0, 60)[:, None], np.full((1, 1), 90.0)
    ),
    axis=-1,
).astype(np.uint8)


def encoded(image: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    """An image's file; the test is skipped if this Pillow cannot write that format."""
    Image.init()
    if kind not in Image.SAVE:
        pytest.skip(f"this Pillow cannot write {kind}")
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def png(width: int, height: int, depth: int, colour: int, rows: bytes, *extra: bytes) -> bytes:
    """A PNG written by hand, for headers and pixels that Pillow would not write."""
    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    parts = (
        (b"IHDR", header),
        *((piece[:4], piece[4:]) for piece in extra),
        (b"IDAT", zlib.compress(rows)),
        (b"IEND", b""),
    )
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + tag + data + struct.pack(">I", zlib.crc32(tag + data))
        for tag, data in parts
    )


def array_of(source: object) -> np.ndarray:
    """The pixels that open_image returns for a source."""
    image = open_image(source)
    assert image.mode == "RGB"
    return np.asarray(image)
