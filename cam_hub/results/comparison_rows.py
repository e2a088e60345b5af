"""The rows and cells of a comparison, and their files."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any, Literal, TypedDict, get_args

from PIL import Image

from cam_hub.errors import CamHubError, InvalidArgument, NoMap
from cam_hub.results.explanation import Explanation, read_predictions
from cam_hub.results.manifest import COMPARISON, check_parts, file_stem
from cam_hub.results.maps import Map
from cam_hub.results.serialization import (
    MANIFEST,
    PHOTO,
    TABLE,
    ResultFolder,
    Writer,
    check_place,
    save_folder,
    save_picture,
    write_manifest,
)
from cam_hub.targets.classes import Prediction

__all__ = [
    "SHEET",
    "TABLE",
    "Cell",
    "CellFacts",
    "Cost",
    "Kind",
    "Row",
    "check_folder",
    "folder_name",
    "load",
    "save",
    "table",
]


Kind = Literal["methods", "layers", "classes"]
"""The kind of the columns of a comparison."""


@dataclass(frozen=True)
class Cost:
    """The cost of a map.

    Attributes:
        seconds: From the photo to the map, without loading the model and looking for its layers.
        forward_passes: The same, in plain forward passes of this model on this photo.
        maps: How many maps came out of this work together; the cost is that of all of them.
    """

    seconds: float
    forward_passes: float
    maps: int


@dataclass(frozen=True, eq=False)
class Cell:
    """One cell of the grid.

    Attributes:
        method: Name of the method.
        layer: The layer, as far as it is known.
        class_index: The class, as far as it is known.
        label: Its label.
        probability: In [0, 1]; None where the model gives none.
        explanation: The explanation with the map; None without a map. Cells of one row may share
            it.
        cost: What the map took; None where nothing was done.
        error: The reason for a missing map; None if there is one.
    """

    method: str
    layer: str | None = None
    class_index: int | None = None
    label: str | None = None
    probability: float | None = None
    explanation: Explanation | None = None
    cost: Cost | None = None
    error: CamHubError | None = None

    @cached_property
    def cam(self) -> Map | None:
        """The un-normalised map, float32 ``(rows, cols)``; of a clip the fusion of its steps."""
        if self.explanation is None:
            return None
        return self.explanation.cam(self.class_index, self.layer)

    @property
    def reason(self) -> str:
        """The reason for a missing map; empty if there is one."""
        if isinstance(self.error, NoMap):
            return self.error.reason  # its message repeats the facts in the cell
        return self.error.message if self.error is not None else ""


@dataclass(frozen=True, eq=False)
class Row:
    """One model of the grid.

    Attributes:
        model: Its ID; of a wrapped module its class name.
        cells: One per column.
        predictions: Its most probable classes; empty for a model without classes, and where
            nothing was explained.
        notes: Warnings about the model, for its users.
        has_random_weights: Whether its weights were drawn rather than trained: what its maps show
            means nothing then.
        loading_seconds: How long it took to have the model, and to know its layers.
        forward_seconds: How long one plain forward pass takes on this photo; None if it failed.
    """

    model: str
    cells: tuple[Cell, ...]
    predictions: tuple[Prediction, ...] = ()
    notes: tuple[str, ...] = ()
    has_random_weights: bool = False
    loading_seconds: float | None = None
    forward_seconds: float | None = None


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


def table(rows: Sequence[Row], titles: Sequence[str]) -> list[CellFacts]:
    """One entry per cell, row by row."""
    return [
        _facts(number, place, row, titles[place], cell)
        for number, row in enumerate(rows)
        for place, cell in enumerate(row.cells)
    ]


def folder_name(number: int, name: str) -> str:
    """A row's part of a file name: its number, and the model's ID made harmless."""
    return file_stem(number, name)


def save(
    photo: Image.Image | None,
    kind: Kind,
    titles: Sequence[str],
    rows: Sequence[Row],
    folder: Path,
    drawn: Mapping[str, Writer],
) -> None:
    """Writes a comparison; the table is its manifest.

    Args:
        photo: The common photo.
        kind: The kind of the columns.
        titles: The titles of the columns.
        rows: The rows.
        folder: Where to.
        drawn: The writers of further files, by name.

    Raises:
        InvalidArgument: If the folder is a file, or holds anything but an earlier comparison, or
            one of its files is not provably ours and has the name of a new one.
        SaveFailed: If the system refuses, as with a full disk. The earlier result is as before.
    """
    check_folder(folder)
    files: dict[str, Writer] = {}
    if photo is not None:
        files[PHOTO] = partial(save_picture, photo)
    facts = _written(photo, kind, titles, rows, files)
    save_folder(folder, TABLE, facts, {**files, **drawn})


def load(
    stored: ResultFolder,
) -> tuple[Image.Image | None, Kind, tuple[str, ...], tuple[Row, ...]]:
    """Photo, kind, titles and rows that ``save`` wrote; also of a stranger.

    Raises:
        InvalidArgument: If the folder holds no complete comparison.
    """
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
    return photo, data["kind"], titles, rows


def _written(
    photo: Image.Image | None,
    kind: Kind,
    titles: Sequence[str],
    rows: Sequence[Row],
    files: dict[str, Writer],
) -> dict[str, Any]:
    """The content of the table; adds the files of the explanations."""
    names: dict[int, str] = {}
    entries = []
    for number, row in enumerate(rows):
        cells = []
        for place, cell in enumerate(row.cells):
            found = cell.explanation
            if found is not None and id(found) not in names:
                name = names[id(found)] = f"{number:02d}-{file_stem(place, row.model)}"
                shared = photo is not None and found.photo is photo and len(found.frames) == 1
                for file, writer in found.data_files(pictures=not shared).items():
                    files[f"{name}/{file}"] = writer
                files[f"{name}/{MANIFEST}"] = partial(write_manifest, facts=found.saved_manifest)
            facts = _facts(number, place, row, titles[place], cell)
            cells.append({**facts, "folder": names[id(found)] if found is not None else None})
        entries.append(
            {
                "model": row.model,
                "predictions": [vars(entry) for entry in row.predictions],
                "notes": list(row.notes),
                "has_random_weights": row.has_random_weights,
                "loading_seconds": row.loading_seconds,
                "forward_seconds": row.forward_seconds,
                "cells": cells,
            }
        )
    return {"kind": kind, "titles": list(titles), "photo": photo is not None, "rows": entries}


def _facts(number: int, place: int, row: Row, title: str, cell: Cell) -> CellFacts:
    cam, cost = cell.cam, cell.cost
    return CellFacts(
        row=number,
        column=place,
        model=row.model,
        title=title,
        method=cell.method,
        layer=cell.layer,
        grid=list(cam.shape) if cam is not None else None,
        class_index=cell.class_index,
        label=cell.label,
        probability=cell.probability,
        seconds=cost.seconds if cost else None,
        forward_passes=cost.forward_passes if cost else None,
        maps=cost.maps if cost else None,
        error=cell.error.code if cell.error else None,
        reason=cell.reason or None,
    )


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
