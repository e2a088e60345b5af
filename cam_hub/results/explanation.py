"""``Explanation``: the result of one explanation, with its pictures, its files and its manifest."""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from functools import cached_property, partial
from math import prod
from pathlib import Path
from typing import Any, Protocol, get_args

import numpy as np
from PIL import Image

from cam_hub._validation import check_fraction, check_whole
from cam_hub.errors import InvalidArgument
from cam_hub.faithfulness import Evidence
from cam_hub.images.clips import evenly, over_frames
from cam_hub.images.decoding import MAX_PIXELS
from cam_hub.images.geometry import Placement
from cam_hub.methods import METHODS, Sign
from cam_hub.results import montage, overlay
from cam_hub.results.manifest import check_explanation, file_stem
from cam_hub.results.maps import Limits, Map, Maps, Pictures, ScaleChoice, checked_limits
from cam_hub.results.overlay import colormap_table, fitting
from cam_hub.results.serialization import (
    MANIFEST,
    PHOTO,
    ResultFolder,
    Writer,
    folder_path,
    frame_files,
    read_folder,
    save_array,
    save_folder,
    save_picture,
)
from cam_hub.targets.classes import Prediction, prediction_text

__all__ = ["Explanation"]

_SHOWN_STEPS = 8  # in a montage

# In a notebook: pixels of the longer side, and predictions.
_NOTEBOOK_SIDE = 480
_NOTEBOOK_CLASSES = 5

# What a saved result may hold: a stranger's folder must not fill the memory.
_MAX_CELLS = 1 << 29  # of all maps: 2 GiB
_MAX_FRAMES = 10_000
_MAX_FRAME_PIXELS = 4 * MAX_PIXELS


class Origin(Protocol):
    """What an explanation was made from, which can test it."""

    def test(self, explanation: Explanation) -> Evidence:
        """The cover test of the map of the first class."""


@dataclass(frozen=True, eq=False)
class Explanation(Maps):
    """Which parts of a picture, or of a clip, support which class, at which layer.

    Its maps, and what they are maps of, are those of :class:`Maps`; here they become pictures and
    files.
    """

    def __getstate__(self) -> dict[str, Any]:
        """For pickle: with the evidence, if there is some, but without the model."""
        known = {"evidence": self.evidence} if "evidence" in self.__dict__ else {}
        return super().__getstate__() | known

    @property
    def origin(self) -> Origin | None:
        """What the explanation was made from; None if it comes from files or another process."""
        found: Origin | None = self.__dict__.get("_origin")
        return found

    @cached_property
    def evidence(self) -> Evidence | None:
        """The cover test of a map, made on first access (eight images pass).

        The map is that of the first class that has one. ``cam_hub.evidence`` has further tests.
        None if the explanation comes from files that were saved without a test.
        """
        if (stored := self.manifest.get("evidence")) is not None:
            return Evidence.from_dict(stored)
        return None if self.origin is None else self.origin.test(self)

    def overlay(
        self,
        class_index: int | None = None,
        layer: str | None = None,
        *,
        step: int | None = None,
        alpha: float = 0.5,
        colormap: str = "jet",
        scale: ScaleChoice = None,
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
                ``shared_scale`` finds them for several pictures; ``"common"`` for one scale for
                all maps of this picture; None or ``"own"`` for the map's own.
            colorbar: Whether the colours and the values at their ends stand below the photo,
                which makes the image higher.

        Raises:
            InvalidArgument: If ``alpha``, ``colormap``, ``scale`` or ``step`` does not work.
            NoMap: If the map is blank or not finite.
        """
        painted = overlay.overlay(
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
        return montage.stack([painted, bar])

    def colorbar(
        self,
        class_index: int | None = None,
        layer: str | None = None,
        *,
        step: int | None = None,
        colormap: str = "jet",
        scale: ScaleChoice = None,
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
        ends = self._ends(layer, scale) or self.limits(class_index, layer, step=step)
        low, high = checked_limits(ends)
        if self.signed:
            high = max(abs(low), abs(high))
            low = -high
        if isinstance(width, bool) or not isinstance(width, int):
            raise InvalidArgument("width", width, "a whole number of at least 16")
        height = max(16, min(width // 8, 40))
        name = fitting(colormap, signed=self.signed)
        return montage.colorbar(name, max(width, 16), height, f"{low:.3g}", f"{high:.3g}")

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
        return overlay.cutout(self._frame(step), mask)

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
        check_whole("max_side", max_side, 16)
        frames = self.frames
        width, height = frames[0].size
        shrink = min(max_side, longest := max(width, height)) / longest
        size = (max(1, round(width * shrink)), max(1, round(height * shrink)))
        small = {
            id(frame): frame if frame.size == size else frame.resize(size, Image.Resampling.BICUBIC)
            for frame in frames
        }
        place = self.placement.resized(size)
        seen = place.seen_mask()
        heat = over_frames(self._shade(self._heat_over_time(class_index, layer)), len(frames))
        look: dict[str, Any] = {"alpha": alpha, "colormap": fitting(colormap, signed=self.signed)}
        return [
            overlay.overlay(small[id(frame)], place.warp(cells), seen=seen, **look)
            for frame, cells in zip(frames, heat, strict=True)
        ]

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

        A file that is there already is replaced only if it is an unchanged animation that
        this function wrote.

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
            InvalidArgument: As ``animation``; if the suffix or the time does not work, or there is
                another file.
            NoMap: As ``animation``.
            SaveFailed: If the system refuses, as with a full disk. An earlier file is as before.
        """
        place = folder_path(path, "path")
        pictures = self.animation(
            class_index, layer, alpha=alpha, colormap=colormap, max_side=max_side
        )
        return montage.save_animation(pictures, place, frame_ms)

    def montage(
        self, class_index: int | None = None, *, alpha: float = 0.5, colormap: str = "jet"
    ) -> Image.Image:
        """One picture of all layers' overlays, with the photo first and the fusion last.

        A layer with a blank map is shown as the bare photo, with a note in its caption. For a clip,
        each layer has a row: its fusion over time, and its steps (at most eight, evenly spread).
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
        return montage.montage(tiles)

    def save(
        self,
        folder: str | Path,
        *,
        alpha: float = 0.5,
        colormap: str = "jet",
        scale: ScaleChoice | Mapping[str, Limits] = None,
        colorbar: bool = False,
    ) -> Path:
        """Writes pictures, maps and manifest into a folder.

        ``overlay-<class>[-<layer>].png`` are the overlays, ``cam-<class>-<layer>.npy`` the
        un-normalised maps, ``photo.png`` the photo; of a clip ``frame-<number>.png`` are the
        frames, and ``animation-<class>.gif`` plays the overlays. The folder is made if need be.

        The manifest lists every file with its digest. An earlier explanation in the folder is
        replaced: the files that its manifest lists, as long as they are unchanged. All others
        stay. Whenever the process ends, the folder holds the earlier result or the new one.

        Args:
            folder: Where to.
            alpha: As for ``overlay``.
            colormap: As for ``overlay``.
            scale: As for ``overlay``; or the ends of a scale by layer, as for many pictures. The
                fusion of several layers is then between 0 and 1.
            colorbar: As for ``overlay``.

        Returns:
            The folder.

        Raises:
            InvalidArgument: As ``overlay``; if it is a file, or a file that is not provably ours
                has the name of a new one. Nothing is written then.
            SaveFailed: If the system refuses, as with a full disk. The earlier result is as before.
        """
        folder = folder_path(folder)
        if scale is not None and not isinstance(scale, Mapping):
            self._ends(None, scale)  # refused before anything is written
        check_fraction("alpha", alpha, zero=True)
        colormap_table(colormap)
        drawn = self._drawn_files(alpha, colormap, scale, colorbar)
        save_folder(folder, MANIFEST, self.saved_manifest, {**self.data_files(), **drawn})
        return folder

    def save_data(self, folder: str | Path) -> Path:
        """Writes what ``load`` needs, and draws nothing; otherwise as ``save``."""
        folder = folder_path(folder)
        save_folder(folder, MANIFEST, self.saved_manifest, self.data_files())
        return folder

    @classmethod
    def load(cls, folder: str | Path, pictures: str | Path | None = None) -> Explanation:
        """Reads what ``save`` wrote; also a stranger's folder, of which nothing is trusted.

        Every part of the manifest is checked, and only files of the folder are opened.

        Args:
            folder: Where it wrote to.
            pictures: Where photo and frames lie, if not there as well.

        Raises:
            InvalidArgument: If the folder holds no complete explanation.
        """
        other = None if pictures is None else ResultFolder(folder_path(pictures, "pictures"))
        return read_folder(
            folder_path(folder), MANIFEST, lambda files: cls.read(files, other or files)
        )

    @classmethod
    def read(cls, files: ResultFolder, pictures: ResultFolder) -> Explanation:
        """Reads from folders that were opened; otherwise as ``load``."""
        try:
            manifest = files.manifest(MANIFEST)
            check_explanation(manifest)
            if (sign := manifest.get("options", {}).get("sign", "for")) not in get_args(Sign):
                raise ValueError(f"options.sign is {sign!r}")
            classes = tuple(entry["class_index"] for entry in manifest["classes"])
            layers = tuple(manifest["layers"])
            cams = _read_maps(files, manifest, classes, layers)
            frames = _read_frames(pictures, manifest)
            placement = Placement.from_dict(manifest["placement"])
            for frame in frames:
                if frame.size != placement.photo_size:
                    raise ValueError(f"a picture of {frame.size}, not {placement.photo_size}")
            result = cls(
                pictures=Pictures(frames, clip=bool(manifest.get("frames"))),
                placement=placement,
                predictions=read_predictions(manifest["predictions"]),
                classes=classes,
                layers=layers,
                cams=cams,
                labels={e["class_index"]: e["label"] for e in manifest["classes"]},
                described=manifest,
            )
            _ = result.contrasts, result.target  # read from the manifest on demand
            if "evidence" in manifest:
                _ = result.evidence
            return result
        except (OSError, ValueError, KeyError, TypeError, OverflowError, MemoryError) as error:
            raise InvalidArgument(
                "folder", str(files.path), f"a folder that Explanation.save wrote ({error})"
            ) from error

    @property
    def saved_manifest(self) -> Mapping[str, Any]:
        """The manifest as it is saved: of the pictures that are shown."""
        manifest = {key: value for key, value in self.manifest.items() if key != "frames"}
        if self.pictures.clip:
            manifest["frames"] = frame_files(self.frames)
        evidence = self.__dict__.get("evidence")
        tested = {"evidence": evidence.to_dict()} if evidence is not None else {}
        return {**manifest, "placement": self.placement.as_dict(), **tested}

    def data_files(self, *, pictures: bool = True) -> dict[str, Writer]:
        """What ``load`` needs beside the manifest: what writes each file, by name.

        Args:
            pictures: Whether photo and frames are among them; otherwise they must lie elsewhere.
        """
        files: dict[str, Writer] = {
            entry["file"]: partial(save_array, self.cams[entry["class_index"], entry["layer"]])
            for entry in self.manifest["maps"]
        }
        if not pictures:
            return files
        files[PHOTO] = partial(save_picture, self.photo)
        if self.pictures.clip:
            for name, frame in zip(frame_files(self.frames), self.frames, strict=True):
                files[name] = partial(save_picture, frame)
        return files

    def _drawn_files(
        self,
        alpha: float,
        colormap: str,
        scale: ScaleChoice | Mapping[str, Limits],
        colorbar: bool,
    ) -> dict[str, Writer]:
        """Overlays and animations of what has a map: what writes each file, by name."""
        files: dict[str, Writer] = {}
        colours: dict[str, Any] = {"alpha": alpha, "colormap": colormap}
        fused = len(self.layers) > 1
        stems: dict[str | None, str] = {None: ""}
        if fused:
            stems |= {name: f"-{file_stem(at, name)}" for at, name in enumerate(self.layers)}
        for index in self.classes:
            for name, stem in stems.items():
                if not self.has_map(index, name):
                    continue
                ends = scale
                if isinstance(ends, Mapping):
                    named = self.layers[0] if not fused else name
                    ends = self.common_limits(None) if named is None else ends.get(named)
                draw = partial(self.overlay, index, name, scale=ends, colorbar=colorbar, **colours)
                files[f"overlay-{index}{stem}.png"] = partial(_draw, draw)
            if self.steps > 1 and self.has_map(index):
                play = partial(self.animation, index, **colours)
                files[f"animation-{index}.gif"] = partial(montage.write_animation, play)
        return files

    def _montage_over_time(self, index: int, alpha: float, colormap: str) -> Image.Image:
        steps = evenly(self.steps, min(self.steps, _SHOWN_STEPS))
        rows: list[str | None] = [*self.layers, *([None] if len(self.layers) > 1 else [])]
        tiles = []
        for name in rows:
            not_blank = name is None or bool(self.cams[index, name].any())
            for step in (None, *steps):
                what = name or "fusion"
                what += f": step {step + 1} of {self.steps}" if step is not None else ""
                if not_blank:
                    picture = self.overlay(index, name, step=step, alpha=alpha, colormap=colormap)
                    tiles.append((what, picture))
                else:
                    tiles.append((f"{what}: blank", self._frame(step)))
        return montage.montage(tiles, columns=1 + len(steps))

    def _frame(self, step: int | None) -> Image.Image:
        """The frame in the middle of a step, or of all."""
        if step is None:
            return self.photo
        return self.frames[self._step(step, len(self.frames))]

    def __repr__(self) -> str:
        classes = ", ".join(f"{index} {self.labels[index]!r}" for index in self.classes)
        known = self._known_evidence
        tested = f", evidence={str(known)!r}" if known is not None else ""
        return (
            f"Explanation(model={self.described['model']['id']!r}, method={self.method!r}, "
            f"classes=[{classes}], layers={list(self.layers)}, photo={self.photo.size}{tested})"
        )

    def _repr_html_(self) -> str:
        """For notebooks: the overlay, the predictions, and the evidence as far as it is known.

        The overlay is that of the first class with a map, at a reduced size; nothing is tested.
        """
        index = next(filter(self.has_map, self.classes), None)
        picture = self.photo if index is None else self.overlay(index)
        picture = picture.convert("RGB")
        picture.thumbnail((_NOTEBOOK_SIDE, _NOTEBOOK_SIDE))
        buffer = io.BytesIO()
        picture.save(buffer, "JPEG", quality=90)
        coded = base64.b64encode(buffer.getvalue()).decode()
        label = html.escape(self.labels[self.classes[0] if index is None else index])
        what = f"<strong>{label}</strong>: no map" if index is None else f"<strong>{label}</strong>"
        model = html.escape(str(self.described["model"]["id"]))
        method = html.escape(METHODS[self.method].title if self.method in METHODS else self.method)
        where = ", ".join(f"<code>{html.escape(name)}</code>" for name in self.layers)
        rows = "".join(
            f"<tr><td>{html.escape(prediction_text(found))}</td>"
            f"<td>{html.escape(found.label)}</td></tr>"
            for found in self.predictions[:_NOTEBOOK_CLASSES]
        )
        known = self._known_evidence
        tested = "" if known is None else known._sentences_html()
        return (
            f"<div><p>{what} in <code>{model}</code>: {method} at {where}</p>"
            f'<img alt="{label}" src="data:image/jpeg;base64,{coded}">{tested}'
            f"<table>{rows}</table></div>"
        )

    @property
    def _known_evidence(self) -> Evidence | None:
        """The evidence, if it was made already."""
        known = "evidence" in self.__dict__ or "evidence" in self.described
        return self.evidence if known else None


def _draw(draw: Callable[[], Image.Image], path: Path) -> None:
    """Draws a picture and writes it as a PNG."""
    draw().save(path, "PNG")


def read_predictions(entries: Any) -> tuple[Prediction, ...]:
    """Predictions out of a manifest that was checked; parts of later versions are left out."""
    known = {field.name for field in fields(Prediction)}
    return tuple(
        Prediction(**{name: value for name, value in entry.items() if name in known})
        for entry in entries
    )


def _read_maps(
    files: ResultFolder,
    manifest: Mapping[str, Any],
    classes: tuple[int, ...],
    layers: tuple[str, ...],
) -> dict[tuple[int, str], Map]:
    """One map per class and layer; ``ValueError`` if one is missing or not as described."""
    if not classes or not layers or len({*classes}) < len(classes) or len({*layers}) < len(layers):
        raise ValueError("classes and layers must be named, each once")
    entries = {(entry["class_index"], entry["layer"]): entry for entry in manifest["maps"]}
    wanted = {(index, layer) for index in classes for layer in layers}
    if len(entries) < len(manifest["maps"]) or entries.keys() != wanted:
        raise ValueError("maps must name one map for each class and layer")
    taken = {MANIFEST, PHOTO, *manifest.get("frames", ())}
    names = [entry["file"].casefold() for entry in entries.values()]
    if len({*names}) < len(names) or taken & {*names}:
        raise ValueError("maps must name a file of its own for each map")
    shapes = {}
    for key, entry in entries.items():
        shape = (*([entry["steps"]] if "steps" in entry else []), *entry["grid"])
        if len(entry["grid"]) != 2 or min(shape) < 1:
            raise ValueError(f"a map of shape {shape}")
        shapes[key] = shape
    if sum(prod(shape) for shape in shapes.values()) > _MAX_CELLS:
        raise ValueError(f"its maps hold more than {_MAX_CELLS:,} values")
    return {key: files.array(entries[key]["file"], shape) for key, shape in shapes.items()}


def _read_frames(folder: ResultFolder, manifest: Mapping[str, Any]) -> list[Image.Image]:
    """The photo, or the frames of a clip, each file read once."""
    names = manifest.get("frames") or [PHOTO]
    if len(names) > _MAX_FRAMES:
        raise ValueError(f"{len(names):,} frames, and {_MAX_FRAMES:,} is the limit")
    found: dict[str, Image.Image] = {}
    pixels = 0
    for name in names:
        if name not in found:
            found[name] = picture = folder.picture(name)
            pixels += picture.width * picture.height
            if pixels > _MAX_FRAME_PIXELS:
                raise ValueError(f"its frames hold more than {_MAX_FRAME_PIXELS:,} pixels")
    return [found[name] for name in names]
