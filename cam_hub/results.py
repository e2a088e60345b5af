"""``Explanation``: the result of one explanation, with its pictures, its files and its manifest."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from cam_hub import animations, figures, rendering
from cam_hub.colormaps import fitting
from cam_hub.errors import InvalidArgument
from cam_hub.folders import (
    MANIFEST,
    PHOTO,
    file_stem,
    load_frames,
    move_into,
    save_picture,
)
from cam_hub.geometry import Placement
from cam_hub.images import open_image
from cam_hub.maps import Limits, Map, Maps, checked_limits
from cam_hub.pictures import Pictures
from cam_hub.ranking import Prediction
from cam_hub.timeline import evenly

__all__ = ["Explanation"]

_SHOWN_STEPS = 8  # in a montage


@dataclass(frozen=True, eq=False)
class Explanation(Maps):
    """Which parts of a picture, or of a clip, spoke for which class, at which layer.

    Its maps, and what they are maps of, are those of :class:`Maps`; here they become pictures and
    files.
    """

    def overlay(
        self,
        class_index: int | None = None,
        layer: str | None = None,
        *,
        step: int | None = None,
        alpha: float = 0.5,
        colormap: str = "jet",
        scale: Limits | None = None,
        colorbar: bool = False,
    ) -> Image.Image:
        """The photo with the heatmap over it, at the photo's size.

        Args:
            class_index: One of ``classes``; None for the first.
            layer: One of ``layers``; None for the fusion.
            step: A step of time, drawn on the frame in its middle; None for the fusion.
            alpha: Opacity of the heatmap, from 0 (the photo alone) to 1 (the heatmap alone).
            colormap: Name of a colour map of matplotlib's. A signed map takes diverging ones;
                ``"coolwarm"`` stands in for any other.
            scale: The values ``(low, high)`` of the map at the two ends of the colours, as
                ``shared_scale`` finds them for several pictures; None for the map's own.
            colorbar: Whether the colours and the values at their ends stand below the photo,
                which makes the image higher.

        Raises:
            InvalidArgument: If ``alpha``, ``colormap``, ``scale`` or ``step`` does not work.
            NoMap: If the map is blank or not finite.
        """
        painted = rendering.overlay(
            self._frame(step),
            self._shade(self._heat(class_index, layer, step, scale)),
            alpha=alpha,
            colormap=fitting(colormap, signed=self.signed),
            seen=self.seen,
        )
        if not colorbar:
            return painted
        bar = self.colorbar(
            class_index, layer, step=step, colormap=colormap, scale=scale, width=painted.width
        )
        return figures.stack([painted, bar])

    def colorbar(
        self,
        class_index: int | None = None,
        layer: str | None = None,
        *,
        step: int | None = None,
        colormap: str = "jet",
        scale: Limits | None = None,
        width: int = 320,
    ) -> Image.Image:
        """The colours of ``overlay`` from cold to hot, with the map's values at both ends.

        Args:
            class_index: As for ``overlay``, and so are the others.
            layer: A layer.
            step: A step of time.
            colormap: Colour map.
            scale: Values at both ends.
            width: Pixels, at least 16.

        Raises:
            InvalidArgument: As ``overlay``.
            NoMap: As ``overlay``.
        """
        if scale is None:
            scale = self.limits(class_index, layer, step=step)
        low, high = checked_limits(scale)
        if self.signed:
            high = max(abs(low), abs(high))
            low = -high
        height = max(16, min(width // 8, 40))
        name = fitting(colormap, signed=self.signed)
        return figures.colorbar(name, max(width, 16), height, f"{low:.3g}", f"{high:.3g}")

    def _shade(self, heat: Map) -> Map:
        """Heat in [0, 1], as colours take it: of a signed map, nothing lies in the middle."""
        return ((heat + 1) / 2).astype(np.float32) if self.signed else heat

    def cutout(
        self,
        threshold: float = 0.5,
        class_index: int | None = None,
        layer: str | None = None,
        *,
        step: int | None = None,
    ) -> Image.Image:
        """The photo, or the frame in the middle of a step, without what is colder."""
        mask = self.mask(threshold, class_index, layer, step=step)
        return rendering.cutout(self._frame(step), mask)

    def animation(
        self,
        class_index: int | None = None,
        layer: str | None = None,
        *,
        alpha: float = 0.5,
        colormap: str = "jet",
        max_side: int = 640,
    ) -> list[Image.Image]:
        """One overlay per frame, all on one scale; between the steps' middles linear in time.

        Args:
            class_index: One of ``classes``; None for the first.
            layer: One of ``layers``; None for the fusion.
            alpha: As for ``overlay``.
            colormap: As for ``overlay``.
            max_side: Larger frames are scaled down until no side is longer.

        Raises:
            InvalidArgument: If ``alpha``, ``colormap`` or ``max_side`` does not work.
            NoMap: If the map is blank or not finite.
        """
        return animations.overlays(
            self.frames,
            self._shade(self._heat_over_time(class_index, layer)),
            self.placement,
            alpha=alpha,
            colormap=fitting(colormap, signed=self.signed),
            max_side=max_side,
        )

    def save_animation(
        self,
        path: str | Path,
        class_index: int | None = None,
        layer: str | None = None,
        *,
        alpha: float = 0.5,
        colormap: str = "jet",
        max_side: int = 640,
        frame_ms: int = 125,
    ) -> Path:
        """Writes ``animation(…)`` as an endless GIF, WebP or APNG, after the path's suffix.

        Args:
            path: Ends in ``.gif``, ``.webp`` or ``.png``.
            class_index: As for ``animation``.
            layer: As for ``animation``.
            alpha: As for ``animation``.
            colormap: As for ``animation``.
            max_side: As for ``animation``.
            frame_ms: How long a frame is shown, in milliseconds.

        Returns:
            The path.

        Raises:
            InvalidArgument: As ``animation``; if the suffix or the time does not work.
            NoMap: As ``animation``.
        """
        pictures = self.animation(
            class_index, layer, alpha=alpha, colormap=colormap, max_side=max_side
        )
        animations.save_animation(pictures, Path(path), frame_ms)
        return Path(path)

    def montage(
        self, class_index: int | None = None, *, alpha: float = 0.5, colormap: str = "jet"
    ) -> Image.Image:
        """One picture of all layers' overlays, with the photo first and the fusion last.

        A layer whose map is blank is shown as the bare photo, and its caption says so. Of a clip,
        each layer has a row: its fusion over time, and its steps (of many, eight spread evenly).
        """
        index = self._class(class_index)
        if self.steps > 1:
            return self._montage_over_time(index, alpha, colormap)
        tiles = [("photo", self.photo)]
        for name in self.layers:
            if self.has_map(index, name):
                picture = self.overlay(index, name, alpha=alpha, colormap=colormap)
                tiles.append((name, picture))
            else:
                tiles.append((f"{name}: blank", self.photo))
        if len(self.layers) > 1 and self.has_map(index):
            tiles.append(("fusion", self.overlay(index, alpha=alpha, colormap=colormap)))
        return figures.montage(tiles)

    def save(self, folder: str | Path) -> Path:
        """Writes pictures, maps and manifest into a folder.

        ``overlay-<class>[-<layer>].png`` are the overlays, ``cam-<class>-<layer>.npy`` the
        un-normalised maps, ``photo.png`` the photo; of a clip ``frame-<number>.png`` are the
        frames, and ``animation-<class>.gif`` plays the overlays. The folder is made if need be.
        Everything is written aside first, and the manifest moved last: a failure midway leaves no
        half of an explanation. An earlier explanation in the folder is replaced, other files stay.

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
            move_into(folder, staging)
        return folder

    @classmethod
    def load(cls, folder: str | Path, pictures: str | Path | None = None) -> Explanation:
        """Reads what ``save`` wrote.

        Args:
            folder: Where it wrote to.
            pictures: Where photo and frames lie, if not there as well.

        Raises:
            InvalidArgument: If the folder holds no complete explanation.
        """
        folder = Path(folder)
        beside = folder if pictures is None else Path(pictures)
        try:
            manifest = json.loads((folder / MANIFEST).read_text("utf-8"))
            cams = {
                (int(entry["class_index"]), str(entry["layer"])): np.load(
                    folder / Path(entry["file"]).name, allow_pickle=False
                )
                for entry in manifest["maps"]
            }
            photo, frames = open_image(beside / PHOTO), load_frames(beside, manifest)
            return cls(
                pictures=Pictures.of(frames or [photo], clip=bool(frames)),
                placement=Placement.from_dict(manifest["placement"]),
                predictions=tuple(Prediction(**entry) for entry in manifest["predictions"]),
                classes=tuple(entry["class_index"] for entry in manifest["classes"]),
                layers=tuple(manifest["layers"]),
                cams=cams,
                labels={e["class_index"]: e["label"] for e in manifest["classes"]},
                described=manifest,
            )
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise InvalidArgument(
                "folder", str(folder), f"a folder that Explanation.save wrote ({error!r})"
            ) from error

    def save_data(self, folder: Path, *, pictures: bool = True) -> None:
        """Writes into an empty folder what ``load`` needs: pictures, maps, manifest.

        Args:
            folder: Where to.
            pictures: Whether photo and frames are written; without them they must lie elsewhere.
        """
        for entry in self.manifest["maps"]:
            np.save(folder / entry["file"], self.cams[entry["class_index"], entry["layer"]])
        if pictures:
            self._save_pictures(folder)
        text = json.dumps(dict(self.manifest), indent=2, ensure_ascii=False)
        (folder / MANIFEST).write_text(text + "\n", "utf-8")

    def _save_pictures(self, folder: Path) -> None:
        save_picture(self.photo, folder / PHOTO)
        names = self.manifest.get("frames", ())
        for name, frame in dict(zip(names, self.frames, strict=bool(names))).items():
            save_picture(frame, folder / name)

    def _write(self, folder: Path) -> None:
        self.save_data(folder)
        for index in self.classes:
            names: Sequence[str | None] = [None, *self.layers] if len(self.layers) > 1 else [None]
            for position, name in enumerate(names):
                stem = f"overlay-{index}" + (f"-{file_stem(position - 1, name)}" if name else "")
                if self.has_map(index, name):
                    self.overlay(index, name).save(folder / f"{stem}.png")
            if self.steps > 1 and self.has_map(index):
                self.save_animation(folder / f"animation-{index}.gif", index)

    def _montage_over_time(self, index: int, alpha: float, colormap: str) -> Image.Image:
        steps = evenly(self.steps, min(self.steps, _SHOWN_STEPS))
        rows: list[str | None] = [*self.layers, *([None] if len(self.layers) > 1 else [])]
        tiles = []
        for name in rows:
            spoke = name is None or bool(self.cams[index, name].any())
            for step in (None, *steps):
                what = name or "fusion"
                what += f": step {step + 1} of {self.steps}" if step is not None else ""
                if spoke:
                    picture = self.overlay(index, name, step=step, alpha=alpha, colormap=colormap)
                    tiles.append((what, picture))
                else:
                    tiles.append((f"{what}: blank", self._frame(step)))
        return figures.montage(tiles, columns=1 + len(steps))

    def _frame(self, step: int | None) -> Image.Image:
        """The frame in the middle of a step, or of all."""
        if step is None:
            return self.photo
        return self.frames[self._step(step, len(self.frames))]

    def __repr__(self) -> str:
        classes = ", ".join(f"{index} {self.labels[index]!r}" for index in self.classes)
        return (
            f"Explanation(model={self.described['model']['id']!r}, method={self.method!r}, "
            f"classes=[{classes}], layers={list(self.layers)}, photo={self.photo.size})"
        )
