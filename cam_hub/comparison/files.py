"""A comparison as files, and back."""

from __future__ import annotations

import json
import re
import shutil
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypedDict, get_args

from PIL import Image

from cam_hub.comparison.cells import Cell, Cost, Row
from cam_hub.comparison.columns import Kind
from cam_hub.errors import CamHubError, InvalidArgument
from cam_hub.folders import PHOTO, file_stem, save_picture
from cam_hub.images import open_image
from cam_hub.ranking import Prediction
from cam_hub.results import Explanation

__all__ = ["SHEET", "TABLE", "CellFacts", "folder_name", "load", "save", "table"]

TABLE = "comparison.json"
SHEET = "sheet.png"
_FOLDER = re.compile(r"\d\d+-\d\d+-[A-Za-z0-9._-]+")
_FILE = re.compile(r"strip-\d\d+-[A-Za-z0-9._-]+\.webp|sheet\.png|photo\.png|comparison\.json")


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
    draw: Callable[[Path], None],
) -> None:
    """Writes everything aside first, and then moves it; the table comes last.

    Args:
        photo: The common photo.
        kind: What the columns are.
        titles: Of the columns.
        rows: The rows.
        folder: Where to.
        draw: Adds further files to the folder that it is given.

    Raises:
        InvalidArgument: If the folder is a file, or holds anything but an earlier comparison.
    """
    earlier = _earlier(folder)
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{folder.name}-", dir=folder.parent) as name:
        staging = Path(name)
        if photo is not None:
            save_picture(photo, staging / PHOTO)
        text = json.dumps(
            _written(photo, kind, titles, rows, staging), indent=2, ensure_ascii=False
        )
        (staging / TABLE).write_text(text + "\n", "utf-8")
        draw(staging)
        folder.mkdir(exist_ok=True)
        for path in earlier:
            shutil.rmtree(path) if path.is_dir() else path.unlink()
        for path in sorted(staging.iterdir(), key=lambda path: path.name == TABLE):
            path.replace(folder / path.name)


def load(folder: Path) -> tuple[Image.Image | None, Kind, tuple[str, ...], tuple[Row, ...]]:
    """Photo, kind, titles and rows that ``save`` wrote.

    Raises:
        InvalidArgument: If the folder holds no complete comparison.
    """
    try:
        data = json.loads((folder / TABLE).read_text("utf-8"))
        if data["kind"] not in get_args(Kind):
            raise ValueError(data["kind"])
        photo = open_image(folder / PHOTO) if data["photo"] else None
        known: dict[str, Explanation] = {}

        def explanation(name: str) -> Explanation:
            if name not in known:
                own = folder / Path(name).name
                known[name] = Explanation.load(own, None if (own / PHOTO).exists() else folder)
            return known[name]

        rows = tuple(_row(entry, explanation) for entry in data["rows"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InvalidArgument(
            "folder", str(folder), f"a folder that Comparison.save wrote ({error!r})"
        ) from error
    return photo, data["kind"], tuple(data["titles"]), rows


def _written(
    photo: Image.Image | None,
    kind: Kind,
    titles: Sequence[str],
    rows: Sequence[Row],
    folder: Path,
) -> dict[str, Any]:
    """Writes the explanations; what the table says."""
    names: dict[int, str] = {}
    entries = []
    for number, row in enumerate(rows):
        cells = []
        for place, cell in enumerate(row.cells):
            found = cell.explanation
            if found is not None and id(found) not in names:
                name = names[id(found)] = f"{number:02d}-{file_stem(place, row.model)}"
                (folder / name).mkdir()
                shared = photo is not None and found.photo is photo and len(found.frames) == 1
                found.save_data(folder / name, pictures=not shared)
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


def _row(entry: Mapping[str, Any], explanation: Callable[[str], Explanation]) -> Row:
    return Row(
        model=str(entry["model"]),
        cells=tuple(_cell(cell, explanation) for cell in entry["cells"]),
        predictions=tuple(Prediction(**found) for found in entry["predictions"]),
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
    if entry["seconds"] is not None:
        cost = Cost(entry["seconds"], entry["forward_passes"], entry["maps"])
    return Cell(
        method=str(entry["method"]),
        layer=entry["layer"],
        class_index=entry["class_index"],
        label=entry["label"],
        probability=entry["probability"],
        explanation=explanation(entry["folder"]) if entry["folder"] else None,
        cost=cost,
        error=error,
    )


def _earlier(folder: Path) -> list[Path]:
    """The files of an earlier comparison, which a new one replaces."""
    if not folder.exists():
        return []
    if not folder.is_dir():
        raise InvalidArgument("folder", str(folder), "a folder, and this is a file")
    present = list(folder.iterdir())
    if present and not (folder / TABLE).is_file():
        raise InvalidArgument(
            "folder", str(folder), "an empty folder, or one with an earlier comparison in it"
        )
    return [
        path
        for path in present
        if (_FOLDER if path.is_dir() else _FILE).fullmatch(path.name) is not None
    ]
