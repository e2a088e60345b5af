"""The maps of an explanation over places and time, and the pictures that they belong to."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, fields, replace
from functools import cached_property, partial
from types import MappingProxyType
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from cam_hub._validation import check_whole
from cam_hub.errors import ClassNotFound, InvalidArgument, LayerNotFound, NoMap, nearest_names
from cam_hub.hooks.modes import default_modes
from cam_hub.images.clips import evenly
from cam_hub.images.geometry import Placement
from cam_hub.methods import METHODS, Sign, check_map, fuse, normalise
from cam_hub.results import overlay
from cam_hub.results.overlay import Box
from cam_hub.results.serialization import frame_files
from cam_hub.targets.classes import Contrast, Prediction, as_index

__all__ = [
    "Limits",
    "Map",
    "Maps",
    "Pictures",
    "ScaleChoice",
    "checked_limits",
    "read_scale",
    "shared_scale",
]

Map = NDArray[np.float32]

Limits = tuple[float, float]
"""The values of a map, in its own units, at the cold and the hot end of a scale."""

ScaleChoice = Limits | str | None
"""The scale of a map's colours: its two ends; ``"own"`` or None for the map's own least and
greatest value; ``"common"`` for one scale for all maps of the picture."""

_HELD = 4 << 20
"""Maximum size of a cached heatmap, in bytes: that of a megapixel."""


Paint = Callable[[], Iterable[Image.Image]]


class Pictures:
    """One picture, or the frames of a clip: upright, RGB, all of one size.

    A picture given as a tensor must be painted first, which takes longer than everything else
    around a small network, and is often not needed. Access is thread-safe.

    Args:
        pictures: The pictures, at least one; or a function that makes them, called on first
            access.
        clip: Whether they are frames.
        facts: What the manifest records of the image, where the pictures are not the image
            itself but what is shown in its place.

    Attributes:
        clip: Whether they are frames.
    """

    def __init__(
        self,
        pictures: Iterable[Image.Image] | Paint,
        *,
        clip: bool = False,
        facts: Callable[[], Mapping[str, Any]] | None = None,
    ) -> None:
        self._paint = pictures if callable(pictures) else None
        self._frames = () if callable(pictures) else tuple(pictures)
        self._recorded = facts
        self.clip = clip

    def __getstate__(self) -> dict[str, Any]:
        """For pickle: painted."""
        facts = self._recorded
        recorded = None if facts is None else partial(dict[str, Any], self.facts)
        plain = {"_paint": None, "_recorded": recorded, "_frames": self.frames, "clip": self.clip}
        return plain | ({"facts": self.facts} if "facts" in self.__dict__ else {})

    @property
    def frames(self) -> tuple[Image.Image, ...]:
        """The pictures; one for an image."""
        paint = self._paint
        if paint is not None:
            self._frames = tuple(paint())
            self._paint = None  # frees the tensor, too
        return self._frames

    @property
    def photo(self) -> Image.Image:
        """The picture; for a clip, the frame in the middle."""
        return self.frames[len(self.frames) // 2]

    @cached_property
    def facts(self) -> Mapping[str, Any]:
        """The manifest's entry for the picture: its size, and the digest of its pixels.

        For a clip, also the number of frames, and the digest of their digests.
        """
        if self._recorded is not None:
            return self._recorded()
        frames = self.frames
        size = list(frames[0].size)
        if not self.clip:
            return {"size": size, "sha256": _digest(frames[0]).hex()}
        digests = {id(frame): _digest(frame) for frame in {id(f): f for f in frames}.values()}
        whole = hashlib.sha256(b"".join(digests[id(frame)] for frame in frames)).hexdigest()
        return {"size": size, "frames": len(frames), "sha256": whole}


def _digest(photo: Image.Image) -> bytes:
    return hashlib.sha256(photo.tobytes()).digest()


@dataclass(frozen=True, eq=False)
class Maps:
    """Maps of the parts of a picture, or of a clip, that support classes, at layers.

    Where a method takes a ``step``, this is a step of time of a clip, from 0 to ``steps - 1``:
    None stands for the fusion of all of them. An image has one step.

    Attributes:
        pictures: The explained pictures.
        placement: Where the model's input lay on it.
        predictions: The most probable classes, the first the most probable; empty for a model
            without classes.
        classes: Indices of the classes that were explained, in the order asked for.
        layers: Names of the target layers, in the order asked for.
        cams: One un-normalised map, float32 ``(rows, cols)``, per class index and layer; of a clip
            ``(steps, rows, cols)``, with as many steps as the layer has.
        labels: The labels of the explained classes, by index.
        described: The manifest, perhaps without the entry for the pictures.
    """

    pictures: Pictures
    placement: Placement
    predictions: tuple[Prediction, ...]
    classes: tuple[int, ...]
    layers: tuple[str, ...]
    cams: Mapping[tuple[int, str], Map]
    labels: Mapping[int, str]
    described: Mapping[str, Any]

    def __post_init__(self) -> None:
        for cam in self.cams.values():
            cam.setflags(write=False)
        object.__setattr__(self, "cams", MappingProxyType(dict(self.cams)))
        object.__setattr__(self, "labels", MappingProxyType(dict(self.labels)))

    def __getstate__(self) -> dict[str, Any]:
        """For pickle and deep copies, which take no read-only mappings."""
        plain = {each.name: getattr(self, each.name) for each in fields(self)}
        return {**plain, "cams": dict(self.cams), "labels": dict(self.labels)}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self.__post_init__()

    @property
    def photo(self) -> Image.Image:
        """The picture that was explained, upright, RGB; of a clip the frame in the middle."""
        return self.pictures.photo

    @property
    def frames(self) -> tuple[Image.Image, ...]:
        """The pictures of the clip, as many as the model saw; of an image, its photo."""
        return self.pictures.frames

    @cached_property
    def manifest(self) -> Mapping[str, Any]:
        """Everything that is needed to make the same maps again; JSON types only."""
        if "image" in self.described:
            return self.described
        files = frame_files(self.frames) if self.pictures.clip else []
        return {
            "model": self.described["model"],
            "image": dict(self.pictures.facts),
            **({"frames": files} if files else {}),
            **self.described,
        }

    def record(self, **entries: Any) -> None:
        """Adds entries to the manifest of a result that is being made; JSON types only."""
        self.__dict__["described"] = {**self.described, **entries}
        self.__dict__.pop("manifest", None)  # which is derived once

    def showing(self, *frames: Image.Image, placement: Placement | None = None) -> Self:
        """The same maps, and the same manifest, on other pictures.

        Args:
            frames: A photo, or frames of a clip.
            placement: Where the model's input lay on them; None for where it lay.
        """
        shown = replace(
            self,
            pictures=Pictures(frames, clip=len(frames) > 1),
            placement=placement or self.placement,
            described=self.manifest,
        )
        if "evidence" in self.__dict__:  # of the maps, whatever picture they are shown on
            shown.__dict__["evidence"] = self.__dict__["evidence"]
        return shown

    @property
    def method(self) -> str:
        """Name of the method that made the maps."""
        return str(self.described["method"])

    @property
    def sign(self) -> Sign:
        """``"for"`` and ``"against"``: maps are at least 0. ``"both"``: maps have both signs."""
        found: Sign = self.described.get("options", {}).get("sign", "for")  # older ones have none
        return found

    @property
    def signed(self) -> bool:
        """Whether maps have both signs: positive for the class, negative against it."""
        return self.sign == "both"

    @property
    def target(self) -> str:
        """What was explained, in words: which score, of which part, compared with what."""
        text = str(self.described["target"]["text"])
        against = " and ".join(
            each.label if each.weight == 1 else f"{each.weight:g} × {each.label}"
            for each in self.contrasts
        )
        text = f"{text}, less that of {against}" if against else text
        sides = {"for": "", "against": ": what lowers it", "both": ": what raises and lowers it"}
        return text + sides[self.sign]

    @property
    def contrast(self) -> Contrast | None:
        """The class that the explained ones were contrasted with; of several the weightiest."""
        return max(self.contrasts, key=lambda each: each.weight, default=None)

    @property
    def contrasts(self) -> tuple[Contrast, ...]:
        """All classes that the explained ones were contrasted with, and their weights."""
        found = self.described.get("contrast") or ()  # older manifests have none
        return tuple(Contrast(**each) for each in ([found] if isinstance(found, dict) else found))

    @property
    def seen(self) -> NDArray[np.bool_]:
        """``(H, W)``: which pixels of the photo the model saw; the others were cropped away."""
        return self.placement.seen_mask()

    @property
    def steps(self) -> int:
        """Number of maps in time: 1 for an image, for a clip the most that any layer has."""
        return max(len(_steps_of(cam)) for cam in self.cams.values())

    @default_modes()
    def cam(
        self, class_index: int | None = None, layer: str | None = None, *, step: int | None = None
    ) -> Map:
        """The map as the method computes it, at the layer's own resolution.

        The steps of a clip come from one pass and are on one scale, so that they are fused by the
        largest value of each place, as LayerCAM fuses layers: unlike a mean, this
        does not dilute a short activation by the rest of the time.

        Args:
            class_index: One of ``classes``; None for the first.
            layer: One of ``layers``; None for the fusion of all of them (the map itself if there
                is only one layer), linear in space and time where their grids differ.
            step: A step of time; None for the fusion of all. For a layer with fewer than
                ``steps``, the layer's step at the middle of this one.

        Returns:
            Float32 ``(rows, cols)``, at least 0 unless ``signed``. Maps of one layer, and steps of
            one clip, are un-normalised and can be compared with each other; a fusion of layers is
            in [0, 1], signed in [-1, 1], since it needs its maps on one scale. A step
            without evidence is zero.

        Raises:
            ClassNotFound: If the class was not explained.
            LayerNotFound: If the layer was not among the targets.
            InvalidArgument: If there is no such step.
            NoMap: If the map (of all steps together) is blank or not finite: with the reason.
        """
        maps = self._over_time(class_index, layer)
        if step is not None or len(maps) == 1:
            chosen: Map = maps[self._step(0 if step is None else step, len(maps))]
            return chosen
        cam: Map = maps.max(axis=0)
        if self.signed:  # of each place the value of the largest magnitude
            low = maps.min(axis=0)
            cam = np.where(-low > cam, low, cam)
        check_map(torch.from_numpy(cam), layer)
        cam.setflags(write=False)
        return cam

    def has_map(self, class_index: int | None = None, layer: str | None = None) -> bool:
        """Whether a map can be shown: ``cam`` of the same arguments is neither blank nor flat."""
        try:
            self.cam(class_index, layer)
        except NoMap:
            return False
        return True

    def heatmap(
        self,
        class_index: int | None = None,
        layer: str | None = None,
        *,
        step: int | None = None,
        scale: ScaleChoice = None,
    ) -> Map:
        """The map at the original photo's size and place.

        Args:
            class_index: One of ``classes``; None for the first.
            layer: One of ``layers``; None for the fusion.
            step: A step of time; None for the fusion.
            scale: The values ``(low, high)`` of the map that become 0 and 1, as ``shared_scale``
                finds them for several pictures; values beyond are clipped. ``"common"`` for
                ``common_limits``; None or ``"own"`` for the map's own.

        Returns:
            Float32 ``(H, W)`` in [0, 1]: the map, stretched from its least to its greatest value
            (of a step: from the least to the greatest of all steps), laid through the inverse of
            the model's resize and crop. 0 outside the model's input (``seen`` distinguishes
            these pixels from cold ones). A signed map keeps its zero and is in [-1, 1]: it is
            divided by its largest magnitude, or by that of ``scale``.

        Raises:
            ClassNotFound: If the class was not explained.
            LayerNotFound: If the layer was not among the targets.
            InvalidArgument: If ``step`` or ``scale`` does not work.
            NoMap: If the map is blank or not finite.
        """
        heat = self._heat(class_index, layer, step, scale)
        return heat if heat.flags.writeable else heat.copy()

    def limits(
        self, class_index: int | None = None, layer: str | None = None, *, step: int | None = None
    ) -> Limits:
        """The values, in the map's own units, that ``heatmap`` shows as its two ends.

        Args:
            class_index: As for ``heatmap``, and so are the others.
            layer: A layer.
            step: A step of time.
        """
        over_time = step is not None
        cam = self._over_time(class_index, layer) if over_time else self.cam(class_index, layer)
        if self.signed:
            largest = float(np.abs(cam).max())
            return -largest, largest
        return float(cam.min()), float(cam.max())

    def common_limits(self, layer: str | None = None) -> Limits:
        """The ends of one scale for all maps of this explanation: its classes and layers.

        Args:
            layer: Any of the layers; None for the fusion, which of several layers is in [0, 1].

        Returns:
            ``(0, greatest value)``; of signed maps ``(-m, m)`` with their largest magnitude m.
        """
        fused = layer is None and len(self.layers) > 1
        finite = (cam for cam in self.cams.values() if np.isfinite(cam).all())
        largest = 1.0 if fused else max((float(np.abs(cam).max()) for cam in finite), default=0.0)
        return (-largest if self.signed else 0.0), largest

    def mask(
        self,
        threshold: float = 0.5,
        class_index: int | None = None,
        layer: str | None = None,
        *,
        step: int | None = None,
    ) -> NDArray[np.bool_]:
        """``(H, W)``: the pixels whose heat is at least ``threshold``, in (0, 1].

        For a signed map these support the class; ``sign="against"`` has those that oppose it.
        """
        return overlay.mask(self._positive(class_index, layer, step), threshold)

    def boxes(
        self,
        threshold: float = 0.5,
        class_index: int | None = None,
        layer: str | None = None,
        *,
        step: int | None = None,
    ) -> list[Box]:
        """One box, in the photo's pixels, around each connected region of ``mask(threshold)``.

        Returns:
            ``(left, top, right, bottom)``, right and bottom exclusive; the hottest region first.
        """
        return overlay.boxes(self._positive(class_index, layer, step), threshold)

    def _positive(self, class_index: int | None, layer: str | None, step: int | None) -> Map:
        heat = self._heat(class_index, layer, step)
        return np.maximum(heat, 0) if self.signed else heat

    def _heat(
        self,
        class_index: int | None,
        layer: str | None,
        step: int | None,
        scale: ScaleChoice = None,
    ) -> Map:
        """``heatmap``, not to be written to: the last one is held for other colours."""
        held: tuple[object, Map] | None = self.__dict__.get("_held")
        index = self._class(class_index)
        layer = None if layer is None else self._layer(layer)
        if step is not None:
            self._step(step, self.steps)
        ends = self._ends(layer, scale)
        key = index, layer, step, ends
        if held is not None and held[0] == key:
            return held[1]
        if step is None:
            heat = self.placement.warp(self._stretched(self.cam(index, layer), ends))
        else:
            over_time = self._heat_over_time(index, layer, ends)
            heat = self.placement.warp(over_time[self._step(step, len(over_time))])
        if heat.nbytes <= _HELD:
            heat.setflags(write=False)
            self.__dict__["_held"] = key, heat
        return heat

    def _ends(self, layer: str | None, scale: ScaleChoice) -> Limits | None:
        """The ends of a scale for one map; None for the map's own."""
        if scale is None or (isinstance(scale, str) and scale == "own"):
            return None
        if isinstance(scale, str) and scale == "common":
            return self.common_limits(layer)
        return checked_limits(scale)

    def _heat_over_time(
        self, class_index: int | None, layer: str | None, scale: Limits | None = None
    ) -> Map:
        """``(steps, rows, cols)`` in [0, 1], signed in [-1, 1], all steps on one scale."""
        return self._stretched(self._over_time(class_index, layer), scale)

    @default_modes()
    def _stretched(self, cam: Map, scale: Limits | None) -> Map:
        """All of a map between the ends of a scale, or between those of its own."""
        heat: Map
        if scale is None and not self.signed:
            heat = normalise(torch.from_numpy(cam.copy())[None])[0].numpy()
            return heat
        # In double precision: tiny gradients of deep networks would underflow.
        wide = cam.astype(np.float64)
        if self.signed:
            largest = np.abs(wide).max() if scale is None else max(map(abs, scale))
            heat = np.clip(wide / largest, -1.0, 1.0).astype(np.float32)
        else:
            low, high = scale or (0.0, 1.0)
            heat = np.clip((wide - low) / (high - low), 0.0, 1.0).astype(np.float32)
        return heat

    @default_modes()
    def _over_time(self, class_index: int | None, layer: str | None) -> Map:
        """``(steps, rows, cols)`` of a layer, or of the fusion; checked, not to be written to."""
        index = self._class(class_index)
        if layer is None and len(self.layers) > 1:
            return self._fusion(index)
        name = self._layer(layer)
        cam = self.cams[index, name]
        check_map(torch.from_numpy(cam.copy()), name)
        return _steps_of(cam)

    @default_modes()
    def _fusion(self, index: int) -> Map:
        maps = [torch.from_numpy(self.cams[index, name].copy())[None] for name in self.layers]
        fused = fuse(maps, METHODS[self.method].signed(self.sign))[0]
        check_map(fused, None)
        found: Map = fused.numpy()
        found.setflags(write=False)
        return _steps_of(found)

    def _step(self, step: object, count: int) -> int:
        """Which of ``count`` things that follow each other in time lies in a step's middle."""
        return evenly(count, self.steps)[check_whole("step", step, 0, self.steps - 1)]

    def _class(self, class_index: int | None) -> int:
        if class_index is None:
            return self.classes[0]
        index = as_index(class_index)
        if index is None or index not in self.labels:
            explained = ", ".join(f"{i} ({self.labels[i]})" for i in self.classes)
            raise ClassNotFound(class_index, hint=f"Explained were: {explained}.")
        return index

    def _layer(self, layer: str | None) -> str:
        name = self.layers[0] if layer is None else layer
        if not isinstance(name, str) or name not in self.layers:
            raise LayerNotFound(
                name,
                nearest_names(name, self.layers) if isinstance(name, str) else (),
                f"Explained were: {', '.join(self.layers)}.",
            )
        return name


def _steps_of(cam: Map) -> Map:
    """A map as ``(steps, rows, cols)``: an image has one step."""
    return cam if cam.ndim == 3 else cam[None]


def shared_scale(results: Iterable[Any], layer: str | None = None) -> Limits:
    """One scale for the maps of many pictures, so that equal colours mean equal values.

        scale = shared_scale(results)
        for result in results:
            result.overlay(scale=scale, colorbar=True).save(...)

    Args:
        results: Explanations by the same model, method and sign at the same layers; or outcomes of
            ``explain_many``, of which those without an explanation are passed over.
        layer: One of the layers; None for the fusion of all, whose values are in [0, 1] already.

    Returns:
        ``(0, greatest value)`` over all explained classes; of signed maps ``(-m, m)`` with their
        largest magnitude m.

    Raises:
        InvalidArgument: If no result has a map, or values cannot be compared.
        LayerNotFound: If a layer was not among the targets.
    """
    found = [getattr(result, "result", result) for result in results]
    maps = [each for each in found if isinstance(each, Maps)]
    units = {(str(each.described["model"]["id"]), each.method, each.sign) for each in maps}
    units_of_layers = {each.layers for each in maps}
    if len(units) > 1 or len(units_of_layers) > 1:
        what = sorted(" ".join(unit) for unit in units) if len(units) > 1 else units_of_layers
        raise InvalidArgument(
            "results",
            what,
            "one model, method and sign at the same layers, whose values can be compared",
        )
    peaks = []
    for each in maps:
        for index in each.classes:
            with suppress(NoMap):  # a blank map among others has no values to show
                peaks.append(float(np.abs(each._over_time(index, layer)).max()))
    if not peaks:
        raise InvalidArgument("results", f"{len(found)} without a map", "at least one map")
    return -max(peaks) if maps[0].signed else 0.0, max(peaks)


def read_scale(text: object) -> ScaleChoice:
    """A scale as the command line and the endpoints have it.

    Args:
        text: ``own``, ``common`` or two numbers with a comma or white space between them; also
            two numbers in a list. Nothing for ``own``.

    Raises:
        InvalidArgument: If it is something else.
    """
    if text is None or text == "":
        return "own"
    if not isinstance(text, str):
        return checked_limits(text)
    word = text.strip().lower()
    return word if word in ("own", "common") else checked_limits(word.replace(",", " ").split())


def checked_limits(scale: object) -> Limits:
    """The two ends of a scale.

    Raises:
        InvalidArgument: If it is not a pair of finite numbers, the first one below the second.
    """
    try:
        low, high = map(float, scale)  # type: ignore[call-overload]
    except (TypeError, ValueError):
        low = high = math.nan
    if not (math.isfinite(low) and math.isfinite(high) and low < high):
        expected = (
            "'own', 'common' or two finite numbers (low, high) with low < high, in the units of "
            "the map"
        )
        raise InvalidArgument("scale", scale, expected)
    return low, high
