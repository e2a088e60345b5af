"""How far inputs and maps by ``preprocessing="draft"`` and ``"device"`` differ from exact ones.

    OMP_NUM_THREADS=1 python -m bench.reduced    # the table of docs/throughput.md

Photos of scikit-image are enlarged, or tiled with mirrored copies, to the sizes of cameras, and
saved as JPEG of three qualities. Tiles have as much detail as a photo can have, enlarged photos
little.
"""

from __future__ import annotations

import argparse
import io
from collections.abc import Iterator, Sequence
from itertools import product

import numpy as np
import skimage.data
import torch
from PIL import Image

import cam_hub
from cam_hub.attribution.preparation import prepare
from cam_hub.images.preprocessing import PREPROCESSING_MODES
from cam_hub.images.workers import open_as

_PHOTOS = ("chelsea", "coffee", "astronaut", "camera", "rocket")  # in the package itself
_SIZES = ((1024, 768), (2048, 1536), (4032, 3024))
_QUALITIES = (75, 90, 95)


def main(arguments: Sequence[str] | None = None) -> int:
    """Measures and prints a table in Markdown; returns the program's exit code."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--model", default=cam_hub.DEFAULT_MODEL, help="(%(default)s)")
    options = parser.parse_args(arguments)
    model = cam_hub.load_model(options.model, device="cpu")
    torch.set_num_threads(1)
    print(
        "| preprocessing | photos | size | input: mean, max | map: mean, max, lowest correlation | "
        "another top class |\n|---|---|---|---|---|---|"
    )
    made = {"enlarged": _enlarged, "tiled": _tiled}
    for (how, make), size in product(made.items(), _SIZES):
        photos = [Image.fromarray(getattr(skimage.data, name)()).convert("RGB") for name in _PHOTOS]
        resized = [make(photo, size) for photo in photos]
        files = [_encoded(photo, quality) for photo, quality in product(resized, _QUALITIES)]
        for mode in PREPROCESSING_MODES[1:]:
            cells = " | ".join(_differences(model, files, mode))
            row = f"{mode} | {how} | {size[0]} × {size[1]}"
            print(f"| {row} | {cells} |", flush=True)
    return 0


def _enlarged(photo: Image.Image, size: tuple[int, int]) -> Image.Image:
    return photo.resize(size, Image.Resampling.BICUBIC)


def _tiled(photo: Image.Image, size: tuple[int, int]) -> Image.Image:
    pixels = np.asarray(photo)
    beyond = [
        (0, max(0, side - have)) for side, have in zip(size[::-1], pixels.shape, strict=False)
    ]
    return Image.fromarray(np.pad(pixels, (*beyond, (0, 0)), "symmetric")).crop((0, 0, *size))


def _encoded(photo: Image.Image, quality: int) -> bytes:
    buffer = io.BytesIO()
    photo.save(buffer, "JPEG", quality=quality)
    return buffer.getvalue()


def _differences(model: cam_hub.LoadedModel, files: list[bytes], mode: str) -> Iterator[str]:
    """The cells of a row, over all photos."""
    inputs, maps, alike, others = [], [], [], 0
    for file in files:
        exact, other = (
            prepare(model, file, opened=open_as(model.preprocessing, file, each))
            for each in ("exact", mode)
        )
        inputs.append((exact.tensor - other.tensor).abs())
        one = cam_hub.explain(model, exact.tensor, method="layercam")
        two = cam_hub.explain(model, other.tensor, method="layercam", classes=one.classes)
        others += one.predictions[0].class_index != two.predictions[0].class_index
        cams = [each.cam() / one.cam().max() for each in (one, two)]
        maps.append(np.abs(cams[0] - cams[1]))
        alike.append(np.corrcoef(cams[0].ravel(), cams[1].ravel())[0, 1])
    yield f"{torch.stack(inputs).mean():.3f}, {torch.stack(inputs).max():.2f}"
    yield f"{np.mean(maps):.1%}, {np.max(maps):.0%}, {min(alike):.3f}"
    yield f"{others} of {len(files)}"


if __name__ == "__main__":
    raise SystemExit(main())
