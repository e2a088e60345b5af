"""A report in tools that show datasets: FiftyOne and Spotlight."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import suppress
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.typing import NDArray

from cam_hub.datasets.clusters import GRID, heat_shares
from cam_hub.datasets.push import jpeg, thumbnail
from cam_hub.datasets.rows import require
from cam_hub.errors import (
    CamHubError,
    DiskUnavailable,
    InvalidArgument,
    SaveFailed,
)
from cam_hub.images.remote import is_address

if TYPE_CHECKING:
    from cam_hub.datasets.report import DatasetReport
    from cam_hub.datasets.report_row import DatasetRow

__all__ = ["fiftyone_dataset", "spotlight_table"]

_BATCH: Final = 256  # rows in memory
_HEAT_SIDE: Final = 128  # cells of the longer side of a heatmap on the photo


def fiftyone_dataset(
    report: DatasetReport,
    name: str | None,
    folder: Path | None,
    *,
    persistent: bool,
    overwrite: bool,
) -> Any:
    """The rows as a ``fiftyone.Dataset``; see ``DatasetReport.to_fiftyone``."""
    fiftyone = require("fiftyone", "A dataset of FiftyOne", "pip install fiftyone")
    if name is not None and not overwrite and fiftyone.dataset_exists(name):
        expected = "a name that no dataset of FiftyOne has, or overwrite=True"
        raise InvalidArgument("name", name, expected)
    if folder is None:
        for row in report.columns("key", "path", "error"):
            if row["error"] is None and not _is_file(row["path"]):
                expected = f"a folder for copies of photos: {row['key']!r} is not a file of its own"
                raise InvalidArgument("folder", None, expected)
    found = fiftyone.Dataset(name, persistent=persistent, overwrite=overwrite)
    try:
        found.info = {"cam_hub": dict(report.job)}
        if report.model is not None and report.model.class_names:
            found.default_classes = list(report.model.class_names)
        found.save()
        for rows in _batches(report, fetched=folder is not None):
            places = [(row, _file_of(row, folder)) for row in rows]
            samples = [_sample(fiftyone, row, file) for row, file in places if file is not None]
            found.add_samples(samples, progress=False)
    except BaseException:
        found.delete()
        raise
    return found


def _batches(report: DatasetReport, *, fetched: bool) -> Iterator[list[DatasetRow]]:
    """The rows, a few at a time; with their images if they are not files of their own."""
    rows = iter(report)
    while batch := list(islice(rows, _BATCH)):
        if fetched:
            report.fetch(row.key for row in batch)
        yield batch


def _is_file(path: str | None) -> bool:
    return path is not None and not is_address(path)


def _file_of(row: DatasetRow, folder: Path | None) -> str | None:
    """The file of a row's photo, which is made if need be; None without a photo."""
    if row.path is not None and _is_file(row.path):
        return row.path
    if folder is None:
        return None
    file = folder / f"{hashlib.sha256(row.key.encode()).hexdigest()[:20]}.jpg"
    try:
        content = jpeg(row.photo())
        folder.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content)
    except CamHubError:  # no photo any more
        return None
    except OSError as error:
        known = DiskUnavailable.of(error) or SaveFailed(str(file), str(error.strerror or error))
        raise known from error
    return str(file)


def _sample(fiftyone: Any, row: DatasetRow, file: str) -> Any:
    """A row as a ``fiftyone.Sample``; what is not known has no value."""

    def labelled(prediction: Any) -> Any:
        return fiftyone.Classification(label=prediction.label, confidence=prediction.probability)

    fields: dict[str, Any] = {
        name: getattr(row, name)
        for name in ("key", "correct", "focus", "method", "error", "message")
    }
    fields["layers"] = list(row.layers) or None
    if row.label is not None:
        fields["ground_truth"] = fiftyone.Classification(label=row.label)
    if row.predictions:
        fields["prediction"] = labelled(row.predictions[0])
        fields["predictions"] = fiftyone.Classifications(
            classifications=[labelled(each) for each in row.predictions]
        )
    if row.classes and row.placement is not None:
        fields["explained"] = row.classes[0].label
        width, height = row.placement.photo_size
        fields["metadata"] = fiftyone.ImageMetadata(width=width, height=height)
        fields["boxes"] = fiftyone.Detections(
            detections=[
                fiftyone.Detection(
                    label=row.classes[0].label,
                    bounding_box=[left, top, right - left, bottom - top],
                )
                for left, top, right, bottom in _shares(row)
            ]
        )
        if (heat := _on_photo(row)) is not None:
            fields["heatmap"] = fiftyone.Heatmap(map=heat, range=[0.0, 1.0])
    if row.evidence is not None:
        fields["verdict"] = row.evidence.verdict
        fields |= {f"evidence_{test.name}": test.value for test in row.evidence.tests}
    known = {name: value for name, value in fields.items() if value is not None}
    return fiftyone.Sample(filepath=file, **known)


def _shares(row: DatasetRow) -> list[tuple[float, float, float, float]]:
    """The boxes of a row, left, top, right and bottom as parts of the photo's sides."""
    if row.placement is None:
        return []
    width, height = row.placement.photo_size
    return [
        (box.left / width, box.top / height, box.right / width, box.bottom / height)
        for box in row.boxes
    ]


def _on_photo(row: DatasetRow) -> NDArray[np.float32] | None:
    """The heat in [0, 1] on a coarse grid over the whole photo; 0 where the model saw nothing."""
    heat = row.heat()
    if heat is None or row.placement is None:
        return None
    size = row.placement.photo_size
    scale = min(1.0, _HEAT_SIDE / max(size))
    width, height = (max(1, round(side * scale)) for side in size)
    return row.placement.resized((width, height)).warp(heat / heat.max())


def spotlight_table(report: DatasetReport, *, overlays: bool) -> tuple[Any, dict[str, str]]:
    """The rows as a table for Spotlight; see ``DatasetReport.to_spotlight``."""
    pandas = require("pandas")
    frame = report.to_pandas().drop(columns="boxes")
    more: dict[str, list[Any]] = {"overlay": [], "box": [], "map": []}
    for rows in _batches(report, fetched=overlays):
        for row in rows:
            heat = row.heat((GRID, GRID))
            more["map"].append(None if heat is None else heat_shares(heat))
            more["box"].append(next((np.array(box) for box in _shares(row)), None))
            more["overlay"].append(_overlay(row) if overlays else None)
    if not overlays:
        del more["overlay"]
    for name in ("label", "predicted", "explained", "method", "layers", "verdict", "error"):
        frame[name] = frame[name].astype("category")
    types = {"overlay": "Image", "box": "BoundingBox", "map": "Embedding", "path": "Image"}
    frame = pandas.concat([pandas.DataFrame(more, index=frame.index), frame], axis=1)
    return frame, {name: kind for name, kind in types.items() if name in frame}


def _overlay(row: DatasetRow) -> bytes | None:
    with suppress(CamHubError):
        return jpeg(thumbnail(row.overlay()))
    return None
