"""One row of a report: an image, and what its explanation showed."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch.nn.functional import interpolate

from cam_hub.attribution.preparation import prepare
from cam_hub.attribution.reproduce import reproduce
from cam_hub.datasets.rows import manifest_of, unpacked
from cam_hub.errors import CamHubError, ImageRefused
from cam_hub.faithfulness import Evidence
from cam_hub.images.decoding import open_image
from cam_hub.images.geometry import Placement
from cam_hub.methods import METHODS, fuse
from cam_hub.models.loaded_model import LoadedModel
from cam_hub.results.explanation import Explanation, read_predictions
from cam_hub.results.maps import Map, Pictures
from cam_hub.results.overlay import Box
from cam_hub.targets.classes import Prediction

if TYPE_CHECKING:
    from cam_hub.datasets.report import DatasetReport

__all__ = ["DatasetRow", "resized"]


@dataclass(frozen=True, eq=False)
class DatasetRow:
    """One image of a dataset, and what its explanation showed.

    Attributes:
        key: Identifies the image.
        path: The absolute path of its file; None if it is not a file of its own.
        label: Its label, as text; None if none is known.
        label_index: The model's class of that label; None if it has none.
        correct: Whether the most probable class is that of the label; None where that is unknown.
        predictions: The most probable classes, at most five.
        method: The method; None for an image with an error, and so are ``placement`` and ``focus``.
        layers: The layers of the maps.
        classes: The explained classes, with their probabilities.
        maps: Float32 ``(rows, cols)``, of a clip ``(steps, rows, cols)``, on the layer's own grid
            and un-normalised, by class index and layer.
        placement: Where the model's input lay on the photo.
        boxes: Boxes around what is hotter than half of the maximum, the hottest first, in the
            photo's pixels; exact to an eighth of a cell of the map.
        focus: One minus the normalised entropy of the first class's map on the layer's own grid: 1
            for a single cell, 0 for a flat map. The fusion stands for
            several layers.
        evidence: The tests that were asked for; None if there were none.
        error: The code of the error; None if the image was explained.
        message: The message of the error.
    """

    key: str
    path: str | None
    label: str | None
    label_index: int | None
    correct: bool | None
    predictions: tuple[Prediction, ...]
    method: str | None
    layers: tuple[str, ...]
    classes: tuple[Prediction, ...]
    maps: Mapping[tuple[int, str], Map] = field(repr=False)
    placement: Placement | None = field(repr=False)
    boxes: tuple[Box, ...] = field(repr=False)
    focus: float | None
    evidence: Evidence | None = field(repr=False)
    error: str | None
    message: str | None
    _raw: Mapping[str, Any] = field(repr=False)
    _common: Mapping[str, Any] = field(repr=False)
    _report: DatasetReport = field(repr=False)

    @classmethod
    def read(
        cls, raw: Mapping[str, Any], common: Mapping[str, Any], report: DatasetReport
    ) -> DatasetRow:
        """A row out of a file.

        Args:
            raw: By column.
            common: What the manifests of the file's rows have in common.
            report: The report.

        Raises:
            InvalidArgument: If a map or a placement cannot be.
        """
        placement, evidence = raw["placement"], raw["evidence"]
        names = ("key", "path", "label", "label_index", "correct", "method", "focus", "error",
                 "message")  # fmt: skip
        return cls(
            **{name: raw[name] for name in names},
            predictions=_predictions(raw["predictions"]),
            layers=tuple(raw["layers"] or ()),
            classes=_predictions(raw["classes"]),
            maps={
                (each["class_index"], each["layer"]): unpacked(each) for each in raw["maps"] or ()
            },
            placement=None if placement is None else Placement.from_dict(placement),
            boxes=tuple(Box(*box) for box in raw["boxes"] or ()),
            evidence=None if evidence is None else Evidence.from_dict(json.loads(evidence)),
            _raw=raw,
            _common=common,
            _report=report,
        )

    @property
    def map(self) -> Map | None:
        """The map of the first class at the first layer; None for an image with an error."""
        return next(iter(self.maps.values()), None)

    def heat(self, size: tuple[int, int] | None = None) -> NDArray[np.float64] | None:
        """What supports the first class: its map without values below 0, un-normalised.

        With several layers it is the fusion, with a clip the maximum over time.

        Args:
            size: Rows and columns, linear between the cells' centres; None for the layer's own
                grid, of several layers that of the first.

        Returns:
            Float64 ``(rows, cols)`` over the model's input; None without heat.
        """
        if not self.maps or self.method is None:
            return None
        first = self.classes[0].class_index
        cams = [self.maps[first, layer] for layer in self.layers]
        cams = [cam.max(axis=0) if cam.ndim == 3 else cam for cam in cams]
        if len(cams) > 1:
            maps = [torch.from_numpy(cam.copy())[None] for cam in cams]
            method = METHODS[self.method].signed(self.manifest()["options"].get("sign", "for"))
            cams = [fuse(maps, method)[0].numpy()]
        heat = np.maximum(cams[0].astype(np.float64), 0)
        if not (np.isfinite(heat).all() and heat.any()):
            return None
        return heat if size is None else resized(heat, *size)

    def manifest(self, image: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """The manifest of the explanation; without the digest of the image unless it is given.

        Raises:
            CamHubError: If the image has an error in place of an explanation.
        """
        self._check()
        size = list(self._raw["placement"]["photo_size"])
        return manifest_of(self._raw, self._common, image or {"size": size, "sha256": ""})

    def image(self) -> object:
        """The image as ``explain`` takes it: its path, or what the source has for its key.

        Raises:
            ImageRefused: If it is not there any more.
        """
        return self._report.find_image(self.key, self.path)

    def photo(self) -> Image.Image:
        """The photo, upright, RGB; of a clip a frame.

        Raises:
            ImageRefused: If it is not there any more, cannot be opened, or has another size than
                the explained one. Tensors and lists of frames need the model of the report.
        """
        return self._pictures(self._report.model).photo

    def _pictures(self, model: LoadedModel | None) -> Pictures:
        """The explained pictures; those of tensors and of clips as the model opens them."""
        image = self.image()
        clip = self.map is not None and self.map.ndim == 3
        special = isinstance(image, (torch.Tensor, list, tuple))
        if model is not None and (special or clip):
            pictures = prepare(model, image).pictures
        elif special:
            needed = "give it to DatasetReport.open(out, model=…)"
            raise ImageRefused(f"{self.key!r} is drawn by the model's preprocessing: {needed}")
        else:
            pictures = Pictures([open_image(image)])
        size = pictures.photo.size
        if self.placement is not None and size != self.placement.photo_size:
            was = " × ".join(map(str, self.placement.photo_size))
            raise ImageRefused(f"{self.key!r} is {size[0]} × {size[1]} now, and was {was}")
        return pictures

    def explanation(self) -> Explanation:
        """The explanation, with its photo: for overlays, heatmaps, boxes, ``save`` and so on.

        It is made from the row and the photo. The model is needed for tensors and lists of frames
        only.

        Raises:
            CamHubError: If the image has an error in place of an explanation.
            ImageRefused: As ``photo``.
        """
        self._check()
        pictures = self._pictures(self._report.model)
        manifest = self.manifest(pictures.facts)
        if self.placement is None:
            raise AssertionError("an explained image has a placement")
        return Explanation(
            pictures=pictures,
            placement=self.placement,
            predictions=read_predictions(manifest["predictions"]),
            classes=tuple(each.class_index for each in self.classes),
            layers=self.layers,
            cams={key: cam.copy() for key, cam in self.maps.items()},
            labels={each.class_index: each.label for each in self.classes},
            described=manifest,
        )

    def overlay(self, class_index: int | None = None, **look: Any) -> Image.Image:
        """The photo with the heatmap over it, drawn now.

        Args:
            class_index: One of the explained classes; None for the first.
            look: Other arguments of ``Explanation.overlay``.

        Raises:
            CamHubError: As ``explanation`` and ``Explanation.overlay``.
        """
        return self.explanation().overlay(class_index, **look)

    def reproduce(self, model: LoadedModel | None = None, **functions: Any) -> Explanation:
        """Explains the image again, by the same method at the same layers.

        Args:
            model: The model; None for the one of the report, or the one that the ID names.
            functions: ``reference``, ``output`` or ``classes``, if one of them was given, as for
                ``cam_hub.reproduce``.

        Raises:
            CamHubError: As ``explanation`` and ``cam_hub.reproduce``.
        """
        self._check()
        model = model or self._report.model
        facts = self._pictures(model).facts
        return reproduce(self.manifest(facts), self.image(), model=model, **functions)

    def _check(self) -> None:
        if self.error is not None:
            raise _stored_error(self.error, self.message or "")


def _predictions(entries: Any) -> tuple[Prediction, ...]:
    return tuple(
        Prediction(each["index"], each["label"], each["probability"], each["score"])
        for each in entries or ()
    )


def _stored_error(code: str, message: str) -> CamHubError:
    """The error of a row: of the class ``CamHubError``, with its code and message."""
    error = CamHubError(message)
    error.code = code
    return error


def resized(heat: NDArray[np.float64], rows: int, cols: int) -> NDArray[np.float64]:
    """A map on another grid, linear between the cells' centres.

    Args:
        heat: ``(rows, cols)``.
        rows: Rows of the result.
        cols: Its columns.
    """
    wide = interpolate(
        torch.from_numpy(heat)[None, None], (rows, cols), mode="bilinear", align_corners=False
    )
    found: NDArray[np.float64] = wide[0, 0].numpy()
    return found
