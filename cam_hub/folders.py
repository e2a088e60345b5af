"""The folder of a saved explanation: what its files are called, and how they get there."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from cam_hub.errors import InvalidArgument
from cam_hub.images import open_image

__all__ = [
    "MANIFEST",
    "PHOTO",
    "file_stem",
    "frame_files",
    "load_frames",
    "move_into",
    "save_picture",
]

MANIFEST = "manifest.json"
PHOTO = "photo.png"
_OURS = re.compile(
    r"(overlay|animation)-.*\.(png|gif)|cam-.*\.npy|frame-\d+\.png|photo\.png|manifest\.json"
)


def file_stem(position: int, layer: str) -> str:
    """A layer's part of a file name: its place among the layers, and its name made harmless."""
    return f"{position:02d}-{re.sub(r'[^A-Za-z0-9._-]+', '_', layer)[:80]}"


def frame_files(frames: Sequence[Image.Image]) -> list[str]:
    """The file of each frame of a clip; a picture that stands for several frames has one file."""
    first: dict[int, int] = {}
    return [
        f"frame-{first.setdefault(id(frame), position):03d}.png"
        for position, frame in enumerate(frames)
    ]


def save_picture(picture: Image.Image, path: Path) -> None:
    """Writes a PNG with the fastest compression.

    On a photo the default takes five times as long for 5 percent.
    """
    picture.save(path, compress_level=1)


def load_frames(folder: Path, manifest: Mapping[str, Any]) -> tuple[Image.Image, ...]:
    """The frames that a manifest names, each file read once; none of an image.

    Raises:
        ImageRefused: If one is missing or damaged.
    """
    names = [Path(name).name for name in manifest.get("frames", ())]
    found = {name: open_image(folder / name) for name in dict.fromkeys(names)}
    return tuple(found[name] for name in names)


def move_into(folder: Path, staging: Path) -> None:
    """Moves a written explanation to where it belongs, in place of an earlier one.

    Raises:
        InvalidArgument: If the folder holds files of the same names that are not those of an
            earlier explanation.
    """
    folder.mkdir(exist_ok=True)
    present = {path.name for path in folder.iterdir()}
    ours = {name for name in present if _OURS.fullmatch(name)} if MANIFEST in present else set()
    new = {path.name for path in staging.iterdir()}
    if taken := sorted((present & new) - ours):
        raise InvalidArgument(
            "folder", str(folder), f"a folder without files of the names {', '.join(taken)}"
        )
    # Without a manifest it is no explanation: it goes first and comes last.
    for name in sorted(ours, key=lambda name: name != MANIFEST):
        (folder / name).unlink()
    for name in sorted(new, key=lambda name: name == MANIFEST):
        (staging / name).replace(folder / name)
