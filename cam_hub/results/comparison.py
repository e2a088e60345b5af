"""``Comparison``: the grid, with its pictures and its files."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, TypedDict, get_args

from PIL import Image

from cam_hub._validation import check_whole
from cam_hub.errors import CamHubError, InvalidArgument
from cam_hub.results import comparison_grid, montage
from cam_hub.results.comparison_grid import Cell, Cost, Kind, Row, Scale, check_scale, heat_of
from cam_hub.results.explanation import Explanation, read_predictions
from cam_hub.results.manifest import COMPARISON, check_parts, file_stem
from cam_hub.results.maps import Map
from cam_hub.results.montage import MAX_TILE_WIDTH
from cam_hub.results.serialization import (
    MANIFEST,
    PHOTO,
    TABLE,
    ResultFolder,
    Writer,
    check_place,
    folder_path,
    read_folder,
    save_folder,
    save_picture,
    write_manifest,
)

__all__ = ["SHEET", "TABLE", "CellFacts", "Comparison", "check_folder"]


SHEET = "sheet.png"


class CellFacts(TypedDict):
    """One cell in numbers and words; None: not known, or not there.

    ``seconds`` and ``forward_passes`` are those of the work that the map came out of together with
    others, ``maps`` in all.
    """

    row: int
    column: int
    model: str
    title: str
    method: str
    layer: str | None
    grid: list[int] | None
    class_index: int | None
    label: str | None
    probability: float | None
    seconds: float | None
    forward_passes: float | None
    maps: int | None
    error: str | None
    reason: str | None


@dataclass(frozen=True, eq=False)
class Comparison:
    """Maps of one picture by several models (rows) and methods, layers or classes (columns).

    Where a method takes a ``scale``, that is ``"shares"``: one scale for the whole grid, of each
    position's share of its map's total; ``"values"``: un-normalised, the
    maps of one model, method and layer together, others apart; or ``"own"``: each map between its
    own extremes. ``cam_hub.results.comparison_grid`` has the reasons.

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
                else comparison_grid.overlay_of(cell.explanation, heat, alpha, colormap)
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
        return comparison_grid.sheet(
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
        return comparison_grid.film(small.rows[0], self.titles, pictures, tile_width)

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
        return montage.save_animation(frames, place, frame_ms)

    def table(self) -> list[CellFacts]:
        """One entry per cell, row by row: names, numbers, and the reason for a missing map."""
        return [
            CellFacts(
                row=number,
                column=place,
                model=row.model,
                title=self.titles[place],
                method=cell.method,
                layer=cell.layer,
                grid=list(cell.cam.shape) if cell.cam is not None else None,
                class_index=cell.class_index,
                label=cell.label,
                probability=cell.probability,
                seconds=cell.cost.seconds if cell.cost else None,
                forward_passes=cell.cost.forward_passes if cell.cost else None,
                maps=cell.cost.maps if cell.cost else None,
                error=cell.error.code if cell.error else None,
                reason=cell.reason or None,
            )
            for number, row in enumerate(self.rows)
            for place, cell in enumerate(row.cells)
        ]

    def reduced(self, max_side: int) -> Comparison:
        """The same on a smaller photo, for drawing; the maps and their numbers stay.

        Args:
            max_side: Pixels; at least 16.

        Raises:
            InvalidArgument: If that is too few.
        """
        check_whole("max_side", max_side, 16)
        photo, rows = comparison_grid.reduced(self.photo, self.rows, max_side)
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
        drawn: dict[str, Writer] = {SHEET: partial(save_picture, sheet)}
        for number, row in enumerate(self.rows):
            if self.kind == "layers" and any(cell.explanation for cell in row.cells):
                name = f"strip-{file_stem(number, row.model)}.webp"
                frames = partial(self.animation, scale, number, alpha=alpha, colormap=colormap)
                drawn[name] = partial(montage.write_animation, frames, frame_ms=600)
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
        return read_folder(folder_path(folder), TABLE, _read)

    def explanations(self) -> Sequence[Explanation]:
        """What the maps belong to, each once, in the order of the cells."""
        found = {id(cell.explanation): cell.explanation for cell in self.cells}
        return [explanation for explanation in found.values() if explanation is not None]

    def _save(self, folder: Path, drawn: Mapping[str, Writer]) -> Path:
        """Writes the table, which is the manifest, and the files of the explanations."""
        check_folder(folder)
        files: dict[str, Writer] = {}
        if self.photo is not None:
            files[PHOTO] = partial(save_picture, self.photo)
        folders: dict[int, str] = {}
        for number, row in enumerate(self.rows):
            for place, cell in enumerate(row.cells):
                found = cell.explanation
                if found is None or id(found) in folders:
                    continue
                name = folders[id(found)] = f"{number:02d}-{file_stem(place, row.model)}"
                shared = found.photo is self.photo and len(found.frames) == 1
                for file, writer in found.data_files(pictures=not shared).items():
                    files[f"{name}/{file}"] = writer
                files[f"{name}/{MANIFEST}"] = partial(write_manifest, facts=found.saved_manifest)
        facts = iter(self.table())
        entries = [
            {
                "model": row.model,
                "predictions": [vars(entry) for entry in row.predictions],
                "notes": list(row.notes),
                "has_random_weights": row.has_random_weights,
                "loading_seconds": row.loading_seconds,
                "forward_seconds": row.forward_seconds,
                "cells": [
                    {**next(facts), "folder": folders.get(id(cell.explanation))}
                    for cell in row.cells
                ],
            }
            for row in self.rows
        ]
        table = {
            "kind": self.kind,
            "titles": list(self.titles),
            "photo": self.photo is not None,
            "rows": entries,
        }
        save_folder(folder, TABLE, table, {**files, **drawn})
        return folder

    def __repr__(self) -> str:
        maps = sum(cell.explanation is not None for cell in self.cells)
        models = [row.model for row in self.rows]
        return (
            f"Comparison(models={models}, {len(self.titles)} {self.kind}, "
            f"maps={maps} of {len(self.cells)})"
        )


def _read(stored: ResultFolder) -> Comparison:
    """What ``Comparison.save`` wrote; also a stranger's."""
    try:
        data = stored.manifest(TABLE)
        check_parts(data, COMPARISON)
        if data["kind"] not in get_args(Kind):
            raise ValueError(f"kind is {data['kind']!r}")
        photo = stored.picture(PHOTO) if data["photo"] else None
        known: dict[str, Explanation] = {}

        def explanation(name: str) -> Explanation:
            if name not in known:
                own = stored.inside(name)
                known[name] = Explanation.read(own, own if own.holds(PHOTO) else stored)
            return known[name]

        titles = tuple(data["titles"])
        rows = tuple(_row(entry, len(titles), explanation) for entry in data["rows"])
        if not rows or not titles:
            raise ValueError("it has no rows or no columns")
    except (OSError, ValueError, KeyError, TypeError, OverflowError, MemoryError) as error:
        raise InvalidArgument(
            "folder", str(stored.path), f"a folder that Comparison.save wrote ({error})"
        ) from error
    return Comparison(photo, data["kind"], titles, rows)


def _row(entry: Mapping[str, Any], columns: int, explanation: Callable[[str], Explanation]) -> Row:
    if len(entry["cells"]) != columns:
        raise ValueError(f"a row has {len(entry['cells'])} cells, and there are {columns} columns")
    return Row(
        model=str(entry["model"]),
        cells=tuple(_cell(cell, explanation) for cell in entry["cells"]),
        predictions=read_predictions(entry["predictions"]),
        notes=tuple(entry["notes"]),
        has_random_weights=bool(entry["has_random_weights"]),
        loading_seconds=entry["loading_seconds"],
        forward_seconds=entry["forward_seconds"],
    )


def _cell(entry: Mapping[str, Any], explanation: Callable[[str], Explanation]) -> Cell:
    error = None
    if entry["error"] is not None:
        error = CamHubError(str(entry["reason"]))
        error.code = str(entry["error"])
    cost = None
    if None not in (entry["seconds"], entry["forward_passes"], entry["maps"]):
        cost = Cost(entry["seconds"], entry["forward_passes"], entry["maps"])
    found = explanation(entry["folder"]) if entry["folder"] else None
    index, layer = entry["class_index"], entry["layer"]
    if found is not None and (
        (index is not None and index not in found.classes)
        or (layer is not None and layer not in found.layers)
    ):
        raise ValueError(f"{entry['folder']!r} has no map of class {index} at layer {layer!r}")
    if found is None and error is None:
        raise ValueError("a cell has neither a map nor the reason why there is none")
    return Cell(
        method=str(entry["method"]),
        layer=entry["layer"],
        class_index=entry["class_index"],
        label=entry["label"],
        probability=entry["probability"],
        explanation=found,
        cost=cost,
        error=error,
    )


def check_folder(folder: Path) -> None:
    """Checks that a comparison can be saved to a folder.

    Raises:
        InvalidArgument: If it is a file, or holds anything but an earlier comparison of ours.
    """
    check_place(folder, TABLE)
    if not folder.is_dir():
        return
    present = {path.name for path in folder.iterdir() if not path.name.startswith(".cam_hub-")}
    if present and TABLE not in present:
        raise InvalidArgument(
            "folder", str(folder), "an empty folder, or one with an earlier comparison in it"
        )
