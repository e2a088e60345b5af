"""A comparison as files for taking away."""

from __future__ import annotations

import zipfile
from dataclasses import dataclass
from pathlib import Path

from cam_hub.results.comparison import Comparison
from cam_hub.results.comparison_files import SHEET
from cam_hub.results.comparison_sheets import Scale

__all__ = ["CompareFiles", "write_compare_files"]

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
