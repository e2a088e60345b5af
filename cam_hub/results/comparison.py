"""``Comparison``: the grid, with its pictures and its files."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from PIL import Image

from cam_hub._validation import check_whole
from cam_hub.errors import CamHubError, InvalidArgument
from cam_hub.results import animations, comparison_rows, comparison_sheets
from cam_hub.results.comparison_rows import Cell, Kind, Row
from cam_hub.results.comparison_sheets import Scale, check_scale, heat_of
from cam_hub.results.explanation import Explanation
from cam_hub.results.maps import Map
from cam_hub.results.montage import MAX_TILE_WIDTH
from cam_hub.results.serialization import Writer, folder_path, read_folder, save_picture

__all__ = ["Comparison"]


@dataclass(frozen=True, eq=False)
class Comparison:
    """Maps of one picture by several models (rows) and methods, layers or classes (columns).

    Where a method takes a ``scale``, that is ``"shares"``: one scale for the whole grid, of each
    position's share of its map's total; ``"values"``: un-normalised, the
    maps of one model, method and layer together, others apart; or ``"own"``: each map between its
    own extremes. ``cam_hub.results.comparison_sheets`` has the reasons.

    Attributes:
        photo: The picture, upright, RGB; None where each model makes its own of it.
        kind: What the columns are: ``"methods"``, ``"layers"`` or ``"classes"``.
        titles: The titles of the columns.
        rows: One per model.
    """

    photo: Image.Image | None
    kind: Kind
    titles: tuple[str, ...]
    rows: tuple[Row, ...]

    @property
    def cells(self) -> tuple[Cell, ...]:
        """All cells, row by row."""
        return tuple(cell for row in self.rows for cell in row.cells)

    @property
    def first_error(self) -> CamHubError | None:
        """The first error, if no cell has a map; None otherwise."""
        if any(cell.explanation is not None for cell in self.cells):
            return None
        return next(cell.error for cell in self.cells if cell.error is not None)

    def heat(self, scale: Scale = "shares") -> tuple[tuple[Map | None, ...], ...]:
        """Every map in [0, 1] at its own resolution; None where there is none.

        Args:
            scale: Name of the scale.

        Raises:
            InvalidArgument: If there is no such scale.
        """
        units = [
            (number, cell.method, cell.layer)
            for number, row in enumerate(self.rows)
            for cell in row.cells
        ]
        flat = iter(heat_of([cell.cam for cell in self.cells], units, check_scale(scale)))
        return tuple(tuple(next(flat) for _ in row.cells) for row in self.rows)

    def pictures(
        self,
        scale: Scale = "shares",
        *,
        alpha: float = 0.5,
        colormap: str = "jet",
        max_side: int = 480,
    ) -> tuple[tuple[Image.Image | None, ...], ...]:
        """The overlay of every cell; None for a cell without a map.

        Args:
            scale: Name of the scale.
            alpha: Opacity of the heat, from 0 to 1.
            colormap: Name of a colour map of matplotlib's.
            max_side: Pixels; a larger photo is scaled down until no side is longer.

        Raises:
            InvalidArgument: If a value does not work.
        """
        small = self.reduced(max_side)
        return tuple(
            tuple(
                None
                if cell.explanation is None or heat is None
                else comparison_sheets.overlay_of(cell.explanation, heat, alpha, colormap)
                for cell, heat in zip(row.cells, heats, strict=True)
            )
            for row, heats in zip(small.rows, small.heat(scale), strict=True)
        )

    def figure(
        self,
        scale: Scale = "shares",
        *,
        alpha: float = 0.5,
        colormap: str = "jet",
        tile_width: int = 256,
    ) -> Image.Image:
        """The grid on one sheet, with captions, costs, reasons and a colour bar.

        Rows of more than eight columns are wrapped; a single one becomes a contact sheet.

        Args:
            scale: As for ``pictures``.
            alpha: As for ``pictures``.
            colormap: As for ``pictures``.
            tile_width: Pixels of one picture, 64 to 8,192.

        Raises:
            InvalidArgument: If a value does not work.
        """
        check_whole("tile_width", tile_width, 64, MAX_TILE_WIDTH)
        # Twice the width, as portraits are up to twice as high as wide.
        small = self.reduced(2 * tile_width)
        pictures = small.pictures(scale, alpha=alpha, colormap=colormap, max_side=2 * tile_width)
        return comparison_sheets.sheet(
            small.photo, self.titles, small.rows, pictures, scale, colormap, tile_width
        )

    def animation(
        self,
        scale: Scale = "shares",
        row: int = 0,
        *,
        alpha: float = 0.5,
        colormap: str = "jet",
        tile_width: int = 400,
    ) -> list[Image.Image]:
        """The cells of one row, each as a captioned frame of an animation.

        Args:
            scale: As for ``pictures``.
            row: Number of the row.
            alpha: As for ``pictures``.
            colormap: As for ``pictures``.
            tile_width: Pixels of the picture, 64 to 8,192.

        Returns:
            RGB images of one size. A cell without a map has the bare photo, and the reason as
            its caption.

        Raises:
            InvalidArgument: If a value does not work, or no cell of the row has a map.
        """
        check_whole("tile_width", tile_width, 64, MAX_TILE_WIDTH)
        check_whole("row", row, 0, len(self.rows) - 1)
        one = replace(self, rows=(self.rows[row],))
        if one.first_error is not None:
            raise InvalidArgument("row", row, "a row with a map in it")
        small = one.reduced(2 * tile_width)
        (pictures,) = small.pictures(scale, alpha=alpha, colormap=colormap, max_side=2 * tile_width)
        return comparison_sheets.film(small.rows[0], self.titles, pictures, tile_width)

    def save_animation(
        self,
        path: str | Path,
        scale: Scale = "shares",
        row: int = 0,
        *,
        alpha: float = 0.5,
        colormap: str = "jet",
        tile_width: int = 400,
        frame_ms: int = 600,
    ) -> Path:
        """Writes ``animation(…)`` as an endless GIF, WebP or APNG, after the path's suffix.

        A file that is there already is replaced only if it is an unchanged animation that
        this function wrote.

        Args:
            path: Ends in ``.gif``, ``.webp`` or ``.png``.
            scale: As for ``animation``, and so are the others.
            row: Number of the row.
            alpha: Opacity.
            colormap: Colour map.
            tile_width: Pixels.
            frame_ms: How long each cell is shown, in milliseconds.

        Returns:
            The path.

        Raises:
            InvalidArgument: As ``animation``; if the suffix or the time does not work, or there is
                another file.
            SaveFailed: If the system refuses, as with a full disk. An earlier file is as before.
        """
        place = folder_path(path, "path")
        frames = self.animation(scale, row, alpha=alpha, colormap=colormap, tile_width=tile_width)
        return animations.save_animation(frames, place, frame_ms)

    def table(self) -> list[comparison_rows.CellFacts]:
        """One entry per cell, row by row: names, numbers, and the reason for a missing map."""
        return comparison_rows.table(self.rows, self.titles)

    def reduced(self, max_side: int) -> Comparison:
        """The same on a smaller photo, for drawing; the maps and their numbers stay.

        Args:
            max_side: Pixels; at least 16.

        Raises:
            InvalidArgument: If that is too few.
        """
        check_whole("max_side", max_side, 16)
        photo, rows = comparison_sheets.reduced(self.photo, self.rows, max_side)
        return replace(self, photo=photo, rows=rows)

    def save(
        self,
        folder: str | Path,
        scale: Scale = "shares",
        *,
        alpha: float = 0.5,
        colormap: str = "jet",
    ) -> Path:
        """Writes the sheet, the table, the photo, and the maps with their manifests.

        ``sheet.png``, ``comparison.json`` and ``photo.png`` stand in the folder itself; each
        explanation has a folder of its own in it with ``manifest.json``, from which ``reproduce``
        makes the maps again, and the maps as ``cam-….npy``. Where the columns are layers, each
        model's ``strip-….webp`` shows them one after the other.

        Args:
            folder: Where to. It is made if need be. An earlier comparison in it is replaced: the
                files that its table lists with their digests, as long as they are unchanged. All
                others stay. Whenever the process ends, the folder holds the earlier result or the
                new one.
            scale: The scale of the sheet and the strips, as for ``pictures``.
            alpha: Opacity.
            colormap: Colour map.

        Returns:
            The folder.

        Raises:
            InvalidArgument: If the folder is a file or holds anything but an earlier comparison,
                a file that is not provably ours has the name of a new one, or a value does not
                work. Nothing is written then.
            SaveFailed: If the system refuses, as with a full disk. The earlier result is as before.
        """
        place = folder_path(folder)
        sheet = self.figure(scale, alpha=alpha, colormap=colormap)
        drawn: dict[str, Writer] = {comparison_rows.SHEET: partial(save_picture, sheet)}
        for number, row in enumerate(self.rows):
            if self.kind == "layers" and any(cell.explanation for cell in row.cells):
                name = f"strip-{comparison_rows.folder_name(number, row.model)}.webp"
                frames = partial(self.animation, scale, number, alpha=alpha, colormap=colormap)
                drawn[name] = partial(_play, frames)
        return self._save(place, drawn)

    def save_data(self, folder: str | Path) -> Path:
        """Writes what ``load`` needs, and draws nothing; otherwise as ``save``."""
        return self._save(folder_path(folder), {})

    @classmethod
    def load(cls, folder: str | Path) -> Comparison:
        """Reads what ``save`` wrote. Errors are of the parent class, with their code and message.

        Raises:
            InvalidArgument: If the folder holds no complete comparison.
        """
        photo, kind, titles, rows = read_folder(
            folder_path(folder), comparison_rows.TABLE, comparison_rows.load
        )
        return cls(photo, kind, titles, rows)

    def explanations(self) -> Sequence[Explanation]:
        """What the maps belong to, each once, in the order of the cells."""
        found = {id(cell.explanation): cell.explanation for cell in self.cells}
        return [explanation for explanation in found.values() if explanation is not None]

    def _save(self, folder: Path, drawn: Mapping[str, Writer]) -> Path:
        comparison_rows.save(self.photo, self.kind, self.titles, self.rows, folder, drawn)
        return folder

    def __repr__(self) -> str:
        maps = sum(cell.explanation is not None for cell in self.cells)
        models = [row.model for row in self.rows]
        return (
            f"Comparison(models={models}, {len(self.titles)} {self.kind}, "
            f"maps={maps} of {len(self.cells)})"
        )


def _play(frames: Callable[[], list[Image.Image]], path: Path) -> None:
    animations.write_animation(frames(), path, 600)
