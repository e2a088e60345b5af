"""The row of one image: its schema, and how it is made from the image's explanation."""

from __future__ import annotations

import functools
import json
import math
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from importlib import import_module
from pathlib import PurePath
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn.functional import interpolate

from cam_hub.attribution.evidence import Tested
from cam_hub.attribution.explain_many import Outcome
from cam_hub.attribution.samples import Sample
from cam_hub.errors import CamHubError, ClassNotFound, InvalidArgument, NoMap, PackageMissing
from cam_hub.images.geometry import Placement
from cam_hub.images.remote import RemoteFile, is_address
from cam_hub.methods import normalise
from cam_hub.models.loaded_model import LoadedModel
from cam_hub.results import overlay
from cam_hub.results.explanation import Explanation
from cam_hub.results.manifest import file_stem
from cam_hub.results.maps import Map
from cam_hub.targets.classes import LabelledClass, choose_classes

__all__ = [
    "MAP_TYPES",
    "UNEXPECTED",
    "RowMaker",
    "manifest_of",
    "plain_text",
    "public_path",
    "public_text",
    "require",
    "row_bytes",
    "schema",
    "split_details",
    "unpacked",
]

MAP_TYPES: Final = ("float32", "uint8")
"""The number formats in which maps are stored."""

UNEXPECTED: Final = "unexpected"
"""The error code of an exception that is not one of ours."""

_FINER = 8
_MAX_SIDE = 448
"""How much finer than the map the grid is on which boxes are found, and its rows and columns."""

_COLUMNS = ("method", "layers", "classes", "predictions", "placement", "maps")
"""The entries of a manifest that have columns of their own, or follow from these."""


def require(
    package: str,
    purpose: str = "A report of a dataset",
    command: str = "pip install 'cam-hub[datasets]'",
) -> Any:
    """A package, or a module of one, imported when it is needed.

    Args:
        package: Its name.
        purpose: What needs it.
        command: What installs it.

    Raises:
        PackageMissing: If it is not installed.
    """
    try:
        return import_module(package)
    except ImportError as error:
        raise PackageMissing(package.partition(".")[0], purpose, command) from error


def schema() -> Any:
    """The ``pyarrow.Schema`` of a row; ``docs/datasets.md`` describes the columns."""
    pa = require("pyarrow")
    whole, number, text = pa.int32(), pa.float32(), pa.string()
    scored = pa.list_(
        pa.struct([("index", whole), ("label", text), ("probability", number), ("score", number)])
    )
    stored = pa.struct(
        [
            ("class_index", whole),
            ("layer", text),
            ("shape", pa.list_(whole)),
            ("data", pa.binary()),
            ("scale", number),
            ("offset", number),
            ("samples", whole),
        ]
    )
    placement = pa.struct(
        [
            ("photo_size", pa.list_(whole)),
            ("input_size", pa.list_(whole)),
            ("scale", pa.list_(pa.float64())),
            ("offset", pa.list_(pa.float64())),
        ]
    )
    return pa.schema(
        [
            pa.field("key", text, nullable=False),
            ("path", text),
            ("label", text),
            ("label_index", whole),
            ("correct", pa.bool_()),
            ("predictions", scored),
            ("method", text),
            ("layers", pa.list_(text)),
            ("classes", scored),
            ("maps", pa.list_(stored)),
            ("placement", placement),
            ("boxes", pa.list_(pa.list_(whole))),
            ("focus", number),
            ("verdict", text),
            ("evidence", text),
            ("details", text),
            ("error", text),
            ("message", text),
        ]
    )


@functools.cache
def _schema_names() -> tuple[str, ...]:
    return tuple(schema().names)


def plain_text(value: object) -> str:
    """The text of a key or a label, in valid Unicode."""
    text = os.fsdecode(value) if isinstance(value, (bytes, os.PathLike)) else str(value)
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


def public_path(text: Any) -> Any:
    """An address as it is; of a path on this machine, which may name a person, the last name."""
    if not isinstance(text, str) or is_address(text):
        return text
    return PurePath(text).name or text


def public_text(text: str, *paths: str | None) -> str:
    """A text without those of these paths that are on this machine."""
    for path in paths:
        if path:
            text = text.replace(path, public_path(path))
    return text


@dataclass(frozen=True)
class RowMaker:
    """Makes rows of the images that a model has explained.

    Attributes:
        model: The model.
        map_type: One of ``MAP_TYPES``.
    """

    model: LoadedModel
    map_type: str

    def row(self, key: str, sample: Sample, outcome: Outcome | Exception) -> dict[str, Any]:
        """The row of an image.

        Args:
            key: The key of the row.
            sample: The image, as its source gave it.
            outcome: What has become of it, or what was raised.

        Returns:
            By column. ``details`` is still a mapping.
        """
        row = self._known(key, sample)
        error = outcome if isinstance(outcome, Exception) else outcome.error
        if error is None and isinstance(outcome, Outcome):
            try:
                return row | self._explained(outcome.explanation, sample)
            except CamHubError as failure:
                error = failure
            except Exception as failure:  # noqa: BLE001 - one image's trouble ends no job
                error = failure
        return row | _failed(error)

    def _known(self, key: str, sample: Sample) -> dict[str, Any]:
        """The columns that do not depend on the explanation."""
        row: dict[str, Any] = dict.fromkeys(_schema_names())
        row["key"] = key
        if isinstance(sample.picture, (str, os.PathLike)):
            path = os.path.abspath(os.fsdecode(sample.picture))  # noqa: PTH100 - keeps ".." of links
            row["path"] = path if plain_text(path) == path else None
        elif isinstance(sample.picture, RemoteFile) and sample.picture.is_public:
            row["path"] = sample.picture.address
        if sample.label is not None:
            row["label"] = plain_text(sample.label)
            row["label_index"] = self._class_of(sample, len(self.model.class_names or ()))
        return row

    def _class_of(self, sample: Sample, count: int) -> int | None:
        """The model's class of a label, of so many classes; None if it has none of that name."""
        if sample.label is None or not count:
            return None
        meant = sample.expected or LabelledClass(sample.label)
        try:
            return choose_classes(meant, torch.zeros(count), self.model.class_names)[0]
        except (ClassNotFound, InvalidArgument):
            return None

    def _explained(self, found: Explanation, sample: Sample) -> dict[str, Any]:
        described = found.described
        count = len(self.model.class_names or ())
        if not count and isinstance(found.origin, Tested):  # known from its scores alone
            count = found.origin.standings.ranking.numel()
        label_index = self._class_of(sample, count)
        samples = {
            (each["class_index"], each["layer"]): each.get("num_samples")
            for each in described["maps"]
        }
        best = found.predictions[0] if found.predictions else None
        correct = None
        if label_index is not None and best is not None and best.probability is not None:
            correct = best.class_index == label_index
        evidence = described.get("evidence")
        cam = _main_map(found)
        return {
            "label_index": label_index,
            "correct": correct,
            "predictions": [_scored(vars(each)) for each in found.predictions[:5]],
            "method": found.method,
            "layers": list(found.layers),
            "classes": [_scored(each) for each in described["classes"]],
            "maps": [
                _packed(index, layer, values, samples.get((index, layer)), self.map_type)
                for (index, layer), values in found.cams.items()
            ],
            "placement": found.placement.as_dict(),
            "boxes": _boxes(found, cam),
            "focus": None if cam is None else _focus(cam),
            "verdict": None if evidence is None else evidence["verdict"],
            "evidence": None if evidence is None else json.dumps(evidence),
            "details": {
                name: entry
                for name, entry in described.items()
                if name not in (*_COLUMNS, "image", "frames", "evidence")
            },
        }


def _failed(error: Exception | None) -> dict[str, Any]:
    if isinstance(error, CamHubError):
        return {"error": error.code, "message": plain_text(error)}
    return {"error": UNEXPECTED, "message": plain_text(f"{type(error).__name__}: {error}")[:1000]}


def _scored(entry: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "index": entry["class_index"],
        "label": plain_text(entry["label"]),
        "probability": entry.get("probability"),
        "score": entry.get("score"),
    }


def _main_map(found: Explanation) -> Map | None:
    """The map of the first class that has one, of several layers the fusion; None if all are blank.

    A signed map is cut to the part that supports the class.
    """
    for index in found.classes:
        try:
            cam = found.cam(index)
        except NoMap:
            continue
        return np.maximum(cam, 0) if found.signed else cam
    return None


def _focus(cam: Map) -> float | None:
    """The value of ``faithfulness.focus``, at a tenth of its cost on a grid of a few cells."""
    heat = np.maximum(cam.ravel().astype(np.float64), 0)
    total = heat.sum()
    if total == 0 or len(heat) < 2:
        return None
    shares = heat[heat > 0] / total
    value = 1 + float((shares * np.log(shares)).sum()) / math.log(len(heat))
    return min(max(value, 0.0), 1.0)


def _boxes(found: Explanation, cam: Map | None) -> list[list[int]]:
    """Boxes around what is hotter than half of the maximum, in the photo's pixels.

    They are found on a grid that is ``_FINER`` times finer than the map's: at the photo's size,
    this would take longer than everything else.
    """
    if cam is None or not cam.any():
        return []
    rows, cols = (min(_FINER * side, max(_MAX_SIDE, side)) for side in cam.shape)
    heat = normalise(torch.from_numpy(cam.copy())[None])
    fine = interpolate(heat[None], (rows, cols), mode="bilinear", align_corners=False)[0, 0]
    place = found.placement
    height, width = place.input_size
    boxes = []
    for box in overlay.boxes((fine / fine.max()).numpy(), 0.5):
        left, top = place.to_photo(box.left * width / cols, box.top * height / rows)
        right, bottom = place.to_photo(box.right * width / cols, box.bottom * height / rows)
        across = [min(max(round(x), 0), place.photo_size[0]) for x in (left, right)]
        down = [min(max(round(y), 0), place.photo_size[1]) for y in (top, bottom)]
        if across[0] < across[1] and down[0] < down[1]:  # not on padding alone
            boxes.append([across[0], down[0], across[1], down[1]])
    return boxes


def _packed(
    index: int, layer: str, values: Map, samples: int | None, map_type: str
) -> dict[str, Any]:
    """A map as it is stored."""
    entry: dict[str, Any] = {
        "class_index": index,
        "layer": layer,
        "shape": list(values.shape),
        "samples": samples,
    }
    if map_type == "uint8" and np.isfinite(values).all():
        wide = values.astype(np.float64)
        low, high = float(wide.min()), float(wide.max())
        scale = (high - low) / 255
        # As they are stored: levels are computed from the numbers that a reader has.
        offset, scale = float(np.float32(low)), float(np.float32(scale))
        levels = np.rint((wide - offset) / scale) if scale > 0 else np.zeros_like(wide)
        data = np.clip(levels, 0, 255).astype(np.uint8).tobytes()
        return {**entry, "data": data, "scale": scale, "offset": offset}
    return {**entry, "data": np.ascontiguousarray(values, "<f4").tobytes()}


def unpacked(entry: Mapping[str, Any]) -> NDArray[np.float32]:
    """The map of an entry of the column ``maps``.

    Returns:
        Float32 ``(rows, cols)``; of a clip ``(steps, rows, cols)``.

    Raises:
        InvalidArgument: If its bytes do not fit its shape.
    """
    shape, data = tuple(entry["shape"]), entry["data"]
    quantised = entry["scale"] is not None
    size = math.prod(shape) * (1 if quantised else 4)
    if len(shape) not in (2, 3) or min(shape) < 1 or len(data) != size:
        raise InvalidArgument("maps", f"{len(data)} bytes", f"{size} bytes of a map of {shape}")
    if not quantised:
        values: NDArray[np.float32] = np.frombuffer(data, "<f4").astype(np.float32)
        return values.reshape(shape)
    levels = np.frombuffer(data, np.uint8).astype(np.float64)
    values = (levels * entry["scale"] + entry["offset"]).astype(np.float32)
    return values.reshape(shape)


def row_bytes(row: Mapping[str, Any]) -> int:
    """About how much memory a row takes."""
    return 2000 + sum(len(each["data"]) for each in row["maps"] or ())


def split_details(rows: Iterable[dict[str, Any]]) -> dict[str, Any]:
    """Takes what the rows of a file have in common out of their details.

    Args:
        rows: The rows, whose ``details`` become texts: JSON of the entries that differ from the
            common ones; null stands for an entry that a row does not have.

    Returns:
        The common entries: the details of the first row that has some.
    """
    common: dict[str, Any] | None = None
    for row in rows:
        own = row["details"]
        if own is None:
            continue
        if common is None:
            common = own
        differing = {name: each for name, each in own.items() if common.get(name) != each}
        differing |= dict.fromkeys(set(common) - set(own))
        row["details"] = json.dumps(differing)
    return common or {}


def manifest_of(
    row: Mapping[str, Any], common: Mapping[str, Any], image: Mapping[str, Any]
) -> dict[str, Any]:
    """The manifest of a row's explanation, as ``Explanation.manifest`` has it.

    Args:
        row: The row, by column.
        common: What ``split_details`` returned for the rows of its file.
        image: The entry for the image.
    """
    details = {**common, **json.loads(row["details"] or "{}")}
    maps = []
    for each in row["maps"]:
        *steps, rows, cols = each["shape"]
        entry = {"class_index": each["class_index"], "layer": each["layer"], "grid": [rows, cols]}
        if steps:
            entry["steps"] = steps[0]
        if each["samples"] is not None:
            entry["num_samples"] = each["samples"]
        position = row["layers"].index(each["layer"])
        name = f"cam-{each['class_index']}-{file_stem(position, each['layer'])}.npy"
        maps.append({**entry, "file": name})
    manifest = {
        **{name: each for name, each in details.items() if each is not None},
        "contrast": details.get("contrast"),
        "image": dict(image),
        "method": row["method"],
        "layers": list(row["layers"]),
        "classes": [_class_entry(each) for each in row["classes"]],
        "predictions": [_class_entry(each) for each in row["predictions"]],
        "placement": Placement.from_dict(row["placement"]).as_dict(),
        "maps": maps,
    }
    if row["evidence"] is not None:
        manifest["evidence"] = json.loads(row["evidence"])
    return manifest


def _class_entry(entry: Mapping[str, Any]) -> dict[str, Any]:
    found = {"class_index": entry["index"], "label": entry["label"]}
    return found | {name: entry[name] for name in ("probability", "score")}
