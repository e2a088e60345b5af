"""``Explanation``: the result of one explanation, with its pictures, its files and its manifest."""

from __future__ import annotations

import json
import re
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from cam_hub import figures, regions, rendering
from cam_hub.classes import Prediction
from cam_hub.errors import ClassNotFound, InvalidArgument, LayerNotFound, nearest_names
from cam_hub.geometry import Placement
from cam_hub.images import open_image
from cam_hub.methods import METHODS, check_map, fuse, normalise
from cam_hub.regions import Box

__all__ = ["MANIFEST", "PHOTO", "Explanation", "file_stem"]

MANIFEST = "manifest.json"
PHOTO = "photo.png"
_OURS = re.compile(r"overlay-.*\.png|cam-.*\.npy|photo\.png|manifest\.json")

Map = NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class Explanation:
    """Which parts of a picture spoke for which class, at which layer.

    Attributes:
        photo: The picture that was explained, upright, RGB.
        placement: Where the model's input lay on it.
        predictions: The most probable classes, the first the most probable; empty for a model
            without classes.
        classes: Indices of the classes that were explained, in the order asked for.
        layers: Names of the target layers, in the order asked for.
        cams: One un-normalised map, float32 ``(rows, cols)``, per class index and layer.
        labels: The labels of the explained classes, by index.
        manifest: Everything that is needed to make the same maps again; JSON types only.
    """

    photo: Image.Image
    placement: Placement
    predictions: tuple[Prediction, ...]
    classes: tuple[int, ...]
    layers: tuple[str, ...]
    cams: Mapping[tuple[int, str], Map]
    labels: Mapping[int, str]
    manifest: Mapping[str, Any]

    def __post_init__(self) -> None:
        for cam in self.cams.values():
            cam.setflags(write=False)
        object.__setattr__(self, "cams", MappingProxyType(dict(self.cams)))
        object.__setattr__(self, "labels", MappingProxyType(dict(self.labels)))

    @property
    def method(self) -> str:
        """Name of the method that made the maps."""
        return str(self.manifest["method"])

    @property
    def target(self) -> str:
        """What was explained, in words: which score, of which part, compared with what."""
        return str(self.manifest["target"]["text"])

    @property
    def seen(self) -> NDArray[np.bool_]:
        """``(H, W)``: which pixels of the photo the model saw; the others were cropped away."""
        return self.placement.seen_mask()

    def cam(self, class_index: int | None = None, layer: str | None = None) -> Map:
        """The map as the method computes it, at the layer's own resolution.

        Args:
            class_index: One of ``classes``; None for the first.
            layer: One of ``layers``; None for the fusion of all of them (the map itself if there
                is only one layer).

        Returns:
            Float32 ``(rows, cols)``, at least 0. Maps of one layer are un-normalised and can be
            compared with each other; a fusion is in [0, 1], since it needs its maps on one scale.

        Raises:
            ClassNotFound: If the class was not explained.
            LayerNotFound: If the layer was not among the targets.
            NoMap: If the map is blank or not finite: with the reason.
        """
        index = self._class(class_index)
        if layer is None and len(self.layers) > 1:
            return self._fusion(index)
        name = self._layer(layer)
        cam = self.cams[index, name]
        check_map(torch.from_numpy(cam.copy()), name)
        return cam

    def heatmap(self, class_index: int | None = None, layer: str | None = None) -> Map:
        """The map at the original photo's size and place.

        Args:
            class_index: One of ``classes``; None for the first.
            layer: One of ``layers``; None for the fusion.

        Returns:
            Float32 ``(H, W)`` in [0, 1]: the map, stretched from its least to its greatest value,
            laid through the inverse of the model's resize and crop. 0 where the model saw
            nothing (``seen`` tells these pixels from the cold ones).

        Raises:
            ClassNotFound: If the class was not explained.
            LayerNotFound: If the layer was not among the targets.
            NoMap: If the map is blank or not finite.
        """
        cam = torch.from_numpy(self.cam(class_index, layer).copy())
        return self.placement.warp(normalise(cam[None])[0].numpy())

    def overlay(
        self,
        class_index: int | None = None,
        layer: str | None = None,
        *,
        alpha: float = 0.5,
        colormap: str = "jet",
    ) -> Image.Image:
        """The photo with the heatmap over it, at the photo's size.

        Args:
            class_index: One of ``classes``; None for the first.
            layer: One of ``layers``; None for the fusion.
            alpha: Opacity of the heatmap, from 0 (the photo alone) to 1 (the heatmap alone).
            colormap: Name of a colour map of matplotlib's.

        Raises:
            InvalidArgument: If ``alpha`` or ``colormap`` does not work.
            NoMap: If the map is blank or not finite.
        """
        return rendering.overlay(
            self.photo,
            self.heatmap(class_index, layer),
            alpha=alpha,
            colormap=colormap,
            seen=self.seen,
        )

    def mask(
        self, threshold: float = 0.5, class_index: int | None = None, layer: str | None = None
    ) -> NDArray[np.bool_]:
        """``(H, W)``: the pixels whose heat is at least ``threshold``, in (0, 1]."""
        return regions.mask(self.heatmap(class_index, layer), threshold)

    def boxes(
        self, threshold: float = 0.5, class_index: int | None = None, layer: str | None = None
    ) -> list[Box]:
        """One box, in the photo's pixels, around each connected region of ``mask(threshold)``.

        Returns:
            ``(left, top, right, bottom)``, right and bottom exclusive; the hottest region first.
        """
        return regions.boxes(self.heatmap(class_index, layer), threshold)

    def cutout(
        self, threshold: float = 0.5, class_index: int | None = None, layer: str | None = None
    ) -> Image.Image:
        """The photo with all that is colder than ``threshold`` taken out."""
        return rendering.cutout(self.photo, self.mask(threshold, class_index, layer))

    def montage(
        self, class_index: int | None = None, *, alpha: float = 0.5, colormap: str = "jet"
    ) -> Image.Image:
        """One picture of all layers' overlays, with the photo first and the fusion last.

        A layer whose map is blank is shown as the bare photo, and its caption says so.
        """
        index = self._class(class_index)
        tiles = [("photo", self.photo)]
        for name in self.layers:
            if self.cams[index, name].any():
                picture = self.overlay(index, name, alpha=alpha, colormap=colormap)
                tiles.append((name, picture))
            else:
                tiles.append((f"{name}: blank", self.photo))
        if len(self.layers) > 1:
            tiles.append(("fusion", self.overlay(index, alpha=alpha, colormap=colormap)))
        return figures.montage(tiles)

    def save(self, folder: str | Path) -> Path:
        """Writes pictures, maps and manifest into a folder.

        ``overlay-<class>[-<layer>].png`` are the overlays, ``cam-<class>-<layer>.npy`` the
        un-normalised maps, ``photo.png`` the photo. The folder is made if need be. Everything is
        written aside first, and the manifest moved last: a failure midway leaves no half of an
        explanation. An earlier explanation in the folder is replaced, other files stay.

        Args:
            folder: Where to.

        Returns:
            The folder.

        Raises:
            InvalidArgument: If it is a file, or holds files of the same names that are not those
                of an earlier explanation.
        """
        folder = Path(folder)
        if folder.exists() and not folder.is_dir():
            raise InvalidArgument("folder", str(folder), "a folder, and this is a file")
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{folder.name}-", dir=folder.parent) as name:
            staging = Path(name)
            self._write(staging)
            _move_into(folder, staging)
        return folder

    @classmethod
    def load(cls, folder: str | Path) -> Explanation:
        """Reads what ``save`` wrote.

        Raises:
            InvalidArgument: If the folder holds no complete explanation.
        """
        folder = Path(folder)
        try:
            manifest = json.loads((folder / MANIFEST).read_text("utf-8"))
            cams = {
                (int(entry["class_index"]), str(entry["layer"])): np.load(
                    folder / Path(entry["file"]).name, allow_pickle=False
                )
                for entry in manifest["maps"]
            }
            return cls(
                photo=open_image(folder / PHOTO),
                placement=Placement.from_dict(manifest["placement"]),
                predictions=tuple(Prediction(**entry) for entry in manifest["predictions"]),
                classes=tuple(entry["class_index"] for entry in manifest["classes"]),
                layers=tuple(manifest["layers"]),
                cams=cams,
                labels={e["class_index"]: e["label"] for e in manifest["classes"]},
                manifest=manifest,
            )
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise InvalidArgument(
                "folder", str(folder), f"a folder that Explanation.save wrote ({error!r})"
            ) from error

    def save_data(self, folder: Path) -> None:
        """Writes into an empty folder what ``load`` needs: the photo, the maps, the manifest."""
        for entry in self.manifest["maps"]:
            np.save(folder / entry["file"], self.cams[entry["class_index"], entry["layer"]])
        # The fastest compression: on a photo the default takes five times as long for 5 percent.
        self.photo.save(folder / PHOTO, compress_level=1)
        text = json.dumps(dict(self.manifest), indent=2, ensure_ascii=False)
        (folder / MANIFEST).write_text(text + "\n", "utf-8")

    def _write(self, folder: Path) -> None:
        self.save_data(folder)
        for index in self.classes:
            names: Sequence[str | None] = [None, *self.layers] if len(self.layers) > 1 else [None]
            for position, name in enumerate(names):
                stem = f"overlay-{index}" + (f"-{file_stem(position - 1, name)}" if name else "")
                layers = [name] if name else list(self.layers)
                if any(self.cams[index, layer].any() for layer in layers):
                    self.overlay(index, name).save(folder / f"{stem}.png")

    def _fusion(self, index: int) -> Map:
        maps = [torch.from_numpy(self.cams[index, name].copy())[None] for name in self.layers]
        fused = fuse(maps, METHODS[self.method])[0]
        check_map(fused, None)
        found: Map = fused.numpy()
        found.setflags(write=False)
        return found

    def _class(self, class_index: int | None) -> int:
        if class_index is None:
            return self.classes[0]
        if class_index not in self.labels:
            explained = ", ".join(f"{i} ({self.labels[i]})" for i in self.classes)
            raise ClassNotFound(class_index, hint=f"Explained were: {explained}.")
        return int(class_index)

    def _layer(self, layer: str | None) -> str:
        name = self.layers[0] if layer is None else layer
        if name not in self.layers:
            raise LayerNotFound(
                name,
                nearest_names(str(name), self.layers),
                f"Explained were: {', '.join(self.layers)}.",
            )
        return name

    def __repr__(self) -> str:
        classes = ", ".join(f"{index} {self.labels[index]!r}" for index in self.classes)
        return (
            f"Explanation(model={self.manifest['model']['id']!r}, method={self.method!r}, "
            f"classes=[{classes}], layers={list(self.layers)}, photo={self.photo.size})"
        )


def file_stem(position: int, layer: str) -> str:
    """A layer's part of a file name: its place among the layers, and its name made harmless."""
    return f"{position:02d}-{re.sub(r'[^A-Za-z0-9._-]+', '_', layer)[:80]}"


def _move_into(folder: Path, staging: Path) -> None:
    """Moves a written explanation to where it belongs, in place of an earlier one."""
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
