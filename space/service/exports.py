"""Explanations and comparisons as files for download."""

from __future__ import annotations

import json
import secrets
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from itertools import product, starmap
from pathlib import Path
from typing import Any

import numpy as np

from cam_hub.errors import InvalidArgument
from cam_hub.results.comparison import SHEET, Comparison
from cam_hub.results.comparison_grid import Scale
from cam_hub.results.explanation import Explanation
from cam_hub.results.manifest import file_stem
from cam_hub.results.maps import ScaleChoice
from cam_hub.results.overlay import colormap_table
from cam_hub.results.serialization import MANIFEST, PHOTO, digest_of, manifest_text
from cam_hub.targets.classes import Prediction
from space.service.explain_form import ExplainForm
from space.service.result_files import mark_as_used

__all__ = [
    "Exports",
    "SessionResult",
    "record_evidence",
    "reopen",
    "write_compare_files",
]


@dataclass(frozen=True)
class SessionResult:
    """A result that can be looked at again.

    Attributes:
        folder: Where its files are. The explanation itself stays there too: sessions cost little
            memory.
        request: What was asked for.
        predictions: The most probable classes.
        photo: The photo as a link names it: an example's name or an address; empty for an upload.
    """

    folder: Path
    request: ExplainForm
    predictions: tuple[Prediction, ...] = ()
    photo: str = ""


def reopen(folder: Path) -> Explanation:
    """Reads an explanation again that ``Explanation.save_data`` wrote.

    Raises:
        InvalidArgument: If the folder is gone, since results are kept for a limited time only.
    """
    try:
        mark_as_used(folder)
        return Explanation.load(folder)
    except InvalidArgument:
        raise InvalidArgument(
            "result", "the earlier one", "one that is still kept; explain the photo again"
        ) from None


def record_evidence(folder: Path, evidence: Mapping[str, Any]) -> None:
    """Adds evidence to the manifest of an explanation that ``Explanation.save_data`` wrote.

    Args:
        folder: Its folder. If it is gone, or the disk refuses, nothing changes.
        evidence: ``Evidence.to_dict``.
    """
    with suppress(OSError):
        facts = json.loads((folder / MANIFEST).read_text("utf-8"))
        files = facts.pop("files")
        del files[MANIFEST]
        with _published(folder / MANIFEST) as part:
            text = manifest_text(MANIFEST, {**facts, "evidence": evidence}, files)
            part.write_text(text, "utf-8")
        for archive in folder.glob("*/cam_hub.zip"):  # with the manifest as it was
            archive.unlink(missing_ok=True)


class Exports:
    """The files of an explanation in one look. Overlays are drawn when first asked for.

    Attributes:
        result: The explanation.
        photo: The photo as a PNG.
        manifest: The manifest as JSON.
        maps: The un-normalised maps as NPY, float32 ``(rows, cols)``.

    Args:
        result: The explanation.
        folder: Where ``Explanation.save_data`` wrote it.
        alpha: Opacity of the overlays, in [0, 1].
        colormap: Their colour map.
        scale: Scale of the colours, as ``Explanation.overlay`` takes it.
        colorbar: Whether the colours and their values stand below the overlays.

    Raises:
        InvalidArgument: If there is no such colour map.
    """

    def __init__(
        self,
        result: Explanation,
        folder: Path,
        alpha: float,
        colormap: str,
        scale: ScaleChoice = "own",
        *,
        colorbar: bool = False,
    ) -> None:
        colormap_table(colormap)  # its name becomes part of a path
        self.result = result
        self.photo = folder / PHOTO
        self.manifest = folder / MANIFEST
        self.maps = [folder / entry["file"] for entry in result.manifest["maps"]]
        self._folder = folder
        self._alpha = alpha
        self._colormap = colormap
        self._scale = scale
        self._colorbar = colorbar
        name = f"{colormap}-{alpha:.4f}"
        if scale not in (None, "own") or colorbar:
            ends = scale if isinstance(scale, str) else ",".join(map(repr, scale or ()))
            name += f"-{ends}{'-bar' if colorbar else ''}"
        self._look = folder / name

    def overlay(self, class_index: int, layer: str | None = None) -> Path | None:
        """The overlay as a PNG at the photo's size, or None where the map is blank or flat.

        Args:
            class_index: One of the explained classes.
            layer: One of the explained layers; None for the fusion of all.
        """
        if not self.result.has_map(class_index, layer):
            return None
        stem = f"overlay-{class_index}"
        if layer is not None:
            stem += f"-{file_stem(self.result.layers.index(layer), layer)}"
        path = self._look / f"{stem}.png"
        if not path.exists():
            picture = self.result.overlay(
                class_index,
                layer,
                alpha=self._alpha,
                colormap=self._colormap,
                scale=self._scale,
                colorbar=self._colorbar,
            )
            with _published(path) as part:
                # On a photo the default compression takes five times as long for 5 percent.
                picture.save(part, "PNG", compress_level=1)
        return path

    def map(self, class_index: int, layer: str | None = None) -> Path:
        """One map as NPY, float32 ``(rows, cols)``.

        Args:
            class_index: One of the explained classes.
            layer: One of the explained layers; None for the fusion of all, in [0, 1].

        Raises:
            NoMap: If the fusion is blank or not finite.
        """
        if layer is None and len(self.result.layers) > 1:
            path = self._folder / f"cam-{class_index}-fusion.npy"
            if not path.exists():
                cam = self.result.cam(class_index)
                with _published(path) as part, part.open("wb") as file:
                    np.save(file, cam)
            return path
        name = self.result.layers[0] if layer is None else layer
        (entry,) = (
            entry
            for entry in self.result.manifest["maps"]
            if (entry["class_index"], entry["layer"]) == (class_index, name)
        )
        return self._folder / str(entry["file"])

    def archive(self) -> Path:
        """A ZIP of everything, which ``Explanation.load`` reads once it is unpacked.

        Its manifest lists all files, so that ``Explanation.save`` can replace them later.
        """
        path = self._look / "cam_hub.zip"
        if not path.exists():
            result = self.result
            names = (None, *(result.layers if len(result.layers) > 1 else ()))
            overlays = starmap(self.overlay, product(result.classes, names))
            # Of a clip, its frames as well.
            frames = map(self._folder.joinpath, dict.fromkeys(result.manifest.get("frames", ())))
            members = list(filter(None, (self.photo, *frames, *self.maps, *overlays)))
            listed = {member.name: digest_of(member) for member in members}
            text = manifest_text(MANIFEST, result.saved_manifest, listed)
            with _published(path) as part, zipfile.ZipFile(part, "w") as file:
                file.writestr(MANIFEST, text)
                for member in members:
                    # PNGs are compressed already, and maps are small.
                    file.write(member, member.name)
        return path


@contextmanager
def _published(path: Path) -> Iterator[Path]:
    """A path to write to, which becomes ``path`` at the end: complete or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{secrets.token_hex(8)}")
    try:
        yield part
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


_ARCHIVE = "cam_hub-comparison.zip"


@dataclass(frozen=True)
class CompareFiles:
    """What can be taken away.

    Attributes:
        sheet: All maps on one PNG.
        strips: Of layers: a WebP per model that plays them.
        archive: A ZIP of everything, which ``Comparison.load`` reads once it is unpacked.
    """

    sheet: Path
    strips: tuple[Path, ...]
    archive: Path


def write_compare_files(
    grid: Comparison, folder: Path, scale: Scale, alpha: float, colormap: str
) -> CompareFiles:
    """Writes a comparison in one look.

    Args:
        grid: The comparison.
        folder: Where to: one that is this request's own.
        scale: What the colours of the maps have in common.
        alpha: Opacity of the overlays.
        colormap: Their colour map.

    Raises:
        InvalidArgument: If the look does not work.
    """
    look = folder / f"{colormap}-{alpha:.4f}-{scale}"
    archive = look / _ARCHIVE
    if not archive.exists():
        grid.save(look, scale, alpha=alpha, colormap=colormap)
        part = folder / f"{look.name}.zip"
        with zipfile.ZipFile(part, "w") as file:
            for member in sorted(look.rglob("*")):
                if member.is_file():  # pictures are compressed already, and maps are small
                    file.write(member, member.relative_to(look))
        part.replace(archive)
    return CompareFiles(look / SHEET, tuple(sorted(look.glob("strip-*.webp"))), archive)
